//! What the tables hold, for an audit against the ledger: sums of blocks, keys of rows, contents.
//!
//! The tables are read without `FINAL`, except for open dead letters and their events, so that a row
//! that is stored twice counts twice. Values are always bound parameters.

use chatledger_schemas::ledger::{Digest128, RecordKey, RowDigest, RowParts, digest_of};
use chatledger_schemas::{CorpId, DeadLetter, Reason, Severity, Violation};
use clickhouse::Row;
use clickhouse::query::Query;
use serde::Deserialize;

use crate::tables::{
    DeadLetterEvents, DeadLetters, Messages, ReconciliationRow, Reconciliations, Violations,
};
use crate::{ClickHouse, Error, RequestError, Table};

/// The rows that an audit reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditedRows {
    /// Rows of `messages`, each as often as it is stored.
    Messages,
    /// Rows of `violations`, each as often as it is stored.
    Violations,
    /// Dead letters that are open.
    OpenDeadLetters,
    /// Dead letters that have been discarded.
    DiscardedDeadLetters,
}

impl AuditedRows {
    fn table(self) -> &'static str {
        match self {
            Self::Messages => Messages::NAME,
            Self::Violations => Violations::NAME,
            Self::OpenDeadLetters => DeadLetters::NAME,
            Self::DiscardedDeadLetters => DeadLetterEvents::NAME,
        }
    }

    /// What follows `FROM`; further conditions can be appended with `AND`.
    fn from(self) -> String {
        let table = self.table();
        match self {
            Self::Messages | Self::Violations => format!("{table} WHERE true"),
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

#[derive(Row, Deserialize)]
struct ViolationRow {
    violation_id: String,
    msgid: String,
    seq: u64,
    msgtime: i64,
    conversation_id: String,
    from_id: String,
    rule_id: String,
    rule_name: String,
    rule_version: String,
    category: String,
    severity: String,
    matched: Vec<String>,
    spans: Vec<(u32, u32)>,
    detected_at: i64,
}

#[derive(Row, Deserialize)]
struct DeadLetterRow {
    seq: u64,
    msgid: String,
    reason: String,
    error: String,
    key_version: u32,
    sealed: String,
    first_seen: i64,
    attempts: u32,
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

    /// Returns the digests of the rows between two positions, both included, in order of position;
    /// none for discarded dead letters.
    ///
    /// # Errors
    /// [`Error::Audit`] if the query fails.
    pub async fn row_digests(
        &self,
        rows: AuditedRows,
        corp: &CorpId,
        range: (u64, u64),
    ) -> Result<Vec<RowDigest>, Error> {
        match rows {
            AuditedRows::Messages => {
                self.digests(rows, corp, range, |row| row_digest(&row))
                    .await
            }
            AuditedRows::Violations => {
                self.digests(rows, corp, range, |row| violation_digest(corp, row))
                    .await
            }
            AuditedRows::OpenDeadLetters => {
                self.digests(rows, corp, range, |row| dead_letter_digest(corp, row))
                    .await
            }
            AuditedRows::DiscardedDeadLetters => Ok(Vec::new()),
        }
    }

    async fn digests<R>(
        &self,
        rows: AuditedRows,
        corp: &CorpId,
        (first, last): (u64, u64),
        digest: impl Fn(R) -> RowDigest,
    ) -> Result<Vec<RowDigest>, Error>
    where
        R: clickhouse::RowOwned + clickhouse::RowRead,
    {
        let sql = format!(
            "SELECT ?fields FROM {} AND corp_id = {{corp:String}} \
             AND seq BETWEEN {{first:UInt64}} AND {{last:UInt64}} ORDER BY seq",
            rows.from()
        );
        let query = self.between(&sql, corp, first, last);
        let read = async {
            let mut cursor = query.fetch::<R>()?;
            let mut digests = Vec::new();
            while let Some(row) = cursor.next().await? {
                digests.push(digest(row));
            }
            Ok(digests)
        };
        self.audit(rows, read).await
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

/// The digest of a row with a value that no program writes. No row in a ledger has it.
fn foreign(seq: u64, msgid: &str) -> RowDigest {
    RowDigest {
        key: RecordKey {
            seq,
            msgid: digest_of(msgid.as_bytes()),
        },
        digest: [0xff; 16],
    }
}

fn violation_digest(corp: &CorpId, row: ViolationRow) -> RowDigest {
    let mut known = Severity::ALL.into_iter();
    let Some(severity) = known.find(|severity| severity.as_str() == row.severity) else {
        return foreign(row.seq, &row.msgid);
    };
    RowDigest::from(&Violation {
        corp_id: corp.clone(),
        violation_id: row.violation_id,
        msgid: row.msgid,
        seq: row.seq,
        msgtime: row.msgtime,
        conversation_id: row.conversation_id,
        from_id: row.from_id,
        rule_id: row.rule_id,
        rule_name: row.rule_name,
        rule_version: row.rule_version,
        category: row.category,
        severity,
        matched: row.matched,
        spans: row.spans,
        detected_at: row.detected_at,
    })
}

fn dead_letter_digest(corp: &CorpId, row: DeadLetterRow) -> RowDigest {
    let mut known = Reason::ALL.into_iter();
    let Some(reason) = known.find(|reason| reason.as_str() == row.reason) else {
        return foreign(row.seq, &row.msgid);
    };
    RowDigest::from(&DeadLetter {
        corp_id: corp.clone(),
        seq: row.seq,
        msgid: row.msgid,
        reason,
        error: row.error,
        key_version: row.key_version,
        sealed: row.sealed,
        first_seen: row.first_seen,
        attempts: row.attempts,
    })
}
