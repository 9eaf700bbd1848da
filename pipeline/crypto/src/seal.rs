//! Seals topic values with keys of the deployment (seal keys) and opens them; [`SealedValue`]
//! defines the format.
//!
//! Guarantees:
//! - A value can be opened only in the topic and under the record key it was sealed for, and only
//!   if it is complete and unchanged. Otherwise the result is an error, never an empty or truncated
//!   value.
//! - No error contains a part of a value or of a key.
//! - A ring without keys leaves values unencrypted.
//!
//! Nonces are random, so one key must not seal more than 2^32 values (NIST SP 800-38D, 8.3). Add a
//! new key version long before that.

use std::borrow::Cow;
use std::collections::BTreeMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chatledger_schemas::sealed_value::SEAL_CONTEXT;
use chatledger_schemas::{SealedValue, Secret};
use zeroize::Zeroizing;

/// Size of a key in bytes.
const KEY_BYTES: usize = 32;

/// All seal keys of a deployment by version.
#[derive(Default)]
pub struct SealRing {
    keys: BTreeMap<u32, RandomizedNonceKey>,
    accept_unsealed: bool,
}

/// Why a seal key cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealKeyError {
    /// The file does not contain a key.
    #[error("not a key: 32 random bytes expected, raw or in base64 (openssl rand -base64 32)")]
    NotAKey,
    /// The ring already has a key of this version.
    #[error("version {0} is given twice")]
    DuplicateVersion(u32),
}

/// A value could not be sealed, because the system returned no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("the value cannot be sealed: the cipher failed")]
pub struct SealError;

/// Why a value cannot be opened.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnsealError {
    /// The value is sealed with a key that this process does not have.
    #[error("it is sealed with seal key {0}, which is not configured (kafka.seal_key)")]
    UnknownVersion(u32),
    /// The value was changed, moved from another record, or sealed with another key of the same
    /// version.
    #[error("seal key {0} does not open it: the key differs, or the value was changed or moved")]
    DoesNotOpen(u32),
    /// The value is not sealed although a seal key is configured.
    #[error(
        "it is not sealed although a seal key is configured (kafka.accept_unsealed accepts it)"
    )]
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
    /// Creates a ring without keys. With `accept_unsealed`, [`SealRing::open`] also returns values
    /// that are not sealed although the ring has keys.
    pub fn new(accept_unsealed: bool) -> Self {
        Self {
            keys: BTreeMap::new(),
            accept_unsealed,
        }
    }

    /// Adds the key of a version from the content of its file.
    ///
    /// # Errors
    /// The content is not a key, or the ring already has a key of this version.
    pub fn insert(&mut self, version: u32, file: &Secret<Vec<u8>>) -> Result<(), SealKeyError> {
        if self.keys.contains_key(&version) {
            return Err(SealKeyError::DuplicateVersion(version));
        }
        let bytes = key_bytes(file.expose()).ok_or(SealKeyError::NotAKey)?;
        let key =
            RandomizedNonceKey::new(&AES_256_GCM, &bytes).map_err(|_| SealKeyError::NotAKey)?;
        self.keys.insert(version, key);
        Ok(())
    }

    /// Returns the versions of the keys, ascending; the last one is used for sealing.
    pub fn versions(&self) -> Vec<u32> {
        self.keys.keys().copied().collect()
    }

    /// Seals the value of the record with key `record_key` in `topic` (name without the
    /// deployment's prefix), with the newest seal key.
    ///
    /// # Errors
    /// The system returned no random bytes.
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
            .seal_in_place_append_tag(associated_data(topic, record_key), &mut value)
            .map_err(|_| SealError)?;
        let sealed = SealedValue {
            key_version: *version,
            nonce: STANDARD.encode(nonce.as_ref()).into(),
            ciphertext: STANDARD.encode(&value).into(),
        };
        serde_json::to_vec(&sealed).map_err(|_| SealError)
    }

    /// Opens the value of the record with key `record_key` in `topic`.
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
            let accepted = self.keys.is_empty() || self.accept_unsealed;
            return if accepted {
                Ok(Cow::Borrowed(value))
            } else {
                Err(UnsealError::Unsealed)
            };
        };
        let version = sealed.key_version;
        let key = self.keys.get(&version);
        let key = key.ok_or(UnsealError::UnknownVersion(version))?;
        let failed = || UnsealError::DoesNotOpen(version);
        let nonce = STANDARD.decode(&*sealed.nonce).map_err(|_| failed())?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce).map_err(|_| failed())?;
        let mut body = STANDARD.decode(&*sealed.ciphertext).map_err(|_| failed())?;
        let length = key
            .open_in_place(nonce, associated_data(topic, record_key), &mut body)
            .map_err(|_| failed())?
            .len();
        body.truncate(length);
        Ok(Cow::Owned(body))
    }
}

/// Returns the key in a file: 32 raw bytes, or base64 of 32 bytes surrounded by whitespace.
fn key_bytes(file: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = if file.len() == KEY_BYTES {
        file.to_vec()
    } else {
        STANDARD.decode(file.trim_ascii()).ok()?
    };
    let bytes = Zeroizing::new(bytes);
    (bytes.len() == KEY_BYTES).then_some(bytes)
}

/// Returns the associated data of a value. A topic name contains no zero byte, so topic and record
/// key cannot be confused.
fn associated_data(topic: &str, record_key: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([SEAL_CONTEXT.as_bytes(), topic.as_bytes(), b"\0", record_key].concat())
}
