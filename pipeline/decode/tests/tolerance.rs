//! Input that deviates from the documentation: decoded if its conversation is known, otherwise rejected
//! with a reason. No error contains any part of the message.
#![allow(clippy::unwrap_used)]

use chatledger_decode::{DecodeError, decode};
use chatledger_schemas::{CorpId, Message, PartyKind, Reason};

fn read(plaintext: impl Into<Vec<u8>>) -> Result<Message, DecodeError> {
    decode(&CorpId::from("wwcorp"), 9, "m9", 3, plaintext.into())
}

#[test]
fn envelope_msgid_is_used_and_payload_is_unchanged() {
    let json = "{ \"msgid\":\"other\",\"from\":\"a\",\"msgtype\":\"text\",\n\"text\":{\"content\":\"\\u4f60\"} } ";
    let got = read(json).unwrap();
    assert_eq!(
        (got.corp_id.as_str(), got.seq, got.key_version),
        ("wwcorp", 9, 3)
    );
    assert_eq!((got.msgid.as_str(), got.content.as_str()), ("m9", "你"));
    assert_eq!(got.payload, json);
    assert_eq!(got.from_kind, PartyKind::Unknown);
    assert_eq!(got.from_department_id, 0);
    assert!(
        got.from_name.is_empty() && got.from_department_path.is_empty() && got.room_name.is_empty()
    );

    let got = decode(&CorpId::from("w"), 1, "", 1, json.into()).unwrap();
    assert_eq!(got.msgid, "other");
}

#[test]
fn conversation_is_determined_by_the_message_alone() {
    for (msgid, fields, conversation, kind) in [
        (
            "m",
            r#""from":"b","tolist":["a"],"roomid":"""#,
            "a|b",
            "single_internal",
        ),
        (
            "m",
            r#""from":"a","tolist":["b"]"#,
            "a|b",
            "single_internal",
        ),
        ("m", r#""from":"a""#, "a", "single_internal"),
        ("m", r#""from":"a","tolist":[]"#, "a", "single_internal"),
        (
            "m",
            r#""from":"a","tolist":["a","b"]"#,
            "a|b",
            "single_internal",
        ),
        (
            "m",
            r#""from":"a","tolist":["a"]"#,
            "a|a",
            "single_internal",
        ),
        ("m", r#""tolist":["b"]"#, "b", "single_internal"),
        (
            "m",
            r#""from":"wmin","tolist":["wolf.li"]"#,
            "wmin|wolf.li",
            "single_internal",
        ),
        (
            "1_2_updown_stream",
            r#""from":"a","tolist":["partner"]"#,
            "a|partner",
            "single_external",
        ),
        (
            "m",
            r#""from":"a","tolist":["wmAbCdEfGhIjKlMnOpQrStUvWxYz0001"]"#,
            "a|wmAbCdEfGhIjKlMnOpQrStUvWxYz0001",
            "single_external",
        ),
        (
            "m",
            r#""from":"woAbCdEfGhIjKlMnOpQrStUvWxYz0001","tolist":["a"]"#,
            "a|woAbCdEfGhIjKlMnOpQrStUvWxYz0001",
            "single_external",
        ),
        (
            "m",
            r#""from":"wbRobot","tolist":["a"]"#,
            "a|wbRobot",
            "single_internal",
        ),
        (
            "1_2_external",
            r#""from":"a","tolist":["b"]"#,
            "a|b",
            "single_external",
        ),
        (
            "m",
            r#""from":"a","tolist":["b","c"],"roomid":"wr1""#,
            "wr1",
            "group_internal",
        ),
        (
            "m",
            r#""from":"a","tolist":["b","woAbCdEfGhIjKlMnOpQrStUvWxYz0001"],"roomid":"wr1""#,
            "wr1",
            "group_external",
        ),
        (
            "1_2_external",
            r#""from":"a","tolist":[],"roomid":"wr1""#,
            "wr1",
            "group_external",
        ),
    ] {
        let json = format!(r#"{{{fields},"msgtype":"text","text":{{"content":"x"}}}}"#);
        let got = decode(&CorpId::from("w"), 1, msgid, 1, json.into_bytes()).unwrap();
        assert_eq!(got.conversation_id, conversation, "{fields}");
        assert_eq!(got.conversation_kind.as_str(), kind, "{fields}");
    }
}

#[test]
fn receivers_of_any_json_type_are_deduplicated_in_order() {
    for (tolist, expected) in [
        (r#"["b","a","b","c","a"]"#, &["b", "a", "c"][..]),
        (r#"["b",null,"",17]"#, &["b", "17"]),
        (r#""b""#, &["b"]),
        ("null", &[]),
        ("[]", &[]),
    ] {
        let got = read(format!(
            r#"{{"from":"x","msgtype":"text","tolist":{tolist}}}"#
        ))
        .unwrap();
        assert_eq!(got.to_ids, expected, "{tolist}");
    }
}

#[test]
fn msgtime_of_any_json_type_is_read_and_clamped_to_the_range_of_the_tables() {
    for (msgtime, expected) in [
        ("1760000000123", 1_760_000_000_123),
        ("\" 1760000000123 \"", 1_760_000_000_123),
        ("1.760000000123e12", 1_760_000_000_123),
        ("0", 0),
        ("-1", -1),
        ("9223372036854775808", 10_413_791_999_999),
        ("-99999999999999999999", -2_208_988_800_000),
        ("1e999", 10_413_791_999_999),
        ("\"soon\"", 0),
        ("\"NaN\"", 0),
        ("null", 0),
        ("[1]", 0),
    ] {
        let got = read(format!(
            r#"{{"from":"x","msgtype":"text","msgtime":{msgtime}}}"#
        ))
        .unwrap();
        assert_eq!(got.msgtime, expected, "{msgtime}");
    }
}

#[test]
fn unreadable_body_gives_empty_content_and_keeps_the_message() {
    for (rest, content) in [
        (r#""text":null"#, ""),
        (r#""text":["x"]"#, ""),
        (r#""text":{"content":null}"#, ""),
        (r#""text":{"content":{"a":1}}"#, ""),
        (r#""text":{"content":12.50}"#, "12.50"),
        (r#""text":"{\"content\":\"in a string\"}""#, "in a string"),
        (
            r#""text":{"content":"cut \ud83d"}"#,
            "cut \u{fffd}\u{fffd}\u{fffd}",
        ),
        (r#""text":{"content":"nul \u0000"}"#, "nul \0"),
        (r#""image":{"content":"other body"}"#, ""),
    ] {
        let json = format!(r#"{{"from":"x","msgtype":"text",{rest}}}"#);
        let got = read(json.as_str()).unwrap();
        assert_eq!(got.content, content, "{rest}");
        assert_eq!(got.payload, json);
    }
}

#[test]
fn missing_or_unusable_labels_do_not_affect_the_conversation() {
    let got = read(r#"{"from":"x","tolist":["y"],"action":[],"msgtype":{"a":1}}"#).unwrap();
    assert_eq!((got.action.as_str(), got.msgtype.as_str()), ("", ""));
    assert_eq!(got.conversation_id, "x|y");
    let got = read(r#"{"msgtype":"text","roomid":"wr1","text":{"content":"x"}}"#).unwrap();
    assert_eq!(
        (got.from_id.as_str(), got.conversation_id.as_str()),
        ("", "wr1")
    );
    let got = read(r#"{"from":12345,"msgtype":"text"}"#).unwrap();
    assert_eq!(got.from_id, "12345");
    let got = read(r#"{"from":"x","action":"switch","time":5}"#).unwrap();
    assert_eq!((got.msgtype.as_str(), got.msgtime), ("switch", 5));
}

#[test]
fn control_bytes_are_ignored_and_kept_in_the_payload() {
    let json = "\u{0}{\"from\":\"x\",\"msgtype\":\"text\",\n\"text\":{\"content\":\"好\u{1}的\u{b}\\n\u{1f}!\"}}\u{0}";
    let got = read(json).unwrap();
    assert_eq!(
        (got.content.as_str(), got.payload.as_str()),
        ("好的\n!", json)
    );

    let inner = r#"{\"content\":\"第一\u0001句\"}"#;
    let json = format!(
        r#"{{"from":"x","msgtype":"mixed","mixed":{{"item":[{{"type":"text","content":"{inner}"}}]}}}}"#
    );
    assert_eq!(read(json).unwrap().content, "第一句");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of inputs and reasons")]
fn errors_give_the_reason_and_none_of_the_content() {
    let deep = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(r#"{{"from":"x","msgtype":"text","a":{open}"机密"{close}}}"#).into_bytes()
    };
    let not_utf8 = [
        b"{\"from\":\"".as_slice(),
        &[0xff, 0xfe],
        "机密\"}".as_bytes(),
    ]
    .concat();
    for (plaintext, reason, error) in [
        (not_utf8, Reason::BadUtf8, "not UTF-8 at byte 9"),
        (
            Vec::new(),
            Reason::BadJson,
            "EOF while parsing a value at line 1 column 0",
        ),
        (
            "机密".into(),
            Reason::BadJson,
            "expected value at line 1 column 1",
        ),
        (
            "{\"from\":\"机密".into(),
            Reason::BadJson,
            "EOF while parsing a string at line 1 column 15",
        ),
        (
            "{\"from\":\"x\"}机密".into(),
            Reason::BadJson,
            "trailing characters at line 1 column 13",
        ),
        (
            "{\"from\":\"\\x机密\"}".into(),
            Reason::BadJson,
            "invalid escape at line 1 column 11",
        ),
        (
            "{\"from\":\"\u{1}机密\"".into(),
            Reason::BadJson,
            "control character (\\u0000-\\u001F) found while parsing a string at line 1 column 9",
        ),
        (deep(127), Reason::BadJson, "nested deeper than 127 levels"),
        (
            deep(1_000_000),
            Reason::BadJson,
            "nested deeper than 127 levels",
        ),
        (
            "[\"机密\"]".into(),
            Reason::BadMessage,
            "the top level is an array, not an object",
        ),
        (
            "\"机密\"".into(),
            Reason::BadMessage,
            "the top level is a string, not an object",
        ),
        (
            "[\"机密\"".into(),
            Reason::BadJson,
            "EOF while parsing a list at line 1 column 9",
        ),
        (
            "42".into(),
            Reason::BadMessage,
            "the top level is a number, not an object",
        ),
        (
            "{}".into(),
            Reason::BadMessage,
            "none of the fields from, user and msgtype is present",
        ),
        (
            "{\"机密\":1,\"from\":null,\"tolist\":[\"a\"]}".into(),
            Reason::BadMessage,
            "none of the fields from, user and msgtype is present",
        ),
        (
            "{\"from\":[\"机密\"],\"msgtype\":\"text\"}".into(),
            Reason::BadMessage,
            "the field from is an array, expected a string",
        ),
        (
            "{\"from\":\"a\",\"roomid\":{\"机密\":1}}".into(),
            Reason::BadMessage,
            "the field roomid is an object, expected a string",
        ),
        (
            "{\"from\":\"a\",\"tolist\":{\"机密\":1}}".into(),
            Reason::BadMessage,
            "the field tolist is an object, expected an array",
        ),
        (
            "{\"from\":\"a\",\"tolist\":[[\"机密\"]]}".into(),
            Reason::BadMessage,
            "the field tolist is an array, expected an array of strings",
        ),
        (
            "{\"user\":true,\"action\":\"switch\"}".into(),
            Reason::BadMessage,
            "the field user is a boolean, expected a string",
        ),
    ] {
        let decode_error = read(plaintext.clone()).unwrap_err();
        let shown = String::from_utf8_lossy(&plaintext[..plaintext.len().min(60)]).into_owned();
        assert_eq!(
            (decode_error.reason, decode_error.error.as_str()),
            (reason, error),
            "{shown}"
        );
        assert_eq!(decode_error.to_string(), error);
    }
    assert!(read(deep(126)).is_ok());
}

#[test]
fn nested_records_are_followed_to_the_maximum_depth() {
    let nested = |levels: usize| {
        let mut content = r#"{"content":"底"}"#.to_owned();
        for level in 0..levels {
            content = format!(
                r#"{{"title":"{level}","item":[{{"type":"ChatRecord","content":{content}}}]}}"#
            );
        }
        format!(r#"{{"from":"x","msgtype":"chatrecord","chatrecord":{content}}}"#)
    };
    let got = read(nested(10)).unwrap();
    assert_eq!(got.content, "9\n8\n7\n6\n5\n4\n3\n2\n1\n0\n底");
    let got = read(nested(40)).unwrap();
    assert!(got.content.starts_with("39\n38\n37\n") && !got.content.contains('底'));
}

#[test]
fn huge_fields_are_kept_in_full() {
    let text = "长".repeat(3_000_000);
    let ids: Vec<String> = (0..50_000)
        .map(|n| format!("\"u{}\"", n % 40_000))
        .collect();
    let json = format!(
        r#"{{"from":"x","roomid":"wr1","msgtype":"text","tolist":[{}],"text":{{"content":"{text}"}}}}"#,
        ids.join(",")
    );
    let got = read(json).unwrap();
    assert_eq!(got.content, text);
    assert_eq!(
        (got.to_ids.len(), got.to_ids[39_999].as_str()),
        (40_000, "u39999")
    );
}
