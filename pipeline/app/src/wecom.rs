//! WeCom's archive and directory as the engine's ports. The connector does not know the engine.

use chatledger_engine::failpoint;
use chatledger_engine::fault::Fault;
use chatledger_engine::ports::{DirectorySource, Source};
use chatledger_engine::shared::now_ms;
use chatledger_schemas::SealedRecord;
use chatledger_schemas::directory::{Room, Snapshot};
use chatledger_wecom::{Archive, DirectoryClient};
use futures::FutureExt;
use futures::future::BoxFuture;

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
