//! Parses the archive's response into sealed records (`connectors/wecom/WECOM.md` §2).
//!
//! Guarantees: every record after the requested `seq` is returned, however malformed it is; each
//! record keeps its JSON byte for byte, as a slice of the page; the records ascend by `seq`. One
//! exception: of a record larger than [`sealed::MAX_RECORD_BYTES`] only size and hash are kept, and
//! the other records of its page are copied, so that the page is freed.
//! Errors inside a record are not detected here: opening it fails, and it becomes a dead letter.

use bytes::Bytes;
use chatledger_schemas::sealed::{MAX_MSGID_BYTES, MAX_RECORD_BYTES};
use chatledger_schemas::{CorpId, SealedRecord, sealed};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::call::{ResponseError, ResponseStatus};
use crate::lenient;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, deserialize_with = "lenient::errcode")]
    errcode: Option<i64>,
    #[serde(default, deserialize_with = "lenient::text")]
    errmsg: String,
    #[serde(default, borrow)]
    chatdata: Option<Vec<&'a RawValue>>,
}

/// The fields of a record that are needed here.
#[derive(Default, Deserialize)]
struct RecordHead<'a> {
    #[serde(default, borrow)]
    seq: Option<&'a RawValue>,
    #[serde(default, borrow)]
    msgid: Option<&'a RawValue>,
}

struct PageRecord<'a> {
    raw: &'a RawValue,
    seq: Option<u64>,
    msgid: Box<str>,
}

impl PageRecord<'_> {
    fn is_oversize(&self) -> bool {
        self.raw.get().len() > MAX_RECORD_BYTES || self.msgid.len() > MAX_MSGID_BYTES
    }
}

/// Parses a response of the archive as [`Archive::page`](crate::Archive::page) does. Returns `None` if
/// it holds an errcode or is not a page.
pub fn read_page(body: &Bytes, corp_id: &CorpId, after_seq: u64) -> Option<Vec<SealedRecord>> {
    read(body, corp_id, after_seq).ok()
}

/// Parses a page that was requested with `after_seq`.
///
/// A record whose `seq` cannot be read gets that of the next readable record of the page, else of
/// the previous one, so that the cursor passes it.
///
/// # Errors
/// Fails on an errcode, on JSON with neither errcode nor `chatdata`, on a response that is not an envelope even after stray control bytes are
/// replaced, and on a record without a `seq` in a page that cannot supply one.
pub(crate) fn read(
    body: &Bytes,
    corp_id: &CorpId,
    after_seq: u64,
) -> Result<Vec<SealedRecord>, ResponseError> {
    match read_strictly(body, corp_id, after_seq) {
        Err(malformed @ ResponseError::Malformed { .. }) => {
            // An errcode counts even if the other fields do not have the documented form.
            if let Err(refused @ ResponseError::Refused { .. }) = ResponseStatus::check(body) {
                return Err(refused);
            }
            let repaired = repair(body).ok_or(malformed)?;
            read_strictly(&repaired, corp_id, after_seq)
        }
        result => result,
    }
}

fn read_strictly(
    body: &Bytes,
    corp_id: &CorpId,
    after_seq: u64,
) -> Result<Vec<SealedRecord>, ResponseError> {
    let envelope: Envelope<'_> = serde_json::from_slice(body)?;
    match envelope.errcode {
        None if envelope.chatdata.is_none() => return Err(ResponseError::NotAnAnswer),
        None | Some(0) => {}
        Some(code) => {
            return Err(ResponseError::Refused {
                code,
                message: envelope.errmsg,
            });
        }
    }
    let records: Vec<PageRecord<'_>> = envelope
        .chatdata
        .unwrap_or_default()
        .into_iter()
        .map(page_record)
        .collect();
    let seqs = assign_seqs(
        &records.iter().map(|record| record.seq).collect::<Vec<_>>(),
        after_seq,
    )
    .ok_or(ResponseError::NoReadableSeq {
        records: records.len(),
    })?;
    let has_oversize = records.iter().any(PageRecord::is_oversize);
    let mut sealed: Vec<SealedRecord> = records
        .into_iter()
        .zip(seqs)
        .filter(|(_, seq)| *seq > after_seq)
        .map(|(record, seq)| {
            let json = body.slice_ref(record.raw.get().as_bytes());
            let sealed = SealedRecord {
                corp_id: corp_id.clone(),
                seq,
                msgid: record.msgid,
                json,
            }
            .bounded();
            SealedRecord {
                json: if has_oversize {
                    Bytes::copy_from_slice(&sealed.json)
                } else {
                    sealed.json
                },
                ..sealed
            }
        })
        .collect();
    if !sealed.is_sorted_by_key(|record| record.seq) {
        sealed.sort_by_key(|record| record.seq);
    }
    Ok(sealed)
}

fn page_record(raw: &RawValue) -> PageRecord<'_> {
    // Arrays are excluded because serde deserialises structs from them too.
    let head: RecordHead<'_> = if raw.get().starts_with('{') {
        serde_json::from_str(raw.get()).unwrap_or_default()
    } else {
        RecordHead::default()
    };
    PageRecord {
        raw,
        seq: head.seq.and_then(|seq| {
            sealed::u64_or_text(&mut serde_json::Deserializer::from_str(seq.get())).ok()
        }),
        msgid: head
            .msgid
            .and_then(|msgid| serde_json::from_str(msgid.get()).ok())
            .unwrap_or_default(),
    }
}

/// Returns the `seq` of every record, in the order of the page. Returns `None` if one has none and no
/// record after `after_seq` can supply one.
fn assign_seqs(read: &[Option<u64>], after_seq: u64) -> Option<Vec<u64>> {
    let after = |seq: &Option<u64>| seq.filter(|seq| *seq > after_seq);
    let mut seqs = Vec::with_capacity(read.len());
    let mut substitute = read.iter().rev().find_map(after);
    // Backwards, so that the next readable seq is known.
    for seq in read.iter().rev() {
        substitute = after(seq).or(substitute);
        seqs.push(seq.or(substitute)?);
    }
    seqs.reverse();
    Some(seqs)
}

/// Replaces control bytes inside strings by spaces and invalid UTF-8 by U+FFFD
/// (`connectors/wecom/WECOM.md` §3.3). Returns `None` if there are none.
fn repair(body: &Bytes) -> Option<Bytes> {
    let text = String::from_utf8_lossy(body);
    let mut changed = matches!(text, std::borrow::Cow::Owned(_));
    let mut bytes = text.into_owned().into_bytes();
    let (mut inside, mut escaped) = (false, false);
    for byte in &mut bytes {
        if !inside {
            inside = *byte == b'"';
            continue;
        }
        if *byte < 0x20 {
            *byte = b' ';
            changed = true;
        }
        match *byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => inside = false,
            _ => {}
        }
    }
    changed.then(|| Bytes::from(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use proptest::prelude::*;

    use super::*;

    fn page(json: impl Into<Bytes>, after_seq: u64) -> Result<Vec<SealedRecord>, ResponseError> {
        read(&json.into(), &"ww1".into(), after_seq)
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
        let records = read(&body, &"ww1".into(), 0).unwrap();
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
        let json = r#"{"chatdata":[{"seq":9},{"seq":5},{"seq":18446744073709551615},{"seq":6}]}"#;
        assert_eq!(seqs(json, 5), [6, 9, u64::MAX]);
        assert_eq!(seqs(json, u64::MAX), Vec::<u64>::new());
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
        let json = format!(
            r#"{{"chatdata":[{{"seq":1,"msgid":"a"}},{large},{{"seq":3,"msgid":"{id}"}}]}}"#
        );
        let body = Bytes::from(json);
        let records = read(&body, &"ww1".into(), 0).unwrap();
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
}
