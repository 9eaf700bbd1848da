//! The interfaces to the outside. The application implements them with connectors.

use std::sync::Arc;

use chatledger_schemas::directory::{DirectoryRow, Room, Snapshot};
use chatledger_schemas::{CorpId, SealedRecord};
use futures::future::BoxFuture;

use crate::batch::{Batch, BatchRange};
use crate::fault::Fault;
use crate::lane::LaneCheckpoint;
use crate::sink_checkpoint::SinkCheckpoint;

/// The archive of one corp.
pub trait Source: Send + Sync {
    /// Returns records after a position, ascending; none if there are none now.
    fn page(&self, after: u64) -> BoxFuture<'_, Result<Vec<SealedRecord>, Fault>>;
}

/// The directory of one corp.
pub trait DirectorySource: Send + Sync {
    /// Reads the whole directory. `wanted` are rooms seen in messages that have not been looked up;
    /// `known` are the rooms of the last snapshot.
    fn sync<'a>(
        &'a self,
        wanted: &'a [String],
        known: &'a [Room],
    ) -> BoxFuture<'a, Result<Snapshot, Fault>>;
}

/// Stores or forwards directory rows.
pub trait DirectorySink: Send + Sync {
    /// Stores rows of one snapshot. Storing them again changes nothing.
    fn store<'a>(
        &'a self,
        corp: &'a CorpId,
        taken_at: i64,
        rows: &'a [DirectoryRow],
    ) -> BoxFuture<'a, Result<(), Fault>>;
}

/// The writing end of a sink for one lane: gathers the rows of a batch, then writes them under the
/// name of their range.
pub trait BatchWriter: Send {
    /// Adds rows to the open batch. CPU work must not run on async threads.
    fn append(&mut self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), Fault>>;
    /// Bytes of memory in use.
    fn bytes(&self) -> usize;
    /// Writes the gathered rows under the name of their range; `log` names the lane. After a fault
    /// it is called again with the same range, and the result must be as if it had been called once.
    /// After success it forgets the rows.
    fn write<'a>(
        &'a mut self,
        log: &'a str,
        range: &'a BatchRange,
        attempt: WriteAttempt,
    ) -> BoxFuture<'a, Result<(), Fault>>;
}

/// Whether the sink may hold a batch already, in whole or in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteAttempt {
    /// It was never sent.
    First,
    /// It may have been sent, by a process that died or in a call that failed. The sink may know
    /// the name of the range without holding its rows.
    Repeat,
}

/// Where a sink keeps, beside the rows, how far each lane has been written.
pub trait CheckpointStore: Send + Sync {
    /// Returns the lane's last checkpoint; `None` if it has none.
    fn load<'a>(&'a self, log: &'a str) -> BoxFuture<'a, Result<Option<SinkCheckpoint>, Fault>>;
    /// Replaces the lane's checkpoint.
    fn store<'a>(
        &'a self,
        log: &'a str,
        checkpoint: SinkCheckpoint,
    ) -> BoxFuture<'a, Result<(), Fault>>;
}

/// Where a lane records its checkpoint.
pub trait Journal: Send {
    /// Stores the lane's checkpoint durably and replaces the last one.
    fn save(&mut self, checkpoint: LaneCheckpoint) -> BoxFuture<'_, Result<(), Fault>>;
}
