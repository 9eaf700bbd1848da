//! Writes the rows of the archive into ClickHouse, each batch once, and keeps the tables' schema.
//! It does not know where rows come from, when a batch is due, or what a token stands for.
//!
//! What it guarantees
//! - **An insert is one block.** Whatever the rows, up to 100,000 of them reach the engine as one
//!   block, so there is one part in each partition, visible as a whole or not at all.
//! - **The same token, the same rows, once.** An insert carries the caller's token as
//!   `insert_deduplication_token`; the tables remember theirs
//!   (`non_replicated_deduplication_window`; replicated tables do by default). A repeat of an
//!   insert that was cut off, or whose answer was lost, changes nothing, after a restart of the
//!   server too. The caller keeps the promise that a token stands for the same rows in the same
//!   order.
//! - **What a token hides can be found out.** A server killed in the middle of an insert can
//!   remember its token without its rows; `absent_messages` and its neighbours say which rows of a
//!   batch are not there.
//! - **When it returns, the rows can be read.** Nothing waits in the server's asynchronous insert
//!   queue. On a replicated table the server's profile says how many replicas that means
//!   (`insert_quorum`).
//! - **An error never holds row values.** ClickHouse quotes rows in its texts; only the code and
//!   its name are kept.
//! - **A newer schema is refused** ([`Error::SchemaTooNew`]) and an older one brought up to date.
//!
//! Not here: retries (the driver's, by [`Classified::class`](chatledger_schemas::Classified)),
//! `ON CLUSTER` (tables of a cluster are made by whoever runs it, or in a `Replicated` database).

mod audit;
pub mod code;
mod connect;
mod error;
mod insert;
mod lanes;
mod migrate;
mod presence;
mod rows;
mod tls;

use std::time::Duration;

use chatledger_schemas::Secret;
use clickhouse::Client;

pub use audit::{Audited, BlockSum, ReconciliationRow, RowDigest, RowKey};
pub use clickhouse;
pub use error::{Error, Fault};
pub use lanes::LaneMark;
pub use migrate::Migrated;
pub use tls::Roots;

/// How to reach a ClickHouse.
#[derive(Clone, Debug)]
pub struct Options {
    /// The HTTP interface: `http://host:8123`, `https://host:8443`, a path behind a proxy too.
    pub url: String,
    /// The database that holds the tables.
    pub database: String,
    /// The user; without it the server's `default`.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// Who may vouch for the server of an `https` address; without it the system's authorities.
    pub roots: Option<Roots>,
    /// How long one call of [`ClickHouse`] may take, all its requests together.
    pub timeout: Duration,
}

/// A ClickHouse and the database in it that is the archive's. One is enough for a process; calls
/// run side by side over a pool of connections.
pub struct ClickHouse {
    /// Without a database, which may not be there yet.
    server: Client,
    /// With the database.
    client: Client,
    database: String,
    timeout: Duration,
}

impl ClickHouse {
    /// Prepares the client; nothing is connected to.
    pub fn new(options: Options) -> Result<Self, Error> {
        let server = connect::client(&options)?;
        Ok(Self {
            client: server.clone().with_database(&options.database),
            server,
            database: options.database,
            timeout: options.timeout,
        })
    }

    /// Asks the server for an answer: it is there and knows the user. The database need not exist.
    pub async fn ping(&self) -> Result<(), Error> {
        self.within(self.server.query("SELECT 1").fetch_one::<u8>())
            .await
            .map(drop)
            .map_err(Error::Ping)
    }

    /// The client behind it, with the database set, for queries of one's own. Its errors quote rows
    /// and its log lines (target `clickhouse`, level debug) do too; keep both out of logs.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Awaits a request for no longer than the timeout.
    async fn within<T>(
        &self,
        request: impl Future<Output = clickhouse::error::Result<T>>,
    ) -> Result<T, Fault> {
        match tokio::time::timeout(self.timeout, request).await {
            Ok(result) => result.map_err(Fault::from),
            Err(_) => Err(Fault::TimedOut),
        }
    }
}
