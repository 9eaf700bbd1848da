//! Opens sealed records with the private keys of a corp, and encrypts topic values with keys of the
//! deployment (seal keys).
//!
//! This crate does not know where records come from, what they contain or where they go: bytes in,
//! bytes or a reason out. No I/O, no clock, no async.
//!
//! The RSA operation per record costs more than all other stages together. Records are therefore
//! opened in batches, through the trait [`Opener`]; [`KeyRing::open`] distributes a batch over all
//! cores and keeps the order of the records. A record that cannot be opened yields an [`OpenError`]
//! and does not affect the rest of the batch.

mod cipher;
mod keyring;
mod pem;
mod seal;

pub use cipher::MessageKey;
pub use keyring::{KeyError, KeyRing, MergedKeyRing};
pub use seal::{SealError, SealKeyError, SealRing, UnsealError};

use chatledger_schemas::{Reason, SealedRecord};

/// The plaintext of a record; not yet validated as UTF-8 or JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct OpenedRecord {
    /// `publickey_ver` of the key that opened the record.
    pub key_version: u32,
    /// The decrypted message.
    pub plaintext: Vec<u8>,
}

/// Why a record could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct OpenError {
    /// Reason of the dead letter.
    pub reason: Reason,
    /// Details of the failure; never contains key material or message content.
    pub error: String,
    /// `publickey_ver` of the record; 0 if it could not be read.
    pub key_version: u32,
}

/// Opens sealed records; implemented once per RSA library.
pub trait Opener: Send + Sync {
    /// Opens a batch. Returns one result per record, in the same order.
    fn open(&self, batch: &[SealedRecord]) -> Vec<Result<OpenedRecord, OpenError>>;
}
