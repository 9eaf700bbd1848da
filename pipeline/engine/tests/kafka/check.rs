//! What must hold at the end: every record of the archive is in exactly one place of each sink, and
//! once in the ledger.

use std::collections::BTreeMap;

use chatledger_engine::kafka::Topic;
use chatledger_engine::sink::Stream;
use chatledger_engine::testing::archive::ExpectedOutcome;
use chatledger_engine::testing::sink::RowKind;
use chatledger_schemas::ledger::{
    ChainLink, EntryKind, LedgerEntry, LedgerRecord, Outcome, RecordOutcome,
};

use super::cluster::{CORP, Cluster, ClusterSink};

/// Compares two lists of positions, each sorted, duplicates included.
fn same(what: &str, mut found: Vec<u64>, mut expected: Vec<u64>) -> Result<(), String> {
    found.sort_unstable();
    expected.sort_unstable();
    if found == expected {
        return Ok(());
    }
    let count = |list: &[u64], seq: u64| list.iter().filter(|one| **one == seq).count();
    let mut all = [found.clone(), expected.clone()].concat();
    all.sort_unstable();
    all.dedup();
    let differing: Vec<String> = all
        .iter()
        .filter(|seq| count(&found, **seq) != count(&expected, **seq))
        .map(|seq| format!("seq {seq}: {}×", count(&found, *seq)))
        .collect();
    Err(format!("{what}: {}", differing.join(", ")))
}

fn expected(cluster: &Cluster, kind: impl Fn(ExpectedOutcome) -> bool) -> Vec<u64> {
    let records = cluster.archive.records();
    let chosen = records.iter().filter(|record| kind(record.expected));
    chosen.map(|record| record.record.seq).collect()
}

/// Checks the ledger's chain, that it has each record once, and each record's outcome once.
fn ledger(cluster: &Cluster) -> Result<(), String> {
    let records = cluster.log.records(Topic::Ledger);
    let mut pulled: Vec<LedgerEntry> = Vec::new();
    let mut settled: Vec<RecordOutcome> = Vec::new();
    for record in records.map_err(|fault| fault.to_string())? {
        match LedgerRecord::decode(&record.value).ok_or("the ledger is unreadable")? {
            LedgerRecord::Pulled(entries) => pulled.extend(entries),
            LedgerRecord::Outcomes(outcomes) => settled.extend(outcomes),
            LedgerRecord::Destroyed(destruction) => return Err(format!("{destruction:?}")),
        }
    }
    let mut link = ChainLink::genesis(CORP);
    for (number, entry) in (1..).zip(&pulled) {
        if entry.number != number || !entry.follows(&link, None) {
            return Err(format!("the chain breaks at entry {number}: {entry:?}"));
        }
        link = entry.link;
    }
    let records = pulled
        .iter()
        .filter(|entry| entry.kind == EntryKind::Record);
    let seqs: Vec<u64> = records.map(|entry| entry.seq).collect();
    same("ledger", seqs, expected(cluster, |_| true))?;
    let outcome = |wanted: Outcome| -> Vec<u64> {
        let chosen = settled
            .iter()
            .filter(|one| one.settlement.outcome == wanted);
        chosen.map(|one| one.seq).collect()
    };
    let is_message = |kind| matches!(kind, ExpectedOutcome::Message { .. });
    same(
        "outcome message",
        outcome(Outcome::Message),
        expected(cluster, is_message),
    )?;
    same(
        "outcome dead letter",
        outcome(Outcome::DeadLetter),
        expected(cluster, |kind| kind == ExpectedOutcome::DeadLetter),
    )?;
    same(
        "outcome duplicate",
        outcome(Outcome::Duplicate),
        expected(cluster, |kind| kind == ExpectedOutcome::Duplicate),
    )
}

/// Checks that a sink holds each row that it takes once.
fn sink(cluster: &Cluster, sink: &ClusterSink) -> Result<(), String> {
    let mut rows: BTreeMap<RowKind, Vec<u64>> = BTreeMap::new();
    for row in sink.sink.rows() {
        rows.entry(row.kind).or_default().push(row.seq);
    }
    for stream in sink.streams {
        let kind = match stream {
            Stream::Messages => RowKind::Message,
            Stream::Violations => RowKind::Violation,
            Stream::DeadLetters => RowKind::DeadLetter,
        };
        let wanted = expected(cluster, |outcome| match (stream, outcome) {
            (Stream::Messages, ExpectedOutcome::Message { .. })
            | (Stream::DeadLetters, ExpectedOutcome::DeadLetter) => true,
            (Stream::Violations, ExpectedOutcome::Message { violates }) => violates,
            _ => false,
        });
        let found = rows.remove(&kind).unwrap_or_default();
        same(&format!("{} {kind:?}", sink.name), found, wanted)?;
    }
    if rows.is_empty() {
        return Ok(());
    }
    Err(format!("{} holds rows that it does not take", sink.name))
}

/// Checks everything.
pub(crate) fn exactly_once(cluster: &Cluster) -> Result<(), String> {
    ledger(cluster)?;
    cluster.sinks.iter().try_for_each(|one| sink(cluster, one))
}
