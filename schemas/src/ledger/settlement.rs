//! What became of records: outcomes with the digests of the rows they gave.

use serde::{Deserialize, Serialize};

use super::{ChainLink, Digest128, FieldReader, digest_of};

/// Outcome of a record after opening and decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The record became a message.
    Message,
    /// The record was dead-lettered.
    DeadLetter,
    /// The archive had already returned a record with the same `msgid`.
    Duplicate,
}

/// What became of a record, and the digests of its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settlement {
    /// Outcome of the record.
    pub outcome: Outcome,
    /// Digest of the row of the message or dead letter; zeros for a duplicate.
    pub row: Digest128,
    /// Number of rows in `violations`.
    pub violations: u32,
    /// Digest of these rows together ([`super::combined`]); zeros if there are none.
    pub violation_rows: Digest128,
}

impl Settlement {
    /// Encoded size in bytes.
    pub const BYTES: usize = 40;

    /// Returns the settlement of a duplicate, or of a record whose rows are not known yet.
    pub fn without_rows(outcome: Outcome) -> Self {
        Self {
            outcome,
            row: [0; 16],
            violations: 0,
            violation_rows: [0; 16],
        }
    }

    /// Appends the encoded settlement: outcome · number of violations (4 bytes each) · row ·
    /// violations.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let outcome: u32 = match self.outcome {
            Outcome::Message => 1,
            Outcome::DeadLetter => 2,
            Outcome::Duplicate => 3,
        };
        out.extend(outcome.to_le_bytes());
        out.extend(self.violations.to_le_bytes());
        out.extend(self.row);
        out.extend(self.violation_rows);
    }

    /// Decodes a settlement; returns `None` if the length or the outcome code is invalid.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = FieldReader(bytes);
        let settlement = Self {
            outcome: match u32::from_le_bytes(bytes.array()?) {
                1 => Outcome::Message,
                2 => Outcome::DeadLetter,
                3 => Outcome::Duplicate,
                _ => return None,
            },
            violations: u32::from_le_bytes(bytes.array()?),
            row: bytes.array()?,
            violation_rows: bytes.array()?,
        };
        bytes.0.is_empty().then_some(settlement)
    }
}

/// The settlement of one record in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordOutcome {
    /// Position in the corp's archive.
    pub seq: u64,
    /// Digest of the msgid.
    pub msgid: Digest128,
    /// What became of it.
    pub settlement: Settlement,
}

impl RecordOutcome {
    /// Encoded size in bytes.
    pub const BYTES: usize = 24 + Settlement::BYTES;

    /// Appends the encoded outcome: seq · msgid · settlement.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.seq.to_le_bytes());
        out.extend(self.msgid);
        self.settlement.encode(out);
    }

    /// Decodes an outcome; returns `None` if the length or the outcome code is invalid.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (seq, rest) = bytes.split_first_chunk()?;
        let (msgid, rest) = rest.split_first_chunk()?;
        Some(Self {
            seq: u64::from_le_bytes(*seq),
            msgid: *msgid,
            settlement: Settlement::decode(rest)?,
        })
    }
}

/// A hash chain over the settlements and destructions of a corp, in the ledger's order. It is computed
/// when the ledger is read and is not stored in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledChain {
    /// Number of items.
    pub number: u64,
    /// The link after the last of them.
    pub link: ChainLink,
}

impl SettledChain {
    /// Returns the chain before the first settlement of a corp.
    pub fn genesis(corp: &str) -> Self {
        Self {
            number: 0,
            link: ChainLink::genesis(corp).after(b"settled"),
        }
    }

    /// Adds a settlement.
    pub fn settled(&mut self, outcome: &RecordOutcome) {
        let mut bytes = Vec::with_capacity(RecordOutcome::BYTES);
        outcome.encode(&mut bytes);
        self.add(&bytes);
    }

    /// Adds a destruction.
    pub fn destroyed(&mut self, first: u64, last: u64, digest: &Digest128) {
        self.add(&[&first.to_le_bytes()[..], &last.to_le_bytes(), digest].concat());
    }

    fn add(&mut self, bytes: &[u8]) {
        self.number += 1;
        self.link = self.link.after(bytes);
    }
}

/// Records that were destroyed deliberately, for example because their retention period has ended. They
/// are not missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destruction {
    /// Position of the first of the records.
    pub first_seq: u64,
    /// Position of the last of them; equal to `first_seq` for a single record.
    pub last_seq: u64,
    /// Who destroyed them.
    pub by: String,
    /// Why.
    pub because: String,
    /// When it was recorded, milliseconds since the epoch, UTC.
    pub at: i64,
}

impl Destruction {
    /// Returns the JSON text of which the ledger chains the digest.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Parses a text of [`Self::text`]; returns `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// Returns the digest of the text.
    pub fn digest(&self) -> Digest128 {
        digest_of(self.text().as_bytes())
    }
}
