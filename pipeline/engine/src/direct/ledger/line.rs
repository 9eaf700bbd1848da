//! The form of a ledger file: 16 bytes of header, then [`LedgerLine::BYTES`] for each line.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use chatledger_schemas::ledger::{Digest128, LedgerEntry, Outcome};

use crate::direct::StateError;

/// Its last byte is the version.
pub(super) const HEADER: &[u8; 16] = b"chatledger led\0\x02";

/// A line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerLine {
    /// The record's entry in the chain.
    pub entry: LedgerEntry,
    /// What became of the record; `None` for a gap.
    pub outcome: Option<Outcome>,
    /// Digest of the message's row; zeros if there is none.
    pub row: Digest128,
}

impl LedgerLine {
    /// Bytes of a line.
    pub const BYTES: usize = LedgerEntry::BYTES + 24;

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let outcome: u64 = match self.outcome {
            None => 0,
            Some(Outcome::Message) => 1,
            Some(Outcome::DeadLetter) => 2,
            Some(Outcome::Duplicate) => 3,
        };
        self.entry.encode(out);
        out.extend(outcome.to_le_bytes());
        out.extend(self.row);
    }

    /// `None` for bytes that no append wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (entry, rest) = bytes.split_at_checked(LedgerEntry::BYTES)?;
        let (outcome, row) = rest.split_first_chunk::<8>()?;
        Some(Self {
            entry: LedgerEntry::decode(entry)?,
            outcome: match u64::from_le_bytes(*outcome) {
                0 => None,
                1 => Some(Outcome::Message),
                2 => Some(Outcome::DeadLetter),
                3 => Some(Outcome::Duplicate),
                _ => return None,
            },
            row: row.try_into().ok()?,
        })
    }
}

/// Reads the header of a ledger.
pub(super) fn check_header(path: &Path, file: &mut File) -> Result<(), StateError> {
    let mut header = [0; HEADER.len()];
    file.read_exact(&mut header).map_err(StateError::io(path))?;
    if &header == HEADER {
        Ok(())
    } else {
        Err(StateError::damaged(path, "not a ledger of this version"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatledger_schemas::ledger::ChainLink;

    #[test]
    fn line_of_an_earlier_release_is_read_and_written_the_same() {
        let mut bytes = Vec::new();
        bytes.extend(3_u64.to_le_bytes());
        bytes.extend(40_u64.to_le_bytes());
        bytes.extend(1_700_000_000_123_u64.to_le_bytes());
        bytes.extend([1; 16]);
        bytes.extend([2; 16]);
        bytes.extend([4; 32]);
        bytes.extend(2_u64.to_le_bytes());
        bytes.extend([5; 16]);
        assert_eq!(bytes.len(), 112);
        let line = LedgerLine::decode(&bytes).unwrap();
        let expected = LedgerLine {
            entry: LedgerEntry {
                number: 3,
                seq: 40,
                at: 1_700_000_000_123,
                msgid: [1; 16],
                sealed: [2; 16],
                gap: false,
                link: ChainLink([4; 32]),
            },
            outcome: Some(Outcome::DeadLetter),
            row: [5; 16],
        };
        assert_eq!(line, expected);
        let mut written = Vec::new();
        line.encode(&mut written);
        assert_eq!(written, bytes);
        bytes[88] = 9;
        assert_eq!(LedgerLine::decode(&bytes), None);
    }
}
