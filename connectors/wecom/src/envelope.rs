//! The archive's answer, read into sealed records (`wecom-api` §2).
//!
//! Guarantees: no record the API gave beyond the asked `seq` is left out, however odd it is; each
//! record keeps its JSON byte for byte, as a slice of the one page; the records ascend by `seq`. The
//! one exception: of a record that is larger than [`sealed::MAX_RECORD_BYTES`] only its size and
//! hash are kept, and its page is not held for the sake of the others.
//! What is wrong inside a record is not decided here: opening it will tell, and park it.

use bytes::Bytes;
use chatledger_schemas::sealed::{MAX_MSGID_BYTES, MAX_RECORD_BYTES};
use chatledger_schemas::{CorpId, SealedRecord, sealed};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::call::{Outcome, Unread};
use crate::loose;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, deserialize_with = "loose::errcode")]
    errcode: i64,
    #[serde(default, deserialize_with = "loose::text")]
    errmsg: String,
    #[serde(default, borrow)]
    chatdata: Option<Vec<&'a RawValue>>,
}

/// What is needed to place a record.
#[derive(Default, Deserialize)]
struct Head<'a> {
    #[serde(default, borrow)]
    seq: Option<&'a RawValue>,
    #[serde(default, borrow)]
    msgid: Option<&'a RawValue>,
}

struct Placed<'a> {
    raw: &'a RawValue,
    seq: Option<u64>,
    msgid: Box<str>,
}

impl Placed<'_> {
    fn is_oversize(&self) -> bool {
        self.raw.get().len() > MAX_RECORD_BYTES || self.msgid.len() > MAX_MSGID_BYTES
    }
}

/// Reads an archive's answer as [`Archive::page`](crate::Archive::page) does, from bytes of one's own;
/// `None` if it is a refusal or no page.
pub fn read_page(body: &Bytes, corp_id: &CorpId, after_seq: u64) -> Option<Vec<SealedRecord>> {
    read(body, corp_id, after_seq).ok()
}

/// Reads a page that was asked for with `after_seq`.
///
/// A record whose `seq` cannot be read takes that of the next readable record of the page, else of
/// the previous one, so that a cursor behind it covers it.
///
/// # Errors
/// An errcode; an answer that is no envelope even after stray control bytes are taken out; records
/// of which none says where it belongs.
pub(crate) fn read(
    body: &Bytes,
    corp_id: &CorpId,
    after_seq: u64,
) -> Result<Vec<SealedRecord>, Unread> {
    match read_strictly(body, corp_id, after_seq) {
        Err(malformed @ Unread::Malformed { .. }) => {
            // The errcode counts even if what stands beside it is not of the documented form.
            if let Err(refused @ Unread::Refused { .. }) = Outcome::read(body) {
                return Err(refused);
            }
            let mended = mended(body).ok_or(malformed)?;
            read_strictly(&mended, corp_id, after_seq)
        }
        outcome => outcome,
    }
}

fn read_strictly(
    body: &Bytes,
    corp_id: &CorpId,
    after_seq: u64,
) -> Result<Vec<SealedRecord>, Unread> {
    let envelope: Envelope<'_> = serde_json::from_slice(body)?;
    if envelope.errcode != 0 {
        return Err(Unread::Refused {
            code: envelope.errcode,
            message: envelope.errmsg,
        });
    }
    let records: Vec<Placed<'_>> = envelope
        .chatdata
        .unwrap_or_default()
        .into_iter()
        .map(placed)
        .collect();
    let seqs = settled(
        &records.iter().map(|record| record.seq).collect::<Vec<_>>(),
        after_seq,
    )
    .ok_or(Unread::NoReadableSeq {
        records: records.len(),
    })?;
    let crowded = records.iter().any(Placed::is_oversize);
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
                json: if crowded {
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

fn placed(raw: &RawValue) -> Placed<'_> {
    // An array would pass for a record too: serde reads structs from both.
    let head: Head<'_> = if raw.get().starts_with('{') {
        serde_json::from_str(raw.get()).unwrap_or_default()
    } else {
        Head::default()
    };
    Placed {
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

/// The `seq` of every record, in the order of the page; `None` if one has none and no other record
/// beyond `after_seq` can lend it one.
fn settled(read: &[Option<u64>], after_seq: u64) -> Option<Vec<u64>> {
    let beyond = |seq: &Option<u64>| seq.filter(|seq| *seq > after_seq);
    let mut settled = Vec::with_capacity(read.len());
    let mut lender = read.iter().rev().find_map(beyond);
    // Backwards, so that the next one is always at hand.
    for seq in read.iter().rev() {
        lender = beyond(seq).or(lender);
        settled.push(seq.or(lender)?);
    }
    settled.reverse();
    Some(settled)
}

/// The body with control bytes inside strings replaced by spaces and bytes that are no UTF-8 by
/// U+FFFD, if there are any (`wecom-api` §3.4).
fn mended(body: &Bytes) -> Option<Bytes> {
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

    fn page(json: impl Into<Bytes>, after_seq: u64) -> Result<Vec<SealedRecord>, Unread> {
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
            "{}",
            r#"{"errcode":"0","chatdata":null}"#,
            r#"{"errcode":0,"errmsg":null,"chatdata":[]}"#,
        ] {
            assert!(page(empty, 5).unwrap().is_empty(), "{empty}");
        }
    }

    #[test]
    fn errcode_counts_whatever_stands_beside_it() {
        for refused in [
            r#"{"errcode":301042,"errmsg":"whiteip","chatdata":[]}"#,
            r#"{"errcode":"301042","errmsg":"whiteip","chatdata":[{"seq":1}]}"#,
            r#"{"errcode":301042,"errmsg":{},"chatdata":""}"#,
        ] {
            assert!(
                matches!(page(refused, 0), Err(Unread::Refused { code: 301_042, .. })),
                "{refused}"
            );
        }
    }

    #[test]
    fn cut_or_foreign_answers_are_malformed() {
        for bad in [
            "",
            "<html></html>",
            r#"{"errcode":0,"chatdata":[{"seq":1,"msgid":"a"#,
            r#"{"errcode":0,"chatdata":{}}"#,
            "3",
        ] {
            assert!(
                matches!(page(bad, 0), Err(Unread::Malformed { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn odd_records_are_kept_with_a_seq_their_cursor_will_cover() {
        let odd = r#"{"chatdata":[{"msgid":"x"},{"seq":"7","msgid":5},"text",{"seq":9},
                      [3,"y"],{"seq":-4},null]}"#;
        assert_eq!(seqs(odd, 0), [7, 7, 9, 9, 9, 9, 9]);
        let records = page(odd, 0).unwrap();
        assert_eq!(&*records[0].msgid, "x");
        assert_eq!(&*records[1].msgid, "");
        assert_eq!(records[2].json, br#""text""#.as_slice());
    }

    #[test]
    fn lent_seq_is_beyond_the_one_asked_for() {
        assert_eq!(
            seqs(r#"{"chatdata":[{"seq":8},{"x":1},{"seq":4},{"x":2}]}"#, 5),
            [8, 8, 8]
        );
        assert!(matches!(
            page(r#"{"chatdata":[{"seq":4},{"x":1}]}"#, 5),
            Err(Unread::NoReadableSeq { records: 2 })
        ));
        assert!(matches!(
            page(r#"{"chatdata":[{"x":1}]}"#, 0),
            Err(Unread::NoReadableSeq { records: 1 })
        ));
    }

    #[test]
    fn records_are_sorted_and_those_already_had_are_left_out() {
        let json = r#"{"chatdata":[{"seq":9},{"seq":5},{"seq":18446744073709551615},{"seq":6}]}"#;
        assert_eq!(seqs(json, 5), [6, 9, u64::MAX]);
        assert_eq!(seqs(json, u64::MAX), Vec::<u64>::new());
    }

    #[test]
    fn control_bytes_and_bad_utf8_inside_strings_are_mended() {
        let json =
            b"{\"errmsg\":\"a\x01\tb\",\n\"chatdata\":[{\"seq\":3,\"msgid\":\"m\\\"\x02\xff\"}]}";
        let records = page(Bytes::from_static(json), 0).unwrap();
        assert_eq!(records[0].seq, 3);
        assert_eq!(&*records[0].msgid, "m\" \u{fffd}");
    }

    #[test]
    fn ten_thousand_levels_inside_a_record_do_no_harm() {
        let deep = format!(
            r#"{{"chatdata":[{{"seq":1,"x":{}{}}}]}}"#,
            "[".repeat(10_000),
            "]".repeat(10_000)
        );
        assert_eq!(seqs(deep, 0), [1]);
    }

    #[test]
    fn record_that_is_too_large_leaves_its_size_and_hash_and_its_neighbours_whole() {
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
    fn record_of_the_largest_size_is_taken_as_it_is() {
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
        fn any_bytes_are_read_without_a_panic(bytes in any::<Vec<u8>>(), after in any::<u64>()) {
            let _ = page(bytes, after);
        }

        #[test]
        fn any_page_loses_no_record_beyond_the_cursor(
            records in prop::collection::vec(record(), 0..8),
            after in 0..3u64,
        ) {
            let json = format!(r#"{{"errcode":0,"chatdata":[{}]}}"#, records.join(","));
            let had = |raw: &String| {
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
                        records.iter().filter(|raw| !had(raw)).cloned().collect();
                    kept.sort();
                    given.sort();
                    prop_assert_eq!(kept, given);
                }
                // NaN and infinity have no JSON.
                Err(Unread::Malformed { .. }) => {
                    prop_assert!(records.iter().any(|r| r.contains("NaN") || r.contains("inf")));
                }
                Err(Unread::NoReadableSeq { .. }) => {}
                Err(other) => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn any_cut_of_a_page_is_malformed(cut in 0usize..60) {
            let whole = r#"{"errcode":0,"errmsg":"ok","chatdata":[{"seq":1,"msgid":"a"}]}"#;
            prop_assert!(cut < whole.len());
            let malformed = matches!(page(whole[..cut].to_owned(), 0), Err(Unread::Malformed { .. }));
            prop_assert!(malformed);
        }
    }
}
