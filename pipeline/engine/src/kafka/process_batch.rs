//! One batch of `process`: its records, run by run, to the records of its transaction.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use chatledger_crypto::SealRing;
use chatledger_rules::RuleSet;
use chatledger_schemas::directory::{DirectoryRow, Room, RoomKind};
use chatledger_schemas::ledger::{ChainLink, LedgerRecord};
use chatledger_schemas::{Classified, CorpId, FaultClass, SealedRecord};
use serde::Serialize;
use tokio::time::Instant;

use super::process::{CorpTools, RawPartition};
use super::{LogRecord, OutRecord, Topic};
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::sink_checkpoint::SinkCheckpoint;
use crate::stages::{Processed, ProcessedRecord, PulledRecord, Tools, process};

/// Records of one corp in one partition, ascending by `seq`.
pub(super) struct Run {
    pub(super) partition: i32,
    corp: String,
    records: Vec<LogRecord>,
}

/// What became of a run.
pub(super) struct RunResult {
    pub(super) corp: String,
    /// What is written to the log.
    pub(super) records: Vec<OutRecord>,
    /// `None` if there were no records.
    pub(super) processed: Option<Processed>,
}

/// A record of a corp that is not configured stops the stage; it is not skipped.
#[derive(Debug, thiserror::Error)]
#[error("the log holds records of corp {0}, which is not configured here")]
struct UnknownCorp(String);

impl Classified for UnknownCorp {
    fn class(&self) -> FaultClass {
        FaultClass::Stop
    }
}

/// Divides records into runs. Dead letters that are replayed form runs of their own: they are old
/// and not in the order of the others.
pub(super) fn runs(records: Vec<LogRecord>) -> Vec<Run> {
    let mut runs: BTreeMap<(i32, String, bool), Vec<LogRecord>> = BTreeMap::new();
    for record in records {
        let replayed = record.retry.is_some();
        runs.entry((record.partition, record.corp_id.clone(), replayed))
            .or_default()
            .push(record);
    }
    runs.into_iter()
        .map(|((partition, corp, replayed), mut records)| {
            if replayed {
                records.sort_by_key(|record| record.seq);
            }
            Run {
                partition,
                corp,
                records,
            }
        })
        .collect()
}

/// The position that a batch reaches in each of its partitions.
pub(super) fn last_positions(records: &[LogRecord]) -> BTreeMap<i32, SinkCheckpoint> {
    let mut last: BTreeMap<i32, &LogRecord> = BTreeMap::new();
    for record in records {
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

/// Takes a run through the stages.
pub(super) fn process_run(
    partition: &mut RawPartition,
    run: Run,
    corps: &HashMap<String, CorpTools>,
    rules: &RuleSet,
    seal: &SealRing,
    metrics: &Metrics,
) -> Result<RunResult, Fault> {
    let Run { corp, records, .. } = run;
    let Some(tools) = corps.get(&corp) else {
        return Err(Fault::new(UnknownCorp(corp)));
    };
    let directory = tools.directory.get();
    let corp_id = CorpId::from(corp.as_str());
    let pulled = records.iter().map(pulled).collect();
    let tools = Tools {
        corp_id: &corp_id,
        opener: &*tools.opener,
        directory: &directory,
        rules,
    };
    let mut since = Instant::now();
    let processed = process(&tools, pulled, partition.window(&corp), |stage| {
        metrics.stage(stage.as_str(), since.elapsed());
        since = Instant::now();
    });
    let link = |seq| {
        let index = records.binary_search_by_key(&seq, |record| record.seq);
        index.ok().and_then(|index| records[index].link)
    };
    let records = match &processed {
        Some(processed) => out_records(&corp, processed, &link, seal)?,
        None => Vec::new(),
    };
    Ok(RunResult {
        corp,
        records,
        processed,
    })
}

fn pulled(record: &LogRecord) -> PulledRecord {
    PulledRecord {
        record: sealed(record),
        // A replayed message gets the same times as if it had been opened the first time.
        at: record
            .retry
            .as_ref()
            .map_or(record.timestamp, |retry| retry.first_seen),
        retry: record.retry.clone(),
        // A record is committed together with its outcome and is not processed again.
        dead_lettered: false,
    }
}

pub(super) fn sealed(record: &LogRecord) -> SealedRecord {
    SealedRecord {
        corp_id: CorpId::from(record.corp_id.as_str()),
        seq: record.seq,
        msgid: String::from_utf8_lossy(&record.key).into(),
        json: record.value.clone(),
    }
}

/// The records that a run adds to the log.
fn out_records(
    corp: &str,
    processed: &Processed,
    link: &dyn Fn(u64) -> Option<ChainLink>,
    seal: &SealRing,
) -> Result<Vec<OutRecord>, Fault> {
    let batch = &processed.batch;
    let mut out = Outgoing {
        corp,
        seal,
        records: Vec::with_capacity(batch.rows() + 1),
    };
    for message in &batch.messages {
        let key = &message.conversation_id;
        out.add(Topic::Messages, key, message.seq, message)?;
    }
    for violation in &batch.violations {
        let key = &violation.conversation_id;
        out.add(Topic::Violations, key, violation.seq, violation)?;
    }
    for dead_letter in &batch.dead_letters {
        let key = &dead_letter.msgid;
        out.add(Topic::DeadLetter, key, dead_letter.seq, dead_letter)?;
    }
    for event in &batch.events {
        out.add(Topic::DeadLetter, &event.msgid, event.seq, event)?;
    }
    for room_id in &processed.unresolved.room_ids {
        let key = super::directory::wanted_key(corp, room_id);
        out.add(Topic::Directory, &key, 0, &wanted_room(room_id))?;
    }
    let mut records = out.records;
    // The last message carries the end of the chain, as an anchor in the sinks.
    if let Some(last) = batch.messages.len().checked_sub(1) {
        records[last].link = link(batch.messages[last].seq);
    }
    records.push(settled_record(corp, processed));
    Ok(records)
}

/// The record that adds the outcome of each record of a run to the ledger.
fn settled_record(corp: &str, processed: &Processed) -> OutRecord {
    let settled = processed.outcomes.iter().map(ProcessedRecord::outcome);
    OutRecord {
        topic: Topic::Ledger,
        key: corp.as_bytes().to_vec(),
        value: Bytes::from(LedgerRecord::Outcomes(settled.collect()).encode()),
        corp_id: corp.to_owned(),
        seq: processed.batch.range.last,
        link: None,
        retry: None,
    }
}

fn wanted_room(room_id: &str) -> DirectoryRow {
    DirectoryRow::Rooms(Room {
        room_id: room_id.to_owned(),
        name: String::new(),
        owner_id: String::new(),
        kind: RoomKind::Wanted,
        created_at: 0,
        notice: String::new(),
        active: true,
    })
}

/// Rows on their way to the log.
struct Outgoing<'a> {
    corp: &'a str,
    seal: &'a SealRing,
    records: Vec<OutRecord>,
}

impl Outgoing<'_> {
    fn add(
        &mut self,
        topic: Topic,
        key: &str,
        seq: u64,
        row: &impl Serialize,
    ) -> Result<(), Fault> {
        let mut value = serde_json::to_vec(row).map_err(Fault::local)?;
        if topic.is_sealed() {
            let sealed = self.seal.seal(topic.name(), key.as_bytes(), value);
            value = sealed.map_err(Fault::local)?;
        }
        self.records.push(OutRecord {
            topic,
            key: key.as_bytes().to_vec(),
            value: Bytes::from(value),
            corp_id: self.corp.to_owned(),
            seq,
            link: None,
            retry: None,
        });
        Ok(())
    }
}
