//! What the engine needs from outside. The application fills these in with connectors.

use std::sync::Arc;

use chatledger_schemas::directory::{DirectoryRow, Room, Snapshot};
use chatledger_schemas::{CorpId, SealedRecord};
use futures::future::BoxFuture;

use crate::batch::Batch;
use crate::fault::Fault;
use crate::lane::{Checkpoint, Cut};
use crate::mark::Mark;

/// The archive of one corp.
pub trait Source: Send + Sync {
    /// The records behind a position, ascending; none if there are none now.
    fn page(&self, after: u64) -> BoxFuture<'_, Result<Vec<SealedRecord>, Fault>>;
}

/// The directory of one corp.
pub trait DirectorySource: Send + Sync {
    /// Reads everything; `wanted` are rooms seen in messages that nobody has asked about,
    /// `known` the rooms of the last snapshot.
    fn sync<'a>(
        &'a self,
        wanted: &'a [String],
        known: &'a [Room],
    ) -> BoxFuture<'a, Result<Snapshot, Fault>>;
}

/// Where directory rows are kept or sent.
pub trait DirectorySink: Send + Sync {
    /// Stores rows of one snapshot; storing them again changes nothing.
    fn store<'a>(
        &'a self,
        corp: &'a CorpId,
        taken_at: i64,
        rows: &'a [DirectoryRow],
    ) -> BoxFuture<'a, Result<(), Fault>>;
}

/// One sink's writing end for one lane: gathers the rows of a cut, then writes them under its name.
pub trait CutWriter: Send {
    /// Adds a batch to the cut being gathered. CPU work belongs off the async threads.
    fn append(&mut self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), Fault>>;
    /// Bytes it holds in memory.
    fn bytes(&self) -> usize;
    /// Writes the gathered rows under the cut's name; `log` names the lane. May be called again
    /// after a fault with the same cut, and must then be as if it had been called once. After
    /// success the rows are forgotten.
    fn write<'a>(
        &'a mut self,
        log: &'a str,
        cut: &'a Cut,
        attempt: Attempt,
    ) -> BoxFuture<'a, Result<(), Fault>>;
}

/// Whether a cut may be there already, whole or in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It has never been sent.
    First,
    /// It may have been, by a process that died or in a call that failed: the sink may remember its
    /// name without having its rows.
    Again,
}

/// Where a sink keeps, beside the rows, how far each lane has been written. The last mark kept is
/// the one that is held.
pub trait Marks: Send + Sync {
    /// The lane's mark; `None` if it has none.
    fn held<'a>(&'a self, log: &'a str) -> BoxFuture<'a, Result<Option<Mark>, Fault>>;
    /// Replaces the lane's mark.
    fn keep<'a>(&'a self, log: &'a str, mark: Mark) -> BoxFuture<'a, Result<(), Fault>>;
}

/// Where a lane writes down what it is about to write.
pub trait Journal: Send {
    /// Stores the lane's checkpoint durably, replacing the last.
    fn save(&mut self, checkpoint: Checkpoint) -> BoxFuture<'_, Result<(), Fault>>;
}
