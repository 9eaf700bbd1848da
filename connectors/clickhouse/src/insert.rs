//! Inserts.
//!
//! Rows are streamed, so an insert holds a few hundred kilobytes of them at a time whatever its
//! size. The format is `RowBinaryWithNamesAndTypes`: the client checks the rows against the table's
//! columns before it sends them, and the server checks them when they arrive, so a changed table
//! gives an error and never misread bytes. Columns that somebody has added keep their defaults.

use chatledger_schemas::directory::DirectoryRow;
use chatledger_schemas::{CorpId, FaultClass};
use clickhouse::Row;
use clickhouse::insert::Insert;

use crate::tables::{
    BatchTable, Consents, Customers, Departments, DirectorySync, DirectoryTable, Follows, Members,
    RoomMembers, Rooms, Table,
};
use crate::{ClickHouse, Error, RequestError};

/// Fail points of an insert that belongs to a batch, in the order in which they are passed: the
/// rows are sent and the insert has not ended; the server has answered.
pub const FAIL_POINTS: &[&str] = &[
    "clickhouse.messages_sent",
    "clickhouse.messages_answered",
    "clickhouse.violations_sent",
    "clickhouse.violations_answered",
    "clickhouse.dead_letters_sent",
    "clickhouse.dead_letters_answered",
];

/// Fail points of storing a sink checkpoint, as [`FAIL_POINTS`].
pub const CHECKPOINT_FAIL_POINTS: &[&str] = &["clickhouse.lanes_sent", "clickhouse.lanes_answered"];

/// Settings of every insert; they take precedence over the server's profile.
const SETTINGS: &[(&str, &str)] = &[
    // The server answers after the rows are in the table, not when they wait in a queue.
    ("async_insert", "0"),
    ("wait_end_of_query", "1"),
    // Replicated tables deduplicate by default, but a profile may turn it off.
    ("insert_deduplicate", "1"),
    // One block whatever the rows: the parser must not split it, and blocks it did split are joined
    // again. Token and atomicity apply to a block.
    ("max_insert_block_size", "1048449"),
    ("min_insert_block_size_rows", "1048449"),
    ("min_insert_block_size_bytes", "1099511627776"),
    // Messages with implausible timestamps must not make an insert impossible. The partitions they
    // create are few and small.
    ("max_partitions_per_insert_block", "0"),
    ("log_comment", "chatledger"),
];

/// Passes a fail point of the crash tests. Does nothing without the feature.
macro_rules! pass {
    ($table:expr, $step:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!(&format!("clickhouse.{}_{}", $table, $step), |_| Err(
            clickhouse::error::Error::Network("fail point".into())
        ));
    };
}

/// Rows to send. The type of the iterator is hidden, because a future that holds an iterator made of
/// borrowing closures is not known to be `Send`.
type Rows<'a, R> = Box<dyn Iterator<Item = R> + Send + 'a>;

impl ClickHouse {
    /// Inserts the rows of one batch into a table. Sends nothing if there are none.
    ///
    /// `token` stands for exactly these records in this order: an insert with a token that the table
    /// remembers changes nothing. Tokens are remembered for each table, so the same token may be
    /// used for several.
    pub async fn insert<'r, 'i, T: BatchTable>(
        &self,
        _table: T,
        token: &str,
        records: impl IntoIterator<Item = T::Record<'r>, IntoIter: Send + 'i>,
    ) -> Result<(), Error> {
        let token = format!("{token}{}", T::TOKEN_SUFFIX);
        let records = Box::new(records.into_iter());
        self.send::<T>(Some(&token), records).await
    }

    /// Inserts directory rows of one sync, one table after the other.
    ///
    /// `synced_at_ms` (milliseconds since the epoch, the snapshot's `taken_at`) is the rows'
    /// version. `FINAL` reads the newest row of a thing, so repeating any part of a sync is harmless
    /// and needs no token.
    pub async fn insert_directory(
        &self,
        corp: &CorpId,
        synced_at_ms: i64,
        rows: &[DirectoryRow],
    ) -> Result<(), Error> {
        let sync = DirectorySync {
            corp_id: corp,
            at_ms: synced_at_ms,
        };
        self.insert_synced::<Departments>(sync, rows).await?;
        self.insert_synced::<Members>(sync, rows).await?;
        self.insert_synced::<Customers>(sync, rows).await?;
        self.insert_synced::<Follows>(sync, rows).await?;
        self.insert_synced::<Rooms>(sync, rows).await?;
        self.insert_synced::<RoomMembers>(sync, rows).await?;
        self.insert_synced::<Consents>(sync, rows).await
    }

    async fn insert_synced<T: DirectoryTable>(
        &self,
        sync: DirectorySync<'_>,
        rows: &[DirectoryRow],
    ) -> Result<(), Error> {
        let records = rows.iter().filter_map(|row| T::record(sync, row));
        self.send::<T>(None, Box::new(records)).await
    }

    pub(crate) async fn send<T: Table>(
        &self,
        token: Option<&str>,
        records: Rows<'_, T::Record<'_>>,
    ) -> Result<(), Error> {
        let mut records = records.peekable();
        if records.peek().is_none() {
            return Ok(());
        }
        let mut count = 0;
        let sent = async {
            let mut insert: Insert<T::Row> = self.client.insert(T::NAME).await?;
            for (name, value) in SETTINGS {
                insert = insert.with_setting(*name, *value);
            }
            if let Some(token) = token {
                insert = insert.with_setting("insert_deduplication_token", token);
            }
            for record in records {
                let row: <T::Row as Row>::Value<'_> = T::row(record);
                insert.write(&row).await?;
                count += 1;
            }
            pass!(T::NAME, "sent");
            insert.end().await?;
            pass!(T::NAME, "answered");
            Ok(())
        };
        let result = self.within(sent).await;
        if let Err(error @ (RequestError::TableMismatch(_) | RequestError::Exception { .. })) =
            &result
            && error.class() == FaultClass::Stop
        {
            // Once the table is repaired, inserts must work again without a restart.
            self.client.clear_cached_metadata().await;
        }
        result.map_err(|source| Error::Insert {
            table: T::NAME,
            rows: count,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::TABLES;

    #[test]
    fn every_fail_point_is_a_step_of_a_table() {
        for point in FAIL_POINTS.iter().chain(CHECKPOINT_FAIL_POINTS) {
            let step_of = |name: &str| {
                ["sent", "answered"]
                    .iter()
                    .any(|step| *point == format!("clickhouse.{name}_{step}"))
            };
            assert!(TABLES.iter().any(|table| step_of(table.name)), "{point}");
        }
    }
}
