//! Writes rows as JSON lines: to files of a folder, or to stdout. It does not know where rows come
//! from, or what the name of a file means.
//!
//! Guarantees
//! - **A file is complete or not there.** It is written under a temporary name, synced, and then
//!   linked to its name.
//! - **A file is never overwritten.** Writing a name that exists changes nothing, so a batch that is
//!   written again under its name is stored once.
//! - **Files are readable by their owner only.** They hold plain text.
//! - **Stdout is not a store.** What was printed cannot be taken back, so after a crash the last
//!   lines may be printed a second time. A consumer recognises them by `msgid` or `violation_id`.
//!
//! All functions block; the caller runs them outside its async threads.

mod folder;
mod line;

use std::io::{self, Write};

use chatledger_schemas::{Classified, FaultClass};

pub use self::folder::{Folder, read_rows};
pub use self::line::{Line, encode};

/// The fail points inside a write, in order.
pub const FAIL_POINTS: &[&str] = &[];

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be written or read.
    #[error("{path}")]
    File {
        /// The file or folder.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// Nobody reads stdout any more, or it cannot be written.
    #[error("stdout")]
    Stdout(#[source] io::Error),
    /// A file has another content than this program writes. The content is not quoted.
    #[error("{path}, line {line}: not a row (column {column})")]
    NotARow {
        /// The file.
        path: String,
        /// The line, counted from 1.
        line: usize,
        /// The column, counted from 1.
        column: usize,
    },
}

impl Classified for Error {
    fn class(&self) -> FaultClass {
        match self {
            Self::File { .. } => FaultClass::Retry,
            Self::Stdout(_) | Self::NotARow { .. } => FaultClass::Stop,
        }
    }
}

/// Prints encoded lines on stdout and flushes it.
///
/// # Errors
/// Stdout is closed or cannot be written.
pub fn print(lines: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(lines)
        .and_then(|()| out.flush())
        .map_err(Error::Stdout)
}
