//! `chatledger reconcile`: shows that every record that was pulled is in exactly one place.
//!
//! What was pulled is told by the ledger, which no sink has a hand in. Blocks of 1,000 positions are
//! compared by count and by a sum of hashes that does not depend on order; a block that does not
//! agree is compared record by record. Memory is bounded by the number of blocks, and by the records
//! of [`AT_ONCE`] blocks.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use chatledger_clickhouse::{AuditedRows, ClickHouse, ReconciliationRow};
use chatledger_engine::audit::blocks::{Block, BlockReport, Held, Ledger, Places, Tally};
use chatledger_engine::audit::judge::{Recorded, Rows, judge, missing_in_clickhouse};
use chatledger_engine::audit::{BLOCK, Key, Sum};
use chatledger_engine::shared::now_ms;
use chatledger_parquet::Target;
use chatledger_schemas::CorpId;
use chatledger_schemas::ledger::RecordKey;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use super::{LedgerReader, Step, clickhouse, corps, each_file, load, patience, unanswered};
use crate::cli::ReconcileArgs;
use crate::commands::say;
use crate::config::Settings;
use crate::exit::{Failure, chain};

/// So many blocks of a corp in which something is wrong are compared record by record; of the
/// others the sums are told.
const CLOSER: usize = 2000;
/// Blocks of which every record is in memory at once.
const AT_ONCE: usize = 500;
/// Blocks named in the table of results.
const NAMED: usize = 100;
/// Rows of one block in one place that are looked at, at most: more than that is told by the sums.
const ROWS: u64 = 100_000;
/// Pause before places that do not agree yet are asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// Carries the command out.
pub async fn reconcile(args: ReconcileArgs) -> Result<(), Failure> {
    let settings = load(&args.config)?;
    let places = Sinks {
        clickhouse: clickhouse(&settings).await?,
        parquet: settings
            .parquet
            .as_ref()
            .map(|parquet| parquet.target.clone()),
    };
    let reader = LedgerReader::of(&settings);
    let mut reports = Vec::new();
    for corp in corps(&settings, args.corp.as_deref())? {
        reports.push(one(&corp.id, &args, &settings, &places, &reader).await?);
    }
    let accounted = reports.iter().all(|report| report.accounted);
    if args.json {
        let told = serde_json::json!({ "accounted": accounted, "corps": reports });
        say(&told.to_string())?;
    } else {
        for report in &reports {
            tell(report, args.blocks)?;
        }
    }
    // What the panel shows is of the whole, and must not be lost with it.
    let whole = args.from_seq.is_none() && args.to_seq.is_none();
    for report in reports.iter().filter(|_| whole) {
        if let Some(clickhouse) = &places.clickhouse
            && let Err(error) = keep(clickhouse, report).await
        {
            tracing::warn!(corp = %report.corp_id, error = chain(&error), "the result is not kept");
        }
    }
    if accounted {
        Ok(())
    } else {
        Err(Failure::other(anyhow::anyhow!(
            "not every record is accounted for"
        )))
    }
}

struct Sinks {
    clickhouse: Option<std::sync::Arc<ClickHouse>>,
    parquet: Option<Target>,
}

/// The result for one corp.
#[derive(Debug, Serialize)]
struct CorpReport {
    corp_id: CorpId,
    run_at: i64,
    first_seq: u64,
    last_seq: u64,
    /// Records pulled behind `last_seq`, which not every sink has reached yet.
    behind: u64,
    accounted: bool,
    total: Totals,
    unreadable_files: Vec<String>,
    unreadable_ledger: u64,
    blocks: Vec<BlockReport>,
}

#[derive(Debug, Default, Serialize)]
struct Totals {
    pulled: Sum,
    clickhouse: Option<Sum>,
    parquet: Option<Sum>,
    dead_letters: Sum,
    dropped: u64,
    duplicates: u64,
    missing: u64,
    unexpected: u64,
    repeated: u64,
    in_flight: u64,
    gaps: u64,
}

impl Totals {
    fn add(&mut self, block: &BlockReport) {
        let and = |total: Option<Sum>, block: Option<Sum>| {
            block
                .map(|block| total.unwrap_or_default().and(block))
                .or(total)
        };
        self.pulled = self.pulled.and(block.pulled);
        self.clickhouse = and(self.clickhouse, block.clickhouse);
        self.parquet = and(self.parquet, block.parquet);
        self.dead_letters = self.dead_letters.and(block.dead_letters);
        self.dropped += block.dropped;
        self.duplicates += block.duplicates;
        self.missing += block.missing;
        self.unexpected += block.unexpected;
        self.repeated += block.repeated;
        self.in_flight += block.in_flight;
        self.gaps += block.gaps;
    }
}

async fn one(
    corp: &CorpId,
    args: &ReconcileArgs,
    settings: &Settings,
    sinks: &Sinks,
    reader: &LedgerReader,
) -> Result<CorpReport, Failure> {
    let first = args.from_seq.unwrap_or(0);
    let delivered = reader.delivered(corp)?;
    let wanted = args.to_seq.unwrap_or(u64::MAX);
    let bound = wanted.min(delivered.unwrap_or(u64::MAX));
    // With Kafka the sinks write down offsets and not positions: what is in the ledger now must
    // arrive within the time that delivering takes.
    let patience = args.wait.map_or_else(|| patience(settings), Into::into);
    let deadline = tokio::time::Instant::now() + patience;
    let mut last = None;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let (ledger, end, behind, unreadable_ledger) =
            tally(reader, corp, first, last.unwrap_or(bound)).await?;
        let last_seq = *last.get_or_insert(end.min(bound));
        let (places, unreadable_files) = hold(sinks, corp, first, last_seq).await?;
        let blocks: Vec<Block> = ledger.compare(&places).collect();
        let agree = blocks.iter().all(Block::agrees) && unreadable_files.is_empty();
        let settled = agree || tokio::time::Instant::now() >= deadline;
        // Letters that were replayed or dropped need the closer look; do not wait for them twice.
        let looked = agree || settled || attempt % 5 == 1;
        let mut reports = if looked {
            closely(reader, corp, sinks, &blocks, (first, last_seq)).await?
        } else {
            Vec::new()
        };
        if args.to_seq.is_none() {
            reports.extend(strangers(reader, corp, sinks, last_seq).await?);
        }
        let accounted = looked && reports.iter().all(|block| block.accounted);
        let accounted = accounted && unreadable_files.is_empty() && unreadable_ledger == 0;
        if accounted || settled {
            let mut total = Totals::default();
            for block in &reports {
                total.add(block);
            }
            return Ok(CorpReport {
                corp_id: corp.clone(),
                run_at: now_ms(),
                first_seq: first,
                last_seq,
                behind,
                accounted,
                total,
                unreadable_files,
                unreadable_ledger,
                blocks: reports,
            });
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// What the ledger says between two positions: its sums, its last position, how many records it
/// holds behind the second, and how much of it cannot be read.
async fn tally(
    reader: &LedgerReader,
    corp: &CorpId,
    first: u64,
    last: u64,
) -> Result<(Ledger, u64, u64, u64), Failure> {
    let mut ledger = Ledger::between(first, last);
    let (mut end, mut behind, mut unreadable) = (0, 0, 0);
    reader
        .read(corp, |step| match step {
            Step::Pulled(entry) => {
                end = end.max(entry.seq);
                behind += u64::from(entry.seq > last && !entry.gap);
                ledger.pulled(&entry);
            }
            Step::Settled(settled) => ledger.settled(&settled),
            Step::Unreadable => unreadable += 1,
        })
        .await?;
    Ok((ledger, end, behind, unreadable))
}

/// What the places hold between two positions.
async fn hold(
    sinks: &Sinks,
    corp: &CorpId,
    first: u64,
    last: u64,
) -> Result<(Places, Vec<String>), Failure> {
    let mut places = Places::default();
    if let Some(clickhouse) = &sinks.clickhouse {
        let sums = async |what| -> Result<Held, Failure> {
            let sums = clickhouse
                .block_sums(what, corp, (first, last), BLOCK)
                .await;
            let sums = sums.map_err(|error| unanswered(&error))?;
            let sum = |sum: chatledger_clickhouse::BlockSum| {
                let (rows, hash) = (sum.rows, sum.hash);
                (sum.block, Sum { rows, hash })
            };
            Ok(Some(sums.into_iter().map(sum).collect()))
        };
        places.clickhouse = sums(AuditedRows::Messages).await?;
        places.open = sums(AuditedRows::OpenDeadLetters).await?;
        places.dropped = sums(AuditedRows::DiscardedDeadLetters).await?;
    }
    let mut unreadable = Vec::new();
    if let Some(target) = &sinks.parquet {
        let mut held = BTreeMap::<u64, Sum>::new();
        let work = move |file: &super::Opened| {
            let mut held = BTreeMap::<u64, Sum>::new();
            file.contents.keys(|key| {
                let key = of_table(&key);
                if (first..=last).contains(&key.seq) {
                    held.entry(key.block()).or_default().add(&key);
                }
            })?;
            Ok(held)
        };
        unreadable = each_file(target, corp, work, |_, sums| {
            for (block, sum) in sums {
                let held = held.entry(block).or_default();
                *held = held.and(sum);
            }
        })
        .await?;
        places.parquet = Some(held);
    }
    Ok((places, unreadable))
}

fn of_table(key: &RecordKey) -> Key {
    Key {
        seq: key.seq,
        msgid: key.msgid,
    }
}

/// Looks at the blocks that do not agree record by record.
async fn closely(
    reader: &LedgerReader,
    corp: &CorpId,
    sinks: &Sinks,
    blocks: &[Block],
    range: (u64, u64),
) -> Result<Vec<BlockReport>, Failure> {
    let (agreeing, doubtful): (Vec<&Block>, Vec<&Block>) =
        blocks.iter().partition(|block| block.agrees());
    let mut reports: Vec<BlockReport> = agreeing.iter().map(|block| block.report()).collect();
    let mut wrong = 0;
    for blocks in doubtful.chunks(AT_ONCE) {
        if wrong >= CLOSER {
            reports.extend(blocks.iter().map(|block| block.report()));
            continue;
        }
        // Of most that were replayed or dropped nothing is wrong.
        let closer = record_by_record(reader, corp, sinks, blocks, range).await?;
        wrong += closer.iter().filter(|block| !block.accounted).count();
        reports.extend(closer);
    }
    reports.sort_unstable_by_key(|block| block.first_seq);
    Ok(reports)
}

async fn record_by_record(
    reader: &LedgerReader,
    corp: &CorpId,
    sinks: &Sinks,
    blocks: &[&Block],
    (first, last): (u64, u64),
) -> Result<Vec<BlockReport>, Failure> {
    let doubtful: BTreeSet<u64> = blocks.iter().map(|block| block.number).collect();
    let inside = |seq: u64| (first..=last).contains(&seq) && doubtful.contains(&(seq / BLOCK));
    let mut recorded = BTreeMap::<u64, BTreeMap<Key, Recorded>>::new();
    let mut files = BTreeMap::<u64, Vec<Key>>::new();
    reader
        .read(corp, |step| {
            let (seq, msgid, outcome) = match step {
                Step::Pulled(entry) if !entry.gap => (entry.seq, entry.msgid, None),
                Step::Settled(settled) => (settled.seq, settled.msgid, Some(settled.outcome)),
                _ => return,
            };
            if inside(seq) {
                let key = Key { seq, msgid };
                let block = recorded.entry(key.block()).or_default();
                let one = block.entry(key).or_insert(Recorded { key, outcome });
                one.outcome = outcome.or(one.outcome);
            }
        })
        .await?;
    if let Some(target) = &sinks.parquet {
        let doubtful = doubtful.clone();
        let work = move |file: &super::Opened| {
            let mut keys = Vec::new();
            file.contents.keys(|key| {
                let inside = (first..=last).contains(&key.seq);
                if inside && doubtful.contains(&(key.seq / BLOCK)) {
                    keys.push(of_table(&key));
                }
            })?;
            Ok(keys)
        };
        each_file(target, corp, work, |_, keys| {
            for key in keys {
                files.entry(key.block()).or_default().push(key);
            }
        })
        .await?;
    }
    let mut reports = Vec::new();
    for block in blocks {
        let recorded: Vec<Recorded> = recorded
            .remove(&block.number)
            .map_or_else(Vec::new, |block| block.into_values().collect());
        let files = files.remove(&block.number).unwrap_or_default();
        let from = (block.number * BLOCK).max(first);
        let to = (block.number * BLOCK).saturating_add(BLOCK - 1).min(last);
        let mut rows = Rows {
            parquet: sinks.parquet.is_some().then_some(files),
            ..Rows::default()
        };
        if let Some(clickhouse) = &sinks.clickhouse {
            let keys = async |what| -> Result<Vec<Key>, Failure> {
                let keys = clickhouse.row_keys(what, corp, (from, to), ROWS).await;
                let keys = keys.map_err(|error| unanswered(&error))?;
                Ok(keys.iter().map(of_table).collect())
            };
            rows.clickhouse = Some(keys(AuditedRows::Messages).await?);
            rows.open = Some(keys(AuditedRows::OpenDeadLetters).await?);
            rows.dropped = keys(AuditedRows::DiscardedDeadLetters).await?;
            let missing: Vec<_> = missing_in_clickhouse(&recorded, &rows)
                .iter()
                .map(|key| key.msgid)
                .collect();
            let found = clickhouse.rows_with_msgids(corp, &missing).await;
            let found = found.map_err(|error| unanswered(&error))?;
            rows.elsewhere = found.iter().map(|row| row.msgid).collect::<HashSet<_>>();
        }
        reports.push(judge(block, &recorded, &rows));
    }
    Ok(reports)
}

/// Rows behind the last position that is compared which are of no record of the ledger. Sinks are
/// read before the ledger, which knows every record before a sink does.
async fn strangers(
    reader: &LedgerReader,
    corp: &CorpId,
    sinks: &Sinks,
    last: u64,
) -> Result<Vec<BlockReport>, Failure> {
    let mut rows = BTreeMap::<u64, Rows>::new();
    if let (Some(clickhouse), Some(from)) = (&sinks.clickhouse, last.checked_add(1)) {
        let found = clickhouse
            .row_keys(AuditedRows::Messages, corp, (from, u64::MAX), ROWS)
            .await
            .map_err(|error| unanswered(&error))?;
        for key in found.iter().map(of_table) {
            let rows = rows.entry(key.block()).or_default();
            rows.clickhouse.get_or_insert_default().push(key);
        }
    }
    if let Some(target) = &sinks.parquet {
        let work = move |file: &super::Opened| {
            let mut keys = Vec::new();
            file.contents.keys(|key| {
                if key.seq > last {
                    keys.push(of_table(&key));
                }
            })?;
            Ok(keys)
        };
        each_file(target, corp, work, |_, keys| {
            for key in keys {
                let rows = rows.entry(key.block()).or_default();
                rows.parquet.get_or_insert_default().push(key);
            }
        })
        .await?;
    }
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let mut known = HashSet::new();
    reader
        .read(corp, |step| {
            if let Step::Pulled(entry) = step
                && entry.seq > last
            {
                let (seq, msgid) = (entry.seq, entry.msgid);
                known.insert(Key { seq, msgid });
            }
        })
        .await?;
    let mut reports = Vec::new();
    for (number, mut rows) in rows {
        for keys in [&mut rows.clickhouse, &mut rows.parquet]
            .into_iter()
            .flatten()
        {
            keys.retain(|key| !known.contains(key));
        }
        let sum = |keys: &Option<Vec<Key>>| {
            keys.as_ref().map(|keys| {
                let mut sum = Sum::default();
                for key in keys {
                    sum.add(key);
                }
                sum
            })
        };
        let block = Block {
            number,
            ledger: Tally::default(),
            clickhouse: sum(&rows.clickhouse),
            parquet: sum(&rows.parquet),
            open: None,
            dropped: None,
        };
        if !block.agrees() {
            reports.push(judge(&block, &[], &rows));
        }
    }
    Ok(reports)
}

async fn keep(
    clickhouse: &ClickHouse,
    report: &CorpReport,
) -> Result<(), chatledger_clickhouse::Error> {
    let rows = |sum: Option<Sum>| sum.map_or(0, |sum| sum.rows);
    let bad: Vec<u64> = bad(report)
        .map(|block| block.first_seq)
        .take(NAMED)
        .collect();
    let total = &report.total;
    let row = ReconciliationRow {
        corp_id: report.corp_id.as_str(),
        run_at: report.run_at,
        first_seq: report.first_seq,
        last_seq: report.last_seq,
        pulled: total.pulled.rows,
        clickhouse: rows(total.clickhouse),
        parquet: rows(total.parquet),
        dead_letters: total.dead_letters.rows,
        dropped: total.dropped,
        duplicates: total.duplicates,
        missing: total.missing,
        unexpected: total.unexpected,
        repeated: total.repeated,
        in_flight: total.in_flight,
        gaps: total.gaps,
        accounted: report.accounted,
        bad_blocks: &bad,
    };
    clickhouse.store_reconciliation(&row).await
}

fn bad(report: &CorpReport) -> impl Iterator<Item = &BlockReport> {
    report.blocks.iter().filter(|block| !block.accounted)
}

fn tell(report: &CorpReport, all_blocks: bool) -> Result<(), Failure> {
    let CorpReport {
        corp_id, last_seq, ..
    } = report;
    let verdict = if report.accounted {
        "every record is in exactly one place"
    } else {
        "NOT every record is accounted for"
    };
    say(&format!("corp {corp_id}, up to seq {last_seq}: {verdict}"))?;
    let mut table = table();
    let held =
        |sum: Option<Sum>| sum.map_or_else(|| "not in use".to_owned(), |sum| sum.rows.to_string());
    let row = |name: String, block: &Totals| {
        let mut cells = vec![Cell::new(name)];
        let numbers = [
            block.pulled.rows.to_string(),
            held(block.clickhouse),
            held(block.parquet),
            block.dead_letters.rows.to_string(),
            block.dropped.to_string(),
            block.duplicates.to_string(),
            block.missing.to_string(),
            block.unexpected.to_string(),
            block.repeated.to_string(),
            block.in_flight.to_string(),
        ];
        let right = |text| Cell::new(text).set_alignment(CellAlignment::Right);
        cells.extend(numbers.into_iter().map(right));
        cells
    };
    for block in &report.blocks {
        if all_blocks || !block.accounted {
            let mut one = Totals::default();
            one.add(block);
            table.add_row(row(
                format!("{} – {}", block.first_seq, block.last_seq),
                &one,
            ));
        }
    }
    table.add_row(row("all".to_owned(), &report.total));
    say(&table.to_string())?;
    for block in bad(report) {
        for finding in &block.findings {
            let what = serde_json::to_value(finding.what).map_err(Failure::other)?;
            let what = what.as_str().unwrap_or_default().replace('_', " ");
            say(&format!("seq {}: {what}", finding.seq))?;
        }
    }
    for path in &report.unreadable_files {
        say(&format!("{path}: cannot be read as a file of messages"))?;
    }
    if report.unreadable_ledger > 0 {
        say("the ledger itself is damaged; `chatledger verify` tells where")?;
    }
    if report.total.gaps > 0 {
        let gaps = report.total.gaps;
        say(&format!(
            "{gaps} accepted gaps: what the archive had there is not known"
        ))?;
    }
    if report.behind > 0 {
        let behind = report.behind;
        say(&format!(
            "{behind} records pulled behind it are still on their way"
        ))?;
    }
    Ok(())
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(vec![
        "seq",
        "pulled",
        "ClickHouse",
        "Parquet",
        "dead letters",
        "dropped",
        "duplicates",
        "missing",
        "unexpected",
        "repeated",
        "in flight",
    ]);
    table
}
