//! `chatledger verify`: follows the hash chain and compares what rows hold with what was pulled.
//!
//! The chain is in the ledger; its links are also in the metadata of the Parquet files, so a ledger
//! that was written anew does not fit the files. Of every message the ledger holds a digest of what
//! its row must hold; rows of files and of the table are compared with it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chatledger_engine::audit::chain::{Finding, Tampered, Verifier};
use chatledger_engine::shared::now_ms;
use chatledger_schemas::CorpId;
use chatledger_schemas::ledger::{ChainAnchor, Digest128, Outcome, RecordOutcome};
use serde::Serialize;

use super::{LedgerReader, Step, bar, clickhouse, corps, each_file, load, patience, unanswered};
use crate::cli::VerifyArgs;
use crate::commands::say;
use crate::exit::Failure;

/// Positions whose rows are read from the table at once.
const AT_ONCE: usize = 20_000;
/// Of records pulled within this time it is remembered when, because they may be on their way.
const FRESH: Duration = Duration::from_secs(24 * 3600);
/// Findings that are told; all of them are counted.
const TOLD: usize = 50;

/// Carries the command out.
pub async fn verify(args: VerifyArgs) -> Result<(), Failure> {
    let settings = load(&args.config)?;
    let clickhouse = clickhouse(&settings).await?;
    let target = settings.parquet.as_ref().map(|parquet| &parquet.target);
    let reader = LedgerReader::of(&settings);
    let mut reports = Vec::new();
    for corp in corps(&settings, args.corp.as_deref())? {
        let mut report = Report::new(&corp.id);
        let mut anchors = Vec::new();
        if let Some(target) = target {
            each_file(
                target,
                &corp.id,
                |file| file.contents.anchors(),
                |path, found| {
                    anchors.extend(found.into_iter().map(|anchor| (anchor, path.clone())));
                },
            )
            .await?;
        }
        let known = follow(&reader, &corp.id, anchors, &mut report).await?;
        // What not every sink can have yet is not missed.
        let settle = args.settle.map_or_else(|| patience(&settings), Into::into);
        let due = Due {
            position: reader.delivered(&corp.id)?,
            before: now_ms().saturating_sub(settle.as_millis() as i64),
        };
        let mut strangers = Vec::new();
        if let Some(target) = target {
            let mut seen = Seen::new(&known);
            let mut found = Vec::new();
            let unreadable = each_file(
                target,
                &corp.id,
                |file| {
                    let mut rows = Vec::new();
                    file.contents.rows(|row| rows.push(row))?;
                    Ok(rows)
                },
                |path, in_file| {
                    for row in in_file {
                        let row = Row {
                            seq: row.key.seq,
                            msgid: row.key.msgid,
                            digest: row.row,
                        };
                        match seen.row(&row) {
                            None => {}
                            Some(Tampered::Inserted) => strangers.push((path.clone(), row)),
                            Some(what) => found.push((what, path.clone(), row.seq)),
                        }
                    }
                },
            )
            .await?;
            for path in unreadable {
                report.find(Tampered::Changed, &path, 0);
            }
            for (what, path, seq) in found {
                report.find(what, &path, seq);
            }
            report.parquet_rows = Some(seen.rows);
            for (seq, _) in seen.missed(&due) {
                report.find(Tampered::Removed, "parquet", seq);
            }
        }
        if let Some(clickhouse) = &clickhouse {
            let mut seen = Seen::new(&known);
            let mut positions: Vec<u64> = known.first.keys().copied().collect();
            positions.sort_unstable();
            let bar = bar("rows of the table", positions.len() as u64);
            let mut from = 0;
            let ends = positions.chunks(AT_ONCE).filter_map(|chunk| chunk.last());
            // The last stretch goes beyond what the ledger knows.
            for to in ends.copied().chain([u64::MAX]) {
                let read = clickhouse.row_digests(&corp.id, (from, to)).await;
                for row in read.map_err(|error| unanswered(&error))? {
                    let row = Row {
                        seq: row.key.seq,
                        msgid: row.key.msgid,
                        digest: row.row,
                    };
                    match seen.row(&row) {
                        None => {}
                        Some(Tampered::Inserted) => strangers.push(("clickhouse".into(), row)),
                        Some(what) => report.find(what, "clickhouse", row.seq),
                    }
                }
                bar.inc(AT_ONCE as u64);
                from = to.saturating_add(1);
            }
            bar.finish_and_clear();
            report.clickhouse_rows = Some(seen.rows);
            // Of a message that the archive repeated late, the table keeps one row.
            let missed = seen.missed(&due);
            let msgids: Vec<Digest128> = missed.iter().map(|(_, msgid)| *msgid).collect();
            let elsewhere = clickhouse.rows_of(&corp.id, &msgids).await;
            let elsewhere = elsewhere.map_err(|error| unanswered(&error))?;
            let elsewhere: HashSet<Digest128> = elsewhere.iter().map(|row| row.msgid).collect();
            for (seq, msgid) in missed {
                if !elsewhere.contains(&msgid) {
                    report.find(Tampered::Removed, "clickhouse", seq);
                }
            }
        }
        if !strangers.is_empty() {
            // What has come since the ledger was read is in it now.
            let mut later = Known::default();
            reader.read(&corp.id, |step| later.step(step)).await?;
            // A new row rightly stands in the table and in a file.
            let (mut table, mut files) = (Seen::new(&later), Seen::new(&later));
            for (place, row) in strangers {
                let seen = match &place[..] {
                    "clickhouse" => &mut table,
                    _ => &mut files,
                };
                let new = known.of(row.seq, row.msgid).is_none();
                let what = if new {
                    seen.row(&row)
                } else {
                    Some(Tampered::Inserted)
                };
                if let Some(what) = what {
                    report.find(what, &place, row.seq);
                }
            }
        }
        reports.push(report);
    }
    let intact = reports.iter().all(|report| report.findings.is_empty());
    if args.json {
        say(&serde_json::json!({ "intact": intact, "corps": reports }).to_string())?;
    } else {
        for report in &reports {
            tell(report)?;
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
    parquet_rows: Option<u64>,
    clickhouse_rows: Option<u64>,
    findings_total: u64,
    findings: Vec<Finding>,
}

impl Report {
    fn new(corp: &CorpId) -> Self {
        Self {
            corp_id: corp.clone(),
            entries: 0,
            gaps: 0,
            anchors: 0,
            link: String::new(),
            parquet_rows: None,
            clickhouse_rows: None,
            findings_total: 0,
            findings: Vec::new(),
        }
    }

    fn find(&mut self, what: Tampered, place: &str, seq: u64) {
        self.add(Finding {
            what,
            place: place.to_owned(),
            number: 0,
            seq,
        });
    }

    fn add(&mut self, finding: Finding) {
        self.findings_total += 1;
        if self.findings.len() < TOLD {
            self.findings.push(finding);
        }
    }
}

/// What the ledger holds of records that were settled.
#[derive(Default)]
struct Known {
    first: HashMap<u64, RecordOutcome>,
    /// Further records of a position: a broken one takes its neighbour's.
    further: HashMap<u64, Vec<RecordOutcome>>,
    /// When the newest records were pulled, milliseconds since the epoch, UTC.
    pulled: HashMap<u64, i64>,
    /// Records pulled before this are old news.
    fresh: i64,
}

impl Known {
    fn step(&mut self, step: Step) {
        match step {
            Step::Pulled(entry) if entry.at >= self.fresh => {
                self.pulled.insert(entry.seq, entry.at);
            }
            Step::Pulled(_) | Step::Unreadable => {}
            Step::Settled(settled) => match self.first.entry(settled.seq) {
                Entry::Vacant(place) => drop(place.insert(settled)),
                Entry::Occupied(mut there) if there.get().msgid == settled.msgid => {
                    there.insert(settled);
                }
                Entry::Occupied(_) => {
                    let further = self.further.entry(settled.seq).or_default();
                    further.retain(|other| other.msgid != settled.msgid);
                    further.push(settled);
                }
            },
        }
    }

    fn of(&self, seq: u64, msgid: Digest128) -> Option<&RecordOutcome> {
        let further = self.further.get(&seq).into_iter().flatten();
        let mut all = self.first.get(&seq).into_iter().chain(further);
        all.find(|settled| settled.msgid == msgid)
    }

    fn all(&self) -> impl Iterator<Item = &RecordOutcome> {
        self.first.values().chain(self.further.values().flatten())
    }
}

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
        fresh: now_ms().saturating_sub(FRESH.as_millis() as i64),
        ..Known::default()
    };
    reader
        .read(corp, |step| {
            match &step {
                Step::Pulled(entry) => verifier.entry(entry),
                Step::Settled(_) => {}
                Step::Unreadable => verifier.unreadable(),
            }
            known.step(step);
        })
        .await?;
    let followed = verifier.finish();
    report.entries = followed.entries;
    report.gaps = followed.gaps;
    report.anchors = followed.anchors;
    report.link = followed.end.link.hex();
    for finding in followed.findings {
        report.add(finding);
    }
    Ok(known)
}

/// What a place holds of a message.
struct Row {
    seq: u64,
    msgid: Digest128,
    digest: Digest128,
}

/// Which records every place must have by now.
struct Due {
    /// Up to this position, if it is known.
    position: Option<u64>,
    /// Pulled before this, milliseconds since the epoch, UTC.
    before: i64,
}

/// The rows of one place against the ledger.
struct Seen<'a> {
    known: &'a Known,
    there: HashSet<(u64, Digest128)>,
    rows: u64,
}

impl<'a> Seen<'a> {
    fn new(known: &'a Known) -> Self {
        Self {
            known,
            there: HashSet::new(),
            rows: 0,
        }
    }

    /// What is wrong with a row, if anything is.
    fn row(&mut self, row: &Row) -> Option<Tampered> {
        self.rows += 1;
        let first = self.there.insert((row.seq, row.msgid));
        let Some(settled) = self.known.of(row.seq, row.msgid) else {
            let position = self.known.first.contains_key(&row.seq);
            return Some(if position {
                Tampered::Changed
            } else {
                Tampered::Inserted
            });
        };
        match settled.outcome {
            _ if !first => Some(Tampered::Inserted),
            Outcome::Message if settled.row != row.digest => Some(Tampered::Changed),
            // A letter that was replayed: the ledger holds no digest of its row.
            Outcome::Message | Outcome::DeadLetter => None,
            Outcome::Duplicate => Some(Tampered::Inserted),
        }
    }

    /// Messages without a row, ascending, that should have one.
    fn missed(&self, due: &Due) -> Vec<(u64, Digest128)> {
        let position = due.position.unwrap_or(u64::MAX);
        let pulled = |seq| self.known.pulled.get(&seq).copied().unwrap_or_default();
        let mut missed: Vec<(u64, Digest128)> = self
            .known
            .all()
            .filter(|settled| settled.outcome == Outcome::Message && settled.seq <= position)
            .map(|settled| (settled.seq, settled.msgid))
            .filter(|key| !self.there.contains(key) && pulled(key.0) < due.before)
            .collect();
        missed.sort_unstable();
        missed
    }
}

fn tell(report: &Report) -> Result<(), Failure> {
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
    if let Some(rows) = report.parquet_rows {
        say(&format!(
            "  Parquet: {rows} rows, {anchors} anchors of the chain"
        ))?;
    }
    if let Some(rows) = report.clickhouse_rows {
        say(&format!("  ClickHouse: {rows} rows"))?;
    }
    for finding in &report.findings {
        let what = match finding.what {
            Tampered::Changed => "was changed",
            Tampered::Removed => "was removed",
            Tampered::Inserted => "was inserted",
            Tampered::Moved => "stands in another place than it was written",
            Tampered::Unanchored => "does not fit the chain in the ledger",
        };
        let Finding {
            place, number, seq, ..
        } = finding;
        let which = match (finding.what, *number) {
            (Tampered::Removed, number) if number > 0 => {
                format!("record {number}, behind seq {seq},")
            }
            (_, 0) => format!("seq {seq}"),
            (_, number) => format!("record {number}, seq {seq},"),
        };
        say(&format!("  {place}: {which} {what}"))?;
    }
    let more = report.findings_total - report.findings.len() as u64;
    if more > 0 {
        say(&format!("  and {more} more"))?;
    }
    Ok(())
}
