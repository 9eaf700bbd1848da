//! Inserts.
//!
//! Rows are streamed, so an insert holds a few hundred kilobytes of them at a time whatever its
//! size. They go as `RowBinaryWithNamesAndTypes`, checked against the table's columns before they
//! are sent and by the server when they arrive: a changed table gives an error and never
//! misread bytes. Columns that somebody has added are left to their defaults.

use chatledger_schemas::directory;
use chatledger_schemas::{CorpId, DeadLetter, DeadLetterEvent, Message, Violation};
use clickhouse::RowWrite;
use clickhouse::insert::Insert;

use crate::rows::{
    ConsentRow, CustomerRow, DeadLetterEventRow, DeadLetterRow, DepartmentRow, DirectoryRow,
    FollowRow, MemberRow, MessageRow, RoomMemberRow, RoomRow, Sync, ViolationRow,
};
use crate::{ClickHouse, Error, Fault};

/// What an insert asks of the server, whatever its profile says.
const SETTINGS: &[(&str, &str)] = &[
    // The answer comes after the rows are in the table, not when they wait in a queue.
    ("async_insert", "0"),
    ("wait_end_of_query", "1"),
    // Replicated tables dedup by default, profiles may say otherwise.
    ("insert_deduplicate", "1"),
    // One block whatever the rows: the parser may not cut it, and what it did cut is put together
    // again. Token and atomicity hold for a block.
    ("max_insert_block_size", "1048449"),
    ("min_insert_block_size_rows", "1048449"),
    ("min_insert_block_size_bytes", "1099511627776"),
    // A message with a wild time stamp must not make its insert impossible. The partitions such
    // rows make are few and small.
    ("max_partitions_per_insert_block", "0"),
    ("log_comment", "chatledger"),
];

/// A fail point of the crash matrix; nothing without the feature.
macro_rules! pass {
    ($table:expr, $step:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!(&format!("clickhouse.{}_{}", $table, $step), |_| Err(
            clickhouse::error::Error::Network("fail point".into())
        ));
    };
}

/// Rows on their way. The type of the iterator is hidden, because a future that holds one made of
/// borrowing closures is not known to be `Send`.
pub(crate) type Rows<'a, R> = Box<dyn Iterator<Item = R> + Send + 'a>;

impl ClickHouse {
    /// Inserts messages. Nothing is sent for no rows.
    ///
    /// `token` stands for exactly these rows in this order; an insert under a token the table
    /// remembers changes nothing.
    pub async fn insert_messages<'r>(
        &self,
        token: &str,
        rows: impl IntoIterator<Item = &'r Message, IntoIter: Send + 'r>,
    ) -> Result<(), Error> {
        let rows = Box::new(rows.into_iter().map(MessageRow::from));
        self.insert::<MessageRow<'static>>("messages", Some(token), rows)
            .await
    }

    /// Inserts violations; as [`ClickHouse::insert_messages`]. Tokens are by table, so the same one
    /// may serve for both.
    pub async fn insert_violations<'r>(
        &self,
        token: &str,
        rows: impl IntoIterator<Item = &'r Violation, IntoIter: Send + 'r>,
    ) -> Result<(), Error> {
        let rows = Box::new(rows.into_iter().map(ViolationRow::from));
        self.insert::<ViolationRow<'static>>("violations", Some(token), rows)
            .await
    }

    /// Inserts dead letters; as [`ClickHouse::insert_messages`].
    pub async fn insert_dead_letters<'r>(
        &self,
        token: &str,
        rows: impl IntoIterator<Item = &'r DeadLetter, IntoIter: Send + 'r>,
    ) -> Result<(), Error> {
        let rows = Box::new(rows.into_iter().map(DeadLetterRow::from));
        self.insert::<DeadLetterRow<'static>>("dead_letters", Some(token), rows)
            .await
    }

    /// Hides dead letters that events have settled; as [`ClickHouse::insert_messages`], with a
    /// token of its own. With `FINAL` they stay hidden, whatever is inserted about them afterwards.
    pub async fn insert_settled_letters<'r>(
        &self,
        token: &str,
        rows: impl IntoIterator<Item = &'r DeadLetterEvent, IntoIter: Send + 'r>,
    ) -> Result<(), Error> {
        let rows = Box::new(rows.into_iter().map(DeadLetterRow::settled));
        self.insert::<DeadLetterRow<'static>>("dead_letters", Some(token), rows)
            .await
    }

    /// Inserts what was done about dead letters; as [`ClickHouse::insert_messages`].
    pub async fn insert_dead_letter_events<'r>(
        &self,
        token: &str,
        rows: impl IntoIterator<Item = &'r DeadLetterEvent, IntoIter: Send + 'r>,
    ) -> Result<(), Error> {
        let rows = Box::new(rows.into_iter().map(DeadLetterEventRow::from));
        self.insert::<DeadLetterEventRow<'static>>("dead_letter_events", Some(token), rows)
            .await
    }

    /// Inserts directory rows of one sync, each into its table, one table after the other.
    ///
    /// `synced_at_ms` (milliseconds since the epoch, the snapshot's `taken_at`) is the rows'
    /// version: the newest row of a thing is the one read with `FINAL`, so repeating any part of a
    /// sync is harmless and needs no token.
    pub async fn insert_directory(
        &self,
        corp: &CorpId,
        synced_at_ms: i64,
        rows: &[directory::DirectoryRow],
    ) -> Result<(), Error> {
        use directory::DirectoryRow as R;
        let sync = Sync {
            corp_id: corp,
            at_ms: synced_at_ms,
        };
        macro_rules! table {
            ($variant:ident, $row:ident) => {{
                let rows = Box::new(rows.iter().filter_map(|row| match row {
                    R::$variant(row) => Some($row::new(sync, row)),
                    _ => None,
                }));
                self.insert::<$row<'static>>($row::TABLE, None, rows)
                    .await?;
            }};
        }
        table!(Departments, DepartmentRow);
        table!(Members, MemberRow);
        table!(Customers, CustomerRow);
        table!(Follows, FollowRow);
        table!(Rooms, RoomRow);
        table!(RoomMembers, RoomMemberRow);
        table!(Consents, ConsentRow);
        Ok(())
    }

    pub(crate) async fn insert<'a, R: RowWrite>(
        &self,
        table: &'static str,
        token: Option<&str>,
        rows: Rows<'a, R::Value<'a>>,
    ) -> Result<(), Error> {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let mut count = 0;
        let sent = async {
            let mut insert: Insert<R> = self.client.insert(table).await?;
            for (name, value) in SETTINGS {
                insert = insert.with_setting(*name, *value);
            }
            if let Some(token) = token {
                insert = insert.with_setting("insert_deduplication_token", token);
            }
            for row in rows {
                insert.write(&row).await?;
                count += 1;
            }
            pass!(table, "sent");
            insert.end().await?;
            pass!(table, "answered");
            Ok(())
        };
        let result = self.within(sent).await;
        if let Err(fault @ (Fault::Form(_) | Fault::Exception { .. })) = &result
            && fault.class() == chatledger_schemas::FaultClass::Stop
        {
            // Whoever puts the table right should not have to restart this program.
            self.client.clear_cached_metadata().await;
        }
        result.map_err(|source| Error::Insert {
            table,
            rows: count,
            source,
        })
    }
}
