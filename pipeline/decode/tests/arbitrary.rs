//! Property tests: for any input, decoding returns a message with an unchanged payload, or a reason.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;

use chatledger_decode::decode;
use chatledger_schemas::{CorpId, Reason};
use proptest::prelude::*;
use serde_json::Value;

/// Names and texts that the decoder knows, and arbitrary ones.
fn name() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "msgid",
        "action",
        "from",
        "tolist",
        "roomid",
        "msgtime",
        "msgtype",
        "time",
        "user",
        "text",
        "content",
        "info",
        "item",
        "type",
        "chatrecord",
        "mixed",
        "vote",
        "voteitem",
        "news",
        "title",
        "ChatRecordText",
        "ChatRecordMixed",
        "switch",
        "calendar",
        "attendeename",
        "doc",
        "wmX",
        "markdown",
        "meeting_notification",
        "card",
        "corpname",
        "userid",
        "location",
        "address",
        "file",
        "filename",
        "link",
        "description",
        "weapp",
        "displayname",
        "todo",
        "votetitle",
        "collect",
        "room_name",
        "details",
        "ques",
        "redpacket",
        "external_redpacket",
        "wish",
        "meeting",
        "topic",
        "remarks",
        "docmsg",
        "creatorname",
        "place",
        "meeting_voice_call",
        "meetingvoicecall",
        "demofiledata",
        "voip_doc_share",
        "voipdocshare",
        "sphfeed",
        "sph_name",
        "feed_desc",
        "qydiskfile",
        "revoke",
        "agree",
        "image",
        "voice",
        "video",
        "ChatRecordLink",
        "ChatRecordFile",
        "ChatRecordLocation",
        "a",
    ];
    prop_oneof![3 => proptest::sample::select(KNOWN).prop_map(str::to_owned), 1 => any::<String>()]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        name().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            object(inner.clone()),
            inner.prop_map(|inner| Value::from(inner.to_string())),
        ]
    })
}

fn object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    proptest::collection::vec((name(), inner), 0..12)
        .prop_map(|fields| Value::Object(fields.into_iter().collect()))
}

fn read(plaintext: Vec<u8>) -> Result<chatledger_schemas::Message, Reason> {
    decode(&CorpId::from("w"), 1, "m", 1, plaintext).map_err(|error| error.reason)
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_rejected(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Err(reason) = read(bytes) {
            prop_assert!(matches!(reason, Reason::BadUtf8 | Reason::BadJson | Reason::BadMessage));
        }
    }

    #[test]
    fn any_json_is_decoded_with_its_payload_or_rejected_as_no_message(json in prop_oneof![value(), object(value())]) {
        let text = json.to_string();
        match read(text.clone().into_bytes()) {
            Ok(message) => {
                prop_assert_eq!(message.payload, text);
                prop_assert!((-2_208_988_800_000..=10_413_791_999_999).contains(&message.msgtime));
                let mut ids = message.to_ids.clone();
                ids.sort();
                ids.dedup();
                prop_assert_eq!(ids.len(), message.to_ids.len());
            }
            Err(reason) => prop_assert_eq!(reason, Reason::BadMessage),
        }
    }

    #[test]
    fn message_of_any_type_with_any_body_is_kept(
        kind in name(),
        body in value(),
        from in name(),
    ) {
        // An unreadable body gives empty content; the message is kept.
        let keys = ["text", "info", "chatrecord", "mixed", "vote", "calendar", "collect", "news"];
        let mut message = serde_json::json!({"from": from, "msgtype": kind});
        for key in keys.into_iter().chain([kind.as_str()]) {
            if !matches!(key, "from" | "user" | "roomid" | "tolist" | "msgtype") {
                message[key] = body.clone();
            }
        }
        let text = message.to_string();
        if !from.is_empty() || !kind.is_empty() {
            let read = read(text.clone().into_bytes());
            prop_assert_eq!(read.map(|message| message.payload), Ok(text));
        }
    }

    #[test]
    fn message_truncated_or_corrupted_anywhere_is_decoded_or_rejected(
        json in object(value()),
        cut in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut bytes = json.to_string().into_bytes();
        let at = cut.index(bytes.len());
        bytes[at] = byte;
        let _ = read(bytes.clone());
        bytes.truncate(at);
        prop_assert!(read(bytes).is_err());
    }

    #[test]
    fn text_is_read_regardless_of_how_json_is_written(content in any::<String>(), from in "[a-z]{1,8}") {
        let json = serde_json::json!({"from": from, "msgtype": "text", "text": {"content": content}});
        prop_assert_eq!(&read(json.to_string().into_bytes()).unwrap().content, &content);
        prop_assert_eq!(&read(serde_json::to_vec_pretty(&json).unwrap()).unwrap().content, &content);
        let mut escaped = String::new();
        for unit in content.encode_utf16() {
            write!(escaped, "\\u{unit:04x}").unwrap();
        }
        let json = format!(r#"{{"msgtype":"text","text":{{"content":"{escaped}"}}}}"#);
        prop_assert_eq!(&read(json.into_bytes()).unwrap().content, &content);
    }
}
