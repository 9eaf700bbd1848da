//! Serves the real ClickHouse engine, loaded as a shared library, over ClickHouse's HTTP interface.
//! It does not know what is stored in it: no table, no message, no other part of the pipeline.
//!
//! The engine is libchdb: ClickHouse itself behind a C interface. [`serve`] loads it, opens a data
//! directory and answers what the `clickhouse` crate, `clickhouse-connect`, `clickhouse-go` (and
//! with it Grafana's data source) and `curl` send.
//!
//! # Guarantees
//! - An `INSERT` is stored when its 200 is sent, and stays stored when the process is killed right
//!   afterwards. (A failure of the machine's power is another matter: nothing is synced to disk.)
//! - An `INSERT` whose body does not arrive whole inserts nothing.
//! - The same `INSERT` gives the same blocks, however the network cuts it up. Up to 1,048,449 rows
//!   are one block, so one part in each partition; with `insert_deduplication_token` and a table
//!   with `non_replicated_deduplication_window`, a repeat is a no-op, after a restart too. After a
//!   crash in the middle of an insert, its repeat inserts what is missing and nothing else.
//! - Nothing one request sets is seen by another.
//! - One process at a time has a data directory.
//!
//! # What it is not
//! Not a server for many users (one user, no roles, no quotas), not replicated, not reachable over
//! the native protocol or TLS. Answers are not compressed. `file`, `url`, `s3` and the other
//! functions that reach beyond the database are refused.

mod answer;
mod datadir;
mod engine;
mod error;
mod examine;
mod exception;
mod execute;
mod ffi;
mod front;
mod intake;
mod job;
mod lexer;
mod native;
mod options;
mod request;
mod scope;
mod server;
mod session;
mod spool;
mod statement;
mod tokens;

pub use error::Error;
pub use examine::{Examined, examine, rewrite};
pub use options::{
    Credentials, DEFAULT_CONNECTIONS, DEFAULT_MAX_MEMORY_BYTES, LIBCHDB_VERSION, LIBRARY_VARIABLE,
    Options, find_library,
};
pub use server::serve;
