//! Extends a corp's hash chain over each record's `seq`, msgid and sealed form, in the order of pulling.
//!
//! A record that is changed, removed or inserted afterwards breaks the chain.

use chatledger_schemas::SealedRecord;
use chatledger_schemas::ledger::{ChainLink, Digest128, LedgerEntry, digest_of};

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

    /// Adds a record.
    pub fn record(&mut self, input: &ChainInput) -> LedgerEntry {
        self.step(input, false)
    }

    /// Adds a gap: records after `seq` that the archive received after `silent_since` may be missing.
    /// Both times are in milliseconds since the epoch, UTC.
    pub fn gap(&mut self, seq: u64, silent_since: i64, at: i64) -> LedgerEntry {
        let mut sealed = [0; 16];
        sealed[..8].copy_from_slice(&silent_since.to_le_bytes());
        let msgid = [0; 16];
        self.step(
            &ChainInput {
                seq,
                at,
                msgid,
                sealed,
            },
            true,
        )
    }

    fn step(&mut self, input: &ChainInput, gap: bool) -> LedgerEntry {
        let ChainInput {
            seq,
            at,
            msgid,
            sealed,
        } = *input;
        self.number += 1;
        self.link = self.link.after(self.number, seq, gap, &msgid, &sealed);
        LedgerEntry {
            number: self.number,
            seq,
            at,
            msgid,
            sealed,
            gap,
            link: self.link,
        }
    }

    /// Adds an entry again, with the number and link it has here.
    pub fn again(&mut self, entry: &LedgerEntry) -> LedgerEntry {
        self.step(
            &ChainInput {
                seq: entry.seq,
                at: entry.at,
                msgid: entry.msgid,
                sealed: entry.sealed,
            },
            entry.gap,
        )
    }
}
