//! Sealed values can be opened only complete, unchanged and in their own place.
#![allow(clippy::unwrap_used)]

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chatledger_crypto::{SealKeyError, SealRing, UnsealError};
use chatledger_schemas::{SealedValue, Secret};
use proptest::prelude::*;

const VALUE: &[u8] = br#"{"content":"secret words"}"#;

fn file(bytes: impl Into<Vec<u8>>) -> Secret<Vec<u8>> {
    Secret::new(bytes.into())
}

/// Returns a ring with a key of 32 equal bytes for each version.
fn ring(versions: &[u32]) -> SealRing {
    let mut ring = SealRing::new(false);
    for version in versions {
        ring.insert(*version, &file([*version as u8; 32])).unwrap();
    }
    ring
}

#[test]
fn value_opens_only_in_the_topic_and_under_the_key_it_was_sealed_for() {
    let ring = ring(&[1]);
    let sealed = ring.seal("messages", b"a|b", VALUE.to_vec()).unwrap();
    assert_eq!(&*ring.open("messages", b"a|b", &sealed).unwrap(), VALUE);
    for (topic, key) in [
        ("violations", b"a|b".as_slice()),
        ("messages", b"a|c"),
        ("messages", b""),
        ("messages\0a|b", b""),
    ] {
        assert_eq!(
            ring.open(topic, key, &sealed),
            Err(UnsealError::DoesNotOpen(1)),
            "{topic} {key:?}"
        );
    }
}

#[test]
fn same_value_is_sealed_differently_each_time_and_reveals_no_content() {
    let ring = ring(&[1]);
    let seal = || ring.seal("messages", b"k", VALUE.to_vec()).unwrap();
    let (one, other) = (seal(), seal());
    assert_ne!(one, other);
    let text = String::from_utf8(one).unwrap();
    assert!(!text.contains("secret") && !text.contains(&STANDARD.encode("secret")));
}

#[test]
fn newest_key_seals_and_older_keys_still_open_their_values() {
    let (before, after) = (ring(&[3]), ring(&[3, 7, 5]));
    let old = before.seal("messages", b"k", VALUE.to_vec()).unwrap();
    let new = after.seal("messages", b"k", VALUE.to_vec()).unwrap();
    assert_eq!(&*after.open("messages", b"k", &old).unwrap(), VALUE);
    let read: SealedValue<'_> = serde_json::from_slice(&new).unwrap();
    assert_eq!(read.key_version, 7);
    let refused = before.open("messages", b"k", &new);
    assert_eq!(refused, Err(UnsealError::UnknownVersion(7)));
}

#[test]
fn another_key_of_the_same_version_does_not_open() {
    let mut other = SealRing::new(true);
    other.insert(1, &file([9; 32])).unwrap();
    let sealed = ring(&[1]).seal("messages", b"k", VALUE.to_vec()).unwrap();
    let refused = other.open("messages", b"k", &sealed);
    assert_eq!(refused, Err(UnsealError::DoesNotOpen(1)));
    // Without any key, a sealed value is not taken for plaintext either.
    let refused = SealRing::default().open("messages", b"k", &sealed);
    assert_eq!(refused, Err(UnsealError::UnknownVersion(1)));
}

#[test]
fn plaintext_is_accepted_without_keys_or_with_accept_unsealed() {
    let open = |ring: &SealRing| {
        ring.open("messages", b"k", VALUE)
            .map(Cow::<[u8]>::into_owned)
    };
    assert_eq!(open(&SealRing::default()), Ok(VALUE.to_vec()));
    assert_eq!(open(&ring(&[1])), Err(UnsealError::Unsealed));
    let mut lenient = SealRing::new(true);
    lenient.insert(1, &file([1; 32])).unwrap();
    assert_eq!(open(&lenient), Ok(VALUE.to_vec()));
    let none = SealRing::default().seal("messages", b"k", VALUE.to_vec());
    assert_eq!(none.unwrap(), VALUE);
}

#[test]
fn key_is_accepted_as_raw_bytes_or_base64_only() {
    let key: Vec<u8> = (0..32).collect();
    let text = format!("{}\n", STANDARD.encode(&key));
    let (mut raw, mut base64) = (SealRing::new(false), SealRing::new(false));
    raw.insert(1, &file(key.clone())).unwrap();
    base64.insert(1, &file(text)).unwrap();
    let sealed = raw.seal("messages", b"k", VALUE.to_vec()).unwrap();
    assert_eq!(&*base64.open("messages", b"k", &sealed).unwrap(), VALUE);
    assert_eq!(
        raw.insert(1, &file(key)),
        Err(SealKeyError::DuplicateVersion(1))
    );
    for bad in [
        Vec::new(),
        vec![1; 31],
        vec![1; 33],
        b"not base64 of anything at all, but a text of some length".to_vec(),
        STANDARD.encode([1; 16]).into_bytes(),
        // Output format of `openssl rand -hex 32`.
        "0f".repeat(32).into_bytes(),
    ] {
        let refused = SealRing::new(false).insert(1, &file(bad.clone()));
        assert_eq!(refused, Err(SealKeyError::NotAKey), "{bad:?}");
    }
}

#[test]
fn debug_output_shows_versions_and_no_key() {
    let shown = format!("{:?}", ring(&[65, 66]));
    assert!(shown.contains("65") && !shown.contains("AAAA"), "{shown}");
}

proptest! {
    #[test]
    fn any_value_round_trips_and_any_changed_byte_is_refused(
        value in proptest::collection::vec(any::<u8>(), 0..200),
        key in proptest::collection::vec(any::<u8>(), 0..40),
        at in any::<proptest::sample::Index>(),
        flip in 1_u8..,
    ) {
        let ring = ring(&[1]);
        let sealed = ring.seal("messages", &key, value.clone()).unwrap();
        prop_assert_eq!(&*ring.open("messages", &key, &sealed).unwrap(), &value[..]);
        let mut read: SealedValue<'_> = serde_json::from_slice(&sealed).unwrap();
        let mut body = STANDARD.decode(&*read.ciphertext).unwrap();
        let at = at.index(body.len());
        body[at] ^= flip;
        read.ciphertext = STANDARD.encode(&body).into();
        let changed = serde_json::to_vec(&read).unwrap();
        prop_assert_eq!(ring.open("messages", &key, &changed), Err(UnsealError::DoesNotOpen(1)));
    }

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(bytes in any::<Vec<u8>>(), nonce in any::<String>(), body in any::<String>()) {
        let ring = ring(&[1]);
        prop_assert!(ring.open("messages", b"k", &bytes).is_err());
        let sealed = SealedValue { key_version: 1, nonce: nonce.into(), ciphertext: body.into() };
        let value = serde_json::to_vec(&sealed).unwrap();
        prop_assert!(ring.open("messages", b"k", &value).is_err());
    }
}
