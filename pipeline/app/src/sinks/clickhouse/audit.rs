//! The tables of ClickHouse, read back for an audit.

use std::collections::BTreeMap;
use std::sync::Arc;

use chatledger_clickhouse::{AuditedRows, ClickHouse, ReconciliationRow};
use chatledger_engine::audit::report::Reconciliation;
use chatledger_engine::audit::{AuditReader, BLOCK, Content, Selection, SinkSums, Sum};
use chatledger_engine::fault::Fault;
use chatledger_schemas::CorpId;
use chatledger_schemas::ledger::{Digest128, RecordKey, RowDigest};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::NAME;

/// Positions whose rows are read at once.
const ROWS_AT_ONCE: usize = 20_000;

/// The tables, read back.
pub(super) struct TableAudit(pub(super) Arc<ClickHouse>);

fn audited(content: Content) -> AuditedRows {
    match content {
        Content::Messages => AuditedRows::Messages,
        Content::Violations => AuditedRows::Violations,
        Content::OpenDeadLetters => AuditedRows::OpenDeadLetters,
        Content::DiscardedDeadLetters => AuditedRows::DiscardedDeadLetters,
    }
}

impl AuditReader for TableAudit {
    fn contents(&self) -> &'static [Content] {
        &[
            Content::Messages,
            Content::Violations,
            Content::OpenDeadLetters,
            Content::DiscardedDeadLetters,
        ]
    }

    fn sums<'a>(
        &'a self,
        corp: &'a CorpId,
        first: u64,
        last: u64,
    ) -> BoxFuture<'a, Result<SinkSums, Fault>> {
        async move {
            let mut sums = SinkSums::default();
            for content in self.contents() {
                let rows = audited(*content);
                let blocks = self.0.block_sums(rows, corp, (first, last), BLOCK).await;
                let blocks = blocks.map_err(Fault::new)?.into_iter().map(|block| {
                    let (rows, hash) = (block.rows, block.hash);
                    (block.block, Sum { rows, hash })
                });
                sums.places.insert(*content, blocks.collect());
            }
            Ok(sums)
        }
        .boxed()
    }

    fn keys<'a>(
        &'a self,
        corp: &'a CorpId,
        content: Content,
        selection: Selection,
    ) -> BoxFuture<'a, Result<Vec<RecordKey>, Fault>> {
        async move {
            let mut keys = Vec::new();
            for range in selection.ranges() {
                let rows = audited(content);
                let found = self.0.row_keys(rows, corp, range, selection.limit).await;
                keys.extend(found.map_err(Fault::new)?);
            }
            Ok(keys)
        }
        .boxed()
    }

    fn at_any_position<'a>(
        &'a self,
        corp: &'a CorpId,
        msgids: &'a [Digest128],
    ) -> BoxFuture<'a, Result<Vec<RecordKey>, Fault>> {
        async move {
            let found = self.0.rows_with_msgids(corp, msgids).await;
            found.map_err(Fault::new)
        }
        .boxed()
    }

    fn rows<'a>(
        &'a self,
        corp: &'a CorpId,
        content: Content,
        positions: &'a [u64],
        row: &'a mut (dyn FnMut(&str, RowDigest) + Send),
    ) -> BoxFuture<'a, Result<Vec<String>, Fault>> {
        async move {
            let bar = crate::progress::bar("rows of the table", positions.len() as u64);
            let mut from = 0;
            let ends = positions.chunks(ROWS_AT_ONCE).filter_map(<[u64]>::last);
            // The last request covers what the ledger does not know.
            for to in ends.copied().chain([u64::MAX]) {
                let read = self.0.row_digests(audited(content), corp, (from, to)).await;
                for digest in read.map_err(Fault::new)? {
                    row(NAME, digest);
                }
                bar.inc(ROWS_AT_ONCE as u64);
                from = to.saturating_add(1);
            }
            bar.finish_and_clear();
            Ok(Vec::new())
        }
        .boxed()
    }

    fn store_reconciliation<'a>(
        &'a self,
        result: &'a Reconciliation,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let total = &result.total;
            let held: BTreeMap<&str, u64> = total
                .places
                .iter()
                .filter(|held| held.place.content == Content::Messages)
                .map(|held| (held.place.sink, held.sum.rows))
                .collect();
            let rows = |sink: &str| held.get(sink).copied().unwrap_or_default();
            let bad = result.bad_blocks();
            let row = ReconciliationRow {
                corp_id: result.corp_id.as_str(),
                run_at: result.run_at,
                first_seq: result.first_seq,
                last_seq: result.last_seq,
                pulled: total.pulled.rows,
                clickhouse: rows("clickhouse"),
                parquet: rows("parquet"),
                dead_letters: total.dead_letters.rows,
                dropped: total.discarded,
                duplicates: total.duplicates,
                missing: total.missing,
                unexpected: total.unexpected,
                repeated: total.repeated,
                in_flight: total.in_flight,
                gaps: total.gaps,
                accounted: result.accounted,
                bad_blocks: &bad,
            };
            let stored = self.0.store_reconciliation(&row).await;
            stored.map_err(Fault::new)
        }
        .boxed()
    }
}
