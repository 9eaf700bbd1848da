//! `chatledger verify`: follows the hash chain and compares the content of rows with the ledger.
//!
//! The chain is in the ledger. Some of its links are also stored with rows (in the metadata of the
//! Parquet files), so a ledger that was rewritten does not match them. For every message the ledger
//! holds a digest of its row; the rows of every sink are compared with it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chatledger_engine::audit::AuditReader;
use chatledger_engine::audit::chain::{Alteration, Tampered, Verifier};
use chatledger_engine::shared::now_ms;
use chatledger_schemas::CorpId;
use chatledger_schemas::ledger::{
    ChainAnchor, Digest128, Outcome, RecordKey, RecordOutcome, RowDigest,
};
use serde::Serialize;

use super::{Audited, LedgerItem, LedgerReader};
use crate::cli::VerifyArgs;
use crate::commands::say;
use crate::exit::Failure;

/// The pull time of records is remembered if it is within this time, because they may still be in
/// flight.
const RECENT: Duration = Duration::from_secs(24 * 3600);
/// Findings reported; all of them are counted.
const REPORTED: usize = 50;

/// Runs the command.
pub async fn verify(args: VerifyArgs) -> Result<(), Failure> {
    let audited = Audited::load(&args.config).await?;
    let settle = args.settle.map_or_else(|| audited.patience(), Into::into);
    let mut reports = Vec::new();
    for corp in audited.corps(args.corp.as_deref())? {
        reports.push(verify_corp(&audited, &corp.id, settle).await?);
    }
    let intact = reports.iter().all(|report| report.findings.is_empty());
    if args.json {
        say(&serde_json::json!({ "intact": intact, "corps": reports }).to_string())?;
    } else {
        for report in &reports {
            print(report)?;
        }
    }
    if intact {
        Ok(())
    } else {
        Err(Failure::other(anyhow::anyhow!(
            "something is not as it was written"
        )))
    }
}

async fn verify_corp(
    audited: &Audited,
    corp: &CorpId,
    settle: Duration,
) -> Result<Report, Failure> {
    let mut report = Report::new(corp);
    let mut anchors = Vec::new();
    for (_, reader) in audited.readers() {
        anchors.extend(reader.anchors(corp).await.map_err(Failure::unreachable)?);
    }
    let known = follow(&audited.ledger, corp, anchors, &mut report).await?;
    // A record that cannot be in every sink yet is not missing.
    let due = Due {
        position: audited.ledger.delivered(corp)?,
        before: now_ms().saturating_sub(settle.as_millis() as i64),
    };
    let mut unknown = Vec::new();
    for (sink, reader) in audited.readers() {
        let unknown_there = compare(sink, reader, corp, &known, &due, &mut report).await?;
        unknown.extend(unknown_there);
    }
    if !unknown.is_empty() {
        recheck(&audited.ledger, corp, &known, unknown, &mut report).await?;
    }
    Ok(report)
}

/// A row that belongs to no record of the ledger as it was read.
struct UnknownRow {
    sink: &'static str,
    /// The part of the sink that holds it.
    part: String,
    row: RowDigest,
}

/// Compares the rows of one sink with the ledger. Returns rows that the ledger does not know.
async fn compare(
    sink: &'static str,
    reader: &dyn AuditReader,
    corp: &CorpId,
    known: &Known,
    due: &Due,
    report: &mut Report,
) -> Result<Vec<UnknownRow>, Failure> {
    let mut rows = SinkRows::new(known);
    let mut unknown = Vec::new();
    let mut found = Vec::new();
    let mut positions: Vec<u64> = known.first.keys().copied().collect();
    positions.sort_unstable();
    let mut check = |part: &str, row: RowDigest| match rows.check(&row) {
        None => {}
        Some(Tampered::Inserted) => unknown.push(UnknownRow {
            sink,
            part: part.to_owned(),
            row,
        }),
        Some(what) => found.push((what, part.to_owned(), row.key.seq)),
    };
    let unreadable = reader.rows(corp, &positions, &mut check).await;
    for part in unreadable.map_err(Failure::unreachable)? {
        report.find(Tampered::Changed, &part, 0);
    }
    for (what, part, seq) in found {
        report.find(what, &part, seq);
    }
    report.rows.push(SinkCount {
        sink,
        rows: rows.count,
    });
    let missing = rows.missing(due);
    // A sink may keep one row of a message that the archive returned twice.
    let msgids: Vec<Digest128> = missing.iter().map(|key| key.msgid).collect();
    let elsewhere = reader.at_any_position(corp, &msgids).await;
    let elsewhere = elsewhere.map_err(Failure::unreachable)?;
    for key in missing {
        if !elsewhere.contains(&key.msgid) {
            report.find(Tampered::Removed, sink, key.seq);
        }
    }
    Ok(unknown)
}

/// Reads the ledger again: records that were pulled since the first time are in it now, and their
/// rows are expected in every sink.
async fn recheck(
    ledger: &LedgerReader,
    corp: &CorpId,
    known: &Known,
    unknown: Vec<UnknownRow>,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut later = Known::default();
    ledger.read(corp, |entry| later.add(entry)).await?;
    let mut sinks: HashMap<&str, SinkRows<'_>> = HashMap::new();
    for UnknownRow { sink, part, row } in unknown {
        let rows = sinks.entry(sink).or_insert_with(|| SinkRows::new(&later));
        let is_new = known.of(row.key).is_none();
        let what = if is_new {
            rows.check(&row)
        } else {
            Some(Tampered::Inserted)
        };
        if let Some(what) = what {
            report.find(what, &part, row.key.seq);
        }
    }
    Ok(())
}

/// The result for one corp.
#[derive(Debug, Serialize)]
struct Report {
    corp_id: CorpId,
    /// Entries of the chain that were followed.
    entries: u64,
    gaps: u64,
    anchors: u64,
    /// The chain's last link.
    link: String,
    /// Rows read from each sink.
    rows: Vec<SinkCount>,
    findings_total: u64,
    findings: Vec<Alteration>,
}

#[derive(Debug, Serialize)]
struct SinkCount {
    sink: &'static str,
    rows: u64,
}

impl Report {
    fn new(corp: &CorpId) -> Self {
        Self {
            corp_id: corp.clone(),
            entries: 0,
            gaps: 0,
            anchors: 0,
            link: String::new(),
            rows: Vec::new(),
            findings_total: 0,
            findings: Vec::new(),
        }
    }

    fn find(&mut self, what: Tampered, place: &str, seq: u64) {
        self.add(Alteration {
            what,
            place: place.to_owned(),
            number: 0,
            seq,
        });
    }

    fn add(&mut self, finding: Alteration) {
        self.findings_total = self.findings_total.saturating_add(1);
        if self.findings.len() < REPORTED {
            self.findings.push(finding);
        }
    }
}

/// What the ledger holds about settled records.
#[derive(Default)]
struct Known {
    first: HashMap<u64, RecordOutcome>,
    /// Further records at one position: a record without a readable `seq` gets its neighbour's.
    further: HashMap<u64, Vec<RecordOutcome>>,
    /// When the newest records were pulled, milliseconds since the epoch, UTC.
    pulled: HashMap<u64, i64>,
    /// Pull times before this are not remembered.
    recent: i64,
}

impl Known {
    fn add(&mut self, entry: LedgerItem) {
        match entry {
            LedgerItem::Pulled(entry) if entry.at >= self.recent => {
                self.pulled.insert(entry.seq, entry.at);
            }
            LedgerItem::Pulled(_) | LedgerItem::Unreadable => {}
            LedgerItem::Settled(settled) => match self.first.entry(settled.seq) {
                Entry::Vacant(vacant) => drop(vacant.insert(settled)),
                Entry::Occupied(mut known) if known.get().msgid == settled.msgid => {
                    known.insert(settled);
                }
                Entry::Occupied(_) => {
                    let further = self.further.entry(settled.seq).or_default();
                    further.retain(|other| other.msgid != settled.msgid);
                    further.push(settled);
                }
            },
        }
    }

    fn of(&self, key: RecordKey) -> Option<&RecordOutcome> {
        let further = self.further.get(&key.seq).into_iter().flatten();
        let mut all = self.first.get(&key.seq).into_iter().chain(further);
        all.find(|settled| settled.msgid == key.msgid)
    }

    fn all(&self) -> impl Iterator<Item = &RecordOutcome> {
        self.first.values().chain(self.further.values().flatten())
    }
}

/// Follows the chain of the ledger.
async fn follow(
    reader: &LedgerReader,
    corp: &CorpId,
    anchors: Vec<(ChainAnchor, String)>,
    report: &mut Report,
) -> Result<Known, Failure> {
    let anchors = anchors
        .into_iter()
        .filter(|(anchor, _)| anchor.corp_id == *corp);
    let mut verifier = Verifier::new(corp.as_str(), anchors);
    let mut known = Known {
        recent: now_ms().saturating_sub(RECENT.as_millis() as i64),
        ..Known::default()
    };
    reader
        .read(corp, |entry| {
            match &entry {
                LedgerItem::Pulled(entry) => verifier.entry(entry),
                LedgerItem::Settled(_) => {}
                LedgerItem::Unreadable => verifier.unreadable(),
            }
            known.add(entry);
        })
        .await?;
    let followed = verifier.finish();
    report.entries = followed.entries;
    report.gaps = followed.gaps;
    report.anchors = followed.anchors;
    report.link = followed.end.link.hex();
    report.findings_total = followed.unlisted;
    for finding in followed.findings {
        report.add(finding);
    }
    Ok(known)
}

/// Which records every sink must have by now.
struct Due {
    /// Up to this position, if it is known.
    position: Option<u64>,
    /// Pulled before this, milliseconds since the epoch, UTC.
    before: i64,
}

/// The rows of one sink, compared with the ledger.
struct SinkRows<'a> {
    known: &'a Known,
    present: HashSet<RecordKey>,
    count: u64,
}

impl<'a> SinkRows<'a> {
    fn new(known: &'a Known) -> Self {
        Self {
            known,
            present: HashSet::new(),
            count: 0,
        }
    }

    /// What is wrong with a row; `None` if nothing is.
    fn check(&mut self, row: &RowDigest) -> Option<Tampered> {
        self.count += 1;
        let first = self.present.insert(row.key);
        let Some(settled) = self.known.of(row.key) else {
            let position = self.known.first.contains_key(&row.key.seq);
            return Some(if position {
                Tampered::Changed
            } else {
                Tampered::Inserted
            });
        };
        match settled.outcome {
            _ if !first => Some(Tampered::Inserted),
            Outcome::Message if settled.row != row.digest => Some(Tampered::Changed),
            // A replayed dead letter: the ledger holds no digest of its row.
            Outcome::Message | Outcome::DeadLetter => None,
            Outcome::Duplicate => Some(Tampered::Inserted),
        }
    }

    /// Messages without a row that must have one, ascending.
    fn missing(&self, due: &Due) -> Vec<RecordKey> {
        let position = due.position.unwrap_or(u64::MAX);
        let pulled = |seq| self.known.pulled.get(&seq).copied().unwrap_or_default();
        let mut missing: Vec<RecordKey> = self
            .known
            .all()
            .filter(|settled| settled.outcome == Outcome::Message && settled.seq <= position)
            .map(|settled| RecordKey {
                seq: settled.seq,
                msgid: settled.msgid,
            })
            .filter(|key| !self.present.contains(key) && pulled(key.seq) < due.before)
            .collect();
        missing.sort_unstable();
        missing
    }
}

fn print(report: &Report) -> Result<(), Failure> {
    let Report {
        corp_id,
        entries,
        anchors,
        link,
        ..
    } = report;
    let verdict = if report.findings.is_empty() {
        "as it was written"
    } else {
        "NOT as it was written"
    };
    say(&format!("corp {corp_id}: {verdict}"))?;
    say(&format!(
        "  ledger: {entries} records in the chain, {} accepted gaps, last link {link}",
        report.gaps
    ))?;
    say(&format!("  links stored with rows: {anchors}"))?;
    for SinkCount { sink, rows } in &report.rows {
        say(&format!("  {sink}: {rows} rows"))?;
    }
    for finding in &report.findings {
        let what = match finding.what {
            Tampered::Changed => "was changed",
            Tampered::Removed => "was removed",
            Tampered::Inserted => "was inserted",
            Tampered::Moved => "is not at its original position",
            Tampered::Unanchored => "does not match the chain in the ledger",
        };
        let Alteration {
            place, number, seq, ..
        } = finding;
        let which = match (finding.what, *number) {
            (Tampered::Removed, number) if number > 0 => {
                format!("record {number} (after seq {seq})")
            }
            (_, 0) => format!("seq {seq}"),
            (_, number) => format!("record {number} (seq {seq})"),
        };
        say(&format!("  {place}: {which} {what}"))?;
    }
    let more = report.findings_total - report.findings.len() as u64;
    if more > 0 {
        say(&format!("  and {more} more"))?;
    }
    Ok(())
}
