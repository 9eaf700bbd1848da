//! Checks that every record of the ledger is in exactly one place, and that the ledger and the rows
//! are as they were written. Pure: the caller reads the ledger and the sinks and passes in the data.
//!
//! [`blocks`] compares sums over blocks of positions, which is fast and needs little memory.
//! [`judge`] compares a block record by record if its sums differ. [`chain`] follows the hash chain,
//! [`known`] compares the content of rows with the digests in the ledger.
//! A sink that can be audited implements [`AuditReader`]; what it holds is reported by [`Place`], so
//! nothing here depends on which sinks there are.

pub mod blocks;
pub mod chain;
pub mod judge;
pub mod known;
pub mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use chatledger_schemas::CorpId;
use chatledger_schemas::ledger::{ChainAnchor, Digest128, Outcome, RecordKey, RowDigest};
use futures::future::BoxFuture;
use serde::Serialize;

use self::report::Reconciliation;
use crate::fault::Fault;
use crate::sink::Limits;

/// Positions in a block.
pub const BLOCK: u64 = 1000;

/// Number of a position's block.
pub fn block_of(seq: u64) -> u64 {
    seq / BLOCK
}

/// The hash that sums are made of. A sink may compute the same in SQL:
/// `bitXor(reinterpretAsUInt64(substring(SHA256(msgid), 1, 8)), seq * 11400714819323198485)`.
fn hash(key: &RecordKey) -> u64 {
    let half = key.msgid.first_chunk::<8>();
    let half = half.map_or(0, |half| u64::from_le_bytes(*half));
    half ^ key.seq.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Number of rows and the sum of their hashes. The sum does not depend on the order: two places with
/// the same sum hold the same rows.
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
    pub fn add(&mut self, key: &RecordKey) {
        self.add_rows(key, 1);
    }

    /// Adds several rows of one record.
    pub fn add_rows(&mut self, key: &RecordKey, rows: u64) {
        self.rows += rows;
        self.hash = self.hash.wrapping_add(hash(key).wrapping_mul(rows));
    }

    /// The sum of the two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            hash: self.hash.wrapping_add(other.hash),
        }
    }

    /// The sum of several rows.
    pub fn over<'a>(keys: impl IntoIterator<Item = &'a RecordKey>) -> Self {
        let mut sum = Self::default();
        for key in keys {
            sum.add(key);
        }
        sum
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn hexadecimal<S: serde::Serializer>(hash: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{hash:016x}"))
}

/// What a place holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Messages: one row for each record whose outcome is a message.
    Messages,
    /// Violations: any number of rows for such a record.
    Violations,
    /// Dead letters that are open.
    OpenDeadLetters,
    /// Dead letters that were discarded.
    DiscardedDeadLetters,
}

impl Content {
    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Violations => "violations",
            Self::OpenDeadLetters => "open dead letters",
            Self::DiscardedDeadLetters => "discarded dead letters",
        }
    }
}

/// Returns the msgids of those of `missing` whose message has a row at another position.
pub fn kept_elsewhere(missing: &[RecordKey], found: &[RecordKey]) -> HashSet<Digest128> {
    let mut positions: HashMap<Digest128, BTreeSet<u64>> = HashMap::new();
    for key in found {
        positions.entry(key.msgid).or_default().insert(key.seq);
    }
    let at_another = |key: &&RecordKey| {
        let at = positions.get(&key.msgid);
        at.is_some_and(|at| at.iter().any(|seq| *seq != key.seq))
    };
    missing
        .iter()
        .filter(at_another)
        .map(|key| key.msgid)
        .collect()
}

/// Which outcome counts if a record is settled again: the first, except that a dead letter may become
/// something else by a replay. An outcome that somebody adds to the ledger cannot hide a message.
pub fn counting(first: Option<Outcome>, next: Outcome) -> Outcome {
    first.map_or(next, |first| match first {
        Outcome::DeadLetter => next,
        Outcome::Message | Outcome::Duplicate => first,
    })
}

/// A place in which rows are kept: one kind of rows in one sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// The sink.
    pub sink: &'static str,
    /// What it holds there.
    pub content: Content,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.sink, self.content.as_str())
    }
}

/// What is wrong with a record in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mismatch {
    /// Its row is missing.
    Missing,
    /// It has more than one row.
    Repeated,
    /// It has a row that does not belong there.
    Unexpected,
}

impl Mismatch {
    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Repeated => "repeated",
            Self::Unexpected => "unexpected",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// Position of the record.
    pub seq: u64,
    /// What is wrong with it.
    pub what: Mismatch,
    /// Where.
    pub place: Place,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, what, place } = self;
        let what = what.as_str();
        match place.content {
            Content::Messages => write!(f, "seq {seq}: {what} in {}", place.sink),
            other => write!(
                f,
                "seq {seq}: {what} in {} ({})",
                place.sink,
                other.as_str()
            ),
        }
    }
}

impl Serialize for Finding {
    /// `what` names mismatch and sink in one word, `MISMATCH_in_SINK`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let Self { seq, what, place } = self;
        let word = match place.content {
            Content::Messages => format!("{}_in_{}", what.as_str(), place.sink),
            Content::Violations => format!("{}_violation_in_{}", what.as_str(), place.sink),
            Content::OpenDeadLetters | Content::DiscardedDeadLetters => {
                format!("{}_dead_letter", what.as_str())
            }
        };
        let mut out = serializer.serialize_struct("Finding", 4)?;
        out.serialize_field("seq", seq)?;
        out.serialize_field("what", &word)?;
        out.serialize_field("sink", place.sink)?;
        out.serialize_field("content", &place.content)?;
        out.end()
    }
}

/// Which records an audit asks for.
#[derive(Debug, Clone)]
pub struct Selection {
    /// First position.
    pub first: u64,
    /// Last position, included.
    pub last: u64,
    /// Only records of these blocks; `None`: of every block.
    pub blocks: Option<BTreeSet<u64>>,
    /// At most this many rows of one block in one place.
    pub limit: u64,
}

impl Selection {
    /// The ranges of positions asked for, both ends included.
    pub fn ranges(&self) -> Vec<(u64, u64)> {
        let Some(blocks) = &self.blocks else {
            return vec![(self.first, self.last)];
        };
        let range = |block: &u64| {
            let from = (block * BLOCK).max(self.first);
            let to = (block * BLOCK).saturating_add(BLOCK - 1).min(self.last);
            (from, to)
        };
        blocks.iter().map(range).collect()
    }

    /// Whether a position is asked for.
    pub fn covers(&self, seq: u64) -> bool {
        (self.first..=self.last).contains(&seq)
            && self
                .blocks
                .as_ref()
                .is_none_or(|blocks| blocks.contains(&block_of(seq)))
    }
}

/// Sums by block of each place of a sink.
#[derive(Debug, Default)]
pub struct SinkSums {
    /// The places.
    pub places: BTreeMap<Content, BTreeMap<u64, Sum>>,
    /// Parts of the sink that cannot be read, such as paths of files.
    pub unreadable: Vec<String>,
}

/// Reads a sink back for an audit. It changes nothing and needs no right to write.
pub trait AuditReader: Send + Sync {
    /// What the sink holds.
    fn contents(&self) -> &'static [Content];

    /// How long a batch may stay open before it is written, beyond the time a write takes.
    fn delay(&self, _limits: &Limits) -> Duration {
        Duration::ZERO
    }

    /// Sums the rows of a corp between two positions, both included, by block.
    fn sums<'a>(
        &'a self,
        corp: &'a CorpId,
        first: u64,
        last: u64,
    ) -> BoxFuture<'a, Result<SinkSums, Fault>>;

    /// Returns the records that have a row, each as often as it has one.
    fn keys<'a>(
        &'a self,
        corp: &'a CorpId,
        content: Content,
        selection: Selection,
    ) -> BoxFuture<'a, Result<Vec<RecordKey>, Fault>>;

    /// Returns the records with one of `msgids` that have a row of a message, at any position. A sink
    /// that replaces rows by message keeps one row of a message that the archive returned twice.
    fn at_any_position<'a>(
        &'a self,
        _corp: &'a CorpId,
        _msgids: &'a [Digest128],
    ) -> BoxFuture<'a, Result<Vec<RecordKey>, Fault>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Returns links of the hash chain that were delivered with rows, each with the name of the part
    /// of the sink that has it.
    fn anchors<'a>(
        &'a self,
        _corp: &'a CorpId,
    ) -> BoxFuture<'a, Result<Vec<(ChainAnchor, String)>, Fault>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Passes every row of a corp of one of [`Self::contents`] to `row`, with the name of the part of
    /// the sink that holds it. `positions` are the positions that the ledger knows, ascending: a reader may use
    /// them to divide its work. Returns the parts that cannot be read.
    fn rows<'a>(
        &'a self,
        corp: &'a CorpId,
        content: Content,
        positions: &'a [u64],
        row: &'a mut (dyn FnMut(&str, RowDigest) + Send),
    ) -> BoxFuture<'a, Result<Vec<String>, Fault>>;

    /// Stores the result of a reconciliation, if the sink keeps results.
    fn store_reconciliation<'a>(
        &'a self,
        _result: &'a Reconciliation,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
