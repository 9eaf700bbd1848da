//! The deployment's own keys: values are sealed before they rest on a log, and opened by whoever
//! reads it (the form is [`SealedValue`]'s).
//!
//! Guarantees: a value opens only in the topic and under the record key it was sealed for, whole and
//! unchanged; what does not open is an error, never an empty or a cut value; no error holds a part
//! of a value or of a key. A ring without keys lets values pass as they are.
//!
//! Nonces are drawn at random, so one key should seal no more than 2^32 values (NIST SP 800-38D,
//! 8.3); a further key takes over long before.

use std::borrow::Cow;
use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chatledger_schemas::sealed_value::SEAL_CONTEXT;
use chatledger_schemas::{SealedValue, Secret};
use zeroize::Zeroizing;

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// Every seal key of a deployment, by version.
#[derive(Default)]
pub struct SealRing {
    keys: BTreeMap<u32, RandomizedNonceKey>,
    accept_unsealed: bool,
}

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealKeyError {
    /// It does not hold a key.
    #[error("not a key: 32 random bytes, as they are or in base64 (openssl rand -base64 32)")]
    NotAKey,
    /// The version is taken.
    #[error("version {0} is given twice")]
    Twice(u32),
}

/// A value could not be sealed: the system gives no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the value cannot be sealed: the cipher failed")]
pub struct SealError;

/// Why a value cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnsealError {
    /// It is under a key this process does not have.
    #[error("it is sealed with seal key {0}, which is not configured (kafka.seal_key)")]
    UnknownVersion(u32),
    /// It was changed, moved from elsewhere, or sealed with another key of the same version.
    #[error(
        "seal key {0} does not open it: the key is another one, or the value was changed or moved"
    )]
    DoesNotOpen(u32),
    /// It is plaintext although there is a seal key.
    #[error("it is not sealed although there is a seal key (kafka.accept_unsealed lets it pass)")]
    Unsealed,
}

impl std::fmt::Debug for SealRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealRing")
            .field("versions", &self.versions())
            .field("accept_unsealed", &self.accept_unsealed)
            .finish_non_exhaustive()
    }
}

impl SealRing {
    /// A ring without keys; `accept_unsealed` lets values pass that are not sealed although there
    /// is a key.
    pub fn new(accept_unsealed: bool) -> Self {
        Self {
            keys: BTreeMap::new(),
            accept_unsealed,
        }
    }

    /// Adds the key of a version from what its file holds.
    ///
    /// # Errors
    /// It is no key, or the version has one already.
    pub fn insert(&mut self, version: u32, file: &Secret<Vec<u8>>) -> Result<(), SealKeyError> {
        if self.keys.contains_key(&version) {
            return Err(SealKeyError::Twice(version));
        }
        let bytes = key_bytes(file.expose()).ok_or(SealKeyError::NotAKey)?;
        let key =
            RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| SealKeyError::NotAKey)?;
        self.keys.insert(version, key);
        Ok(())
    }

    /// The versions it has, ascending; the last one seals.
    pub fn versions(&self) -> Vec<u32> {
        self.keys.keys().copied().collect()
    }

    /// Seals the value of a record with this key in this topic (named without the deployment's
    /// prefix) under the newest seal key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn seal(
        &self,
        topic: &str,
        record_key: &[u8],
        mut value: Vec<u8>,
    ) -> Result<Vec<u8>, SealError> {
        let Some((version, key)) = self.keys.last_key_value() else {
            return Ok(value);
        };
        let nonce = key
            .seal_in_place_append_tag(associated(topic, record_key), &mut value)
            .map_err(|_| SealError)?;
        let sealed = SealedValue {
            key_version: *version,
            nonce: STANDARD.encode(nonce.as_ref()).into(),
            ciphertext: STANDARD.encode(&value).into(),
        };
        serde_json::to_vec(&sealed).map_err(|_| SealError)
    }

    /// Opens the value of a record with this key in this topic.
    ///
    /// # Errors
    /// See [`UnsealError`].
    pub fn open<'v>(
        &self,
        topic: &str,
        record_key: &[u8],
        value: &'v [u8],
    ) -> Result<Cow<'v, [u8]>, UnsealError> {
        let Ok(sealed) = serde_json::from_slice::<SealedValue<'_>>(value) else {
            let passes = self.keys.is_empty() || self.accept_unsealed;
            return if passes {
                Ok(Cow::Borrowed(value))
            } else {
                Err(UnsealError::Unsealed)
            };
        };
        let version = sealed.key_version;
        let key = self.keys.get(&version);
        let key = key.ok_or(UnsealError::UnknownVersion(version))?;
        let closed = || UnsealError::DoesNotOpen(version);
        let nonce = STANDARD.decode(&*sealed.nonce).map_err(|_| closed())?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| closed())?;
        let mut body = STANDARD.decode(&*sealed.ciphertext).map_err(|_| closed())?;
        let length = key
            .open_in_place(nonce, associated(topic, record_key), &mut body)
            .map_err(|_| closed())?
            .len();
        body.truncate(length);
        Ok(Cow::Owned(body))
    }
}

/// The key in a file: 32 bytes, or base64 of 32 with line ends around it.
fn key_bytes(file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = if file.len() == KEY_BYTES {
        file.to_vec()
    } else {
        STANDARD.decode(file.trim_ascii()).ok()?
    };
    let bytes = Zeroizing::new(bytes);
    (bytes.len() == KEY_BYTES).then_some(bytes)
}

/// Where a value belongs. No topic's name holds a zero byte, so the parts cannot run into each other.
fn associated(topic: &str, record_key: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([SEAL_CONTEXT.as_bytes(), topic.as_bytes(), b"\0", record_key].concat())
}
