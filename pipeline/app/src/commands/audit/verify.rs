//! `chatledger verify`: follows the hash chain and compares what rows hold with what was pulled.
//!
//! The chain is in the ledger; its links are also in the metadata of the Parquet files, so a ledger
//! that was written anew does not fit the files. Of every message the ledger holds a digest of what
//! its row must hold; rows of files and of the table are compared with it.

use std::collections::HashMap;

use chatledger_engine::audit::chain::{Finding, Tampered, Verifier};
use chatledger_schemas::CorpId;
use chatledger_schemas::ledger::{Anchor, Digest128, Outcome, Settled};
use serde::Serialize;

use super::{LedgerReader, Step, bar, clickhouse, corps, each_file, load, unanswered};
use crate::cli::VerifyArgs;
use crate::commands::say;
use crate::exit::Failure;

/// Positions whose rows are read from the table at once.
const AT_ONCE: u64 = 20_000;
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
        let rows = follow(&reader, &corp.id, anchors, &mut report).await?;
        // What not every sink has yet is not missed.
        let mut seen = Seen::new(&rows, reader.delivered(&corp.id)?);
        if let Some(target) = target {
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
                        let (key, row) = (row.key, row.row);
                        if let Some(what) = seen.row(key.seq, key.msgid, row) {
                            found.push((what, path.clone(), key.seq));
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
            report.missed(seen.missed(), "parquet");
        }
        if let Some(clickhouse) = &clickhouse {
            seen.reset();
            let bar = bar("rows of the table", rows.len() as u64);
            let mut positions: Vec<u64> = rows.keys().copied().collect();
            positions.sort_unstable();
            let mut from = 0;
            for chunk in positions.chunks(AT_ONCE as usize) {
                let to = chunk.last().copied().unwrap_or(from);
                let read = clickhouse.row_digests(&corp.id, (from, to)).await;
                for row in read.map_err(|error| unanswered(&error))? {
                    if let Some(what) = seen.row(row.key.seq, row.key.msgid, row.row) {
                        report.find(what, "clickhouse", row.key.seq);
                    }
                }
                bar.inc(chunk.len() as u64);
                from = to.saturating_add(1);
            }
            bar.finish_and_clear();
            report.clickhouse_rows = Some(seen.rows);
            // Which of two rows of a repeated message stays is the table's choice; `reconcile` knows.
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

    fn missed(&mut self, seqs: Vec<u64>, place: &str) {
        for seq in seqs {
            self.find(Tampered::Removed, place, seq);
        }
    }
}

/// What the ledger holds of a record.
struct Known {
    settled: Settled,
}

async fn follow(
    reader: &LedgerReader,
    corp: &CorpId,
    anchors: Vec<(Anchor, String)>,
    report: &mut Report,
) -> Result<HashMap<u64, Known>, Failure> {
    let anchors = anchors
        .into_iter()
        .filter(|(anchor, _)| anchor.corp_id == *corp);
    let mut verifier = Verifier::new(corp.as_str(), anchors);
    let mut rows = HashMap::new();
    reader
        .read(corp, |step| match step {
            Step::Pulled(entry) => verifier.entry(&entry),
            Step::Settled(settled) => {
                rows.insert(settled.seq, Known { settled });
            }
            Step::Unreadable => verifier.unreadable(),
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
    Ok(rows)
}

/// The rows of one place against the ledger.
struct Seen<'a> {
    known: &'a HashMap<u64, Known>,
    delivered: Option<u64>,
    times: HashMap<u64, u32>,
    rows: u64,
}

impl<'a> Seen<'a> {
    fn new(known: &'a HashMap<u64, Known>, delivered: Option<u64>) -> Self {
        Self {
            known,
            delivered,
            times: HashMap::new(),
            rows: 0,
        }
    }

    fn reset(&mut self) {
        self.times.clear();
        self.rows = 0;
    }

    /// What is wrong with a row, if anything is.
    fn row(&mut self, seq: u64, msgid: Digest128, row: Digest128) -> Option<Tampered> {
        self.rows += 1;
        let times = self.times.entry(seq).or_default();
        *times += 1;
        let Some(Known { settled }) = self.known.get(&seq) else {
            return Some(Tampered::Inserted);
        };
        match settled.outcome {
            _ if *times > 1 => Some(Tampered::Inserted),
            _ if settled.msgid != msgid => Some(Tampered::Changed),
            Outcome::Message if settled.row != row => Some(Tampered::Changed),
            // A letter that was replayed: the ledger holds no digest of its row.
            Outcome::Message | Outcome::DeadLetter => None,
            Outcome::Duplicate => Some(Tampered::Inserted),
        }
    }

    /// Messages without a row, ascending.
    fn missed(&self) -> Vec<u64> {
        let delivered = self.delivered.unwrap_or(u64::MAX);
        let mut missed: Vec<u64> = self
            .known
            .iter()
            .filter(|(seq, known)| {
                known.settled.outcome == Outcome::Message
                    && **seq <= delivered
                    && !self.times.contains_key(seq)
            })
            .map(|(seq, _)| *seq)
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
