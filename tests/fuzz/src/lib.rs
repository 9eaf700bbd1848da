//! What strangers' bytes reach first, as functions of these bytes: a fuzzer drives them
//! (`libfuzzer/`, `run`), and a test on the stable compiler replays what fuzzing has kept
//! (`corpus/`).
//!
//! Each function panics if a promise is broken, and returns whatever the bytes are otherwise. It
//! does not know a network, a file or a clock.

#![allow(
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a broken promise is told by a panic"
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

/// Takes any bytes; panics if a promise is broken.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its folder in `corpus/`.
pub const TARGETS: [(&str, Target); 8] = [
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

/// An archive's answer: the first byte says behind which `seq` it was asked for.
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
            "a record that had been asked for before"
        );
        assert!(record.msgid.len() <= MAX_MSGID_BYTES && record.json.len() <= MAX_RECORD_BYTES);
        // A slice of the page, or the stub: JSON however deep it is nested.
        let json = serde_json::from_slice::<serde::de::IgnoredAny>(&record.json);
        assert!(json.is_ok(), "a record that is not JSON");
    }
}

/// A private key for tests, without the lines that make it PEM; it has sealed nothing but the corpus.
const KEY: &str = include_str!("../test-key.txt");

fn keys() -> &'static KeyRing {
    static KEYS: OnceLock<KeyRing> = OnceLock::new();
    KEYS.get_or_init(|| {
        let mut keys = KeyRing::new();
        let pem = ["-----BEGIN", "PRIVATE KEY-----\n"].join(" ")
            + KEY
            + &["-----END", "PRIVATE KEY-----\n"].join(" ");
        if let Err(error) = keys.insert_pem(1, &Secret::new(pem)) {
            panic!("the key of these tests: {error}");
        }
        keys
    })
}

/// A sealed record, opened and, if it opens, decoded.
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

/// A value from a topic, to be opened with a seal key.
pub fn sealed_value(bytes: &[u8]) {
    let mut ring = SealRing::new(false);
    let key = Secret::new(b"a key of thirty-two bytes, known".to_vec());
    assert_eq!(ring.insert(1, &key), Ok(()));
    if let Ok(value) = ring.open("messages", b"k", bytes) {
        // Only what was sealed here opens.
        let again = ring.seal("messages", b"k", value.to_vec());
        assert!(again.is_ok_and(|again| ring.open("messages", b"k", &again) == Ok(value)));
    }
}

/// The plaintext of a record.
pub fn message(bytes: &[u8]) {
    match decode(&CorpId::from(CORP), 1, "m", 1, bytes.to_vec()) {
        Ok(message) => {
            assert_eq!(message.payload.as_bytes(), bytes, "the payload is changed");
            let row = serde_json::to_vec(&message);
            let row = row.and_then(|row| serde_json::from_slice::<Message>(&row));
            assert!(row.is_ok_and(|row| row == message), "no row");
            check(&message);
        }
        Err(rejected) => assert!(matches!(
            rejected.reason,
            Reason::BadUtf8 | Reason::BadJson | Reason::BadMessage
        )),
    }
}

fn check(message: &Message) {
    static RULES: OnceLock<RuleSet> = OnceLock::new();
    let rules = RULES.get_or_init(|| {
        let text = "[[rule]]\nid='r'\nname='r'\nseverity='low'\nscope.all=true\n\
                    words=['a', '微信', 'Straße', 'ﬁ']\nallow=['ab']\n";
        compiled(text).unwrap_or_default()
    });
    assert!(!rules.is_empty());
    within(rules, message);
}

/// Asserts that what a violation shows stands in the message where it says.
fn within(rules: &RuleSet, message: &Message) {
    let characters: Vec<char> = message.content.chars().collect();
    for violation in rules.check(std::slice::from_ref(message), |_| &[], 0) {
        for (matched, (start, end)) in violation.matched.iter().zip(&violation.spans) {
            let there: String = characters[*start as usize..*end as usize].iter().collect();
            assert_eq!(*matched, there);
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

/// A rule file, and behind a zero byte a text to which its rules are put.
pub fn rules(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let file = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let content = String::from_utf8_lossy(parts.next().unwrap_or_default());
    if let Some(rules) = compiled(&file) {
        let json =
            serde_json::json!({"from": "a", "msgtype": "text", "text": {"content": content}});
        let plain = json.to_string().into_bytes();
        if let Ok(message) = decode(&CorpId::from(CORP), 1, "m", 1, plain) {
            within(&rules, &message);
        }
    }
}
