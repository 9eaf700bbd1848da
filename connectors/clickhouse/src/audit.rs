//! What the tables hold, for an audit against the ledger: sums of blocks, keys of rows, contents.
//!
//! The tables are read without `FINAL`, except for open dead letters and their events, so that a row
//! that is stored twice counts twice. Values are always bound parameters.

use chatledger_schemas::CorpId;
use chatledger_schemas::ledger::{Digest128, RecordKey, RowDigest, RowParts};
use clickhouse::Row;
use clickhouse::query::Query;
use serde::Deserialize;

use crate::tables::{DeadLetterEvents, DeadLetters, Messages, ReconciliationRow, Reconciliations};
use crate::{ClickHouse, Error, RequestError, Table};

/// The rows that an audit reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditedRows {
    /// Rows of `messages`, each as often as it is stored.
    Messages,
    /// Dead letters that are open.
    OpenDeadLetters,
    /// Dead letters that have been discarded.
    DiscardedDeadLetters,
}

impl AuditedRows {
    fn table(self) -> &'static str {
        match self {
            Self::Messages => Messages::NAME,
            Self::OpenDeadLetters => DeadLetters::NAME,
            Self::DiscardedDeadLetters => DeadLetterEvents::NAME,
        }
    }

    /// What follows `FROM`; further conditions can be appended with `AND`.
    fn from(self) -> String {
        let table = self.table();
        match self {
            Self::Messages => format!("{table} WHERE true"),
            Self::OpenDeadLetters => format!("{table} FINAL WHERE true"),
            // Two people may have discarded the same dead letter at the same time.
            Self::DiscardedDeadLetters => format!(
                "(SELECT DISTINCT corp_id, seq, msgid FROM {table} FINAL \
                 WHERE event = 'dropped') WHERE true"
            ),
        }
    }
}

/// Rows of one block of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct BlockSum {
    /// Number of the block: position divided by the size of a block.
    pub block: u64,
    /// Number of rows in it.
    pub rows: u64,
    /// Wrapping sum of the rows' hashes. A row's hash is the first half of its msgid's digest,
    /// combined with its position.
    pub hash: u64,
}

/// Must not be selected as `msgid`: conditions would then refer to the digest instead of the column.
const DIGEST: &str = "reinterpretAsUInt128(substring(SHA256(msgid), 1, 16))";
/// The first half of the digest, combined with the position.
const HASH: &str = "bitXor(reinterpretAsUInt64(substring(SHA256(msgid), 1, 8)), \
                    seq * toUInt64(11400714819323198485))";

/// Digests of one query of [`ClickHouse::rows_with_msgids`].
const DIGESTS_PER_QUERY: usize = 1000;

#[derive(Row, Deserialize)]
struct KeyRow {
    seq: u64,
    digest: u128,
}

#[derive(Row, Deserialize)]
struct ContentRow {
    seq: u64,
    msgid: String,
    action: String,
    msgtype: String,
    msgtime: i64,
    conversation_id: String,
    room_id: String,
    from_id: String,
    to_ids: Vec<String>,
    content: String,
    payload: String,
    key_version: u32,
}

impl ClickHouse {
    /// Returns the sums of the blocks of `size` positions between two positions, both included.
    ///
    /// # Errors
    /// [`Error::Audit`] if the query fails.
    pub async fn block_sums(
        &self,
        rows: AuditedRows,
        corp: &CorpId,
        (first, last): (u64, u64),
        size: u64,
    ) -> Result<Vec<BlockSum>, Error> {
        let sql = format!(
            "SELECT intDiv(seq, {{size:UInt64}}) AS block, count() AS rows, sum({HASH}) AS hash \
             FROM {} AND corp_id = {{corp:String}} AND seq BETWEEN {{first:UInt64}} AND {{last:UInt64}} \
             GROUP BY block ORDER BY block",
            rows.from()
        );
        let query = self.between(&sql, corp, first, last).param("size", size);
        self.audit(rows, query.fetch_all()).await
    }

    /// Returns the keys of at most `limit` rows between two positions, both included, in order of
    /// position.
    ///
    /// # Errors
    /// [`Error::Audit`] if the query fails.
    pub async fn row_keys(
        &self,
        rows: AuditedRows,
        corp: &CorpId,
        (first, last): (u64, u64),
        limit: u64,
    ) -> Result<Vec<RecordKey>, Error> {
        let sql = format!(
            "SELECT seq, {DIGEST} AS digest FROM {} AND corp_id = {{corp:String}} \
             AND seq BETWEEN {{first:UInt64}} AND {{last:UInt64}} ORDER BY seq LIMIT {{most:UInt64}}",
            rows.from()
        );
        let query = self.between(&sql, corp, first, last).param("most", limit);
        self.audit(rows, query.fetch_all()).await.map(record_keys)
    }

    /// Returns the keys of all rows of `messages`, at any position, whose msgids have one of these
    /// digests.
    ///
    /// # Errors
    /// [`Error::Audit`] if a query fails.
    pub async fn rows_with_msgids(
        &self,
        corp: &CorpId,
        msgids: &[Digest128],
    ) -> Result<Vec<RecordKey>, Error> {
        let mut found = Vec::new();
        for msgids in msgids.chunks(DIGESTS_PER_QUERY) {
            let list: Vec<String> = msgids
                .iter()
                .map(|digest| u128::from_le_bytes(*digest).to_string())
                .collect();
            let sql = format!(
                "SELECT seq, {DIGEST} AS digest FROM {} WHERE corp_id = {{corp:String}} \
                 AND toString({DIGEST}) IN (SELECT arrayJoin({{list:Array(String)}}))",
                Messages::NAME
            );
            let query = self
                .client
                .query(&sql)
                .param("corp", corp.as_str())
                .param("list", list);
            let rows = self.audit(AuditedRows::Messages, query.fetch_all()).await?;
            found.extend(record_keys(rows));
        }
        Ok(found)
    }

    /// Returns the digests of the rows of `messages` between two positions, both included, in order
    /// of position.
    ///
    /// # Errors
    /// [`Error::Audit`] if the query fails.
    pub async fn row_digests(
        &self,
        corp: &CorpId,
        (first, last): (u64, u64),
    ) -> Result<Vec<RowDigest>, Error> {
        let sql = format!(
            "SELECT ?fields FROM {} WHERE corp_id = {{corp:String}} \
             AND seq BETWEEN {{first:UInt64}} AND {{last:UInt64}} ORDER BY seq",
            Messages::NAME
        );
        let query = self.between(&sql, corp, first, last);
        let read = async {
            let mut cursor = query.fetch::<ContentRow>()?;
            let mut digests = Vec::new();
            while let Some(row) = cursor.next().await? {
                digests.push(row_digest(&row));
            }
            Ok(digests)
        };
        self.audit(AuditedRows::Messages, read).await
    }

    /// Stores the result of a reconciliation, for the dashboards.
    ///
    /// # Errors
    /// [`Error::Insert`] if the insert fails.
    pub async fn store_reconciliation(&self, row: &ReconciliationRow<'_>) -> Result<(), Error> {
        let record = std::iter::once(*row);
        self.send::<Reconciliations>(None, Box::new(record)).await
    }

    fn between(&self, sql: &str, corp: &CorpId, first: u64, last: u64) -> Query {
        self.client
            .query(sql)
            .param("corp", corp.as_str())
            .param("first", first)
            .param("last", last)
    }

    async fn audit<T>(
        &self,
        rows: AuditedRows,
        request: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T, Error> {
        let answered: Result<T, RequestError> = self.within(request).await;
        answered.map_err(|source| Error::Audit {
            table: rows.table(),
            source,
        })
    }
}

fn record_keys(rows: Vec<KeyRow>) -> Vec<RecordKey> {
    let key = |row: KeyRow| RecordKey {
        seq: row.seq,
        msgid: row.digest.to_le_bytes(),
    };
    rows.into_iter().map(key).collect()
}

fn row_digest(row: &ContentRow) -> RowDigest {
    RowDigest::from(&RowParts {
        seq: row.seq,
        msgid: &row.msgid,
        action: &row.action,
        msgtype: &row.msgtype,
        msgtime: row.msgtime,
        conversation_id: &row.conversation_id,
        room_id: &row.room_id,
        from_id: &row.from_id,
        to_ids: &row.to_ids,
        content: &row.content,
        payload: &row.payload,
        key_version: row.key_version,
    })
}
