//! `[raw]` to `[messages]`, `[violations]` and `[deadletter]`: one transaction a batch.
//!
//! The time at which the broker took a record is the time it was pulled, so a batch that is
//! processed again gives the same rows.
//!
//! Each transaction also says on `[checkpoints]` how far its partitions are, so a group that is set back
//! processes nothing a second time: what lies before the checkpoint only fills the window of repeats.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chatledger_crypto::{Opener, SealRing};
use chatledger_directory::Directory;
use chatledger_rules::RuleSet;
use chatledger_schemas::directory::{DirectoryRow, Room, RoomKind};
use chatledger_schemas::ledger::{LedgerRecord, Link, Settled};
use chatledger_schemas::{CorpId, SealedRecord};
use serde::Serialize;
use tokio::time::Instant;
use tracing::{info, warn};

use super::process_checkpoints::{ProcessCheckpointReader, process_checkpoint_record};
use super::{Ending, Ends, Group, GroupEvent, Join, LogRecord, OutRecord, Topic, cpu, supervised};
use crate::failpoint;
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::shared::{Current, Totals};
use crate::sink_checkpoint::{SinkCheckpoint, UnverifiedCheckpoint, Verification};
use crate::stages::{Processed, PulledRecord, Tools, process};
use crate::window::{Window, body_hash, msg_hash};

/// Records of one transaction at most.
const BATCH: usize = 4000;
/// How long to wait for a batch to fill.
const LINGER: Duration = Duration::from_millis(100);
/// How long to wait for the group in one go.
const TICK: Duration = Duration::from_millis(50);
/// Records before the committed position that are read again to recognise repeats; a repeat has the
/// same key and so the same partition.
pub const WINDOW: usize = 10_000;

/// A corp's keys and directory.
pub struct CorpTools {
    /// Its keys.
    pub opener: Arc<dyn Opener>,
    /// Who is who there.
    pub directory: Arc<Current<Directory>>,
}

/// The stage `process`.
pub struct ProcessStage {
    /// Membership in the group on `[raw]`.
    pub join: Join,
    /// Reads `[checkpoints]` from its beginning, outside any group.
    pub checkpoints: ProcessCheckpointReader,
    /// The corps by id.
    pub corps: Arc<HashMap<String, CorpTools>>,
    /// What messages and violations are sealed with.
    pub seal: Arc<SealRing>,
    /// What is looked for.
    pub rules: Arc<Current<RuleSet>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The counts.
    pub totals: Arc<Totals>,
    /// When it ends.
    pub ending: Ending,
}

/// A partition of `[raw]` in this process's hands.
struct Partition {
    /// Records before this offset only fill the window.
    position: u64,
    window: Window,
    /// A checkpoint that is further, as long as it has not been looked into.
    unverified: Option<UnverifiedCheckpoint>,
}

impl Partition {
    fn new(position: u64, checkpoint: Option<SinkCheckpoint>) -> Self {
        Self {
            position,
            window: Window::new(WINDOW * 2),
            unverified: UnverifiedCheckpoint::new(checkpoint, position, WINDOW as u64),
        }
    }

    /// Only tells the window of a record.
    fn remember(&mut self, record: &LogRecord) {
        let sealed = sealed(record);
        let hash = msg_hash(&sealed.msgid);
        self.window.logged(hash, body_hash(&sealed));
    }

    /// Where reading starts, so that the window is filled before the position.
    fn start(&self) -> u64 {
        self.position.saturating_sub(WINDOW as u64)
    }
}

/// Records of one corp in one partition, in order.
type Run = (i32, String, Vec<LogRecord>);

impl ProcessStage {
    /// Runs until stopped or, in a drain, until `[raw]` has nothing more.
    pub async fn run(self) {
        supervised("process", &self.join, &self.ending, |group| {
            self.work(group)
        })
        .await;
    }

    async fn work(&self, group: Arc<dyn Group>) -> Result<(), Fault> {
        group.begin().await?;
        let mut partitions: BTreeMap<i32, Partition> = BTreeMap::new();
        let mut ends = Ends::default();
        let mut pending: Vec<LogRecord> = Vec::new();
        let mut since = Instant::now();
        let mut committed: Vec<(i32, u64)> = Vec::new();
        loop {
            match group.next(TICK).await? {
                GroupEvent::Assigned(list) => {
                    info!(partitions = list.len(), "raw partitions taken up");
                    ends.joined = true;
                    let checkpoints = if list.is_empty() {
                        HashMap::new()
                    } else {
                        self.checkpoints.read(&self.ending).await?
                    };
                    for assigned in list {
                        let checkpoint = checkpoints.get(&assigned.partition).copied();
                        let partition = Partition::new(assigned.position, checkpoint);
                        // A probe for the end must not skip the window.
                        ends.assigned(assigned.partition, partition.start());
                        partitions.insert(assigned.partition, partition);
                    }
                }
                GroupEvent::Revoked(list) => {
                    pending.retain(|record| !list.contains(&record.partition));
                    partitions.retain(|partition, _| !list.contains(partition));
                    ends.revoked(&list);
                }
                GroupEvent::Record(record) => {
                    ends.read(record.partition, record.offset);
                    let Some(partition) = partitions.get_mut(&record.partition) else {
                        continue;
                    };
                    if partition.unverified.is_some() {
                        meet(
                            partition,
                            record.partition,
                            Some(&record),
                            &*group,
                            &mut ends,
                        )
                        .await?;
                    } else if record.offset < partition.position {
                        partition.remember(&record);
                    } else {
                        if pending.is_empty() {
                            since = Instant::now();
                        }
                        pending.push(record);
                    }
                }
                GroupEvent::End(number) => {
                    ends.reached(number);
                    if let Some(partition) = partitions.get_mut(&number) {
                        meet(partition, number, None, &*group, &mut ends).await?;
                    }
                }
                GroupEvent::Idle => {}
            }
            let stopping = self.ending.stop.is_cancelled();
            let full = pending.len() >= BATCH || since.elapsed() >= LINGER;
            if !pending.is_empty() && (full || stopping) {
                let batch = std::mem::take(&mut pending);
                (partitions, committed) = self.batch(&*group, partitions, batch).await?;
            }
            if stopping {
                return Ok(());
            }
            if self.ending.upstream_ended() {
                ends.probe(&*group).await?;
                if ends.all_reached() && pending.is_empty() {
                    if !committed.is_empty() {
                        group.transact(Vec::new(), &committed).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    async fn batch(
        &self,
        group: &dyn Group,
        mut partitions: BTreeMap<i32, Partition>,
        records: Vec<LogRecord>,
    ) -> Result<(BTreeMap<i32, Partition>, Vec<(i32, u64)>), Fault> {
        let mut consumed: BTreeMap<i32, u64> = BTreeMap::new();
        // Records that are tried again are old: their order is not that of the rest.
        let mut runs: BTreeMap<(i32, String, bool), Vec<LogRecord>> = BTreeMap::new();
        for record in records {
            consumed.insert(record.partition, record.offset + 1);
            let again = record.retry.is_some();
            runs.entry((record.partition, record.corp_id.clone(), again))
                .or_default()
                .push(record);
        }
        let checkpoints = checkpoints(runs.values());
        let runs: Vec<Run> = runs
            .into_iter()
            .map(|((partition, corp, again), mut records)| {
                if again {
                    records.sort_by_key(|record| record.seq);
                }
                (partition, corp, records)
            })
            .collect();
        let (corps, rules) = (Arc::clone(&self.corps), self.rules.get());
        let seal = Arc::clone(&self.seal);
        let metrics = Arc::clone(&self.metrics);
        let (back, done) = cpu::run(move || {
            let mut done = Vec::with_capacity(runs.len());
            for (partition, corp, records) in runs {
                if let Some(partition) = partitions.get_mut(&partition) {
                    let run = (corp, &records[..]);
                    done.push(one(partition, run, &corps, &rules, &seal, &metrics));
                }
            }
            (partitions, done)
        })
        .await?;

        failpoint::pass("process", "batch_opened")?;
        let mut out = Vec::new();
        let mut processed = Vec::new();
        for done in done {
            let (corp, rows, what) = done?;
            out.extend(rows);
            processed.push((corp, what));
        }
        for (partition, checkpoint) in checkpoints {
            out.push(process_checkpoint_record(partition, checkpoint)?);
        }
        let consumed: Vec<(i32, u64)> = consumed.into_iter().collect();
        group.transact(out, &consumed).await?;
        for (corp, processed) in processed.iter().filter_map(|(c, p)| Some((c, p.as_ref()?))) {
            self.metrics.processed(corp, processed);
            self.totals.processed(processed);
        }
        Ok((back, consumed))
    }
}

/// How far a batch brings each of its partitions.
fn checkpoints<'a>(
    runs: impl Iterator<Item = &'a Vec<LogRecord>>,
) -> BTreeMap<i32, SinkCheckpoint> {
    let mut last: BTreeMap<i32, &LogRecord> = BTreeMap::new();
    for record in runs.filter_map(|records| records.last()) {
        let known = last.entry(record.partition).or_insert(record);
        if record.offset > known.offset {
            *known = record;
        }
    }
    let checkpoint = |record: &LogRecord| SinkCheckpoint {
        position: record.offset + 1,
        fingerprint: record.fingerprint(),
    };
    last.into_iter()
        .map(|(partition, record)| (partition, checkpoint(record)))
        .collect()
}

/// Holds a partition's checkpoint against the next record of the log, or against its end.
async fn meet(
    partition: &mut Partition,
    number: i32,
    record: Option<&LogRecord>,
    group: &dyn Group,
    ends: &mut Ends,
) -> Result<(), Fault> {
    let Some(unverified) = &mut partition.unverified else {
        return Ok(());
    };
    let (at, marked) = (partition.position, unverified.checkpoint().position);
    let step = record.map_or(Verification::Refuted, |record| {
        unverified.compare(record.offset + 1, || record.fingerprint())
    });
    let from = match (step, record) {
        (Verification::Pass, Some(record)) => {
            partition.remember(record);
            return Ok(());
        }
        (Verification::Confirmed, Some(record)) => {
            warn!(
                partition = number,
                at, marked, "the group stands before what has been processed; going on behind that"
            );
            partition.unverified = None;
            partition.position = marked;
            partition.remember(record);
            return group.transact(Vec::new(), &[(number, marked)]).await;
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
                at, marked, "the checkpoint is not of this log; going on where the group stands"
            );
            *partition = Partition::new(at, None);
            partition.start()
        }
    };
    group.seek(number, from).await?;
    ends.assigned(number, from);
    Ok(())
}

type Done = Result<(String, Vec<OutRecord>, Option<Processed>), Fault>;

/// A record of a corp that is not in the configuration stops the stage rather than being skipped.
#[derive(Debug, thiserror::Error)]
#[error("the log holds records of corp {0}, which is not configured here")]
struct UnknownCorp(String);

impl chatledger_schemas::Classified for UnknownCorp {
    fn class(&self) -> chatledger_schemas::FaultClass {
        chatledger_schemas::FaultClass::Stop
    }
}

fn one(
    partition: &mut Partition,
    (corp, records): (String, &[LogRecord]),
    corps: &HashMap<String, CorpTools>,
    rules: &RuleSet,
    seal: &SealRing,
    metrics: &Metrics,
) -> Done {
    let Some(tools) = corps.get(&corp) else {
        return Err(Fault::new(UnknownCorp(corp)));
    };
    let directory = tools.directory.get();
    let corp_id = CorpId::from(corp.as_str());
    let pulled = records
        .iter()
        .map(|record| PulledRecord {
            record: sealed(record),
            // A letter's message comes out as if it had been opened the first time.
            at: record
                .retry
                .as_ref()
                .map_or(record.timestamp, |retry| retry.first_seen),
            retry: record.retry.clone(),
            // What is read again was committed with what it became, and is not processed again.
            dead_lettered: false,
        })
        .collect();
    let tools = Tools {
        corp_id: &corp_id,
        opener: &*tools.opener,
        directory: &directory,
        rules,
    };
    let mut since = Instant::now();
    let processed = process(&tools, pulled, &mut partition.window, |stage| {
        metrics.stage(stage.as_str(), since.elapsed());
        since = Instant::now();
    });
    let link = |seq| {
        let place = records.binary_search_by_key(&seq, |record| record.seq);
        place.ok().and_then(|place| records[place].link)
    };
    let rows = processed
        .as_ref()
        .map_or_else(|| Ok(Vec::new()), |done| rows(&corp, done, &link, seal))?;
    Ok((corp, rows, processed))
}

fn sealed(record: &LogRecord) -> SealedRecord {
    SealedRecord {
        corp_id: CorpId::from(record.corp_id.as_str()),
        seq: record.seq,
        msgid: String::from_utf8_lossy(&record.key).into(),
        json: record.value.clone(),
    }
}

fn rows(
    corp: &str,
    processed: &Processed,
    link: &dyn Fn(u64) -> Option<Link>,
    seal: &SealRing,
) -> Result<Vec<OutRecord>, Fault> {
    let batch = &processed.batch;
    let mut out = Vec::with_capacity(batch.rows());
    let mut add = |topic: Topic, key: &str, seq, row: &dyn erased::Row| {
        let mut value = row.json().map_err(Fault::local)?;
        if topic.is_sealed() {
            let sealed = seal.seal(topic.name(), key.as_bytes(), value);
            value = sealed.map_err(Fault::local)?;
        }
        let value = Bytes::from(value);
        let (key, corp_id) = (key.as_bytes().to_vec(), corp.to_owned());
        out.push(OutRecord {
            topic,
            key,
            value,
            corp_id,
            seq,
            link: None,
            retry: None,
        });
        Ok::<_, Fault>(())
    };
    for message in &batch.messages {
        add(
            Topic::Messages,
            &message.conversation_id,
            message.seq,
            message,
        )?;
    }
    for violation in &batch.violations {
        add(
            Topic::Violations,
            &violation.conversation_id,
            violation.seq,
            violation,
        )?;
    }
    for letter in &batch.dead_letters {
        add(Topic::DeadLetter, &letter.msgid, letter.seq, letter)?;
    }
    for event in &batch.events {
        add(Topic::DeadLetter, &event.msgid, event.seq, event)?;
    }
    for room_id in &processed.unresolved.room_ids {
        let room = DirectoryRow::Rooms(Room {
            room_id: room_id.clone(),
            name: String::new(),
            owner_id: String::new(),
            kind: RoomKind::Wanted,
            created_at: 0,
            notice: String::new(),
            active: true,
        });
        add(
            Topic::Directory,
            &super::directory::wanted_key(corp, room_id),
            0,
            &room,
        )?;
    }
    // The last message takes the chain along, as an anchor for where it is delivered.
    if let Some(last) = batch.messages.len().checked_sub(1) {
        out[last].link = link(batch.messages[last].seq);
    }
    let settled = processed.outcomes.iter().map(|record| Settled {
        seq: record.seq,
        msgid: record.hash.to_le_bytes(),
        outcome: record.outcome,
        row: record.row,
    });
    out.push(OutRecord {
        topic: Topic::Ledger,
        key: corp.as_bytes().to_vec(),
        value: Bytes::from(LedgerRecord::Settled(settled.collect()).encode()),
        corp_id: corp.to_owned(),
        seq: batch.range.last,
        link: None,
        retry: None,
    });
    Ok(out)
}

/// Rows of different types behind one pointer.
mod erased {
    use super::Serialize;

    pub(super) trait Row {
        fn json(&self) -> serde_json::Result<Vec<u8>>;
    }

    impl<T: Serialize> Row for T {
        fn json(&self) -> serde_json::Result<Vec<u8>> {
            serde_json::to_vec(self)
        }
    }
}
