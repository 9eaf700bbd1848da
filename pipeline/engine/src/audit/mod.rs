//! Shows that every record of the ledger is in exactly one place, and that the ledger and the rows
//! are as they were written. Pure: whoever audits reads ledger and sinks and hands in what he found.
//!
//! [`blocks`] compares sums over blocks of positions, which is quick and takes little memory;
//! [`judge`] compares a block that does not agree record by record; [`chain`] follows the hash
//! chain.

pub mod blocks;
pub mod chain;
pub mod judge;

use chatledger_schemas::ledger::Digest128;
use serde::Serialize;

/// Positions of a block.
pub const BLOCK: u64 = 1000;

/// Which record a row is of: its position in the archive and the digest of its msgid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Position in the corp's archive.
    pub seq: u64,
    /// Digest of the msgid.
    pub msgid: Digest128,
}

impl Key {
    /// The hash that sums are made of. ClickHouse computes the same:
    /// `bitXor(reinterpretAsUInt64(substring(SHA256(msgid), 1, 8)), seq * 11400714819323198485)`.
    pub fn hash(&self) -> u64 {
        let half = self.msgid.first_chunk::<8>();
        let half = half.map_or(0, |half| u64::from_le_bytes(*half));
        half ^ self.seq.wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    /// Number of the block it lies in.
    pub fn block(&self) -> u64 {
        self.seq / BLOCK
    }
}

/// How many rows there are, and the sum of their hashes, which does not depend on their order: two
/// places with the same sum hold the same rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Rows.
    pub rows: u64,
    /// Sum of their hashes, wrapping.
    #[serde(serialize_with = "hexadecimal")]
    pub hash: u64,
}

impl Sum {
    /// Adds a row.
    pub fn add(&mut self, key: &Key) {
        self.rows += 1;
        self.hash = self.hash.wrapping_add(key.hash());
    }

    /// The sum of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            hash: self.hash.wrapping_add(other.hash),
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn hexadecimal<S: serde::Serializer>(hash: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{hash:016x}"))
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// It is no row of the table `messages`.
    MissingInClickhouse,
    /// It is in no message file.
    MissingInParquet,
    /// It was parked, and is neither among the letters nor anywhere else.
    MissingLetter,
    /// It stands in the table more than once.
    RepeatedInClickhouse,
    /// It stands in the files more than once.
    RepeatedInParquet,
    /// The table has a row of it that does not belong there.
    UnexpectedInClickhouse,
    /// The files have a row of it that does not belong there.
    UnexpectedInParquet,
    /// A letter of it is open that does not belong there.
    UnexpectedLetter,
}

/// One thing that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Position of the record.
    pub seq: u64,
    /// What is wrong with it.
    pub what: Wrong,
}
