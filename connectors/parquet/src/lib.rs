//! Writes messages and violations as Parquet files in a layout that Hive, Spark, DuckDB, ClickHouse
//! and pyarrow read as one partitioned table.
//! It does not know where the rows come from, when a cut is due, or what a cut means.
//!
//! ```text
//! <url>/messages/corp_id=<id>/dt=<YYYY-MM-DD in the corp's timezone>/<cut>.parquet
//! <url>/violations/corp_id=<id>/dt=<YYYY-MM-DD in the corp's timezone>/<cut>.parquet
//! <url>/_<note>    what a writer keeps beside them for itself; readers skip it
//! ```
//!
//! What it guarantees
//! - **Same rows, same cut, same files.** Paths and bytes are a function of the rows in their
//!   order, the cut and the metadata; how the rows were cut into calls of [`Open::append`] leaves
//!   no trace. So a repeat after a crash finds its files already there.
//! - **First write wins.** [`Target::put`] never replaces an object; it says [`Put::AlreadyThere`].
//! - **Whole or not at all.** A final name appears only on a complete file that has reached the
//!   disk (or the bucket); what a crash leaves behind lies in a hidden folder that no
//!   `*.parquet` pattern and no data set reader looks into, and is removed by the next
//!   [`Target::open`].
//!
//! What was put can be read back for an audit ([`Contents`]).
//!
//! Encoding is CPU work and synchronous ([`Open`]); putting is I/O and async ([`Target`]).

mod error;
mod layout;
mod local;
mod object;
mod open;
mod partition;
mod read;
mod rows;
mod target;
mod writer;

pub use error::Error;
pub use open::{File, Open};
pub use partition::{DEFAULT_ZONE, Zones};
pub use read::{Contents, Key, RowDigest};
pub use target::{Put, Target};

/// A time zone by its IANA name, as [`Zones`] holds it.
pub use chrono_tz::Tz;
