//! Opening records: every success and failure, with keys in both PEM formats.
#![allow(clippy::unwrap_used, clippy::panic)]

use aes::cipher::block_padding::{NoPadding, Pkcs7};
use aes::cipher::{BlockModeEncrypt, KeyIvInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chatledger_crypto::{KeyError, KeyRing, Opener};
use chatledger_schemas::{Reason, SealedRecord, Secret};
use proptest::prelude::*;
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use rsa::{Pkcs1v15Encrypt, RsaPrivateKey};

struct Sealer {
    key: RsaPrivateKey,
    version: u32,
}

impl Sealer {
    fn new(version: u32) -> Self {
        Self {
            key: RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap(),
            version,
        }
    }

    fn pkcs1(&self) -> Secret {
        Secret::new(self.key.to_pkcs1_pem(LineEnding::LF).unwrap().to_string())
    }

    fn pkcs8(&self) -> Secret {
        Secret::new(self.key.to_pkcs8_pem(LineEnding::CRLF).unwrap().to_string())
    }

    fn wrap(&self, text: &[u8]) -> String {
        let public = self.key.to_public_key();
        STANDARD.encode(
            public
                .encrypt(&mut rsa::rand_core::OsRng, Pkcs1v15Encrypt, text)
                .unwrap(),
        )
    }

    fn parts(&self, plaintext: &[u8]) -> (String, String) {
        let key = [7_u8; 32];
        let body = cbc::Encryptor::<aes::Aes256>::new_from_slices(&key, &key[..16])
            .unwrap()
            .encrypt_padded_vec::<Pkcs7>(plaintext);
        (
            self.wrap(STANDARD.encode(key).as_bytes()),
            STANDARD.encode(body),
        )
    }

    fn record(&self, seq: u64, key: &str, body: &str) -> SealedRecord {
        let json = serde_json::json!({
            "seq": seq, "msgid": format!("m{seq}"), "publickey_ver": self.version,
            "encrypt_random_key": key, "encrypt_chat_msg": body,
        });
        sealed(seq, json.to_string())
    }

    fn seal(&self, seq: u64, plaintext: &[u8]) -> SealedRecord {
        let (key, body) = self.parts(plaintext);
        self.record(seq, &key, &body)
    }
}

fn sealed(seq: u64, json: String) -> SealedRecord {
    SealedRecord {
        corp_id: "ww1".into(),
        seq,
        msgid: format!("m{seq}").into(),
        json: Bytes::from(json),
    }
}

#[test]
fn batch_opens_in_order_with_the_key_of_each_version() {
    let (one, two) = (Sealer::new(1), Sealer::new(2));
    let mut ring = KeyRing::new();
    ring.insert_pem(1, &one.pkcs1()).unwrap();
    ring.insert_pem(2, &two.pkcs8()).unwrap();
    assert_eq!(ring.versions(), [1, 2]);

    let texts: Vec<String> = (0..50).map(|n| "字".repeat(n)).collect();
    let batch: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(n, text)| [&one, &two][n % 2].seal(n as u64, text.as_bytes()))
        .collect();
    for (n, opened) in ring.open(&batch).into_iter().enumerate() {
        let opened = opened.unwrap();
        assert_eq!(opened.plaintext, texts[n].as_bytes());
        assert_eq!(opened.key_version as usize, n % 2 + 1);
    }
}

#[test]
fn each_damaged_record_has_its_own_reason_and_the_rest_of_the_batch_opens() {
    let (known, stranger) = (Sealer::new(1), Sealer::new(1));
    let mut ring = KeyRing::new();
    ring.insert_pem(1, &known.pkcs1()).unwrap();
    let (key, body) = known.parts(b"{}");
    let long = known.parts(&[b'x'; 100]).1;
    let unpadded = STANDARD.encode(
        cbc::Encryptor::<aes::Aes256>::new_from_slices(&[7; 32], &[7; 16])
            .unwrap()
            .encrypt_padded_vec::<NoPadding>(&[0xff; 32]),
    );
    let cases = [
        (known.seal(1, b"good"), None),
        (
            Sealer {
                version: 9,
                ..stranger
            }
            .seal(2, b"x"),
            Some(Reason::UnknownKeyVersion),
        ),
        (Sealer::new(1).seal(3, b"x"), Some(Reason::WrongKey)),
        (
            known.record(4, &known.wrap(b"no key"), &body),
            Some(Reason::WrongKey),
        ),
        (
            known.record(5, "not base64!", &body),
            Some(Reason::BadBase64),
        ),
        (known.record(6, &key, "***"), Some(Reason::BadBase64)),
        (
            known.record(7, &key[..200], &body),
            Some(Reason::TruncatedCiphertext),
        ),
        (
            known.record(8, &key, &long[..40]),
            Some(Reason::TruncatedCiphertext),
        ),
        (known.record(9, &key, ""), Some(Reason::TruncatedCiphertext)),
        (known.record(10, &key, &unpadded), Some(Reason::BadPadding)),
        (
            sealed(11, r#"{"seq":11,"msgid":"m11"}"#.into()),
            Some(Reason::BadEnvelope),
        ),
        (sealed(12, "[]".into()), Some(Reason::BadEnvelope)),
        (known.seal(13, b"also good"), None),
    ];
    let batch: Vec<_> = cases.iter().map(|(record, _)| record.clone()).collect();
    for (opened, (record, reason)) in ring.open(&batch).into_iter().zip(&cases) {
        let found = opened.as_ref().err().map(|error| error.reason);
        assert_eq!(found, *reason, "record {}", record.seq);
    }
}

#[test]
fn unusable_keys_are_refused_and_never_printed() {
    let mut ring = KeyRing::new();
    let sealer = Sealer::new(1);
    assert_eq!(
        ring.insert_pem(1, &Secret::new("hello".into())),
        Err(KeyError::NotPem)
    );
    let small = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 1024).unwrap();
    let small = Secret::new(small.to_pkcs1_pem(LineEnding::LF).unwrap().to_string());
    assert_eq!(
        ring.insert_pem(1, &small),
        Err(KeyError::Size { bits: 1024 })
    );
    ring.insert_pem(1, &sealer.pkcs8()).unwrap();
    assert_eq!(
        ring.insert_pem(1, &sealer.pkcs1()),
        Err(KeyError::DuplicateVersion(1))
    );
    assert_eq!(format!("{ring:?}"), "KeyRing { versions: [1] }");
}

/// Generates values of a record's field: arbitrary ones and the valid one.
fn field(good: String) -> impl Strategy<Value = serde_json::Value> {
    prop_oneof![
        any::<String>().prop_map(serde_json::Value::from),
        proptest::collection::vec(any::<u8>(), 0..600)
            .prop_map(|bytes| STANDARD.encode(bytes).into()),
        any::<i64>().prop_map(serde_json::Value::from),
        Just(serde_json::json!([{}])),
        Just(serde_json::Value::Null),
        Just(serde_json::Value::from(good)),
    ]
}

#[test]
fn any_record_is_opened_or_refused_with_a_short_error() {
    let sealer = Sealer::new(1);
    let mut keys = KeyRing::new();
    keys.insert_pem(1, &sealer.pkcs8()).unwrap();
    let (key, body) = sealer.parts(b"{}");
    let opened = |json: Vec<u8>| {
        let record = SealedRecord {
            corp_id: "ww1".into(),
            seq: 1,
            msgid: "m".into(),
            json: json.into(),
        };
        keys.open(&[record]).remove(0)
    };
    let bytes = any::<Vec<u8>>();
    let fields = (field(key), field(body), field("1".into()));
    proptest!(|(bytes in bytes, (key, body, version) in fields)| {
        prop_assert!(opened(bytes).is_err());
        let record = serde_json::json!({
            "seq": 1, "msgid": "m", "publickey_ver": version, "encrypt_random_key": key,
            "encrypt_chat_msg": body,
        });
        // Another body may by chance decrypt to content with valid padding.
        if let Err(error) = opened(serde_json::to_vec(&record).unwrap()) {
            prop_assert!(Reason::ALL.contains(&error.reason));
            prop_assert!(error.error.len() < 200, "{}", error.error);
        }
    });
}
