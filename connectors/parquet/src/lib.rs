//! Writes messages and violations as Parquet files in a layout that Hive, Spark, DuckDB, ClickHouse
//! and pyarrow read as one partitioned table.
//! It does not know where the rows come from, when a batch is due, or what its name stands for.
//!
//! ```text
//! <url>/messages/corp_id=<id>/dt=<YYYY-MM-DD in the corp's timezone>/<batch>.parquet
//! <url>/violations/corp_id=<id>/dt=<YYYY-MM-DD in the corp's timezone>/<batch>.parquet
//! <url>/_<path>    state files of the caller; readers of the tables skip them
//! ```
//!
//! Guarantees
//! - **The same rows under the same name give the same files.** Paths and bytes are a function of the
//!   rows in their order, the batch's name and the metadata. They do not depend on how the rows were
//!   divided into calls of [`BatchEncoder::append`]. So a repeat after a crash finds its files.
//! - **The first write wins.** [`Target::put`] never replaces an object; it returns
//!   [`PutResult::AlreadyExists`].
//! - **A file is complete or absent.** A final name appears only on a complete file that is durable on
//!   the disk or in the bucket. Incomplete files are in a hidden folder that no `*.parquet` pattern and
//!   no data set reader looks into; the next [`Target::open`] removes them.
//!
//! [`ArchiveFile`] reads files back for an audit.
//!
//! Encoding is CPU work and synchronous ([`BatchEncoder`]); writing files is I/O and async
//! ([`Target`]).

mod archive_file;
mod encoder;
mod error;
mod file_encoder;
mod layout;
mod local;
mod object;
mod partition;
mod rows;
mod target;

pub use archive_file::ArchiveFile;
pub use encoder::{BatchEncoder, EncodedFile};
pub use error::Error;
pub use partition::ParquetTable;
pub use partition::{DEFAULT_ZONE, Zones};
pub use target::{PutResult, Target};

/// A time zone by its IANA name, as [`Zones`] holds it.
pub use chrono_tz::Tz;

pub(crate) const FILE_UNNAMED: &str = "parquet.file_unnamed";
pub(crate) const FILE_NAMED: &str = "parquet.file_named";

/// Fail points of writing one file, in the order in which they are passed: the file is complete and
/// not visible; it has its final name.
pub const FAIL_POINTS: &[&str] = &[FILE_UNNAMED, FILE_NAMED];
