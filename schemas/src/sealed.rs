//! A record as the archive API returned it, still encrypted.
//!
//! The JSON is kept byte for byte, because WeCom may add fields at any time
//! (`connectors/wecom/WECOM.md` §2) and a record that cannot be opened now must be replayable
//! later.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::CorpId;

/// Maximum size of a record's JSON in bytes, about 200 times what WeCom sends. A record within the
/// limit fits into a row, a dead letter or a value on a topic.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

/// Maximum size of a `msgid` in bytes; WeCom's have about 60.
pub const MAX_MSGID_BYTES: usize = 1 << 10;

/// Identifies a record larger than [`MAX_RECORD_BYTES`], which is not kept itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Oversize {
    /// Size of its JSON in bytes.
    pub bytes: u64,
    /// SHA-256 of its JSON, hexadecimal.
    pub sha256: String,
}

/// The JSON kept in place of a record larger than [`MAX_RECORD_BYTES`].
#[derive(Deserialize, Serialize)]
struct OversizeStub {
    seq: u64,
    msgid: String,
    too_large: Oversize,
}

/// One element of `chatdata` in an answer of the archive, with its corp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedRecord {
    /// The corp whose archive returned the record.
    pub corp_id: CorpId,
    /// Position in the corp's archive (`chatdata[].seq`): ascending, with gaps, full `u64` range.
    pub seq: u64,
    /// WeCom's message id; empty if the record has none.
    pub msgid: Box<str>,
    /// The record's JSON object as received; a slice of the page that contained it.
    pub json: Bytes,
}

/// The fields of a record, borrowed from its JSON unless they contain escapes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct SealedFields<'a> {
    /// `seq`: a number, or a string that contains a number.
    #[serde(deserialize_with = "u64_or_text")]
    pub seq: u64,
    /// `msgid`.
    #[serde(borrow)]
    pub msgid: Cow<'a, str>,
    /// `publickey_ver`, the version of the public key that sealed the record: a number, or a string
    /// that contains a number.
    #[serde(deserialize_with = "u32_or_text")]
    pub publickey_ver: u32,
    /// `encrypt_random_key`: the RSA block in base64.
    #[serde(borrow)]
    pub encrypt_random_key: Cow<'a, str>,
    /// `encrypt_chat_msg`, the ciphertext: base64 with transport `http`, opaque with the SDK.
    #[serde(borrow)]
    pub encrypt_chat_msg: Cow<'a, str>,
}

impl SealedRecord {
    /// Reads the fields of the record.
    ///
    /// # Errors
    /// A field is missing or has another type.
    pub fn fields(&self) -> Result<SealedFields<'_>, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }

    /// Returns the record unchanged if it is within the size limits. Otherwise replaces its JSON
    /// with its size and hash, and also drops the `msgid` if that exceeds [`MAX_MSGID_BYTES`].
    #[must_use]
    pub fn bounded(self) -> Self {
        let id_fits = self.msgid.len() <= MAX_MSGID_BYTES;
        if id_fits && self.json.len() <= MAX_RECORD_BYTES {
            return self;
        }
        let msgid = if id_fits { self.msgid } else { Box::default() };
        let stub = OversizeStub {
            seq: self.seq,
            msgid: msgid.to_string(),
            too_large: Oversize {
                bytes: self.json.len() as u64,
                sha256: hex(&Sha256::digest(&self.json)),
            },
        };
        Self {
            corp_id: self.corp_id,
            seq: self.seq,
            msgid,
            // Strings and numbers only: serialisation cannot fail.
            json: serde_json::to_vec(&stub).unwrap_or_default().into(),
        }
    }

    /// Returns the size and hash of the original record if this one replaces an oversized record.
    pub fn too_large(&self) -> Option<Oversize> {
        let stub: OversizeStub = serde_json::from_slice(&self.json).ok()?;
        Some(stub.too_large)
    }

    /// Returns the record's JSON as text, for a dead letter.
    pub fn json_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.json)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Deserialises a `u64` that a gateway may have re-serialised as a string, or as a floating-point number such as `301.0`
/// (`connectors/wecom/WECOM.md` §4). Whole numbers below 2^53 are exact in any form.
///
/// # Errors
/// The value is neither a whole number nor a string that contains one.
pub fn u64_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Number;
    impl Visitor<'_> for Number {
        type Value = u64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an unsigned 64-bit number or a string that contains one")
        }
        fn visit_u64<E: de::Error>(self, v: u64) -> Result<u64, E> {
            Ok(v)
        }
        fn visit_i64<E: de::Error>(self, v: i64) -> Result<u64, E> {
            u64::try_from(v).map_err(|_| E::invalid_value(Unexpected::Signed(v), &self))
        }
        fn visit_f64<E: de::Error>(self, v: f64) -> Result<u64, E> {
            whole(v).ok_or_else(|| E::invalid_value(Unexpected::Float(v), &self))
        }
        fn visit_str<E: de::Error>(self, v: &str) -> Result<u64, E> {
            let text = v.trim();
            text.parse()
                .ok()
                .or_else(|| whole(text.parse().ok()?))
                .ok_or_else(|| E::invalid_value(Unexpected::Other("text"), &self))
        }
    }
    deserializer.deserialize_any(Number)
}

/// The integer that a floating-point number stands for, if it is exact.
fn whole(number: f64) -> Option<u64> {
    const LIMIT: f64 = (1_u64 << 53) as f64;
    let is_exact = number.fract() == 0.0 && number.is_sign_positive() && number < LIMIT;
    is_exact.then_some(number as u64)
}

fn u32_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let wide = u64_or_text(deserializer)?;
    u32::try_from(wide)
        .map_err(|_| de::Error::invalid_value(Unexpected::Unsigned(wide), &"a 32-bit number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &'static str) -> SealedRecord {
        SealedRecord {
            corp_id: "ww1".into(),
            seq: 1,
            msgid: "m".into(),
            json: Bytes::from_static(json.as_bytes()),
        }
    }

    #[test]
    fn fields_accept_numbers_as_strings_and_the_full_u64_range() {
        let sealed = record(
            r#"{"seq":"18446744073709551615","msgid":"a\/b","publickey_ver":"3",
                "encrypt_random_key":"AA==","encrypt_chat_msg":"BB","extra":[1]}"#,
        );
        let fields = sealed.fields().unwrap();
        assert_eq!((fields.seq, fields.publickey_ver), (u64::MAX, 3));
        assert_eq!(fields.msgid, "a/b");
        assert!(matches!(fields.encrypt_random_key, Cow::Borrowed(_)));
    }

    #[test]
    fn whole_number_is_read_in_whatever_form_it_is_written() {
        let seq = |text: &str| u64_or_text(&mut serde_json::Deserializer::from_str(text)).ok();
        for text in [
            "301",
            "301.0",
            "3.01e2",
            "\"301\"",
            "\" 301.0 \"",
            "\"3.01E2\"",
        ] {
            assert_eq!(seq(text), Some(301), "{text}");
        }
        assert_eq!(seq("9007199254740991.0"), Some(9_007_199_254_740_991));
        for text in [
            "301.5",
            "-1.0",
            "-0",
            "-0.0",
            "9007199254740992.0",
            "1e300",
            "\"NaN\"",
            "\"inf\"",
            "\"\"",
            "null",
            "18446744073709551616",
        ] {
            assert_eq!(seq(text), None, "{text}");
        }
    }

    #[test]
    fn record_at_the_size_limit_is_unchanged_and_a_larger_one_is_reduced_to_size_and_hash() {
        let of = |bytes: usize, msgid: &str| SealedRecord {
            json: Bytes::from(vec![b' '; bytes]),
            msgid: msgid.into(),
            ..record("")
        };
        let largest = of(MAX_RECORD_BYTES, "m");
        assert_eq!(largest.clone().bounded(), largest);

        let larger = of(MAX_RECORD_BYTES + 1, "m\"").bounded();
        assert_eq!((larger.seq, &*larger.msgid), (1, "m\""));
        let kept = larger.too_large().unwrap();
        assert_eq!(kept.bytes, MAX_RECORD_BYTES as u64 + 1);
        assert_eq!(
            kept.sha256,
            hex(&Sha256::digest(vec![b' '; MAX_RECORD_BYTES + 1]))
        );
        assert!(larger.fields().is_err() && larger.json.len() < 200);
        assert_eq!(larger.clone().bounded(), larger);

        let named = of(10, &"i".repeat(MAX_MSGID_BYTES + 1)).bounded();
        assert_eq!(&*named.msgid, "");
        assert_eq!(named.too_large().unwrap().bytes, 10);
        assert!(record(r#"{"seq":1}"#).too_large().is_none());
    }

    #[test]
    fn deep_nesting_in_an_unused_field_is_ignored() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        let json = format!(
            r#"{{"x":{deep},"seq":1,"msgid":"a","publickey_ver":1,"encrypt_random_key":"",
                "encrypt_chat_msg":""}}"#
        );
        let mut sealed = record("");
        sealed.json = json.into();
        assert_eq!(sealed.fields().unwrap().seq, 1);
        assert!(sealed.too_large().is_none());
    }

    #[test]
    fn fields_without_a_ciphertext_are_an_error() {
        let sealed = record(r#"{"seq":1,"msgid":"a","publickey_ver":1,"encrypt_random_key":""}"#);
        assert!(sealed.fields().is_err());
    }
}
