//! Errors, one variant per operation, and their classes.
//!
//! Nearly every fault of a disk or bucket has the class [`FaultClass::Retry`], including missing
//! permissions: the driver keeps the rows, repeating a put is harmless, and after a repair of the disk,
//! the mount or the policy no restart is needed. At the start,
//! [`Target::check`](crate::Target::check) reports the same faults. [`FaultClass::Stop`] is for faults
//! that no repair of the target would fix.

use std::io;
use std::path::PathBuf;

use chatledger_schemas::{Classified, FaultClass};
use parquet::errors::ParquetError;

/// A failed operation of this connector. No variant holds row values.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured address is invalid.
    #[error("{url}: {reason}")]
    Url {
        /// The address as configured.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The client of the object store could not be built.
    #[error("cannot set up the object store for {url}")]
    Store {
        /// The address as configured.
        url: String,
        /// The client's error.
        source: object_store::Error,
    },
    /// The name of a batch is not a valid file name, or a path leaves the target.
    #[error("{name:?} cannot be used in a file's path")]
    Name {
        /// The refused name.
        name: String,
    },
    /// A row is too large for the format's limit of 2 GiB for strings.
    #[error("the row with seq {seq} has {bytes} bytes of text; the limit is {limit}")]
    RowTooLarge {
        /// The row.
        seq: u64,
        /// Its size in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// Rows could not be encoded.
    #[error("cannot encode rows of {table}")]
    Encode {
        /// `messages` or `violations`.
        table: &'static str,
        /// The encoder's error.
        source: ParquetError,
    },
    /// A file cannot be read as a file of messages.
    #[error("{path} cannot be read as a file of messages")]
    Read {
        /// Path within the target.
        path: String,
        /// The reader's error.
        source: ParquetError,
    },
    /// An operation on a file or directory of a local target failed.
    #[error("cannot {doing} {}", path.display())]
    Local {
        /// A verb: `create`, `write`, `publish`, ….
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// An object could not be written, listed or read.
    #[error("the object store failed on {path}")]
    Object {
        /// Key within the bucket.
        path: String,
        /// The store's error.
        source: object_store::Error,
    },
    /// The name of a batch is taken by an object that does not hold the batch.
    #[error(
        "{path} exists with {bytes} bytes and other rows ({}) than the {expected} of the batch of this name; something else \
         has written it, or it was cut. Move it away and the batch is written again",
        rows.map_or_else(|| "no whole file".to_owned(), |rows| rows.to_string())
    )]
    OtherContent {
        /// Key within the bucket.
        path: String,
        /// Its size.
        bytes: usize,
        /// Its rows; `None` if it is not a whole Parquet file.
        rows: Option<i64>,
        /// Rows of the batch.
        expected: usize,
    },
    /// The runtime shut down during a file operation.
    #[error("the runtime stopped while a file was being written")]
    Interrupted,
}

impl Classified for Error {
    fn class(&self) -> FaultClass {
        match self {
            Self::Url { .. }
            | Self::Store { .. }
            | Self::Name { .. }
            | Self::RowTooLarge { .. }
            | Self::Read { .. }
            | Self::OtherContent { .. }
            | Self::Encode { .. } => FaultClass::Stop,
            Self::Interrupted => FaultClass::Retry,
            Self::Local { source, .. } => match source.kind() {
                io::ErrorKind::InvalidFilename
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::FileTooLarge => FaultClass::Stop,
                _ => FaultClass::Retry,
            },
            Self::Object { source, .. } => match source {
                object_store::Error::NotFound { .. }
                | object_store::Error::InvalidPath { .. }
                | object_store::Error::NotSupported { .. }
                | object_store::Error::NotImplemented { .. }
                | object_store::Error::UnknownConfigurationKey { .. } => FaultClass::Stop,
                _ => FaultClass::Retry,
            },
        }
    }
}
