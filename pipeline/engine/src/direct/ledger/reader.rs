//! Reads a ledger from its beginning, also while it is being written.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::line::{LedgerLine, check_header};
use crate::direct::StateError;

/// A ledger that is being read.
pub struct Reader {
    path: PathBuf,
    reader: BufReader<File>,
}

/// What follows in a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextLine {
    /// A line.
    Line(LedgerLine),
    /// A line that no program of this version wrote.
    Unreadable,
    /// Nothing, or a line that is not whole yet.
    End,
}

impl Reader {
    /// Opens a ledger.
    ///
    /// # Errors
    /// The file cannot be read or is not a ledger.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut file = File::open(path).map_err(StateError::io(path))?;
        check_header(path, &mut file)?;
        Ok(Self {
            path: path.to_owned(),
            reader: BufReader::with_capacity(1 << 20, file),
        })
    }

    /// Reads the next line.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_line(&mut self) -> Result<NextLine, StateError> {
        let mut bytes = [0; LedgerLine::BYTES];
        match self.reader.read_exact(&mut bytes) {
            Ok(()) => Ok(LedgerLine::decode(&bytes).map_or(NextLine::Unreadable, NextLine::Line)),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(NextLine::End),
            Err(error) => Err(StateError::io(&self.path)(error)),
        }
    }
}
