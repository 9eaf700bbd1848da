//! The tables, one value each.
//!
//! A table knows its name, the row it is written with (one field a column, borrowed from the
//! record), and how repeated inserts are recognised. Inserts, presence checks, audits and the tests
//! of the schema use these values; only the migrations name tables and columns again. [`TABLES`]
//! lists them all.
//!
//! Field names of rows are column names. Times in milliseconds go into `DateTime64(3)` unchanged.
//! Times in seconds go into `DateTime`, which covers 1970 to 2106; values outside are clamped.

mod archive;
mod dead_letters;
mod directory;
mod state;

use chatledger_schemas::CorpId;
use clickhouse::{Row, RowWrite};

pub use archive::{Messages, Violations};
pub use dead_letters::{DeadLetterEvents, DeadLetters, SettledDeadLetters};
pub use directory::{Consents, Customers, Departments, Follows, Members, RoomMembers, Rooms};
pub(crate) use directory::{DirectorySync, DirectoryTable};
pub use state::{Lanes, ReconciliationRow, Reconciliations, SinkCheckpoint};

/// A table this program writes.
pub trait Table: Copy + Send + Sync + 'static {
    /// Its name in the database.
    const NAME: &'static str;
    /// What it is filled from.
    type Record<'r>: Copy + Send + Sync;
    /// Its row as it is sent. Columns that the row does not name keep their defaults.
    type Row: RowWrite;

    /// Makes the row of a record.
    fn row(record: Self::Record<'_>) -> <Self::Row as Row>::Value<'_>;
}

/// A table that batches are written into, each batch once.
///
/// Its migrations set `non_replicated_deduplication_window`, so an insert token is remembered.
pub trait BatchTable: Table {
    /// Appended to the caller's insert token, where a second kind of record goes into the same
    /// table: tokens are remembered for each table.
    const TOKEN_SUFFIX: &'static str = "";
    /// A condition on the rows that count as this record's.
    const CONDITION: Option<&'static str> = None;
    /// An expression of type `String` that identifies a row within a corp.
    const KEY: &'static str;
    /// The column that bounds the search for a row.
    const BOUND: Bound;

    /// The corp a record belongs to.
    fn corp(record: Self::Record<'_>) -> &CorpId;
    /// The value of [`BatchTable::KEY`] for a record.
    fn key(record: Self::Record<'_>) -> String;
    /// The value of the [`BatchTable::BOUND`] column for a record; `None` if it cannot bound the
    /// search.
    fn bound(record: Self::Record<'_>) -> Option<i64>;
}

/// A column by which a table is sorted or indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// `msgtime`, milliseconds since the epoch, UTC.
    MessageTime,
    /// `seq`.
    Seq,
}

impl Bound {
    /// A condition with two parameters, the lowest and the highest value.
    pub(crate) fn condition(self) -> &'static str {
        match self {
            Self::MessageTime => {
                "msgtime BETWEEN fromUnixTimestamp64Milli(?, 'UTC') \
                 AND fromUnixTimestamp64Milli(?, 'UTC')"
            }
            Self::Seq => "seq BETWEEN ? AND ?",
        }
    }
}

/// What is known about a table without its types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// Its name in the database.
    pub name: &'static str,
    /// The columns that are written.
    pub columns: &'static [&'static str],
    /// Whether it remembers insert tokens. The others replace rows by version or hold results.
    pub remembers_tokens: bool,
}

impl TableInfo {
    const fn batch<T: BatchTable>() -> Self {
        Self {
            name: T::NAME,
            columns: <T::Row as Row>::COLUMN_NAMES,
            remembers_tokens: true,
        }
    }

    const fn other<T: Table>() -> Self {
        Self {
            name: T::NAME,
            columns: <T::Row as Row>::COLUMN_NAMES,
            remembers_tokens: false,
        }
    }
}

/// Every table, once. [`SettledDeadLetters`] are rows of the table `dead_letters`.
pub const TABLES: &[TableInfo] = &[
    TableInfo::batch::<Messages>(),
    TableInfo::batch::<Violations>(),
    TableInfo::batch::<DeadLetters>(),
    TableInfo::batch::<DeadLetterEvents>(),
    TableInfo::other::<Departments>(),
    TableInfo::other::<Members>(),
    TableInfo::other::<Customers>(),
    TableInfo::other::<Follows>(),
    TableInfo::other::<Rooms>(),
    TableInfo::other::<RoomMembers>(),
    TableInfo::other::<Consents>(),
    TableInfo::other::<Lanes>(),
    TableInfo::other::<Reconciliations>(),
];
