//! Serves the real ClickHouse engine, loaded as a shared library, over ClickHouse's HTTP interface.
//! It knows nothing of what is stored: no table, no message, no other part of the pipeline.
//!
//! The engine is libchdb: ClickHouse with a C interface. [`Server`] loads it, opens a data directory and
//! answers requests of the `clickhouse` crate, `clickhouse-connect`, `clickhouse-go` (and therefore
//! Grafana's data source) and `curl`.
//!
//! # Guarantees
//! - An `INSERT` is stored when its status 200 is sent, and survives a kill of the process right
//!   afterwards. (It may not survive a power failure: nothing is synced to disk.)
//! - An `INSERT` whose body is incomplete inserts nothing.
//! - The same `INSERT` gives the same blocks, however the network splits it. Up to 1,048,449 rows are
//!   one block, so one part in each partition. With `insert_deduplication_token` and a table with
//!   `non_replicated_deduplication_window`, a repeat changes nothing, also after a restart. After a crash
//!   in the middle of an insert, its repeat inserts exactly the missing rows.
//! - What one request sets is not visible to another.
//! - One process at a time uses a data directory.
//! - Without a password, only programs of the same user and of root are answered (`peer.rs`).
//! - Long queries do not hold up an `INSERT` with data: it has permits of its own.
//!
//! # Limits
//! It is not a server for many users (one user, no roles, no quotas), is not replicated, and does not
//! offer the native protocol or TLS. Responses are not compressed. Statements, functions, engines and
//! formats that reach anything outside the database are refused (`policy.rs`), and the kernel confines the
//! process to its data directory, without connections and programs (`confine.rs`).

mod answer;
mod confine;
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
mod peer;
mod policy;
mod request;
mod scope;
mod server;
mod session;
mod spool;
mod statement;
mod tokens;

pub use error::Error;
pub use examine::{ExaminedRequest, examine, rewrite};
pub use options::{
    Credentials, DEFAULT_CONNECTIONS, DEFAULT_MAX_MEMORY_BYTES, LIBCHDB_VERSION, LIBRARY_VARIABLE,
    Options, find_library,
};
pub use server::Server;
