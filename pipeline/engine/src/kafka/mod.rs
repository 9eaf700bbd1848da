//! The driver for several processes: every stage is a consumer group on a log of topics.
//!
//! ```text
//! archive ─▶ source ═▶ [raw] ─▶ process ═▶ [messages]   ─▶ sinks (a group each)
//!              ╚═▶ [cursor]        ╠═▶ [violations] ─▶ sinks
//!                                  ╠═▶ [deadletter] ─▶ sinks
//!                                  ╚═▶ [marks]
//! directory ═▶ [directory] ─▶ process            ═▶ one transaction
//! ```
//!
//! `source` and `process` also write `[ledger]`, in the same transactions: what was pulled, chained
//! by hash, and the outcome of each record ([`chatledger_schemas::ledger`]).
//!
//! Everything a stage knows is in the log. After a fault its loop joins the group and starts again,
//! as after a restart of the process. `source` and `directory` run in one process at a time: the one
//! that has the only partition of `[cursor]` or `[directory]`. A process that lost it without knowing
//! is fenced by its transactional id.
//!
//! In a drain the stages end one after the other, from the source on: each ends when the one before
//! it has ended and the log has been read to its end after that. A commit is acknowledged a moment
//! before readers see its records. A stage that ends therefore makes one more transaction, which
//! cannot begin before the last one is visible.

mod cpu;
pub mod dead_letters;
pub mod directory;
pub mod key_watch;
pub mod process;
mod process_batch;
pub mod process_checkpoints;
mod record;
mod rows;
pub mod sink;
pub mod source;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use record::{LogRecord, OutRecord, RawRecord};

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chatledger_schemas::{Classified, FaultClass};
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::fault::{Fault, Retry};
use crate::sink::Stream;

/// The topics, without the deployment's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Sealed records as the archive gave them.
    Raw,
    /// Opened messages.
    Messages,
    /// Rule violations.
    Violations,
    /// Dead letters and their events.
    DeadLetter,
    /// The position up to which each corp's archive has been read; compacted.
    Cursor,
    /// Directory rows; compacted.
    Directory,
    /// What was pulled, and the outcome of each record; kept forever.
    Ledger,
    /// The position up to which each partition of `[raw]` has been processed; compacted. Not on
    /// `[cursor]`: a transaction that `process` leaves open would hide the end of that topic from
    /// `source`.
    ProcessCheckpoints,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 8] = [
        Self::Raw,
        Self::Messages,
        Self::Violations,
        Self::DeadLetter,
        Self::Cursor,
        Self::Directory,
        Self::Ledger,
        Self::ProcessCheckpoints,
    ];

    /// Whether its values are sealed with the deployment's seal key, if it has one: messages contain
    /// what was written, violations contain the words that matched. Values of `[raw]` and
    /// `[deadletter]` can be opened only with the corp's private keys.
    pub fn is_sealed(self) -> bool {
        matches!(self, Self::Messages | Self::Violations)
    }

    /// Whether its records say which corp and which position in its archive they belong to.
    fn needs_headers(self) -> bool {
        matches!(
            self,
            Self::Raw | Self::Messages | Self::Violations | Self::DeadLetter
        )
    }

    /// Whether it has one partition, however many the other topics have.
    pub fn has_one_partition(self) -> bool {
        matches!(
            self,
            Self::Cursor | Self::Directory | Self::Ledger | Self::ProcessCheckpoints
        )
    }

    /// The topic that carries a stream.
    pub fn of(stream: Stream) -> Self {
        match stream {
            Stream::Messages => Self::Messages,
            Stream::Violations => Self::Violations,
            Stream::DeadLetters => Self::DeadLetter,
        }
    }

    /// Its name, without the prefix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Messages => "messages",
            Self::Violations => "violations",
            Self::DeadLetter => "deadletter",
            Self::Cursor => "cursor",
            Self::Directory => "directory",
            Self::Ledger => "ledger",
            Self::ProcessCheckpoints => "marks",
        }
    }
}

/// A partition that was assigned to this process.
#[derive(Debug, Clone)]
pub struct Assigned {
    /// The partition.
    pub partition: i32,
    /// The committed position: the next offset to read; 0 if there is none.
    pub position: u64,
    /// The metadata committed with it.
    pub metadata: String,
}

/// An event of a group.
#[derive(Debug)]
pub enum GroupEvent {
    /// These partitions belong to this process now. The join defined where reading starts.
    Assigned(Vec<Assigned>),
    /// These partitions no longer belong to this process.
    Revoked(Vec<i32>),
    /// The next record.
    Record(LogRecord),
    /// The partition has been read to its end for now.
    End(i32),
    /// Nothing happened within the requested time.
    Idle,
}

/// This process's membership in a consumer group on one topic, with a transactional producer where
/// the stage writes.
pub trait Group: Send + Sync {
    /// Returns the next event; waits at most `wait`.
    fn next(&self, wait: Duration) -> BoxFuture<'_, Result<GroupEvent, Fault>>;
    /// The number of partitions that belong to this process now.
    fn partitions(&self) -> usize;
    /// Commits a position with metadata. Refused (class refresh) if the partition has another owner
    /// or was revoked since its assignment was reported.
    fn save(
        &self,
        partition: i32,
        position: u64,
        metadata: String,
    ) -> BoxFuture<'_, Result<(), Fault>>;
    /// Continues reading a partition at an offset. Its end is reported again.
    fn seek(&self, partition: i32, offset: u64) -> BoxFuture<'_, Result<(), Fault>>;
    /// Stays in the group without reading, for as long as it is polled. Ends only with a fault.
    fn keep_alive(&self) -> BoxFuture<'_, Fault>;
    /// Fences every older holder of the transactional id and rolls back what it left open. Required
    /// before [`Group::transact`].
    fn begin(&self) -> BoxFuture<'_, Result<(), Fault>>;
    /// Writes records and commits positions of this group in one transaction.
    fn transact<'a>(
        &'a self,
        records: Vec<OutRecord>,
        consumed: &'a [(i32, u64)],
    ) -> BoxFuture<'a, Result<(), Fault>>;
}

/// Joins the group. Where reading a partition starts depends on the stage: `source` and `directory`
/// start at its beginning, sinks at the committed position, `process` [`process::WINDOW`] records
/// before it.
pub type Join = Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Group>, Fault>> + Send + Sync>;

/// When a stage ends.
#[derive(Clone)]
pub struct Ending {
    /// Stop now: deliver what has been read, then end.
    pub stop: CancellationToken,
    /// Do not wait for sinks any longer.
    pub abandon: CancellationToken,
    /// In a drain: turns true when the previous stage has ended. `None`: run until stopped.
    pub upstream: Option<watch::Receiver<bool>>,
}

impl Ending {
    /// Whether the previous stage has ended, in a drain.
    pub fn upstream_ended(&self) -> bool {
        self.upstream.as_ref().is_some_and(|ended| *ended.borrow())
    }
}

/// A stage that ran for this long has recovered from earlier faults.
const STEADY: Duration = Duration::from_secs(60);

/// Runs a stage's loop until it ends by itself or is stopped; after a fault it joins and runs again.
async fn supervised<F>(
    stage: &'static str,
    join: &Join,
    ending: &Ending,
    mut run: impl FnMut(Arc<dyn Group>) -> F,
) where
    F: Future<Output = Result<(), Fault>>,
{
    let mut retry = Retry::new(&ending.stop);
    while !ending.stop.is_cancelled() {
        let began = Instant::now();
        let fault = match join().await {
            Ok(group) => match run(group).await {
                Ok(()) => return,
                Err(fault) => fault,
            },
            Err(fault) => fault,
        };
        if began.elapsed() >= STEADY {
            retry.succeeded();
        }
        let class = fault.class.as_str();
        let log = |pause| warn!(stage, class, error = %fault, ?pause, "stage failed; restarting");
        retry.wait(&fault, log).await;
    }
}

/// Waits for the only partition of a topic. The process that has it leads the stage.
async fn wait_for_leadership(
    group: &dyn Group,
    tick: Duration,
    ending: &Ending,
) -> Result<Leadership, Fault> {
    while !ending.stop.is_cancelled() {
        if let GroupEvent::Assigned(partitions) = group.next(tick).await?
            && !partitions.is_empty()
        {
            return Ok(Leadership::Acquired);
        }
    }
    Ok(Leadership::Stopping)
}

/// Whether this process leads a stage that only one process may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leadership {
    Acquired,
    /// The process is stopping.
    Stopping,
}

/// Another process leads the stage now. A producer can take its transactional id over only once, so
/// the stage joins again.
#[derive(Debug, thiserror::Error)]
#[error("another process leads this stage now")]
struct LeadershipLost;

impl Classified for LeadershipLost {
    fn class(&self) -> FaultClass {
        FaultClass::Refresh
    }
}

/// Ends a stage that only one process may run when its partition is revoked.
fn check_leadership(event: &GroupEvent) -> Result<(), Fault> {
    match event {
        GroupEvent::Revoked(_) => Err(Fault::new(LeadershipLost)),
        _ => Ok(()),
    }
}

/// The ends of a stage's partitions, to recognise the end of a drain.
#[derive(Debug, Default)]
struct PartitionEnds {
    joined: bool,
    probed: bool,
    partitions: std::collections::BTreeMap<i32, PartitionEnd>,
}

#[derive(Debug, Clone, Copy)]
struct PartitionEnd {
    /// The next offset to read.
    next: u64,
    reached: bool,
}

impl PartitionEnds {
    /// Reading a partition starts or continues at an offset.
    fn reads_from(&mut self, partition: i32, next: u64) {
        let end = PartitionEnd {
            next,
            reached: false,
        };
        self.partitions.insert(partition, end);
    }

    fn revoked(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.partitions.remove(partition);
        }
    }

    fn reached(&mut self, partition: i32) {
        if let Some(end) = self.partitions.get_mut(&partition) {
            end.reached = true;
        }
    }

    /// Once the previous stage has ended, every partition must be found at its end again: an end
    /// seen earlier may not have been the last.
    async fn probe(&mut self, group: &dyn Group) -> Result<(), Fault> {
        if !self.probed && self.joined {
            self.probed = true;
            for (partition, end) in &mut self.partitions {
                end.reached = false;
                group.seek(*partition, end.next).await?;
            }
        }
        Ok(())
    }

    fn all_reached(&self) -> bool {
        self.probed && self.partitions.values().all(|end| end.reached)
    }
}
