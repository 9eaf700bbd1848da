//! The engine's ports, filled in with connectors. Connectors do not know the engine and the engine
//! does not know them, so each port has a thin shell here.

mod files;
mod tables;

use std::sync::Arc;

use chatledger_clickhouse::ClickHouse;
use chatledger_engine::failpoint;
use chatledger_engine::fault::Fault;
use chatledger_engine::ports::{DirectorySink, DirectorySource, Source};
use chatledger_engine::shared::now_ms;
use chatledger_schemas::directory::{DirectoryRow, Room, Snapshot};
use chatledger_schemas::{CorpId, SealedRecord};
use chatledger_wecom::{Archive, DirectoryClient};
use futures::FutureExt;
use futures::future::BoxFuture;

pub use self::files::{FileCheckpoints, FileWriter};
pub use self::tables::{TableCheckpoints, TableWriter};

fn wecom_fault(error: chatledger_wecom::Error) -> Fault {
    let pause = error.retry_after();
    Fault::new(error).after(pause)
}

/// One corp's archive.
pub struct WecomArchive(pub Archive);

impl Source for WecomArchive {
    fn page(&self, after: u64) -> BoxFuture<'_, Result<Vec<SealedRecord>, Fault>> {
        async move {
            let page = self.0.page(after).await.map_err(wecom_fault)?;
            failpoint::pass("source", "page_received")?;
            Ok(page.records)
        }
        .boxed()
    }
}

/// One corp's directory.
pub struct WecomDirectory(pub DirectoryClient);

impl DirectorySource for WecomDirectory {
    fn sync<'a>(
        &'a self,
        wanted: &'a [String],
        known: &'a [Room],
    ) -> BoxFuture<'a, Result<Snapshot, Fault>> {
        async move {
            self.0
                .sync(wanted, known, now_ms())
                .await
                .map_err(wecom_fault)
        }
        .boxed()
    }
}

/// The directory tables.
pub struct DirectoryTables(pub Arc<ClickHouse>);

impl DirectorySink for DirectoryTables {
    fn store<'a>(
        &'a self,
        corp: &'a CorpId,
        taken_at: i64,
        rows: &'a [DirectoryRow],
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            self.0
                .insert_directory(corp, taken_at, rows)
                .await
                .map_err(Fault::new)
        }
        .boxed()
    }
}
