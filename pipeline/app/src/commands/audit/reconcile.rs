//! `chatledger reconcile`: checks that every pulled record is in exactly one place.
//!
//! The ledger says what was pulled; no sink can change it. Blocks of 1,000 positions are compared by
//! their row count and a sum of hashes that does not depend on order. A block that does not agree is
//! compared record by record. Memory is bounded by the number of blocks and by the records of
//! [`AT_ONCE`] blocks.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use chatledger_engine::audit::blocks::{
    Block, BlockReport, Held, LedgerBlock, LedgerSums, PlaceSum,
};
use chatledger_engine::audit::judge::{PlaceRows, Recorded, judge};
use chatledger_engine::audit::report::{Reconciliation, Totals};
use chatledger_engine::audit::{Content, Place, Selection, Sum, block_of, kept_elsewhere};
use chatledger_engine::shared::now_ms;
use chatledger_schemas::CorpId;
use chatledger_schemas::ledger::{EntryKind, RecordKey};
use comfy_table::{Cell, CellAlignment, Table, presets};

use super::{Audited, LedgerItem, LedgerReader};
use crate::cli::ReconcileArgs;
use crate::commands::say;
use crate::exit::Failure;

/// Bad blocks of a corp that are compared record by record; the others are reported by their sums.
const CLOSER: usize = 2000;
/// Blocks whose records are in memory at the same time.
const AT_ONCE: usize = 500;
/// Rows of one block in one place that are read at most; beyond that the sums have to do.
const ROWS: u64 = 100_000;
/// Pause before sinks that do not agree yet are read again.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs the command.
pub async fn reconcile(args: ReconcileArgs) -> Result<(), Failure> {
    let audited = Audited::load(&args.config).await?;
    let mut results = Vec::new();
    for corp in audited.corps(args.corp.as_deref())? {
        let run = Run {
            corp: &corp.id,
            args: &args,
            audited: &audited,
        };
        results.push(run.reconcile().await?);
    }
    let accounted = results.iter().all(|result| result.accounted);
    if args.json {
        let report = serde_json::json!({ "accounted": accounted, "corps": results });
        say(&report.to_string())?;
    } else {
        for result in &results {
            print(result, &audited, args.blocks)?;
        }
    }
    // The dashboard shows results over everything. A result that cannot be stored was still printed.
    let whole = args.from_seq.is_none() && args.to_seq.is_none();
    for result in results.iter().filter(|_| whole) {
        for (sink, reader) in audited.readers() {
            if let Err(error) = reader.store_reconciliation(result).await {
                let corp = &result.corp_id;
                tracing::warn!(%corp, sink, %error, "the result cannot be stored");
            }
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

/// The ledger's sums and what came with reading them.
struct LedgerTotals {
    sums: LedgerSums,
    /// Its last position.
    end: u64,
    /// Records after the last position compared.
    not_compared: u64,
    unreadable: u64,
}

/// The reconciliation of one corp.
struct Run<'a> {
    corp: &'a CorpId,
    args: &'a ReconcileArgs,
    audited: &'a Audited,
}

impl Run<'_> {
    fn ledger(&self) -> &LedgerReader {
        &self.audited.ledger
    }

    async fn reconcile(&self) -> Result<Reconciliation, Failure> {
        let args = self.args;
        let first = args.from_seq.unwrap_or(0);
        let delivered = self.ledger().delivered(self.corp)?.unwrap_or(u64::MAX);
        let bound = args.to_seq.unwrap_or(u64::MAX).min(delivered);
        let patience = args
            .wait
            .map_or_else(|| self.audited.patience(), Into::into);
        let deadline = tokio::time::Instant::now() + patience;
        let mut last = None;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let ledger = self.sum_ledger(first, last.unwrap_or(bound)).await?;
            let last_seq = *last.get_or_insert(ledger.end.min(bound));
            let (held, unreadable) = self.sum_sinks(first, last_seq).await?;
            let blocks: Vec<Block> = ledger.sums.compare(&held).collect();
            let agree = blocks.iter().all(Block::agrees) && unreadable.is_empty();
            let final_attempt = agree || tokio::time::Instant::now() >= deadline;
            // Replayed and discarded dead letters always need a closer look, so a block that does
            // not agree by its sums may be right: look closer now and then while waiting.
            let look_closer = final_attempt || attempt % 5 == 1;
            let mut reports = if look_closer {
                self.compare_closely(&blocks, (first, last_seq)).await?
            } else {
                Vec::new()
            };
            if args.to_seq.is_none() {
                reports.extend(self.rows_unknown_to_the_ledger(last_seq).await?);
            }
            let accounted = look_closer
                && reports.iter().all(|block| block.accounted)
                && unreadable.is_empty()
                && ledger.unreadable == 0;
            if accounted || final_attempt {
                return Ok(Reconciliation {
                    corp_id: self.corp.clone(),
                    run_at: now_ms(),
                    first_seq: first,
                    last_seq,
                    not_compared: ledger.not_compared,
                    accounted,
                    total: Totals::over(&reports),
                    unreadable,
                    unreadable_ledger: ledger.unreadable,
                    blocks: reports,
                });
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Sums the ledger between two positions.
    async fn sum_ledger(&self, first: u64, last: u64) -> Result<LedgerTotals, Failure> {
        let mut totals = LedgerTotals {
            sums: LedgerSums::between(first, last),
            end: 0,
            not_compared: 0,
            unreadable: 0,
        };
        self.ledger()
            .read(self.corp, |entry| match entry {
                LedgerItem::Entry(entry, _) => {
                    let is_record = entry.kind == EntryKind::Record;
                    totals.end = totals.end.max(entry.seq);
                    totals.not_compared += u64::from(entry.seq > last && is_record);
                    totals.sums.pulled(&entry);
                }
                LedgerItem::Settled(settled) => totals.sums.settled(&settled),
                LedgerItem::Destroyed { first, last, .. }
                | LedgerItem::MaybeLost { first, last } => totals.sums.may_lack_rows(first, last),
                LedgerItem::Unreadable => totals.unreadable += 1,
            })
            .await?;
        Ok(totals)
    }

    /// Sums what the sinks hold between two positions; also returns what cannot be read.
    async fn sum_sinks(&self, first: u64, last: u64) -> Result<(Held, Vec<String>), Failure> {
        let mut held = Held::new();
        let mut unreadable = Vec::new();
        for (sink, reader) in self.audited.readers() {
            let sums = reader.sums(self.corp, first, last).await;
            let sums = sums.map_err(Failure::unreachable)?;
            unreadable.extend(sums.unreadable);
            for (content, blocks) in sums.places {
                held.insert(Place { sink, content }, blocks);
            }
        }
        Ok((held, unreadable))
    }

    /// Compares the blocks that do not agree record by record.
    async fn compare_closely(
        &self,
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
            // Most blocks with replayed or discarded dead letters turn out to be right.
            let closer = self.compare_records(blocks, range).await?;
            wrong += closer.iter().filter(|block| !block.accounted).count();
            reports.extend(closer);
        }
        reports.sort_unstable_by_key(|block| block.first_seq);
        Ok(reports)
    }

    async fn compare_records(
        &self,
        blocks: &[&Block],
        (first, last): (u64, u64),
    ) -> Result<Vec<BlockReport>, Failure> {
        let selection = Selection {
            first,
            last,
            blocks: Some(blocks.iter().map(|block| block.number).collect()),
            limit: ROWS,
        };
        let mut recorded = self.recorded(&selection).await?;
        let mut rows = Vec::new();
        for (sink, reader) in self.audited.readers() {
            for content in reader.contents() {
                let keys = reader.keys(self.corp, *content, selection.clone()).await;
                let keys = by_block(keys.map_err(Failure::unreachable)?);
                let place = Place {
                    sink,
                    content: *content,
                };
                rows.push((reader, place, keys));
            }
        }
        let mut reports = Vec::new();
        for block in blocks {
            let recorded: Vec<Recorded> = recorded
                .remove(&block.number)
                .map_or_else(Vec::new, |block| block.into_values().collect());
            let mut places = Vec::new();
            for (reader, place, keys) in &mut rows {
                let mut place = PlaceRows {
                    place: *place,
                    keys: keys.remove(&block.number).unwrap_or_default(),
                    elsewhere: HashSet::new(),
                };
                if matches!(place.place.content, Content::Messages | Content::Violations) {
                    let missing = place.missing(&recorded);
                    let msgids: Vec<_> = missing.iter().map(|key| key.msgid).collect();
                    let found = reader.at_any_position(self.corp, &msgids).await;
                    let found = found.map_err(Failure::unreachable)?;
                    place.elsewhere = kept_elsewhere(&missing, &found);
                }
                places.push(place);
            }
            reports.push(judge(block, &recorded, &places));
        }
        Ok(reports)
    }

    /// What the ledger says about the selected records, by block.
    async fn recorded(
        &self,
        selection: &Selection,
    ) -> Result<BTreeMap<u64, BTreeMap<RecordKey, Recorded>>, Failure> {
        let mut recorded = BTreeMap::<u64, BTreeMap<RecordKey, Recorded>>::new();
        let (mut destroyed, mut lost) = (Vec::new(), Vec::new());
        self.ledger()
            .read(self.corp, |entry| {
                let (seq, msgid, settlement) = match entry {
                    LedgerItem::Entry(entry, _) if entry.kind == EntryKind::Record => {
                        (entry.seq, entry.msgid, None)
                    }
                    LedgerItem::Settled(settled) => {
                        (settled.seq, settled.msgid, Some(settled.settlement))
                    }
                    LedgerItem::Destroyed { first, last, .. } => {
                        destroyed.push(first..=last);
                        return;
                    }
                    LedgerItem::MaybeLost { first, last } => {
                        lost.push(first..=last);
                        return;
                    }
                    LedgerItem::Entry(..) | LedgerItem::Unreadable => return,
                };
                if selection.covers(seq) {
                    let key = RecordKey { seq, msgid };
                    let block = recorded.entry(block_of(seq)).or_default();
                    let one = block.entry(key).or_insert_with(|| Recorded::new(key));
                    if let Some(settlement) = settlement {
                        one.settle(&settlement);
                    }
                }
            })
            .await?;
        for record in recorded.values_mut().flat_map(BTreeMap::values_mut) {
            let seq = record.key.seq;
            record.destroyed = destroyed.iter().any(|range| range.contains(&seq));
            record.maybe_lost = lost.iter().any(|range| range.contains(&seq));
        }
        Ok(recorded)
    }

    /// Reports rows after the last position compared that belong to no record of the ledger. The
    /// sinks are read before the ledger, which knows every record before a sink does.
    async fn rows_unknown_to_the_ledger(&self, last: u64) -> Result<Vec<BlockReport>, Failure> {
        let Some(first) = last.checked_add(1) else {
            return Ok(Vec::new());
        };
        let selection = Selection {
            first,
            last: u64::MAX,
            blocks: None,
            limit: ROWS,
        };
        let mut rows = BTreeMap::<u64, Vec<PlaceRows>>::new();
        for (sink, reader) in self.audited.readers() {
            let audited = [Content::Messages, Content::Violations];
            for content in audited
                .into_iter()
                .filter(|one| reader.contents().contains(one))
            {
                let keys = reader.keys(self.corp, content, selection.clone()).await;
                for (block, keys) in by_block(keys.map_err(Failure::unreachable)?) {
                    rows.entry(block).or_default().push(PlaceRows {
                        place: Place { sink, content },
                        keys,
                        elsewhere: HashSet::new(),
                    });
                }
            }
        }
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut known = HashSet::new();
        self.ledger()
            .read(self.corp, |entry| {
                if let LedgerItem::Entry(entry, _) = entry
                    && entry.seq > last
                {
                    let (seq, msgid) = (entry.seq, entry.msgid);
                    known.insert(RecordKey { seq, msgid });
                }
            })
            .await?;
        let mut reports = Vec::new();
        for (number, mut places) in rows {
            for place in &mut places {
                place.keys.retain(|key| !known.contains(key));
            }
            let sum = |place: &PlaceRows| PlaceSum {
                place: place.place,
                sum: Sum::over(&place.keys),
            };
            let block = Block {
                number,
                ledger: LedgerBlock::default(),
                places: places.iter().map(sum).collect(),
            };
            if !block.agrees() {
                reports.push(judge(&block, &[], &places));
            }
        }
        Ok(reports)
    }
}

fn by_block(keys: Vec<RecordKey>) -> BTreeMap<u64, Vec<RecordKey>> {
    let mut blocks = BTreeMap::<u64, Vec<RecordKey>>::new();
    for key in keys {
        blocks.entry(block_of(key.seq)).or_default().push(key);
    }
    blocks
}

fn print(result: &Reconciliation, audited: &Audited, all_blocks: bool) -> Result<(), Failure> {
    let Reconciliation {
        corp_id, last_seq, ..
    } = result;
    let verdict = if result.accounted {
        "every record is in exactly one place"
    } else {
        "NOT every record is accounted for"
    };
    say(&format!("corp {corp_id}, up to seq {last_seq}: {verdict}"))?;
    say(&table(result, audited, all_blocks).to_string())?;
    for finding in result.bad().flat_map(|block| &block.findings) {
        say(&finding.to_string())?;
    }
    for path in &result.unreadable {
        say(&format!("{path}: not readable as a message file"))?;
    }
    if result.unreadable_ledger > 0 {
        say("the ledger is damaged; run `chatledger verify` to find out where")?;
    }
    if result.total.gaps > 0 {
        let gaps = result.total.gaps;
        say(&format!(
            "{gaps} accepted gaps: it is unknown which records the archive had there"
        ))?;
    }
    if result.total.destroyed > 0 {
        let records = result.total.destroyed;
        say(&format!("{records} records were destroyed deliberately"))?;
    }
    if result.total.lost > 0 {
        let records = result.total.lost;
        say(&format!(
            "{records} records were pulled and lost in an accepted gap: not every sink has them"
        ))?;
    }
    if result.not_compared > 0 {
        let records = result.not_compared;
        say(&format!(
            "{records} records after seq {last_seq} have not reached every sink yet"
        ))?;
    }
    Ok(())
}

/// One row for each bad block (or every block) and one for the total.
fn table(result: &Reconciliation, audited: &Audited, all_blocks: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let sinks: BTreeSet<&str> = audited.readers().map(|(sink, _)| sink).collect();
    let mut header = vec!["seq", "pulled"];
    header.extend(&sinks);
    header.extend([
        "dead letters",
        "discarded",
        "duplicates",
        "missing",
        "unexpected",
        "repeated",
        "in flight",
        "violations",
    ]);
    table.set_header(header);
    let row = |name: String, totals: &Totals| {
        let held = |sink: &&str| {
            let mut places = totals.places.iter();
            let held = places
                .find(|held| held.place.content == Content::Messages && held.place.sink == *sink);
            held.map_or(0, |held| held.sum.rows)
        };
        let mut numbers = vec![totals.pulled.rows];
        numbers.extend(sinks.iter().map(held));
        numbers.extend([
            totals.dead_letters.rows,
            totals.discarded,
            totals.duplicates,
            totals.missing,
            totals.unexpected,
            totals.repeated,
            totals.in_flight,
            totals.violations,
        ]);
        let right = |number: u64| Cell::new(number).set_alignment(CellAlignment::Right);
        let mut cells = vec![Cell::new(name)];
        cells.extend(numbers.into_iter().map(right));
        cells
    };
    for block in &result.blocks {
        if all_blocks || !block.accounted {
            let name = format!("{} – {}", block.first_seq, block.last_seq);
            table.add_row(row(name, &Totals::over([block])));
        }
    }
    table.add_row(row("all".to_owned(), &result.total));
    table
}
