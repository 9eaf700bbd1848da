//! Opens sealed records with the corp's private keys, and seals what would rest as plaintext on a
//! log with keys of the deployment's own.
//!
//! It does not know where records come from, what is inside them, or where they go: bytes in, bytes
//! or a reason out. No I/O, no clock, no async.
//!
//! One RSA private operation per record dwarfs everything else the pipeline does, so opening is
//! always a call on a batch behind one seam, [`Opener`]; [`KeyRing::open`] spreads a batch over all
//! cores and keeps its order. A record that cannot be opened is a value ([`Rejected`]), never an
//! error of the batch.

mod cipher;
mod keyring;
mod seal;

pub use cipher::MessageKey;
pub use keyring::{Joined, KeyError, KeyRing};
pub use seal::{SealError, SealKeyError, SealRing, UnsealError};

use chatledger_schemas::{Reason, SealedRecord};

/// A record's plaintext, not yet known to be UTF-8 or JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// `publickey_ver` of the key that opened it.
    pub key_version: u32,
    /// The message as it was before sealing.
    pub plaintext: Vec<u8>,
}

/// Why a record could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The reason it is parked under.
    pub reason: Reason,
    /// What exactly went wrong; never holds key material or content.
    pub error: String,
    /// `publickey_ver` of the record; 0 if it could not be read.
    pub key_version: u32,
}

/// The seam between the pipeline and an RSA engine.
pub trait Opener: Send + Sync {
    /// Opens a batch; the results stand in the order of the records, one each.
    fn open(&self, batch: &[SealedRecord]) -> Vec<Result<Opened, Rejected>>;
}
