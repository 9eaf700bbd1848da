//! The form of a ledger file: 16 bytes of header, then [`LedgerLine::BYTES`] for each line.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use chatledger_schemas::ledger::{ChainLink, EntryKind, LedgerEntry, Outcome, Settlement};

use crate::chain::Chain;
use crate::direct::StateError;

/// Its last byte is the version.
pub(super) const HEADER: &[u8; 16] = b"chatledger led\0\x03";

/// A line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerLine {
    /// The entry in the chain. Its link covers the settlement.
    pub entry: LedgerEntry,
    /// What became of the record; `None` for a gap and a destruction.
    pub settlement: Option<Settlement>,
}

impl LedgerLine {
    /// Bytes of a line.
    pub const BYTES: usize = LedgerEntry::BYTES + Settlement::BYTES;

    /// Whether the line continues the chain from the link `before`.
    pub fn follows(&self, before: &ChainLink) -> bool {
        self.entry.follows(before, self.settlement.as_ref())
    }

    /// Whether it is a record that became a message when it was processed first.
    pub(super) fn is_message(&self) -> bool {
        let settlement = self
            .settlement
            .filter(|_| self.entry.kind == EntryKind::Record);
        settlement.is_some_and(|settlement| settlement.outcome == Outcome::Message)
    }

    /// The line with the number and link that it has at the end of a chain.
    pub(super) fn again(&self, chain: &mut Chain) -> Self {
        Self {
            entry: chain.again(&self.entry, self.settlement.as_ref()),
            ..*self
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.entry.encode(out);
        match &self.settlement {
            Some(settlement) => settlement.encode(out),
            None => out.extend([0; Settlement::BYTES]),
        }
    }

    /// `None` for bytes that no append wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (entry, settlement) = bytes.split_at_checked(LedgerEntry::BYTES)?;
        let entry = LedgerEntry::decode(entry)?;
        let settlement = match entry.subject() {
            Some(_) => Some(Settlement::decode(settlement)?),
            None if settlement == [0; Settlement::BYTES] => None,
            None => return None,
        };
        Some(Self { entry, settlement })
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

    #[test]
    fn line_has_the_documented_bytes() {
        let mut bytes = Vec::new();
        bytes.extend(3_u64.to_le_bytes());
        bytes.extend(40_u64.to_le_bytes());
        bytes.extend(1_700_000_000_123_u64.to_le_bytes());
        bytes.extend([1; 16]);
        bytes.extend([2; 16]);
        bytes.extend([4; 32]);
        bytes.extend(2_u32.to_le_bytes());
        bytes.extend(7_u32.to_le_bytes());
        bytes.extend([5; 16]);
        bytes.extend([6; 16]);
        assert_eq!(bytes.len(), 128);
        let line = LedgerLine::decode(&bytes).unwrap();
        let expected = LedgerLine {
            entry: LedgerEntry {
                number: 3,
                seq: 40,
                at: 1_700_000_000_123,
                msgid: [1; 16],
                sealed: [2; 16],
                kind: EntryKind::Record,
                link: ChainLink([4; 32]),
            },
            settlement: Some(Settlement {
                outcome: Outcome::DeadLetter,
                row: [5; 16],
                violations: 7,
                violation_rows: [6; 16],
            }),
        };
        assert_eq!(line, expected);
        let mut written = Vec::new();
        line.encode(&mut written);
        assert_eq!(written, bytes);
        bytes[88] = 9;
        assert_eq!(LedgerLine::decode(&bytes), None);
        // A gap has no settlement.
        bytes[23] = 0x80;
        assert_eq!(LedgerLine::decode(&bytes), None);
        bytes[88..].fill(0);
        let gap = LedgerLine::decode(&bytes).unwrap();
        assert_eq!((gap.entry.kind, gap.settlement), (EntryKind::Gap, None));
    }
}
