//! Fuzz targets: the parsers of untrusted input as functions of bytes. libFuzzer calls them
//! (`libfuzzer/`, `run`), and a test on the stable compiler replays the kept inputs (`corpus/`).
//!
//! Each target panics if an invariant is violated and otherwise accepts any bytes. It does not know
//! networks, files or clocks.

#![allow(
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a violated invariant is reported by a panic"
)]

mod config;
mod front;

use std::sync::OnceLock;

use bytes::Bytes;
use chatledger_crypto::{KeyRing, Opener as _, SealRing};
use chatledger_decode::decode;
use chatledger_rules::{RuleFile, RuleSet, compile};
use chatledger_schemas::sealed::{MAX_MSGID_BYTES, MAX_RECORD_BYTES};
use chatledger_schemas::{CorpId, Message, Reason, SealedRecord, Secret};

pub use config::config;
pub use front::{front, native};

/// A fuzz target: accepts any bytes; panics if an invariant is violated.
pub type FuzzTarget = fn(&[u8]);

/// Every target by its name, which is also its folder in `corpus/`.
pub const TARGETS: [(&str, FuzzTarget); 8] = [
    ("envelope", envelope),
    ("record", record),
    ("sealed_value", sealed_value),
    ("message", message),
    ("config", config),
    ("rules", rules),
    ("front", front),
    ("native", native),
];

const CORP: &str = "ww0123456789abcdef";

/// Parses a response of the archive; the first byte is the `seq` of the request.
pub fn envelope(bytes: &[u8]) {
    let Some((&after, body)) = bytes.split_first() else {
        return;
    };
    let after = u64::from(after);
    let body = Bytes::copy_from_slice(body);
    let Some(records) = chatledger_wecom::read_page(&body, &CorpId::from(CORP), after) else {
        return;
    };
    assert!(records.is_sorted_by_key(|record| record.seq));
    for record in &records {
        assert!(
            record.seq > after,
            "a record at or before the requested seq"
        );
        assert!(record.msgid.len() <= MAX_MSGID_BYTES && record.json.len() <= MAX_RECORD_BYTES);
        // A slice of the page, or the stub: valid JSON at any depth of nesting.
        let json = serde_json::from_slice::<serde::de::IgnoredAny>(&record.json);
        assert!(json.is_ok(), "the record is not JSON");
    }
}

/// A private key for tests without the PEM header and footer; only inputs in `corpus/` are sealed with it.
const KEY: &str = include_str!("../test-key.txt");

fn keys() -> &'static KeyRing {
    static KEYS: OnceLock<KeyRing> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut keys = KeyRing::new();
        let pem = ["-----BEGIN", "PRIVATE KEY-----\n"].join(" ")
            + KEY
            + &["-----END", "PRIVATE KEY-----\n"].join(" ");
        if let Err(error) = keys.insert_pem(1, &Secret::new(pem)) {
            panic!("invalid test key: {error}");
        }
        keys
    })
}

/// Opens a sealed record and decodes the plaintext.
pub fn record(bytes: &[u8]) {
    let sealed = SealedRecord {
        corp_id: CorpId::from(CORP),
        seq: 1,
        msgid: "m".into(),
        json: Bytes::copy_from_slice(bytes),
    };
    for opened in keys().open(std::slice::from_ref(&sealed)) {
        match opened {
            Ok(opened) => message(&opened.plaintext),
            Err(rejected) => assert!(rejected.error.len() < 300, "{}", rejected.error),
        }
    }
}

/// Opens a sealed value of a topic.
pub fn sealed_value(bytes: &[u8]) {
    let mut ring = SealRing::new(false);
    let key = Secret::new(b"a key of thirty-two bytes, known".to_vec());
    assert_eq!(ring.insert(1, &key), Ok(()));
    if let Ok(value) = ring.open("messages", b"k", bytes) {
        // Only a value sealed with this key can be opened.
        let again = ring.seal("messages", b"k", value.to_vec());
        assert!(again.is_ok_and(|again| ring.open("messages", b"k", &again) == Ok(value)));
    }
}

/// Decodes the plaintext of a record.
pub fn message(bytes: &[u8]) {
    match decode(&CorpId::from(CORP), 1, "m", 1, bytes.to_vec()) {
        Ok(message) => {
            assert_eq!(message.payload.as_bytes(), bytes, "the payload was changed");
            let row = serde_json::to_vec(&message);
            let row = row.and_then(|row| serde_json::from_slice::<Message>(&row));
            assert!(
                row.is_ok_and(|row| row == message),
                "the message does not survive serialisation"
            );
            check_rules(&message);
        }
        Err(rejected) => assert!(matches!(
            rejected.reason,
            Reason::BadUtf8 | Reason::BadJson | Reason::BadMessage
        )),
    }
}

fn check_rules(message: &Message) {
    static RULES: OnceLock<RuleSet> = OnceLock::new();
    let rules = RULES.get_or_init(|| {
        let text = "[[rule]]\nid='r'\nname='r'\nseverity='low'\nscope.all=true\n\
                    words=['a', '微信', 'Straße', 'ﬁ']\nallow=['ab']\n";
        compiled(text).unwrap_or_default()
    });
    assert!(!rules.is_empty());
    assert_matches_in_message(rules, message);
}

/// Asserts that the matches of violations occur in the message at their spans.
fn assert_matches_in_message(rules: &RuleSet, message: &Message) {
    let characters: Vec<char> = message.content.chars().collect();
    for violation in rules.check(std::slice::from_ref(message), |_| &[], 0) {
        for (matched, (start, end)) in violation.matched.iter().zip(&violation.spans) {
            let slice: String = characters[*start as usize..*end as usize].iter().collect();
            assert_eq!(*matched, slice);
        }
    }
}

fn compiled(text: &str) -> Option<RuleSet> {
    let source = RuleFile {
        name: "a.toml",
        text,
    };
    let words = |_: &str, _: &str| Ok::<_, std::io::Error>("加我微信\n# no\n\nb\n".to_owned());
    compile(&[source], words).ok()
}

/// Compiles a rule file and applies its rules to the text after a zero byte.
pub fn rules(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let file = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let content = String::from_utf8_lossy(parts.next().unwrap_or_default());
    if let Some(rules) = compiled(&file) {
        let json =
            serde_json::json!({"from": "a", "msgtype": "text", "text": {"content": content}});
        let plain = json.to_string().into_bytes();
        if let Ok(message) = decode(&CorpId::from(CORP), 1, "m", 1, plain) {
            assert_matches_in_message(&rules, &message);
        }
    }
}
