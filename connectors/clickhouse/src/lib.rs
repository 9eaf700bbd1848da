//! Writes the rows of the archive into ClickHouse, each batch once, and maintains the schema of the
//! tables. It does not know where rows come from, when a batch is due, or what a token stands for.
//!
//! Guarantees
//! - **An insert is one block.** Up to 100,000 rows reach the engine as one block, so an insert
//!   creates one part in each partition, which becomes visible as a whole or not at all.
//! - **Rows inserted with the same token are stored once.** An insert carries the caller's token as
//!   `insert_deduplication_token`. The tables remember tokens
//!   (`non_replicated_deduplication_window`; replicated tables do by default). Repeating an insert
//!   that was interrupted, or whose answer was lost, changes nothing, also after a restart of the
//!   server. The caller guarantees that a token stands for the same rows in the same order.
//! - **Lost rows can be detected.** A server that is killed in the middle of an insert can remember
//!   its token without its rows; [`ClickHouse::absent`] returns the records of a batch whose rows
//!   are missing.
//! - **Inserted rows can be read when the call returns.** Nothing waits in the server's asynchronous
//!   insert queue. On a replicated table the server's profile decides how many replicas that means
//!   (`insert_quorum`).
//! - **An error never holds row values.** ClickHouse quotes rows in its error texts; only the code
//!   and its name are kept.
//! - **A newer schema is refused** ([`Error::SchemaTooNew`]) and an older one is migrated.
//!
//! Not here: retries (the driver decides by
//! [`Classified::class`](chatledger_schemas::Classified)) and `ON CLUSTER` (create the tables of a
//! cluster by hand, or use a `Replicated` database).

mod audit;
mod checkpoint;
pub mod code;
mod connect;
mod error;
mod insert;
mod migrate;
mod presence;
pub mod tables;
mod tls;

use std::time::Duration;

use chatledger_schemas::Secret;
use clickhouse::Client;

pub use audit::{AuditedRows, BlockSum};
pub use clickhouse;
pub use error::{Error, RequestError};
pub use insert::{CHECKPOINT_FAIL_POINTS, FAIL_POINTS};
pub use migrate::Migrated;
pub use tables::{BatchTable, ReconciliationRow, SinkCheckpoint, TABLES, Table, TableInfo};
pub use tls::Roots;

/// How to reach a ClickHouse server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The HTTP interface: `http://host:8123` or `https://host:8443`, optionally with the path of a
    /// proxy.
    pub url: String,
    /// The database that holds the tables.
    pub database: String,
    /// The user; without it the server's `default`.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// Certificate authorities to trust for an `https` address; without them the system's.
    pub roots: Option<Roots>,
    /// Time limit of one call of [`ClickHouse`], all its requests together.
    pub timeout: Duration,
}

/// A client of one ClickHouse server and the archive's database on it. A process needs only one;
/// calls run in parallel over a pool of connections.
pub struct ClickHouse {
    /// Without a database, which may not exist yet.
    server: Client,
    /// With the database.
    client: Client,
    database: String,
    timeout: Duration,
}

impl ClickHouse {
    /// Prepares the client without connecting.
    pub fn new(options: Options) -> Result<Self, Error> {
        let server = connect::client(&options)?;
        Ok(Self {
            client: server.clone().with_database(&options.database),
            server,
            database: options.database,
            timeout: options.timeout,
        })
    }

    /// Checks that the server answers and accepts the user. The database need not exist.
    pub async fn ping(&self) -> Result<(), Error> {
        self.within(self.server.query("SELECT 1").fetch_one::<u8>())
            .await
            .map(drop)
            .map_err(Error::Ping)
    }

    /// Returns the underlying client, with the database set, for other queries. Its errors and its
    /// log lines (target `clickhouse`, level debug) quote rows; keep both out of logs.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Awaits a request, at most for the timeout.
    async fn within<T>(
        &self,
        request: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T, RequestError> {
        match tokio::time::timeout(self.timeout, request).await {
            Ok(result) => result.map_err(RequestError::from),
            Err(_) => Err(RequestError::TimedOut),
        }
    }
}
