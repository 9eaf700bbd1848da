//! What pages of the archive are read as.

#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn page(json: impl Into<Bytes>, after_seq: u64) -> Result<Vec<SealedRecord>, ResponseError> {
    read(&json.into(), &"ww1".into(), after_seq, &Strays::default())
}

fn seqs(json: impl Into<Bytes>, after_seq: u64) -> Vec<u64> {
    page(json, after_seq)
        .unwrap()
        .iter()
        .map(|record| record.seq)
        .collect()
}

#[test]
fn records_are_slices_of_the_page_byte_for_byte() {
    let record = r#"{ "seq" : 196,"msgid":"a\/b=","publickey_ver":3,"new":[1, 2] }"#;
    let body = Bytes::from(format!(
        r#"{{"errcode":0,"errmsg":"ok","chatdata":[ {record} ]}}"#
    ));
    let records = read(&body, &"ww1".into(), 0, &Strays::default()).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].seq, 196);
    assert_eq!(&*records[0].msgid, "a/b=");
    assert_eq!(records[0].json, record.as_bytes());
    let within = body.as_ptr_range();
    assert!(within.contains(&records[0].json.as_ptr()));
}

#[test]
fn missing_or_null_chatdata_is_an_empty_page() {
    for empty in [
        r#"{"errcode":0}"#,
        r#"{"chatdata":[]}"#,
        r#"{"errcode":"0","chatdata":null}"#,
        r#"{"errcode":0,"errmsg":null,"chatdata":[]}"#,
    ] {
        assert!(page(empty, 5).unwrap().is_empty(), "{empty}");
    }
}

#[test]
fn errcode_counts_regardless_of_the_other_fields() {
    for refused in [
        r#"{"errcode":301042,"errmsg":"whiteip","chatdata":[]}"#,
        r#"{"errcode":"301042","errmsg":"whiteip","chatdata":[{"seq":1}]}"#,
        r#"{"errcode":301042,"errmsg":{},"chatdata":""}"#,
    ] {
        assert!(
            matches!(
                page(refused, 0),
                Err(ResponseError::Refused { code: 301_042, .. })
            ),
            "{refused}"
        );
    }
}

#[test]
fn truncated_or_unrelated_responses_are_malformed() {
    for bad in [
        "",
        "<html></html>",
        r#"{"errcode":0,"chatdata":[{"seq":1,"msgid":"a"#,
        r#"{"errcode":0,"chatdata":{}}"#,
        "3",
    ] {
        assert!(
            matches!(page(bad, 0), Err(ResponseError::Malformed { .. })),
            "{bad}"
        );
    }
}

#[test]
fn json_with_neither_errcode_nor_chatdata_is_not_an_empty_page() {
    for foreign in [
        "{}",
        r#"{"code":500,"message":"upstream unavailable"}"#,
        r#"{"code":0,"data":{"errcode":0,"chatdata":[]}}"#,
        r#"{"errcode":null,"chatdata":null}"#,
        r#"{"errcode":0,"errmsg":"ok","data":{"chatdata":[{"seq":6}]}}"#,
    ] {
        assert!(
            matches!(page(foreign, 5), Err(ResponseError::NotAnAnswer)),
            "{foreign}"
        );
    }
}

#[test]
fn malformed_records_are_kept_with_a_seq_that_the_cursor_passes() {
    let malformed = r#"{"chatdata":[{"msgid":"x"},{"seq":"7","msgid":5},"text",{"seq":9},
                  [3,"y"],{"seq":-4},null]}"#;
    assert_eq!(seqs(malformed, 0), [7, 7, 9, 9, 9, 9, 9]);
    let records = page(malformed, 0).unwrap();
    assert_eq!(&*records[0].msgid, "x");
    assert_eq!(&*records[1].msgid, "");
    assert_eq!(records[2].json, br#""text""#.as_slice());
}

#[test]
fn seq_is_read_as_the_whole_number_it_is() {
    let page = r#"{"chatdata":[{"seq":301.0},{"seq":"302.0"},{"seq":3.03e2}]}"#;
    assert_eq!(seqs(page, 300), [301, 302, 303]);
}

#[test]
fn substituted_seq_is_after_the_requested_one() {
    assert_eq!(
        seqs(r#"{"chatdata":[{"seq":8},{"x":1},{"seq":4},{"x":2}]}"#, 5),
        [8, 8, 8]
    );
    assert!(matches!(
        page(r#"{"chatdata":[{"seq":4},{"x":1}]}"#, 5),
        Err(ResponseError::NoReadableSeq { records: 2 })
    ));
    assert!(matches!(
        page(r#"{"chatdata":[{"x":1}]}"#, 0),
        Err(ResponseError::NoReadableSeq { records: 1 })
    ));
}

#[test]
fn records_are_sorted_and_earlier_ones_are_excluded() {
    let json = r#"{"chatdata":[{"seq":9},{"seq":5},{"seq":70000},{"seq":6}]}"#;
    assert_eq!(seqs(json, 5), [6, 9, 70_000]);
    assert_eq!(seqs(json, 70_000), Vec::<u64>::new());
}

#[test]
fn cursor_does_not_follow_a_seq_that_is_out_of_reach() {
    for wild in [u64::MAX, i64::MAX as u64, 1 << 60, 9 + MAX_JUMP + 1] {
        let page =
            format!(r#"{{"chatdata":[{{"seq":7}},{{"seq":{wild},"msgid":"w"}},{{"seq":9}}]}}"#);
        assert_eq!(seqs(page.clone(), 5), [7, 9, 9], "{wild}");
        // The record is kept, with the position of its neighbour.
        let records = page_after(&page, 5).unwrap();
        assert!(records.iter().any(|record| &*record.msgid == "w"));
        // Alone, it has no position to take: the archive is asked again from the same one.
        let alone = format!(r#"{{"chatdata":[{{"seq":{wild}}}]}}"#);
        assert!(matches!(
            page_after(&alone, 9),
            Err(ResponseError::NoReadableSeq { records: 1 })
        ));
    }
    // A position within reach is followed, however sparse the archive is.
    let sparse = format!(r#"{{"chatdata":[{{"seq":{}}}]}}"#, 9 + MAX_JUMP);
    assert_eq!(seqs(sparse, 9), [9 + MAX_JUMP]);
    // The first page of an old corp begins far from 0, and several records agree about where they are.
    assert_eq!(
        seqs(format!(r#"{{"chatdata":[{{"seq":{}}}]}}"#, 1_u64 << 40), 0),
        [1 << 40]
    );
    let far = format!(r#"{{"chatdata":[{{"seq":{}}}]}}"#, (1_u64 << 40) + 1);
    assert!(page_after(&far, 0).is_err());
}

#[test]
fn record_out_of_reach_is_returned_once_while_the_archive_returns_it_again_and_again() {
    let strays = Strays::default();
    let wild = r#"{"seq":9223372036854775807,"msgid":"w"}"#;
    let ids = |json: String, after: u64| -> Vec<(u64, String)> {
        let page = read(&json.into(), &"ww1".into(), after, &strays).unwrap();
        page.iter()
            .map(|record| (record.seq, record.msgid.to_string()))
            .collect()
    };
    let with = |seq: u64| format!(r#"{{"chatdata":[{{"seq":{seq},"msgid":"{seq}"}},{wild}]}}"#);
    assert_eq!(ids(with(7), 5), [(7, "7".to_owned()), (7, "w".to_owned())]);
    let alone = format!(r#"{{"chatdata":[{wild}]}}"#);
    assert_eq!(ids(alone, 7), []);
    assert_eq!(ids(with(8), 7), [(8, "8".to_owned())]);
}

fn page_after(json: &str, after: u64) -> Result<Vec<SealedRecord>, ResponseError> {
    page(json.to_owned(), after)
}

#[test]
fn control_bytes_and_invalid_utf8_inside_strings_are_repaired() {
    let json =
        b"{\"errmsg\":\"a\x01\tb\",\n\"chatdata\":[{\"seq\":3,\"msgid\":\"m\\\"\x02\xff\"}]}";
    let records = page(Bytes::from_static(json), 0).unwrap();
    assert_eq!(records[0].seq, 3);
    assert_eq!(&*records[0].msgid, "m\" \u{fffd}");
}

#[test]
fn record_nested_ten_thousand_levels_deep_is_kept() {
    let deep = format!(
        r#"{{"chatdata":[{{"seq":1,"x":{}{}}}]}}"#,
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    assert_eq!(seqs(deep, 0), [1]);
}

#[test]
fn oversize_record_is_reduced_to_size_and_hash_and_its_neighbours_are_kept() {
    let field = "x".repeat(MAX_RECORD_BYTES);
    let large = format!(r#"{{"seq":2,"msgid":"b","encrypt_chat_msg":"{field}"}}"#);
    let id = "i".repeat(MAX_MSGID_BYTES + 1);
    let json =
        format!(r#"{{"chatdata":[{{"seq":1,"msgid":"a"}},{large},{{"seq":3,"msgid":"{id}"}}]}}"#);
    let body = Bytes::from(json);
    let records = read(&body, &"ww1".into(), 0, &Strays::default()).unwrap();
    let ids: Vec<_> = records.iter().map(|r| (r.seq, &*r.msgid)).collect();
    assert_eq!(ids, [(1, "a"), (2, "b"), (3, "")]);
    assert_eq!(records[0].json, br#"{"seq":1,"msgid":"a"}"#.as_slice());
    assert!(!body.as_ptr_range().contains(&records[0].json.as_ptr()));
    assert!(records[1].json.len() < 300);
    let kept = records[1].too_large().unwrap();
    assert_eq!(kept.bytes, large.len() as u64);
    assert!(records[2].too_large().is_some());
}

#[test]
fn record_of_the_maximum_size_is_kept_unchanged() {
    let frame = r#"{"seq":2,"x":""}"#.len();
    let record = format!(
        r#"{{"seq":2,"x":"{}"}}"#,
        "x".repeat(MAX_RECORD_BYTES - frame)
    );
    let records = page(format!(r#"{{"chatdata":[{record}]}}"#), 0).unwrap();
    assert_eq!(records[0].json, record.as_bytes());
    assert!(records[0].too_large().is_none());
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| format!("\"{n}\"")),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        Just("null".to_owned()),
        Just("[]".to_owned()),
        any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap()),
    ]
}

fn record() -> impl Strategy<Value = String> {
    prop_oneof![
        (value(), value()).prop_map(|(seq, id)| format!(r#"{{"seq":{seq},"msgid":{id}}}"#)),
        value().prop_map(|seq| format!(r#"{{"seq":{seq}}}"#)),
        value(),
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_a_panic(bytes in any::<Vec<u8>>(), after in any::<u64>()) {
        let _ = page(bytes, after);
    }

    #[test]
    fn any_page_keeps_every_record_after_the_cursor(
        records in prop::collection::vec(record(), 0..8),
        after in 0..3u64,
    ) {
        let json = format!(r#"{{"errcode":0,"chatdata":[{}]}}"#, records.join(","));
        let is_earlier = |raw: &String| {
            serde_json::from_str::<serde_json::Value>(raw)
                .ok()
                .and_then(|value| match &value["seq"] {
                    serde_json::Value::String(text) => text.trim().parse::<u64>().ok(),
                    number => number.as_u64(),
                })
                .is_some_and(|seq| seq <= after)
        };
        match page(json, after) {
            Ok(read) => {
                prop_assert!(read.is_sorted_by_key(|r| r.seq));
                prop_assert!(read.iter().all(|r| r.seq > after));
                let mut kept: Vec<_> = read.iter().map(|r| r.json_text().into_owned()).collect();
                let mut given: Vec<_> =
                    records.iter().filter(|raw| !is_earlier(raw)).cloned().collect();
                kept.sort();
                given.sort();
                prop_assert_eq!(kept, given);
            }
            // JSON cannot represent NaN and infinity.
            Err(ResponseError::Malformed { .. }) => {
                prop_assert!(records.iter().any(|r| r.contains("NaN") || r.contains("inf")));
            }
            Err(ResponseError::NoReadableSeq { .. }) => {}
            Err(other) => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_truncated_page_is_malformed(length in 0usize..60) {
        let whole = r#"{"errcode":0,"errmsg":"ok","chatdata":[{"seq":1,"msgid":"a"}]}"#;
        prop_assert!(length < whole.len());
        let read = page(whole[..length].to_owned(), 0);
        let malformed = matches!(read, Err(ResponseError::Malformed { .. }));
        prop_assert!(malformed);
    }
}
