//! What can go wrong, one variant per operation, and what the driver should do about it.
//!
//! Nearly every fault of a disk or bucket is [`FaultClass::Retry`], a lost permission too: the rows
//! stay in the driver's hands, putting them again is harmless, and whoever repairs the disk, the
//! mount or the policy should not have to restart anything. [`Target::check`](crate::Target::check)
//! is where the same faults stop a start. `Stop` is for what no repair of the target would cure.

use std::io;
use std::path::PathBuf;

use chatledger_schemas::{Classified, FaultClass};
use parquet::errors::ParquetError;

/// A failed operation of this connector. No variant holds row values.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured address is not of a form this connector knows.
    #[error("{url}: {reason}")]
    Url {
        /// The address as configured.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The client of the object store could not be made.
    #[error("cannot set up the object store for {url}")]
    Store {
        /// The address as configured.
        url: String,
        /// What the client says.
        source: object_store::Error,
    },
    /// The name of a cut cannot be a file name, or a path leaves the target.
    #[error("{name:?} cannot be part of a file's path")]
    Name {
        /// The refused name.
        name: String,
    },
    /// A row is too large for the file format's 2 GiB strings.
    #[error(
        "the row with seq {seq} has {bytes} bytes of text; {limit} is the most a file can hold"
    )]
    RowTooLarge {
        /// Which row.
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
        /// What the encoder says.
        source: ParquetError,
    },
    /// What stands under a file's name is no file of this table.
    #[error("{path} cannot be read as a file of messages")]
    Read {
        /// Path within the target.
        path: String,
        /// What the reader says.
        source: ParquetError,
    },
    /// A file or directory of a local target could not be handled.
    #[error("cannot {doing} {}", path.display())]
    Local {
        /// A verb: `create`, `write`, `publish`, ….
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// An object could not be put, listed or read.
    #[error("the object store refused {path}")]
    Object {
        /// Key within the bucket.
        path: String,
        /// What the store says.
        source: object_store::Error,
    },
    /// The runtime is shutting down and took the file operation with it.
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
