//! The private keys of a corp by `publickey_ver`.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::rsa::{Pkcs1PrivateDecryptingKey, PrivateDecryptingKey};
use chatledger_schemas::sealed::MAX_RECORD_BYTES;
use chatledger_schemas::{Reason, SealedRecord, Secret};
use rayon::prelude::*;
use rsa::BigUint;
use rsa::pkcs8::EncodePrivateKey;
use rsa::traits::PublicKeyParts;
use zeroize::Zeroizing;

use crate::cipher::{self, MessageKey};
use crate::{OpenError, OpenedRecord, Opener, pem};

/// Minimum number of records per task: fewer are not worth a switch to another core.
const MIN_RECORDS_PER_TASK: usize = 4;

/// All private keys of one corp. Old versions are never removed, because records sealed with them
/// could not be opened any more.
#[derive(Default, Clone)]
pub struct KeyRing {
    keys: BTreeMap<u32, Arc<PrivateKey>>,
}

struct PrivateKey {
    engine: Pkcs1PrivateDecryptingKey,
    /// Identifies the key: two keys with the same modulus are the same key.
    modulus: BigUint,
}

/// The result of [`KeyRing::merged_with`].
#[derive(Debug)]
pub struct MergedKeyRing {
    /// All keys of the first ring, and the keys of the second ring with new versions.
    pub ring: KeyRing,
    /// Versions that only the second ring has.
    pub added: Vec<u32>,
    /// Versions for which the second ring has a different key; the key of the first ring is kept.
    pub differing: Vec<u32>,
}

/// Why a private key cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// The text is not a private key in a supported PEM format.
    #[error("not an RSA private key in PEM form (PKCS#1 or PKCS#8, without a passphrase)")]
    NotPem,
    /// The key is protected by a passphrase.
    #[error(
        "a private key with a passphrase; accepted: one without (openssl pkey -in FILE -out NEW)"
    )]
    Encrypted,
    /// The frame of the PEM text has no end.
    #[error("the PEM text ends in the middle: the line -----END …----- is missing")]
    NoEnd,
    /// The text holds something else.
    #[error(
        "{found}; accepted: an RSA private key (-----BEGIN PRIVATE KEY----- or -----BEGIN RSA PRIVATE KEY-----)"
    )]
    OtherKind {
        /// What it holds.
        found: &'static str,
    },
    /// The key does not have 2048 bits.
    #[error("an RSA key of {bits} bits; WeCom uses 2048 bits")]
    Size {
        /// Size of the modulus in bits.
        bits: usize,
    },
    /// The RSA library refuses the key.
    #[error("the RSA library refuses the key: its parameters are inconsistent")]
    Refused,
    /// The ring already has a key of this version.
    #[error("version {0} is given twice")]
    DuplicateVersion(u32),
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing")
            .field("versions", &self.versions())
            .finish()
    }
}

impl KeyRing {
    /// Creates a ring without keys: no record can be opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the key of a version from its PEM text (PKCS#1 or PKCS#8).
    ///
    /// # Errors
    /// The text is not a usable RSA-2048 key, or the ring already has a key of this version.
    pub fn insert_pem(&mut self, version: u32, pem: &Secret) -> Result<(), KeyError> {
        if self.keys.contains_key(&version) {
            return Err(KeyError::DuplicateVersion(version));
        }
        let key = pem::read(pem.expose())?;
        if key.size() != cipher::RSA_BYTES {
            return Err(KeyError::Size {
                bits: key.n().bits(),
            });
        }
        let der = key.to_pkcs8_der().map_err(|_| KeyError::Refused)?;
        let engine_key = PrivateDecryptingKey::from_pkcs8(der.as_bytes())
            .ok()
            .and_then(|key| Pkcs1PrivateDecryptingKey::new(key).ok())
            .ok_or(KeyError::Refused)?;
        let key = PrivateKey {
            engine: engine_key,
            modulus: key.n().clone(),
        };
        self.keys.insert(version, Arc::new(key));
        Ok(())
    }

    /// Returns this ring with the versions of `other` that it does not have. No key is removed or
    /// replaced, so every record that can be opened now can still be opened.
    pub fn merged_with(&self, other: &Self) -> MergedKeyRing {
        let mut merged = MergedKeyRing {
            ring: self.clone(),
            added: Vec::new(),
            differing: Vec::new(),
        };
        for (version, key) in &other.keys {
            match self.keys.get(version) {
                None => {
                    merged.ring.keys.insert(*version, Arc::clone(key));
                    merged.added.push(*version);
                }
                Some(own) if own.modulus != key.modulus => merged.differing.push(*version),
                Some(_) => {}
            }
        }
        merged
    }

    /// Returns the versions of the keys, ascending.
    pub fn versions(&self) -> Vec<u32> {
        self.keys.keys().copied().collect()
    }

    /// Decrypts one RSA block (`encrypt_random_key` after base64) and returns the message key.
    ///
    /// # Errors
    /// The ring has no key of this version, the block has the wrong length, or the key does not
    /// decrypt it.
    pub fn unwrap_key(&self, version: u32, block: &[u8]) -> Result<MessageKey, OpenError> {
        let reject = |reason, error: String| OpenError {
            reason,
            error,
            key_version: version,
        };
        let key = self.keys.get(&version).ok_or_else(|| {
            reject(
                Reason::UnknownKeyVersion,
                format!("no private key of version {version}"),
            )
        })?;
        if block.len() != cipher::RSA_BYTES {
            return Err(reject(
                Reason::TruncatedCiphertext,
                format!(
                    "encrypt_random_key has {} bytes, not {}",
                    block.len(),
                    cipher::RSA_BYTES
                ),
            ));
        }
        let mut buffer = Zeroizing::new([0_u8; cipher::RSA_BYTES]);
        let text = key.engine.decrypt(block, buffer.as_mut()).map_err(|_| {
            reject(
                Reason::WrongKey,
                "the private key does not decrypt encrypt_random_key".into(),
            )
        })?;
        // With a wrong key, about one block in 10^5 passes the padding check by chance
        // (`connectors/wecom/WECOM.md` §3).
        MessageKey::parse(text).ok_or_else(|| {
            reject(
                Reason::WrongKey,
                "the decrypted encrypt_random_key is not a key".into(),
            )
        })
    }

    fn open_one(&self, record: &SealedRecord) -> Result<OpenedRecord, OpenError> {
        if record.json.len() > MAX_RECORD_BYTES {
            return Err(too_large(record.json.len() as u64));
        }
        let fields = record.fields().map_err(|error| match record.too_large() {
            Some(oversize) => too_large(oversize.bytes),
            None => OpenError {
                reason: Reason::BadEnvelope,
                error: format!(
                    "the record does not have the format of the archive API ({:?} at column {})",
                    error.classify(),
                    error.column()
                ),
                key_version: 0,
            },
        })?;
        let version = fields.publickey_ver;
        let reject = |(reason, error)| OpenError {
            reason,
            error,
            key_version: version,
        };
        if !self.keys.contains_key(&version) {
            return Err(reject((
                Reason::UnknownKeyVersion,
                format!("no private key of version {version}"),
            )));
        }
        let block =
            cipher::decode("encrypt_random_key", &fields.encrypt_random_key).map_err(reject)?;
        let mut body =
            cipher::decode("encrypt_chat_msg", &fields.encrypt_chat_msg).map_err(reject)?;
        cipher::check_whole_blocks(&body).map_err(reject)?;
        let key = self.unwrap_key(version, &block)?;
        key.open(&mut body).map_err(reject)?;
        Ok(OpenedRecord {
            key_version: version,
            plaintext: body,
        })
    }
}

fn too_large(bytes: u64) -> OpenError {
    OpenError {
        reason: Reason::TooLarge,
        error: format!("the record has {bytes} bytes; at most {MAX_RECORD_BYTES} are accepted"),
        key_version: 0,
    }
}

impl Opener for KeyRing {
    fn open(&self, batch: &[SealedRecord]) -> Vec<Result<OpenedRecord, OpenError>> {
        batch
            .par_iter()
            .with_min_len(MIN_RECORDS_PER_TASK)
            .map(|record| self.open_one(record))
            .collect()
    }
}
