//! One topic into one sink: a lane for each partition, its checkpoint in the group's own commits.
//!
//! The committed offset is the lane's position, and what is about to be written stands in the
//! commit's metadata (design decision 4), so whoever is given the partition next repeats exactly
//! that. A commit is refused to a process that no longer owns the partition: it then writes nothing.
//!
//! The sink keeps a mark for each lane beside the rows. Where it is further than the group (set back
//! by hand, or lost), the lane goes on behind it: setting a group back adds no row. To have a sink
//! written again, its marks are removed with its rows.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use chatledger_crypto::{SealRing, UnsealError};
use chatledger_schemas::ledger::ChainAnchor;
use chatledger_schemas::{CorpId, DeadLetterRecord};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::{Assigned, Ending, Ends, Event, Group, Join, LogRecord, Topic, supervised};
use crate::batch::{Batch, Extent};
use crate::delivery::{Delivery, Flushed, Limits};
use crate::fault::{Fault, until_done};
use crate::lane::{Checkpoint, Cut};
use crate::mark::{Claim, Mark, Step};
use crate::metrics::Metrics;
use crate::ports::{CutWriter, Journal, Marks};
use crate::shared::Progress;

/// Records decoded together.
const GATHER: usize = 1000;
/// How long to wait for the group in one go.
const TICK: Duration = Duration::from_millis(50);
/// How long a write may take before the group is kept alive beside it.
const PATIENCE: Duration = Duration::from_secs(5);

/// One topic into one sink.
pub struct SinkStage {
    /// The sink's name, also the metric label.
    pub sink: &'static str,
    /// The topic; one of messages, violations and dead letters.
    pub topic: Topic,
    /// Membership in the sink's group on the topic.
    pub join: Join,
    /// What the topic's values are opened with.
    pub seal: Arc<SealRing>,
    /// When a cut is complete.
    pub limits: Limits,
    /// Makes the writing end for a lane.
    pub writer: Box<dyn Fn() -> Box<dyn CutWriter> + Send + Sync>,
    /// Where the sink keeps how far it has been written.
    pub marks: Arc<dyn Marks>,
    /// How far each corp is.
    pub progress: Arc<BTreeMap<CorpId, Arc<Progress>>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// When it ends.
    pub ending: Ending,
}

/// Positions of a lane count records, so offset + 1: position `p` is also the next offset.
struct PartitionLane {
    log: String,
    delivery: Delivery,
    journal: GroupJournal,
    /// What the group has committed, as long as a mark that says more has not been looked into.
    claim: Option<(Claim, Checkpoint)>,
    gathered: Vec<LogRecord>,
    newest: BTreeMap<CorpId, (u64, i64)>,
}

struct GroupJournal {
    group: Arc<dyn Group>,
    partition: i32,
}

impl Journal for GroupJournal {
    fn save(&mut self, checkpoint: Checkpoint) -> BoxFuture<'_, Result<(), Fault>> {
        async move {
            let metadata = match checkpoint.cut {
                Some(cut) => serde_json::to_string(&cut).map_err(Fault::local)?,
                None => String::new(),
            };
            self.group
                .save(self.partition, checkpoint.position, metadata)
                .await
        }
        .boxed()
    }
}

impl SinkStage {
    /// Runs until stopped or, in a drain, until the topic has nothing more.
    pub async fn run(self) {
        supervised(self.sink, &self.join, &self.ending, |group| {
            self.work(group)
        })
        .await;
    }

    async fn work(&self, group: Arc<dyn Group>) -> Result<(), Fault> {
        let mut lanes: BTreeMap<i32, PartitionLane> = BTreeMap::new();
        let mut ends = Ends::default();
        loop {
            match group.next(TICK).await? {
                Event::Assigned(list) => {
                    ends.joined = true;
                    for assigned in list {
                        let log = format!("{}-{:05}", self.topic.name(), assigned.partition);
                        let Some(mark) = self.held(&log, &group).await? else {
                            return Ok(());
                        };
                        ends.assigned(assigned.partition, assigned.position);
                        let lane = self.lane(log, &group, &assigned, mark);
                        lanes.insert(assigned.partition, lane);
                    }
                    info!(
                        sink = self.sink,
                        topic = self.topic.name(),
                        lanes = lanes.len(),
                        "partitions taken up"
                    );
                }
                Event::Revoked(list) => {
                    // What has been gathered and not written down belongs to the next owner.
                    lanes.retain(|partition, _| !list.contains(partition));
                    ends.revoked(&list);
                }
                Event::Record(record) => {
                    ends.read(record.partition, record.offset);
                    if let Some(lane) = lanes.get_mut(&record.partition) {
                        if lane.claim.is_some() {
                            self.meet(lane, Some(&record), &group, &mut ends).await?;
                        } else {
                            self.gather(lane, record, &group).await?;
                        }
                    }
                }
                Event::End(partition) => {
                    ends.reached(partition);
                    if let Some(lane) = lanes.get_mut(&partition) {
                        if lane.claim.is_some() {
                            self.meet(lane, None, &group, &mut ends).await?;
                        }
                        self.push(lane, &group).await?;
                    }
                }
                Event::Idle => {
                    for lane in lanes.values_mut() {
                        self.push(lane, &group).await?;
                    }
                }
            }
            for lane in lanes.values_mut() {
                if lane.delivery.is_due() && !self.flush(lane, &group).await? {
                    return Ok(());
                }
            }
            // The bound holds for the lanes together, however many partitions there are.
            while let Some(lane) = heaviest(&mut lanes, self.limits.bytes) {
                if !self.flush(lane, &group).await? {
                    return Ok(());
                }
            }
            let drained = self.ending.upstream_ended() && {
                ends.probe(&*group).await?;
                ends.all_reached()
            };
            if drained || self.ending.stop.is_cancelled() {
                for lane in lanes.values_mut() {
                    self.push(lane, &group).await?;
                    if !self.flush(lane, &group).await? {
                        break;
                    }
                }
                return Ok(());
            }
        }
    }

    /// The lane's mark, asked for until the sink answers; `None` if the process is stopping before.
    async fn held(&self, log: &str, group: &Arc<dyn Group>) -> Result<Option<Option<Mark>>, Fault> {
        let sink = self.sink;
        let report = |fault: &Fault, pause: Duration| {
            self.metrics.sink_failed(sink, fault.class);
            warn!(sink, log, error = %fault, ?pause, "the sink does not say how far it is");
        };
        let held = until_done(&self.ending.stop, report, || self.marks.held(log));
        alive(held, group).await
    }

    fn delivery(&self, log: &str, checkpoint: Checkpoint) -> Delivery {
        Delivery::resume(
            self.sink,
            log.to_owned(),
            checkpoint,
            self.limits,
            (self.writer)(),
            Arc::clone(&self.metrics),
        )
        .marked(Arc::clone(&self.marks))
    }

    fn lane(
        &self,
        log: String,
        group: &Arc<dyn Group>,
        assigned: &Assigned,
        mark: Option<Mark>,
    ) -> PartitionLane {
        let cut = match assigned.metadata.as_str() {
            "" => None,
            metadata => serde_json::from_str::<Cut>(metadata)
                .inspect_err(|_| {
                    let (sink, partition) = (self.sink, assigned.partition);
                    warn!(
                        sink,
                        partition, "the commit's metadata is no cut; starting anew there"
                    );
                })
                .ok(),
        };
        let checkpoint = Checkpoint {
            position: assigned.position,
            cut,
        };
        // A mark in the middle of a cut is another history's.
        let mark = mark.filter(|mark| cut.is_none_or(|cut| mark.position >= cut.last));
        let claim = Claim::new(mark, assigned.position, 1);
        PartitionLane {
            delivery: self.delivery(&log, checkpoint),
            log,
            journal: GroupJournal {
                group: Arc::clone(group),
                partition: assigned.partition,
            },
            claim: claim.map(|claim| (claim, checkpoint)),
            gathered: Vec::new(),
            newest: BTreeMap::new(),
        }
    }

    /// Holds a lane's mark against the next record of the log, or against its end.
    async fn meet(
        &self,
        lane: &mut PartitionLane,
        record: Option<&LogRecord>,
        group: &Arc<dyn Group>,
        ends: &mut Ends,
    ) -> Result<(), Fault> {
        let Some((claim, committed)) = &mut lane.claim else {
            return Ok(());
        };
        let (mark, committed, partition) = (claim.mark(), *committed, lane.journal.partition);
        let (sink, log) = (self.sink, lane.log.as_str());
        let step = record.map_or(Step::Refuted, |record| {
            claim.meet(record.offset + 1, || record.witness())
        });
        let (at, held) = (committed.position, mark.position);
        let from = match step {
            Step::Pass => return Ok(()),
            Step::Seek(offset) => offset,
            Step::Confirmed => {
                if committed.cut.is_some_and(|cut| cut.last == held) {
                    info!(sink, log, at, held, "the last cut is in the sink already");
                } else {
                    warn!(
                        sink,
                        log,
                        at,
                        held,
                        "the group stands before what the sink holds: nothing is written twice; to \
                         have it written again, remove the lane's mark with its rows"
                    );
                }
                let checkpoint = Checkpoint {
                    position: held,
                    cut: None,
                };
                lane.claim = None;
                lane.delivery = self.delivery(log, checkpoint);
                return lane.journal.save(checkpoint).await;
            }
            Step::Refuted => {
                warn!(
                    sink,
                    log,
                    at,
                    held,
                    "the sink's mark is not of this log; going on where the group stands"
                );
                lane.claim = None;
                at
            }
        };
        group.seek(partition, from).await?;
        ends.assigned(partition, from);
        Ok(())
    }

    async fn gather(
        &self,
        lane: &mut PartitionLane,
        record: LogRecord,
        group: &Arc<dyn Group>,
    ) -> Result<(), Fault> {
        let ordinal = record.offset + 1;
        let bounds: Vec<u64> = lane.delivery.lane().boundaries().collect();
        let crosses = lane.gathered.last().is_some_and(|last| {
            bounds
                .iter()
                .any(|bound| last.offset < *bound && ordinal > *bound)
        });
        if crosses {
            self.push(lane, group).await?;
        }
        lane.gathered.push(record);
        if lane.gathered.len() >= GATHER || bounds.contains(&ordinal) {
            self.push(lane, group).await?;
        }
        Ok(())
    }

    async fn push(&self, lane: &mut PartitionLane, group: &Arc<dyn Group>) -> Result<(), Fault> {
        let records = std::mem::take(&mut lane.gathered);
        if records.is_empty() {
            return Ok(());
        }
        let (topic, seal) = (self.topic, Arc::clone(&self.seal));
        let witness = records.last().map_or(0, LogRecord::witness);
        let batch = tokio::task::spawn_blocking(move || decode(topic, &records, &seal))
            .await
            .map_err(Fault::local)??;
        let Some(batch) = batch else { return Ok(()) };
        for message in &batch.messages {
            let newest = lane
                .newest
                .entry(message.corp_id.clone())
                .or_insert((0, i64::MIN));
            *newest = (newest.0.max(message.seq), newest.1.max(message.msgtime));
        }
        let batch = Arc::new(batch);
        while !lane.delivery.push(&batch).await? {
            if !self.flush(lane, group).await? {
                return Ok(());
            }
        }
        lane.delivery.ends_with(witness);
        Ok(())
    }

    /// Writes a lane's cut; if that takes long, the group is kept alive beside it. False if the
    /// process is stopping without waiting for the sink.
    async fn flush(&self, lane: &mut PartitionLane, group: &Arc<dyn Group>) -> Result<bool, Fault> {
        let flush = lane.delivery.flush(&mut lane.journal, &self.ending.abandon);
        let flushed = alive(flush, group).await??;
        if let Flushed::Delivered(_) = flushed {
            for (corp, (seq, newest)) in &lane.newest {
                if let Some(progress) = self.progress.get(corp) {
                    progress.reached(self.sink, *seq, Some(*newest));
                }
            }
        }
        Ok(flushed != Flushed::Cancelled)
    }
}

/// Awaits what a sink has to do; if that takes long, the group is kept alive beside it.
async fn alive<T>(work: impl Future<Output = T>, group: &Arc<dyn Group>) -> Result<T, Fault> {
    let beside = async {
        tokio::time::sleep(PATIENCE).await;
        group.keep_alive().await
    };
    tokio::select! {
        done = work => Ok(done),
        fault = beside => Err(fault),
    }
}

/// The lane that holds most, if together they hold more than `bytes`. Not one that repeats a cut,
/// which ends where it ended.
fn heaviest(lanes: &mut BTreeMap<i32, PartitionLane>, bytes: usize) -> Option<&mut PartitionLane> {
    let held = |lane: &PartitionLane| lane.delivery.bytes();
    if lanes.values().map(held).sum::<usize>() < bytes {
        return None;
    }
    lanes
        .values_mut()
        .filter(|lane| {
            let state = lane.delivery.lane();
            state.open().is_some() && state.repeating().is_none()
        })
        .max_by_key(|lane| held(lane))
}

fn decode(topic: Topic, records: &[LogRecord], seal: &SealRing) -> Result<Option<Batch>, Fault> {
    fn rows<T: DeserializeOwned>(
        topic: Topic,
        records: &[LogRecord],
        seal: &SealRing,
    ) -> Result<Vec<T>, Fault> {
        let read = |record: &LogRecord| {
            let value = if topic.is_sealed() {
                let opened = seal.open(topic.name(), &record.key, &record.value);
                opened.map_err(|source| {
                    Fault::new(Unopened {
                        topic: topic.name(),
                        partition: record.partition,
                        offset: record.offset,
                        source,
                    })
                })?
            } else {
                Cow::Borrowed(&record.value[..])
            };
            serde_json::from_slice(&value).map_err(|error| {
                // The text of the error may hold what stands in the record: keep only its place.
                Fault::new(Foreign {
                    partition: record.partition,
                    offset: record.offset,
                    column: error.column(),
                })
            })
        };
        records.iter().map(read).collect()
    }
    let extent = Extent::over(records.iter().map(|record| {
        (
            record.offset + 1,
            std::str::from_utf8(&record.key).unwrap_or_default(),
        )
    }));
    let Some(extent) = extent else {
        return Ok(None);
    };
    let mut batch = Batch::empty(extent);
    for record in records {
        if let Some(link) = record.link {
            batch.anchors.push(ChainAnchor {
                corp_id: CorpId::from(record.corp_id.as_str()),
                seq: record.seq,
                link,
            });
        }
    }
    match topic {
        Topic::Messages => batch.messages = rows(topic, records, seal)?,
        Topic::Violations => batch.violations = rows(topic, records, seal)?,
        Topic::DeadLetter => {
            for row in rows(topic, records, seal)? {
                match row {
                    DeadLetterRecord::DeadLetter(letter) => batch.dead_letters.push(letter),
                    DeadLetterRecord::Event(event) => batch.events.push(event),
                }
            }
        }
        Topic::Raw | Topic::Cursor | Topic::Directory | Topic::Ledger | Topic::Marks => {}
    }
    Ok(Some(batch))
}

/// A value that the deployment's seal keys do not open stops the sink rather than being skipped.
#[derive(Debug, thiserror::Error)]
#[error("the value on [{topic}] at partition {partition}, offset {offset} cannot be read")]
struct Unopened {
    topic: &'static str,
    partition: i32,
    offset: u64,
    source: UnsealError,
}

impl chatledger_schemas::Classified for Unopened {
    fn class(&self) -> chatledger_schemas::FaultClass {
        chatledger_schemas::FaultClass::Stop
    }
}

/// A record on one of our topics that none of our programs wrote.
#[derive(Debug, thiserror::Error)]
#[error(
    "the record at partition {partition}, offset {offset} is of another form (column {column})"
)]
pub(super) struct Foreign {
    pub(super) partition: i32,
    pub(super) offset: u64,
    pub(super) column: usize,
}

impl chatledger_schemas::Classified for Foreign {
    fn class(&self) -> chatledger_schemas::FaultClass {
        chatledger_schemas::FaultClass::Stop
    }
}
