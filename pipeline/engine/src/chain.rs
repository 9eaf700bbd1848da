//! Extends a corp's hash chain over each record's `seq`, msgid, sealed form and time of pulling, in the
//! order of pulling. With the direct driver it covers what became of the record as well.
//!
//! An entry that is changed, removed or inserted afterwards breaks the chain.

use chatledger_schemas::SealedRecord;
use chatledger_schemas::ledger::{
    ChainLink, Destruction, Digest128, EntryKind, LedgerEntry, RecordOutcome, Settlement,
    digest_of, two_numbers,
};

/// What the chain covers of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainInput {
    /// Position in the corp's archive.
    pub seq: u64,
    /// When it was pulled first, milliseconds since the epoch, UTC.
    pub at: i64,
    /// Digest of its msgid.
    pub msgid: Digest128,
    /// Digest of its JSON as received.
    pub sealed: Digest128,
}

impl ChainInput {
    /// Digests a record that was pulled at a time, milliseconds since the epoch, UTC.
    pub fn of(record: &SealedRecord, at: i64) -> Self {
        Self {
            seq: record.seq,
            at,
            msgid: digest_of(record.msgid.as_bytes()),
            sealed: digest_of(&record.json),
        }
    }
}

/// The end of a corp's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chain {
    /// Number of the last entry; 0 before the first.
    pub number: u64,
    /// The link after it.
    pub link: ChainLink,
}

impl Chain {
    /// Returns the chain before a corp's first record.
    pub fn genesis(corp: &str) -> Self {
        Self {
            number: 0,
            link: ChainLink::genesis(corp),
        }
    }

    /// Returns the chain after an entry.
    pub fn at(entry: &LedgerEntry) -> Self {
        Self {
            number: entry.number,
            link: entry.link,
        }
    }

    /// Adds a record, with what became of it if that is stored in the same place.
    pub fn record(&mut self, input: &ChainInput, settlement: Option<&Settlement>) -> LedgerEntry {
        self.step(input, EntryKind::Record, settlement)
    }

    /// Adds a gap: records after `seq` that the archive received after `silent_since` may be missing, and
    /// those after `delivered`, the position that every sink has reached, may be lost. Both times are in
    /// milliseconds since the epoch, UTC.
    pub fn gap(&mut self, seq: u64, delivered: u64, silent_since: i64, at: i64) -> LedgerEntry {
        let input = ChainInput {
            seq,
            at,
            msgid: [0; 16],
            sealed: two_numbers(silent_since as u64, delivered),
        };
        self.step(&input, EntryKind::Gap, None)
    }

    /// Adds a further settlement of a record, when the ledger has reached `seq`.
    pub fn resettled(&mut self, seq: u64, at: i64, record: &RecordOutcome) -> LedgerEntry {
        let input = ChainInput {
            seq,
            at,
            msgid: record.msgid,
            sealed: two_numbers(record.seq, 0),
        };
        self.step(&input, EntryKind::Resettled, Some(&record.settlement))
    }

    /// Adds a destruction of records, when the ledger has reached `seq`.
    pub fn destroyed(&mut self, seq: u64, destruction: &Destruction) -> LedgerEntry {
        let input = ChainInput {
            seq,
            at: destruction.at,
            msgid: destruction.digest(),
            sealed: two_numbers(destruction.first_seq, destruction.last_seq),
        };
        self.step(&input, EntryKind::Destroyed, None)
    }

    fn step(
        &mut self,
        input: &ChainInput,
        kind: EntryKind,
        settlement: Option<&Settlement>,
    ) -> LedgerEntry {
        let mut entry = LedgerEntry {
            number: self.number + 1,
            seq: input.seq,
            at: input.at,
            msgid: input.msgid,
            sealed: input.sealed,
            kind,
            link: self.link,
        };
        entry.link = entry.link_after(&self.link, settlement);
        *self = Self::at(&entry);
        entry
    }

    /// Adds an entry again, with the number and link it has here.
    pub fn again(&mut self, entry: &LedgerEntry, settlement: Option<&Settlement>) -> LedgerEntry {
        let input = ChainInput {
            seq: entry.seq,
            at: entry.at,
            msgid: entry.msgid,
            sealed: entry.sealed,
        };
        self.step(&input, entry.kind, settlement)
    }
}
