//! What the tables hold, for an audit against the ledger: sums of blocks, keys of rows, contents.
//!
//! Tables are read without `FINAL` where a repeat must be seen, so a row that stands there twice
//! counts twice. Everything is asked for with bound parameters.

use chatledger_schemas::CorpId;
use chatledger_schemas::ledger::{Digest128, RowParts, digest_of};
use clickhouse::Row;
use clickhouse::query::Query;
use serde::{Deserialize, Serialize};

use crate::{ClickHouse, Error, Fault};

/// What an audit reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Audited {
    /// Rows of `messages`, each as often as it stands there.
    Messages,
    /// Letters of `dead_letters` that are open.
    OpenLetters,
    /// Letters that somebody has dropped.
    DroppedLetters,
}

impl Audited {
    fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::OpenLetters => "dead_letters",
            Self::DroppedLetters => "dead_letter_events",
        }
    }

    fn from(self) -> &'static str {
        match self {
            Self::Messages => "messages WHERE true",
            Self::OpenLetters => "dead_letters FINAL WHERE true",
            // One letter may have been dropped by two people at once.
            Self::DroppedLetters => {
                "(SELECT DISTINCT corp_id, seq, msgid FROM dead_letter_events FINAL \
                 WHERE event = 'dropped') WHERE true"
            }
        }
    }
}

/// Rows of one block of positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct BlockSum {
    /// Number of the block: position divided by the size of a block.
    pub block: u64,
    /// Rows in it.
    pub rows: u64,
    /// Sum of the rows' hashes ([`row_hash`]), wrapping.
    pub hash: u64,
}

/// Which message a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowKey {
    /// Position in the corp's archive.
    pub seq: u64,
    /// Digest of the msgid.
    pub msgid: Digest128,
}

/// A row of `messages` and the digest of what it holds of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowDigest {
    /// Which message it is.
    pub key: RowKey,
    /// [`RowParts::digest`] of the row.
    pub row: Digest128,
}

/// One result of a reconciliation, as the table `reconciliations` keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Row, Serialize)]
#[expect(missing_docs, reason = "the columns of the table, explained there")]
pub struct ReconciliationRow<'a> {
    pub corp_id: &'a str,
    pub run_at: i64,
    pub first_seq: u64,
    pub last_seq: u64,
    pub pulled: u64,
    pub clickhouse: u64,
    pub parquet: u64,
    pub dead_letters: u64,
    pub dropped: u64,
    pub duplicates: u64,
    pub missing: u64,
    pub unexpected: u64,
    pub repeated: u64,
    pub in_flight: u64,
    pub gaps: u64,
    pub accounted: bool,
    pub bad_blocks: &'a [u64],
}

/// Not to be named `msgid`: a condition would then mean the digest and not the column.
const DIGEST: &str = "reinterpretAsUInt128(substring(SHA256(msgid), 1, 16))";
/// The first half of the digest, mixed with the position.
const HASH: &str = "bitXor(reinterpretAsUInt64(substring(SHA256(msgid), 1, 8)), \
                    seq * toUInt64(11400714819323198485))";

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
    /// Sums of the blocks of `size` positions between two positions, both included.
    ///
    /// # Errors
    /// The server does not answer as it should.
    pub async fn block_sums(
        &self,
        what: Audited,
        corp: &CorpId,
        (first, last): (u64, u64),
        size: u64,
    ) -> Result<Vec<BlockSum>, Error> {
        let sql = format!(
            "SELECT intDiv(seq, {{size:UInt64}}) AS block, count() AS rows, sum({HASH}) AS hash \
             FROM {} AND corp_id = {{corp:String}} AND seq BETWEEN {{first:UInt64}} AND {{last:UInt64}} \
             GROUP BY block ORDER BY block",
            what.from()
        );
        let query = self.between(&sql, corp, first, last).param("size", size);
        self.audit(what, query.fetch_all()).await
    }

    /// Rows between two positions, both included, in their order; at most `limit`.
    ///
    /// # Errors
    /// The server does not answer as it should.
    pub async fn row_keys(
        &self,
        what: Audited,
        corp: &CorpId,
        (first, last): (u64, u64),
        limit: u64,
    ) -> Result<Vec<RowKey>, Error> {
        let sql = format!(
            "SELECT seq, {DIGEST} AS digest FROM {} AND corp_id = {{corp:String}} \
             AND seq BETWEEN {{first:UInt64}} AND {{last:UInt64}} ORDER BY seq LIMIT {{most:UInt64}}",
            what.from()
        );
        let query = self.between(&sql, corp, first, last).param("most", limit);
        self.audit(what, query.fetch_all()).await.map(keys)
    }

    /// The rows of `messages`, wherever they stand, whose msgids have one of these digests.
    ///
    /// # Errors
    /// The server does not answer as it should.
    pub async fn rows_of(&self, corp: &CorpId, msgids: &[Digest128]) -> Result<Vec<RowKey>, Error> {
        let mut found = Vec::new();
        for msgids in msgids.chunks(1000) {
            let list: Vec<String> = msgids
                .iter()
                .map(|digest| u128::from_le_bytes(*digest).to_string())
                .collect();
            let sql = format!(
                "SELECT seq, {DIGEST} AS digest FROM messages WHERE corp_id = {{corp:String}} \
                 AND toString({DIGEST}) IN (SELECT arrayJoin({{list:Array(String)}}))"
            );
            let query = self
                .client
                .query(&sql)
                .param("corp", corp.as_str())
                .param("list", list);
            found.extend(keys(
                self.audit(Audited::Messages, query.fetch_all()).await?,
            ));
        }
        Ok(found)
    }

    /// What the rows of `messages` between two positions, both included, hold of their messages.
    ///
    /// # Errors
    /// The server does not answer as it should.
    pub async fn row_digests(
        &self,
        corp: &CorpId,
        (first, last): (u64, u64),
    ) -> Result<Vec<RowDigest>, Error> {
        let sql = "SELECT seq, msgid, action, msgtype, \
             msgtime, conversation_id, room_id, from_id, to_ids, content, payload, \
             key_version FROM messages WHERE corp_id = {corp:String} \
             AND seq BETWEEN {first:UInt64} AND {last:UInt64} ORDER BY seq";
        let query = self.between(sql, corp, first, last);
        let read = async {
            let mut cursor = query.fetch::<ContentRow>()?;
            let mut digests = Vec::new();
            while let Some(row) = cursor.next().await? {
                digests.push(digest(&row));
            }
            Ok(digests)
        };
        self.audit(Audited::Messages, read).await
    }

    /// Keeps a result, for the dashboards.
    ///
    /// # Errors
    /// The server does not take it.
    pub async fn keep_reconciliation(&self, row: &ReconciliationRow<'_>) -> Result<(), Error> {
        let sent = async {
            let mut insert = self
                .client
                .insert::<ReconciliationRow<'_>>("reconciliations")
                .await?;
            insert.write(row).await?;
            insert.end().await
        };
        self.within(sent).await.map_err(|source| Error::Insert {
            table: "reconciliations",
            rows: 1,
            source,
        })
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
        what: Audited,
        request: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T, Error> {
        let table = what.name();
        let answered: Result<T, Fault> = self.within(request).await;
        answered.map_err(|source| Error::Audit { table, source })
    }
}

fn keys(rows: Vec<KeyRow>) -> Vec<RowKey> {
    let key = |row: KeyRow| RowKey {
        seq: row.seq,
        msgid: row.digest.to_le_bytes(),
    };
    rows.into_iter().map(key).collect()
}

fn digest(row: &ContentRow) -> RowDigest {
    let parts = RowParts {
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
    };
    RowDigest {
        key: RowKey {
            seq: row.seq,
            msgid: digest_of(row.msgid.as_bytes()),
        },
        row: parts.digest(),
    }
}
