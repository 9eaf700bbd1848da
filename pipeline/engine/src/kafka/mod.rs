//! The driver for many processes: every stage a consumer group on a log of topics.
//!
//! ```text
//! archive ─▶ source ═▶ [raw] ─▶ process ═▶ [messages]   ─▶ clickhouse, parquet (a group each)
//!              ╚═▶ [cursor]        ╠═▶ [violations] ─▶ clickhouse, parquet
//!                                  ╠═▶ [deadletter] ─▶ clickhouse
//!                                  ╚═▶ [marks]
//! directory ═▶ [directory] ─▶ process            ═▶ one transaction
//! ```
//!
//! `source` and `process` also write `[ledger]`, in the same transactions: what was pulled, chained by
//! hash, and what became of it ([`chatledger_schemas::ledger`]).
//!
//! Whatever a stage knows is in the log: after a fault its loop is simply begun again, as if the
//! process had been. `source` and `directory` run in one process at a time, the one to which the
//! group has given the only partition of `[cursor]` or `[directory]`; a process that has lost it
//! without knowing is fenced by its transactional id.
//!
//! A drain ends from the source on: each stage ends when the one before it has, and the log has
//! been read to its end after that. A commit is answered when it can no longer fail, which is a
//! moment before readers see its records; a stage that ends therefore makes one more transaction,
//! which cannot begin before the last one is seen.

mod cpu;
pub mod dead_letters;
pub mod directory;
pub mod key_watch;
pub mod process;
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

/// The topics, without the deployment's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Sealed records as the archive gave them.
    Raw,
    /// Opened messages.
    Messages,
    /// Rules broken.
    Violations,
    /// Records that could not be opened.
    DeadLetter,
    /// How far each corp's archive has been read; compacted.
    Cursor,
    /// Who is who; compacted.
    Directory,
    /// What was pulled and what became of it; for ever.
    Ledger,
    /// How far each partition of `[raw]` has been processed; compacted. Not on `[cursor]`: a
    /// transaction that `process` leaves open would keep `source` from reading its own end there.
    Marks,
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
        Self::Marks,
    ];

    /// Whether its values rest under the deployment's seal key, where there is one: messages hold
    /// what was written, violations the words that matched. `[raw]` and `[deadletter]` hold what
    /// only the corp's private keys open.
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
            Self::Cursor | Self::Directory | Self::Ledger | Self::Marks
        )
    }

    /// Its name behind the prefix.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Messages => "messages",
            Self::Violations => "violations",
            Self::DeadLetter => "deadletter",
            Self::Cursor => "cursor",
            Self::Directory => "directory",
            Self::Ledger => "ledger",
            Self::Marks => "marks",
        }
    }
}

/// A partition that this process has been given.
#[derive(Debug, Clone)]
pub struct Assigned {
    /// The partition.
    pub partition: i32,
    /// The committed position: the next offset to read; 0 if there is none.
    pub position: u64,
    /// What was committed with it.
    pub metadata: String,
}

/// What a group has to say.
#[derive(Debug)]
pub enum GroupEvent {
    /// These partitions are this process's now. Where reading starts was said when joining.
    Assigned(Vec<Assigned>),
    /// These are no longer.
    Revoked(Vec<i32>),
    /// The next record.
    Record(LogRecord),
    /// The partition has been read to its end for now.
    End(i32),
    /// Nothing within the time requester for.
    Idle,
}

/// This process's membership in a consumer group on one topic, with a transactional producer where
/// the stage writes.
pub trait Group: Send + Sync {
    /// The next event, waiting at most `wait`.
    fn next(&self, wait: Duration) -> BoxFuture<'_, Result<GroupEvent, Fault>>;
    /// How many partitions are this process's now.
    fn partitions(&self) -> usize;
    /// Commits a position with metadata. Refused (class refresh) if the partition has another owner,
    /// or has had one since it was assigned.
    fn save(
        &self,
        partition: i32,
        position: u64,
        metadata: String,
    ) -> BoxFuture<'_, Result<(), Fault>>;
    /// Goes on reading a partition at an offset; its end will be told again.
    fn seek(&self, partition: i32, offset: u64) -> BoxFuture<'_, Result<(), Fault>>;
    /// Stays in the group without reading, for as long as it is polled; ends only with a fault.
    fn keep_alive(&self) -> BoxFuture<'_, Fault>;
    /// Fences every older holder of this group's transactional id; needed before [`Group::transact`].
    fn begin(&self) -> BoxFuture<'_, Result<(), Fault>>;
    /// Writes records and commits positions of this group, all or nothing.
    fn transact<'a>(
        &'a self,
        records: Vec<OutRecord>,
        consumed: &'a [(i32, u64)],
    ) -> BoxFuture<'a, Result<(), Fault>>;
}

/// Joins the group anew. Where reading a partition starts is the stage's filter: `source` and
/// `directory` at its beginning, sinks at the committed position, `process` [`process::WINDOW`]
/// records before it.
pub type Join = Box<dyn Fn() -> BoxFuture<'static, Result<Arc<dyn Group>, Fault>> + Send + Sync>;

/// When a stage may end by itself.
#[derive(Clone)]
pub struct Ending {
    /// Stop now: deliver what has been read and end.
    pub stop: CancellationToken,
    /// Do not wait for sinks any longer.
    pub abandon: CancellationToken,
    /// In a drain: turns true when the stage before has ended. `None`: run until stopped.
    pub upstream: Option<watch::Receiver<bool>>,
}

impl Ending {
    /// Whether the stage before has ended, in a drain.
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

/// Another process has been given what only one may hold. A producer can take its transactional id
/// over once, so the stage joins anew.
#[derive(Debug, thiserror::Error)]
#[error("another process takes over")]
struct TakenOver;

impl Classified for TakenOver {
    fn class(&self) -> FaultClass {
        FaultClass::Refresh
    }
}

/// Ends a stage that only one process may run when its partition is taken away.
fn still_ours(event: &GroupEvent) -> Result<(), Fault> {
    match event {
        GroupEvent::Revoked(_) => Err(Fault::new(TakenOver)),
        _ => Ok(()),
    }
}

/// What a stage knows about the ends of its partitions, to find out that a drain is over.
#[derive(Debug, Default)]
struct Ends {
    joined: bool,
    probed: bool,
    partitions: std::collections::BTreeMap<i32, End>,
}

#[derive(Debug, Clone, Copy)]
struct End {
    next: u64,
    reached: bool,
}

impl Ends {
    fn assigned(&mut self, partition: i32, position: u64) {
        self.partitions.insert(
            partition,
            End {
                next: position,
                reached: false,
            },
        );
    }

    fn revoked(&mut self, partitions: &[i32]) {
        for partition in partitions {
            self.partitions.remove(partition);
        }
    }

    fn read(&mut self, partition: i32, offset: u64) {
        self.partitions.insert(
            partition,
            End {
                next: offset + 1,
                reached: false,
            },
        );
    }

    fn reached(&mut self, partition: i32) {
        if let Some(end) = self.partitions.get_mut(&partition) {
            end.reached = true;
        }
    }

    /// Once the stage before has ended, every partition has to be found at its end again: an end
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
