//! `chatledger verify`: follows the hash chain and compares the content of rows with the ledger.
//!
//! The chain is in the ledger. Some of its links are also stored with rows (in the metadata of the
//! Parquet files), so a ledger that was rewritten does not match them. For every record the ledger holds
//! digests of its rows; messages, violations and open dead letters of every sink are compared with them.

use std::collections::HashMap;
use std::time::Duration;

use chatledger_engine::audit::chain::{Alteration, Tampered, Verifier};
use chatledger_engine::audit::known::{Known, SinkRows, WrongRow};
use chatledger_engine::audit::{AuditReader, Content, Place, kept_elsewhere};
use chatledger_engine::shared::now_ms;
use chatledger_schemas::CorpId;
use chatledger_schemas::ledger::{
    ChainAnchor, Digest128, EntryKind, RecordKey, RowDigest, SettledChain,
};
use serde::Serialize;

use super::kept_links::{KeptLinks, KeptReport, Links, Point, Search};
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
    let kept = args.kept.as_deref().map(KeptReport::read).transpose()?;
    let mut reports = Vec::new();
    for corp in audited.corps(args.corp.as_deref())? {
        let kept = match &kept {
            Some(report) => Some(report.of(&corp.id)?),
            None => None,
        };
        reports.push(verify_corp(&audited, &corp.id, settle, kept).await?);
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
    kept: Option<&KeptLinks>,
) -> Result<Report, Failure> {
    let mut report = Report::new(corp);
    let mut anchors = Vec::new();
    for (_, reader) in audited.readers() {
        anchors.extend(reader.anchors(corp).await.map_err(Failure::unreachable)?);
    }
    // A record that cannot be in every sink yet is not missing.
    let due = Due {
        position: audited.ledger.delivered(corp)?,
        before: now_ms().saturating_sub(settle.as_millis() as i64),
    };
    let read = follow(
        &audited.ledger,
        corp,
        anchors,
        due.position,
        kept,
        &mut report,
    )
    .await?;
    for key in read.known.resettled() {
        report.find(Tampered::Resettled, "ledger", key.seq);
    }
    report.destructions = read.known.destructions() as u64;
    // On Kafka a record is processed in one transaction, and never again.
    match audited.ledger {
        LedgerReader::Files { .. } => {
            report.other_violations = read.known.other_violations().len() as u64;
        }
        LedgerReader::Topic(_) => {
            for key in read.known.other_violations() {
                report.find(Tampered::Resettled, "ledger", key.seq);
            }
        }
    }
    let mut unknown = Vec::new();
    for (sink, reader) in audited.readers() {
        for content in reader.contents() {
            if *content != Content::DiscardedDeadLetters {
                let place = Place {
                    sink,
                    content: *content,
                };
                unknown.extend(compare(place, reader, corp, &read, &due, &mut report).await?);
            }
        }
    }
    if !unknown.is_empty() {
        recheck(&audited.ledger, corp, unknown, &mut report).await?;
    }
    Ok(report)
}

/// A row that does not fit the ledger as it was read.
struct UnknownRow {
    place: Place,
    wrong: WrongRow,
    /// The digests of the record's rows there.
    rows: Vec<Digest128>,
}

/// Name of a place in findings.
fn named(place: Place) -> String {
    match place.content {
        Content::Messages => place.sink.to_owned(),
        _ => place.to_string(),
    }
}

/// Compares the rows of one place with the ledger. Returns rows that the ledger may know by now.
async fn compare(
    place: Place,
    reader: &dyn AuditReader,
    corp: &CorpId,
    read: &ReadLedger,
    due: &Due,
    report: &mut Report,
) -> Result<Vec<UnknownRow>, Failure> {
    let Place { sink, content } = place;
    let mut rows = SinkRows::new(&read.known, content);
    let mut add = |part: &str, row: RowDigest| rows.add(part, row);
    let positions = read.known.positions();
    let unreadable = reader.rows(corp, content, &positions, &mut add).await;
    for part in unreadable.map_err(Failure::unreachable)? {
        report.find(Tampered::Changed, &part, 0);
    }
    report.rows.push(RowCount {
        sink,
        content,
        rows: rows.count(),
    });
    let missing = rows.missing();
    let missing = missing.into_iter().filter(|key| read.is_due(*key, due));
    let missing: Vec<RecordKey> = missing.collect();
    let mut unknown = Vec::new();
    for wrong in rows.wrong() {
        if wrong.maybe_new {
            unknown.push(UnknownRow {
                place,
                rows: rows.digests(wrong.key).to_vec(),
                wrong,
            });
        } else {
            let part = if wrong.part == sink {
                named(place)
            } else {
                wrong.part
            };
            report.find(wrong.what, &part, wrong.key.seq);
        }
    }
    // A sink may keep one row of a message that the archive returned twice.
    let msgids: Vec<Digest128> = missing.iter().map(|key| key.msgid).collect();
    let elsewhere = reader.at_any_position(corp, &msgids).await;
    let elsewhere = kept_elsewhere(&missing, &elsewhere.map_err(Failure::unreachable)?);
    for key in missing {
        if !elsewhere.contains(&key.msgid) {
            report.find(Tampered::Removed, &named(place), key.seq);
        }
    }
    Ok(unknown)
}

/// Reads the ledger again: records that were pulled or replayed since the first time are in it now.
async fn recheck(
    ledger: &LedgerReader,
    corp: &CorpId,
    unknown: Vec<UnknownRow>,
    report: &mut Report,
) -> Result<(), Failure> {
    let mut later = Known::default();
    ledger
        .read(corp, |item| match item {
            LedgerItem::Settled(settled) => later.settled(&settled),
            LedgerItem::Destroyed { first, last, .. } => later.destroyed(first, last),
            LedgerItem::Entry(..) | LedgerItem::MaybeLost { .. } | LedgerItem::Unreadable => {}
        })
        .await?;
    for UnknownRow { place, wrong, rows } in unknown {
        let mut again = SinkRows::new(&later, place.content);
        for digest in rows {
            let key = wrong.key;
            again.add(&wrong.part, RowDigest { key, digest });
        }
        for wrong in again.wrong() {
            let in_sink = wrong.part == place.sink;
            let part = if in_sink { named(place) } else { wrong.part };
            report.find(wrong.what, &part, wrong.key.seq);
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
    /// Entries about records that were destroyed deliberately.
    destructions: u64,
    /// Messages that were settled again with other violations.
    other_violations: u64,
    anchors: u64,
    /// The chain's last link.
    link: String,
    /// Links to keep where nobody who can write the archive can: `--kept` compares a later ledger with
    /// them.
    links: Links,
    /// Rows read from each sink.
    rows: Vec<RowCount>,
    findings_total: u64,
    findings: Vec<Alteration>,
}

/// Number of rows of one content in a sink.
#[derive(Debug, Serialize)]
struct RowCount {
    sink: &'static str,
    content: Content,
    rows: u64,
}

impl Report {
    fn new(corp: &CorpId) -> Self {
        Self {
            corp_id: corp.clone(),
            entries: 0,
            gaps: 0,
            destructions: 0,
            other_violations: 0,
            anchors: 0,
            link: String::new(),
            links: Links::default(),
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

/// What was read from the ledger.
#[derive(Default)]
struct ReadLedger {
    known: Known,
    /// When the newest records were pulled, milliseconds since the epoch, UTC.
    pulled: HashMap<u64, i64>,
}

impl ReadLedger {
    /// Whether every sink must have the rows of a record by now.
    fn is_due(&self, key: RecordKey, due: &Due) -> bool {
        let pulled = self.pulled.get(&key.seq).copied().unwrap_or_default();
        key.seq <= due.position.unwrap_or(u64::MAX) && pulled < due.before
    }
}

/// Follows the chains of the ledger. `delivered` is the position that every sink has reached, if it is
/// known: entries after it may still change their places.
async fn follow(
    reader: &LedgerReader,
    corp: &CorpId,
    anchors: Vec<(ChainAnchor, String)>,
    delivered: Option<u64>,
    kept: Option<&KeptLinks>,
    report: &mut Report,
) -> Result<ReadLedger, Failure> {
    let anchors = anchors
        .into_iter()
        .filter(|(anchor, _)| anchor.corp_id == *corp);
    let mut verifier = Verifier::new(corp.as_str(), anchors);
    let mut read = ReadLedger::default();
    let recent = now_ms().saturating_sub(RECENT.as_millis() as i64);
    let mut settled = SettledChain::genesis(corp.as_str());
    let mut links = Links::default();
    let mut pulled_search = Search::new(kept.and_then(|kept| kept.links.pulled.as_ref()));
    let mut settled_search = Search::new(kept.and_then(|kept| kept.links.settled.as_ref()));
    let mut is_final = true;
    reader
        .read(corp, |item| {
            match item {
                LedgerItem::Entry(entry, settlement) => {
                    verifier.entry(&entry, settlement.as_ref());
                    is_final = entry.seq <= delivered.unwrap_or(u64::MAX);
                    pulled_search.pass(entry.number, &entry.link);
                    if is_final {
                        links.pulled = Some(Point {
                            number: entry.number,
                            link: entry.link.hex(),
                        });
                    }
                    if entry.kind == EntryKind::Record && entry.at >= recent {
                        read.pulled.insert(entry.seq, entry.at);
                    }
                    return;
                }
                LedgerItem::Settled(outcome) => {
                    settled.settled(&outcome);
                    read.known.settled(&outcome);
                }
                LedgerItem::Destroyed { first, last, text } => {
                    settled.destroyed(first, last, &text);
                    read.known.destroyed(first, last);
                }
                LedgerItem::MaybeLost { first, last } => {
                    read.known.maybe_lost(first, last);
                    return;
                }
                LedgerItem::Unreadable => {
                    verifier.unreadable();
                    return;
                }
            }
            settled_search.pass(settled.number, &settled.link);
            if is_final {
                links.settled = Some(Point {
                    number: settled.number,
                    link: settled.link.hex(),
                });
            }
        })
        .await?;
    let followed = verifier.finish();
    report.entries = followed.entries;
    report.gaps = followed.gaps;
    report.anchors = followed.anchors;
    report.link = followed.end.link.hex();
    report.links = links;
    report.findings_total = followed.unlisted;
    for finding in followed.findings {
        report.add(finding);
    }
    let rewritten = [pulled_search.finish(), settled_search.finish()];
    for finding in rewritten.into_iter().flatten() {
        report.add(finding);
    }
    Ok(read)
}

/// Which records every sink must have by now.
struct Due {
    /// Up to this position, if it is known.
    position: Option<u64>,
    /// Pulled before this, milliseconds since the epoch, UTC.
    before: i64,
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
        "  ledger: {entries} entries in the chain, {} accepted gaps, last link {link}",
        report.gaps
    ))?;
    say(&format!("  links stored with rows: {anchors}"))?;
    if let Some(Point { number, link }) = &report.links.settled {
        say(&format!("  settled: {number} outcomes, last link {link}"))?;
    }
    if report.destructions > 0 {
        let entries = report.destructions;
        say(&format!(
            "  {entries} entries about records that were destroyed deliberately"
        ))?;
    }
    if report.other_violations > 0 {
        let records = report.other_violations;
        say(&format!(
            "  {records} messages were processed again under other rules: their violations may be those of either"
        ))?;
    }
    for RowCount {
        sink,
        content,
        rows,
    } in &report.rows
    {
        say(&format!("  {sink}: {rows} {}", content.as_str()))?;
    }
    for finding in &report.findings {
        let what = match finding.what {
            Tampered::Changed => "was changed",
            Tampered::Removed => "was removed",
            Tampered::Inserted => "was inserted",
            Tampered::Moved => "is not at its original position",
            Tampered::Unanchored => "does not match the chain in the ledger",
            Tampered::Resettled => "was settled a second time with another result",
            Tampered::Rewritten => "does not have the kept link: the ledger was rewritten",
        };
        let Alteration {
            place, number, seq, ..
        } = finding;
        let which = match (finding.what, *number) {
            (Tampered::Removed, number) if number > 0 => {
                format!("record {number} (after seq {seq})")
            }
            (Tampered::Rewritten, number) => format!("entry {number}"),
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
