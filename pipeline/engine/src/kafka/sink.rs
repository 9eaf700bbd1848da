//! One topic into one sink: a lane for each partition, with its checkpoint in the group's commits.
//!
//! The committed offset is the lane's position, and the commit's metadata holds the pending batch.
//! The next owner of the partition repeats exactly that batch. A commit is refused to a process that
//! no longer owns the partition, so that process writes nothing more.
//!
//! The sink also stores a checkpoint for each lane beside the rows. If it is ahead of the group
//! (whose offsets were reset by hand, or lost), the lane continues there: resetting a group adds no
//! row. To have a sink written again, remove its checkpoints together with its rows.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chatledger_crypto::SealRing;
use chatledger_schemas::CorpId;
use futures::FutureExt;
use futures::future::BoxFuture;
use tracing::{info, warn};

use super::rows::decode;
use super::{
    Assigned, Ending, Group, GroupEvent, Join, LogRecord, PartitionEnds, Topic, cpu, supervised,
};
use crate::batch::BatchRange;
use crate::delivery::{Delivery, Flushed};
use crate::fault::{Fault, retry};
use crate::lane::LaneCheckpoint;
use crate::metrics::Metrics;
use crate::ports::Journal;
use crate::shared::{Progress, newest_plausible};
use crate::sink::Sink;
use crate::sink_checkpoint::{SinkCheckpoint, UnverifiedCheckpoint, Verification};

/// Records decoded together.
const GATHER: usize = 1000;
/// Longest wait for the next event of the group.
const TICK: Duration = Duration::from_millis(50);
/// A write that takes longer than this keeps the group alive meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// One topic into one sink.
pub struct SinkStage {
    /// The sink.
    pub sink: Sink,
    /// The topic; that of one of the sink's streams.
    pub topic: Topic,
    /// Joins the sink's group on the topic.
    pub join: Join,
    /// The keys that open the topic's values.
    pub seal: Arc<SealRing>,
    /// The progress of each corp.
    pub progress: Arc<BTreeMap<CorpId, Arc<Progress>>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// When it ends.
    pub ending: Ending,
}

/// A lane of one partition. Its positions are offsets + 1, so position `p` is also the next offset.
struct PartitionLane {
    log: String,
    delivery: Delivery,
    journal: GroupJournal,
    /// A sink checkpoint ahead of the group, until the log has confirmed or refuted it.
    unverified: Option<Unverified>,
    /// Records read and not decoded yet.
    gathered: Vec<LogRecord>,
    /// Highest `seq` and newest message time of each corp.
    newest: BTreeMap<CorpId, (u64, Option<i64>)>,
}

struct Unverified {
    checkpoint: UnverifiedCheckpoint,
    /// Where the lane continues if the checkpoint is refuted.
    committed: LaneCheckpoint,
}

/// A journal in the offset commits of a consumer group.
struct GroupJournal {
    group: Arc<dyn Group>,
    partition: i32,
}

impl Journal for GroupJournal {
    fn save(&mut self, checkpoint: LaneCheckpoint) -> BoxFuture<'_, Result<(), Fault>> {
        async move {
            let metadata = match checkpoint.pending {
                Some(range) => serde_json::to_string(&range).map_err(Fault::local)?,
                None => String::new(),
            };
            self.group
                .save(self.partition, checkpoint.position, metadata)
                .await
        }
        .boxed()
    }
}

/// Whether a stage goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Continue {
    Yes,
    /// The process is stopping without waiting for the sink, or the stage has ended.
    No,
}

impl SinkStage {
    /// Runs until stopped or, in a drain, until the topic has no more records.
    pub async fn run(self) {
        supervised(self.sink.name, &self.join, &self.ending, |group| {
            self.work(group)
        })
        .await;
    }

    async fn work(&self, group: Arc<dyn Group>) -> Result<(), Fault> {
        let mut lanes: BTreeMap<i32, PartitionLane> = BTreeMap::new();
        let mut ends = PartitionEnds::default();
        loop {
            let event = group.next(TICK).await?;
            if self.handle(event, &group, &mut lanes, &mut ends).await? == Continue::No
                || self.flush_due(&group, &mut lanes).await? == Continue::No
            {
                return Ok(());
            }
            let drained = self.ending.upstream_ended() && {
                ends.probe(&*group).await?;
                ends.all_reached()
            };
            if drained || self.ending.stop.is_cancelled() {
                for lane in lanes.values_mut() {
                    self.push(lane, &group).await?;
                    if self.flush(lane, &group).await? == Continue::No {
                        break;
                    }
                }
                return Ok(());
            }
        }
    }

    async fn handle(
        &self,
        event: GroupEvent,
        group: &Arc<dyn Group>,
        lanes: &mut BTreeMap<i32, PartitionLane>,
        ends: &mut PartitionEnds,
    ) -> Result<Continue, Fault> {
        match event {
            GroupEvent::Assigned(list) => {
                ends.joined = true;
                for assigned in list {
                    let log = format!("{}-{:05}", self.topic.name(), assigned.partition);
                    let Loaded::Checkpoint(checkpoint) = self.load(&log, group).await? else {
                        return Ok(Continue::No);
                    };
                    ends.reads_from(assigned.partition, assigned.position);
                    let lane = self.lane(log, group, &assigned, checkpoint);
                    lanes.insert(assigned.partition, lane);
                }
                let (sink, topic) = (self.sink.name, self.topic.name());
                info!(sink, topic, lanes = lanes.len(), "partitions assigned");
            }
            GroupEvent::Revoked(list) => {
                // The next owner reads again what was gathered and not recorded.
                lanes.retain(|partition, _| !list.contains(partition));
                ends.revoked(&list);
            }
            GroupEvent::Record(record) => {
                ends.reads_from(record.partition, record.offset + 1);
                if let Some(lane) = lanes.get_mut(&record.partition) {
                    if lane.unverified.is_some() {
                        self.verify(lane, Some(&record), group, ends).await?;
                    } else {
                        self.gather(lane, record, group).await?;
                    }
                }
            }
            GroupEvent::End(partition) => {
                ends.reached(partition);
                if let Some(lane) = lanes.get_mut(&partition) {
                    self.verify(lane, None, group, ends).await?;
                    self.push(lane, group).await?;
                }
            }
            GroupEvent::Idle => {
                for lane in lanes.values_mut() {
                    self.push(lane, group).await?;
                }
            }
        }
        Ok(Continue::Yes)
    }

    /// Flushes lanes that are due, then the largest ones while all together exceed the memory limit,
    /// however many partitions there are.
    async fn flush_due(
        &self,
        group: &Arc<dyn Group>,
        lanes: &mut BTreeMap<i32, PartitionLane>,
    ) -> Result<Continue, Fault> {
        for lane in lanes.values_mut() {
            if lane.delivery.is_due() && self.flush(lane, group).await? == Continue::No {
                return Ok(Continue::No);
            }
        }
        while let Some(lane) = largest(lanes, self.sink.limits.bytes) {
            if self.flush(lane, group).await? == Continue::No {
                return Ok(Continue::No);
            }
        }
        Ok(Continue::Yes)
    }

    /// Loads the lane's sink checkpoint; retries until the sink answers.
    async fn load(&self, log: &str, group: &Arc<dyn Group>) -> Result<Loaded, Fault> {
        let sink = self.sink.name;
        let report = |fault: &Fault, pause: Duration| {
            self.metrics.sink_failed(sink, fault.class);
            warn!(sink, log, error = %fault, ?pause, "cannot load the sink checkpoint; retrying");
        };
        let loaded = retry(&self.ending.stop, report, || {
            self.sink.checkpoints.load(log)
        });
        Ok(match keep_alive(loaded, group).await? {
            Some(checkpoint) => Loaded::Checkpoint(checkpoint),
            None => Loaded::Stopping,
        })
    }

    fn delivery(&self, log: &str, checkpoint: LaneCheckpoint) -> Delivery {
        let metrics = Arc::clone(&self.metrics);
        Delivery::resume(&self.sink, log.to_owned(), checkpoint, metrics)
            .with_checkpoints(Arc::clone(&self.sink.checkpoints))
    }

    fn lane(
        &self,
        log: String,
        group: &Arc<dyn Group>,
        assigned: &Assigned,
        stored: Option<SinkCheckpoint>,
    ) -> PartitionLane {
        let committed = LaneCheckpoint {
            position: assigned.position,
            pending: self.pending(assigned),
        };
        // A checkpoint inside the pending batch belongs to another history of the lane.
        let stored = stored.filter(|stored| {
            let end = committed.pending.map(|range| range.last);
            end.is_none_or(|end| stored.position >= end)
        });
        let unverified = UnverifiedCheckpoint::new(stored, assigned.position, 1);
        PartitionLane {
            delivery: self.delivery(&log, committed),
            log,
            journal: GroupJournal {
                group: Arc::clone(group),
                partition: assigned.partition,
            },
            unverified: unverified.map(|checkpoint| Unverified {
                checkpoint,
                committed,
            }),
            gathered: Vec::new(),
            newest: BTreeMap::new(),
        }
    }

    /// The pending batch in a commit's metadata.
    fn pending(&self, assigned: &Assigned) -> Option<BatchRange> {
        if assigned.metadata.is_empty() {
            return None;
        }
        let pending = serde_json::from_str(&assigned.metadata);
        if pending.is_err() {
            let (sink, partition) = (self.sink.name, assigned.partition);
            warn!(
                sink,
                partition, "the commit's metadata is not a pending batch; gathering a new one"
            );
        }
        pending.ok()
    }

    /// Compares a lane's sink checkpoint with the next record of the log, or with the log's end.
    async fn verify(
        &self,
        lane: &mut PartitionLane,
        record: Option<&LogRecord>,
        group: &Arc<dyn Group>,
        ends: &mut PartitionEnds,
    ) -> Result<(), Fault> {
        let Some(unverified) = &mut lane.unverified else {
            return Ok(());
        };
        let (committed, partition) = (unverified.committed, lane.journal.partition);
        let stored = unverified.checkpoint.checkpoint().position;
        let (sink, log) = (self.sink.name, lane.log.as_str());
        let verification = record.map_or(Verification::Refuted, |record| {
            let fingerprint = || record.fingerprint();
            unverified
                .checkpoint
                .compare(record.offset + 1, fingerprint)
        });
        let from = match verification {
            Verification::Pass => return Ok(()),
            Verification::Seek(offset) => offset,
            Verification::Confirmed => {
                if committed.pending.is_some_and(|range| range.last == stored) {
                    info!(
                        sink,
                        log, stored, "the pending batch is in the sink already"
                    );
                } else {
                    warn!(
                        sink,
                        log,
                        committed = committed.position,
                        stored,
                        "the group is behind the sink checkpoint; continuing at the checkpoint. To \
                         write these rows again, remove the checkpoint together with the rows"
                    );
                }
                let checkpoint = LaneCheckpoint::at(stored);
                lane.unverified = None;
                lane.delivery = self.delivery(log, checkpoint);
                return lane.journal.save(checkpoint).await;
            }
            Verification::Refuted => {
                warn!(
                    sink,
                    log,
                    committed = committed.position,
                    stored,
                    "the sink checkpoint does not match this log; continuing at the group's offset"
                );
                lane.unverified = None;
                committed.position
            }
        };
        group.seek(partition, from).await?;
        ends.reads_from(partition, from);
        Ok(())
    }

    /// Adds a record to those decoded next. A group decoded together never crosses a boundary of
    /// the lane.
    async fn gather(
        &self,
        lane: &mut PartitionLane,
        record: LogRecord,
        group: &Arc<dyn Group>,
    ) -> Result<(), Fault> {
        let position = record.offset + 1;
        let bounds: Vec<u64> = lane.delivery.lane().boundaries().collect();
        let crosses = lane.gathered.last().is_some_and(|last| {
            bounds
                .iter()
                .any(|bound| last.offset < *bound && position > *bound)
        });
        if crosses {
            self.push(lane, group).await?;
        }
        lane.gathered.push(record);
        if lane.gathered.len() >= GATHER || bounds.contains(&position) {
            self.push(lane, group).await?;
        }
        Ok(())
    }

    /// Decodes the gathered records and adds them to the lane's open batch.
    async fn push(&self, lane: &mut PartitionLane, group: &Arc<dyn Group>) -> Result<(), Fault> {
        let records = std::mem::take(&mut lane.gathered);
        if records.is_empty() {
            return Ok(());
        }
        let (topic, seal) = (self.topic, Arc::clone(&self.seal));
        let fingerprint = records.last().map_or(0, LogRecord::fingerprint);
        let batch = cpu::run(move || decode(topic, &records, &seal)).await??;
        let Some(batch) = batch else { return Ok(()) };
        for message in &batch.messages {
            let newest = lane
                .newest
                .entry(message.corp_id.clone())
                .or_insert((0, None));
            let msgtime = newest_plausible(std::iter::once(message.msgtime));
            *newest = (newest.0.max(message.seq), newest.1.max(msgtime));
        }
        let batch = Arc::new(batch);
        while !lane.delivery.push(&batch).await? {
            if self.flush(lane, group).await? == Continue::No {
                return Ok(());
            }
        }
        lane.delivery.set_fingerprint(fingerprint);
        Ok(())
    }

    /// Flushes a lane's open batch. If that takes long, the group is kept alive meanwhile.
    async fn flush(
        &self,
        lane: &mut PartitionLane,
        group: &Arc<dyn Group>,
    ) -> Result<Continue, Fault> {
        let flush = lane.delivery.flush(&mut lane.journal, &self.ending.abandon);
        match keep_alive(flush, group).await?? {
            Flushed::Delivered(_) => {
                for (corp, (seq, newest)) in &lane.newest {
                    if let Some(progress) = self.progress.get(corp) {
                        progress.reached(self.sink.name, *seq, *newest);
                    }
                }
                Ok(Continue::Yes)
            }
            Flushed::Nothing => Ok(Continue::Yes),
            Flushed::Cancelled => Ok(Continue::No),
        }
    }
}

/// The result of loading a sink checkpoint.
enum Loaded {
    Checkpoint(Option<SinkCheckpoint>),
    /// The process is stopping.
    Stopping,
}

/// Awaits work of a sink. If it takes long, the group is kept alive meanwhile.
async fn keep_alive<T>(work: impl Future<Output = T>, group: &Arc<dyn Group>) -> Result<T, Fault> {
    let beside = async {
        tokio::time::sleep(PATIENCE).await;
        group.keep_alive().await
    };
    tokio::select! {
        biased;
        done = work => Ok(done),
        fault = beside => Err(fault),
    }
}

/// The lane with the largest open batch, if all lanes together use `bytes` or more. A lane that
/// repeats a pending batch is left out: it ends where it ended before.
fn largest(lanes: &mut BTreeMap<i32, PartitionLane>, bytes: usize) -> Option<&mut PartitionLane> {
    let used = |lane: &PartitionLane| lane.delivery.bytes();
    if lanes.values().map(used).sum::<usize>() < bytes {
        return None;
    }
    lanes
        .values_mut()
        .filter(|lane| {
            let state = lane.delivery.lane();
            state.open().is_some() && state.repeating().is_none()
        })
        .max_by_key(|lane| used(lane))
}
