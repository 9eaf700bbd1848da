//! The private keys of a corp, by `publickey_ver`.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::rsa::{Pkcs1PrivateDecryptingKey, PrivateDecryptingKey};
use chatledger_schemas::sealed::MAX_RECORD_BYTES;
use chatledger_schemas::{Reason, SealedRecord, Secret};
use rayon::prelude::*;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use rsa::traits::PublicKeyParts;
use rsa::{BigUint, RsaPrivateKey};
use zeroize::Zeroizing;

use crate::cipher::{self, MessageKey};
use crate::{Opened, Opener, Rejected};

/// Records below this number are not worth a hand-over to another core.
const GRAIN: usize = 4;

/// Every private key of one corp. Old versions stay for ever: what they sealed is lost without them.
#[derive(Default, Clone)]
pub struct KeyRing {
    keys: BTreeMap<u32, Arc<Key>>,
}

struct Key {
    engine: Pkcs1PrivateDecryptingKey,
    /// The public half, by which two keys are told apart.
    modulus: BigUint,
}

/// A ring that has taken over another's keys.
#[derive(Debug)]
pub struct Joined {
    /// Every key of the first, and of the other those whose version the first did not have.
    pub ring: KeyRing,
    /// Versions that are new.
    pub added: Vec<u32>,
    /// Versions for which the other has a different key, which was not taken over.
    pub differing: Vec<u32>,
}

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Neither form of PEM was found in it.
    #[error("not an RSA private key in PEM form (PKCS#1 or PKCS#8, without a passphrase)")]
    NotPem,
    /// Its size is not what WeCom uses or the engine takes.
    #[error("an RSA key of {bits} bits; WeCom seals with 2048")]
    Size {
        /// Bits of its modulus.
        bits: usize,
    },
    /// The engine refuses it.
    #[error("the RSA engine refuses the key: its numbers do not fit together")]
    Refused,
    /// The version is taken.
    #[error("version {0} is given twice")]
    Twice(u32),
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRing")
            .field("versions", &self.versions())
            .finish()
    }
}

impl KeyRing {
    /// A ring without keys: every record is of an unknown version.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the key of a version from its PEM text, PKCS#1 or PKCS#8.
    ///
    /// # Errors
    /// The text is no usable RSA-2048 key, or the version has one already.
    pub fn insert_pem(&mut self, version: u32, pem: &Secret) -> Result<(), KeyError> {
        if self.keys.contains_key(&version) {
            return Err(KeyError::Twice(version));
        }
        let text = pem.expose().trim();
        let key = RsaPrivateKey::from_pkcs8_pem(text)
            .or_else(|_| RsaPrivateKey::from_pkcs1_pem(text))
            .map_err(|_| KeyError::NotPem)?;
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
        let key = Key {
            engine: engine_key,
            modulus: key.n().clone(),
        };
        self.keys.insert(version, Arc::new(key));
        Ok(())
    }

    /// Takes over the versions of another ring that this one does not have. None is dropped or
    /// replaced: what a key has sealed stays readable.
    pub fn joined(&self, other: &Self) -> Joined {
        let mut joined = Joined {
            ring: self.clone(),
            added: Vec::new(),
            differing: Vec::new(),
        };
        for (version, key) in &other.keys {
            match self.keys.get(version) {
                None => {
                    joined.ring.keys.insert(*version, Arc::clone(key));
                    joined.added.push(*version);
                }
                Some(own) if own.modulus != key.modulus => joined.differing.push(*version),
                Some(_) => {}
            }
        }
        joined
    }

    /// The versions it has, ascending.
    pub fn versions(&self) -> Vec<u32> {
        self.keys.keys().copied().collect()
    }

    /// The RSA step alone: opens one block (`encrypt_random_key`, decoded) to the message key.
    ///
    /// # Errors
    /// The version is not in the ring, the block has the wrong length, or it does not open.
    pub fn unwrap_key(&self, version: u32, block: &[u8]) -> Result<MessageKey, Rejected> {
        let reject = |reason, error: String| Rejected {
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
                    "encrypt_random_key is {} bytes, not {}",
                    block.len(),
                    cipher::RSA_BYTES
                ),
            ));
        }
        let mut room = Zeroizing::new([0_u8; cipher::RSA_BYTES]);
        let text = key.engine.decrypt(block, room.as_mut()).map_err(|_| {
            reject(
                Reason::WrongKey,
                "the private key does not open encrypt_random_key".into(),
            )
        })?;
        // About one wrong-key block in 10^5 passes the padding check by chance (`wecom-api` §3.4).
        MessageKey::parse(text).ok_or_else(|| {
            reject(
                Reason::WrongKey,
                "encrypt_random_key opens to something that is no key".into(),
            )
        })
    }

    fn open_one(&self, record: &SealedRecord) -> Result<Opened, Rejected> {
        if record.json.len() > MAX_RECORD_BYTES {
            return Err(too_large(record.json.len() as u64));
        }
        let fields = record.fields().map_err(|error| match record.too_large() {
            Some(what) => too_large(what.bytes),
            None => Rejected {
                reason: Reason::BadEnvelope,
                error: format!(
                    "the record is not of the envelope's form ({:?} at column {})",
                    error.classify(),
                    error.column()
                ),
                key_version: 0,
            },
        })?;
        let version = fields.publickey_ver;
        let reject = |(reason, error)| Rejected {
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
        Ok(Opened {
            key_version: version,
            plaintext: body,
        })
    }
}

fn too_large(bytes: u64) -> Rejected {
    Rejected {
        reason: Reason::TooLarge,
        error: format!("the record has {bytes} bytes, {MAX_RECORD_BYTES} are taken at most"),
        key_version: 0,
    }
}

impl Opener for KeyRing {
    fn open(&self, batch: &[SealedRecord]) -> Vec<Result<Opened, Rejected>> {
        batch
            .par_iter()
            .with_min_len(GRAIN)
            .map(|record| self.open_one(record))
            .collect()
    }
}
