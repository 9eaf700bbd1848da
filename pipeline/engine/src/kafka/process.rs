//! `[raw]` to `[messages]`, `[violations]` and `[deadletter]`: one transaction for each batch.
//!
//! A record counts as pulled at the time at which the broker accepted it, so a batch that is
//! processed again gives the same rows.
//!
//! Each transaction also stores on `[marks]` the position that its partitions have reached. A group
//! that is reset therefore processes nothing a second time: the records before the checkpoint only
//! fill the window of duplicates.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chatledger_crypto::{Opener, SealRing};
use chatledger_directory::Directory;
use chatledger_rules::RuleSet;
use tokio::time::Instant;
use tracing::{info, warn};

use super::process_batch::{Run, RunResult, last_positions, process_run, runs, sealed};
use super::process_checkpoints::{ProcessCheckpointReader, process_checkpoint_record};
use super::{Assigned, Ending, Group, GroupEvent, Join, LogRecord, PartitionEnds, cpu, supervised};
use crate::failpoint;
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::shared::{Current, Totals};
use crate::sink_checkpoint::{SinkCheckpoint, UnverifiedCheckpoint, Verification};
use crate::window::{Window, body_hash, msg_hash};

/// Maximum number of records in a transaction.
const BATCH: usize = 4000;
/// Longest wait for a batch to fill.
const LINGER: Duration = Duration::from_millis(100);
/// Longest wait for the next event of the group.
const TICK: Duration = Duration::from_millis(50);
/// Records before the committed position that are read again to recognise duplicates. A duplicate
/// has the same key and so the same partition.
pub const WINDOW: usize = 10_000;

/// A corp's keys and directory.
pub struct CorpTools {
    /// Its keys.
    pub opener: Arc<dyn Opener>,
    /// Its current directory.
    pub directory: Arc<Current<Directory>>,
}

/// The stage `process`.
pub struct ProcessStage {
    /// Joins the group on `[raw]`.
    pub join: Join,
    /// Reads the process checkpoints.
    pub checkpoints: ProcessCheckpointReader,
    /// The corps by id.
    pub corps: Arc<HashMap<String, CorpTools>>,
    /// The keys with which messages and violations are sealed.
    pub seal: Arc<SealRing>,
    /// The rules in use.
    pub rules: Arc<Current<RuleSet>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The counts of this run.
    pub totals: Arc<Totals>,
    /// When it ends.
    pub ending: Ending,
}

/// A partition of `[raw]` that belongs to this process.
pub(super) struct RawPartition {
    /// Records before this offset only fill the window.
    position: u64,
    /// Which messages are known, of all corps.
    window: Window,
    /// A checkpoint ahead of the position, until the log has confirmed or refuted it.
    unverified: Option<UnverifiedCheckpoint>,
}

impl RawPartition {
    fn new(position: u64, checkpoint: Option<SinkCheckpoint>) -> Self {
        Self {
            position,
            window: Window::new(WINDOW * 2),
            unverified: UnverifiedCheckpoint::new(checkpoint, position, WINDOW as u64),
        }
    }

    /// Adds a record to the window without processing it.
    fn remember(&mut self, record: &LogRecord) {
        let sealed = sealed(record);
        let hash = msg_hash(&sealed.msgid);
        let window = self.window(&record.corp_id);
        window.logged(hash, body_hash(&sealed));
    }

    /// The window, for the messages of a corp.
    pub(super) fn window(&mut self, corp: &str) -> &mut Window {
        self.window.of_corp(corp)
    }

    /// Where reading starts, so that the window is filled before the position.
    fn start(&self) -> u64 {
        self.position.saturating_sub(WINDOW as u64)
    }
}

/// What one membership of the stage works on.
#[derive(Default)]
struct Work {
    partitions: BTreeMap<i32, RawPartition>,
    ends: PartitionEnds,
    /// Records read and not processed yet.
    pending: Vec<LogRecord>,
    /// When the first of them arrived.
    since: Option<Instant>,
    /// The positions of the last transaction.
    committed: Vec<(i32, u64)>,
}

impl Work {
    fn add(&mut self, record: LogRecord) {
        self.since.get_or_insert_with(Instant::now);
        self.pending.push(record);
    }

    /// Whether the pending records are due to be processed.
    fn is_due(&self) -> bool {
        let lingered = self.since.is_some_and(|since| since.elapsed() >= LINGER);
        self.pending.len() >= BATCH || lingered
    }

    fn take_pending(&mut self) -> Vec<LogRecord> {
        self.since = None;
        std::mem::take(&mut self.pending)
    }
}

impl ProcessStage {
    /// Runs until stopped or, in a drain, until `[raw]` has no more records.
    pub async fn run(self) {
        supervised("process", &self.join, &self.ending, |group| {
            self.work(group)
        })
        .await;
    }

    async fn work(&self, group: Arc<dyn Group>) -> Result<(), Fault> {
        group.begin().await?;
        let mut work = Work::default();
        loop {
            let event = group.next(TICK).await?;
            self.handle(event, &*group, &mut work).await?;
            let stopping = self.ending.stop.is_cancelled();
            if !work.pending.is_empty() && (work.is_due() || stopping) {
                self.process_batch(&*group, &mut work).await?;
            }
            if stopping {
                return Ok(());
            }
            if self.ending.upstream_ended() {
                work.ends.probe(&*group).await?;
                if work.ends.all_reached() && work.pending.is_empty() {
                    if !work.committed.is_empty() {
                        group.transact(Vec::new(), &work.committed).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn handle(
        &self,
        event: GroupEvent,
        group: &dyn Group,
        work: &mut Work,
    ) -> Result<(), Fault> {
        match event {
            GroupEvent::Assigned(list) => self.assigned(list, work).await?,
            GroupEvent::Revoked(list) => {
                work.pending
                    .retain(|record| !list.contains(&record.partition));
                work.partitions
                    .retain(|partition, _| !list.contains(partition));
                work.committed
                    .retain(|(partition, _)| !list.contains(partition));
                work.ends.revoked(&list);
            }
            GroupEvent::Record(record) => {
                work.ends.reads_from(record.partition, record.offset + 1);
                let Some(partition) = work.partitions.get_mut(&record.partition) else {
                    return Ok(());
                };
                if partition.unverified.is_some() {
                    let number = record.partition;
                    verify(partition, number, Some(&record), group, &mut work.ends).await?;
                } else if record.offset < partition.position {
                    partition.remember(&record);
                } else {
                    work.add(record);
                }
            }
            GroupEvent::End(number) => {
                work.ends.reached(number);
                if let Some(partition) = work.partitions.get_mut(&number) {
                    verify(partition, number, None, group, &mut work.ends).await?;
                }
            }
            GroupEvent::Idle => {}
        }
        Ok(())
    }

    async fn assigned(&self, list: Vec<Assigned>, work: &mut Work) -> Result<(), Fault> {
        info!(partitions = list.len(), "raw partitions assigned");
        work.ends.joined = true;
        if list.is_empty() {
            return Ok(());
        }
        let checkpoints = self.checkpoints.read(&self.ending).await?;
        for assigned in list {
            let checkpoint = checkpoints.get(&assigned.partition).copied();
            let partition = RawPartition::new(assigned.position, checkpoint);
            // A probe for the end must not skip the window.
            work.ends.reads_from(assigned.partition, partition.start());
            work.partitions.insert(assigned.partition, partition);
        }
        Ok(())
    }

    /// Processes the pending records in one transaction.
    async fn process_batch(&self, group: &dyn Group, work: &mut Work) -> Result<(), Fault> {
        let records = work.take_pending();
        let mut consumed: BTreeMap<i32, u64> = BTreeMap::new();
        for record in &records {
            consumed.insert(record.partition, record.offset + 1);
        }
        let checkpoints = last_positions(&records);
        let results = self.process_runs(runs(records), work).await?;

        failpoint::pass("process", "batch_opened")?;
        let mut out = Vec::new();
        let mut processed = Vec::new();
        for result in results {
            let result = result?;
            out.extend(result.records);
            processed.extend(result.processed.map(|processed| (result.corp, processed)));
        }
        for (partition, checkpoint) in checkpoints {
            out.push(process_checkpoint_record(partition, checkpoint)?);
        }
        let consumed: Vec<(i32, u64)> = consumed.into_iter().collect();
        group.transact(out, &consumed).await?;
        for (corp, processed) in &processed {
            self.metrics.processed(corp, processed);
            self.totals.processed(processed);
        }
        work.committed = consumed;
        Ok(())
    }

    /// Takes runs through the stages, off the async threads.
    async fn process_runs(
        &self,
        runs: Vec<Run>,
        work: &mut Work,
    ) -> Result<Vec<Result<RunResult, Fault>>, Fault> {
        let (corps, rules) = (Arc::clone(&self.corps), self.rules.get());
        let seal = Arc::clone(&self.seal);
        let metrics = Arc::clone(&self.metrics);
        let mut partitions = std::mem::take(&mut work.partitions);
        let (partitions, results) = cpu::run(move || {
            let mut results = Vec::with_capacity(runs.len());
            for run in runs {
                if let Some(partition) = partitions.get_mut(&run.partition) {
                    results.push(process_run(partition, run, &corps, &rules, &seal, &metrics));
                }
            }
            (partitions, results)
        })
        .await?;
        work.partitions = partitions;
        Ok(results)
    }
}

/// Compares a partition's checkpoint with the next record of the log, or with the log's end.
async fn verify(
    partition: &mut RawPartition,
    number: i32,
    record: Option<&LogRecord>,
    group: &dyn Group,
    ends: &mut PartitionEnds,
) -> Result<(), Fault> {
    let Some(unverified) = &mut partition.unverified else {
        return Ok(());
    };
    let (committed, stored) = (partition.position, unverified.checkpoint().position);
    let verification = record.map_or(Verification::Refuted, |record| {
        unverified.compare(record.offset + 1, || record.fingerprint())
    });
    let from = match (verification, record) {
        (Verification::Pass, Some(record)) => {
            partition.remember(record);
            return Ok(());
        }
        (Verification::Confirmed, Some(record)) => {
            warn!(
                partition = number,
                committed,
                stored,
                "the group is behind the process checkpoint; continuing at the checkpoint"
            );
            partition.unverified = None;
            partition.position = stored;
            partition.remember(record);
            return group.transact(Vec::new(), &[(number, stored)]).await;
        }
        (Verification::Seek(offset), Some(record)) => {
            // What was read so far is too far back to be of use.
            if record.offset < offset {
                partition.window = Window::new(WINDOW * 2);
            }
            offset
        }
        _ => {
            warn!(
                partition = number,
                committed,
                stored,
                "the process checkpoint does not match this log; continuing at the group's offset"
            );
            *partition = RawPartition::new(committed, None);
            partition.start()
        }
    };
    group.seek(number, from).await?;
    ends.reads_from(number, from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn same_msgid_in_two_corps_is_two_messages() {
        let mut partition = RawPartition::new(0, None);
        let record = LogRecord {
            partition: 0,
            offset: 0,
            timestamp: 0,
            key: Bytes::from_static(b"m1"),
            value: Bytes::from_static(b"{}"),
            corp_id: "wwa".to_owned(),
            seq: 1,
            link: None,
            retry: None,
        };
        partition.remember(&record);
        let (hash, body) = (msg_hash("m1"), body_hash(&sealed(&record)));
        assert!(partition.window("wwa").is_duplicate(hash, || body));
        assert!(!partition.window("wwb").is_duplicate(hash, || body));
        assert!(partition.window("wwa").opened(hash) && partition.window("wwb").opened(hash));
    }
}
