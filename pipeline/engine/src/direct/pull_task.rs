//! The task that reads a corp's archive into the queue of the processor.

use std::sync::Arc;
use std::time::Duration;

use chatledger_schemas::SealedRecord;
use futures::FutureExt;
use tokio::sync::mpsc;

use super::contact::ContactFile;
use super::setup::{Context, DriverError};
use crate::pull::{PullError, Puller};

/// One archive and where its pages go.
pub(super) struct PullTask {
    /// The archive.
    pub(super) puller: Puller,
    /// Read after this position.
    pub(super) start: u64,
    /// How long the archive has been silent.
    pub(super) silent: Duration,
    /// Where that is stored.
    pub(super) contact: ContactFile,
    /// The queue.
    pub(super) pages: mpsc::Sender<Vec<SealedRecord>>,
    /// What the run shares.
    pub(super) context: Context,
}

impl PullTask {
    /// Runs until stopped, drained, or nobody takes the pages any more.
    ///
    /// # Errors
    /// See [`PullError`].
    pub(super) async fn run(self) -> Result<(), DriverError> {
        let Context {
            metrics,
            totals,
            drain,
            stop,
            ..
        } = &self.context;
        let puller = &self.puller;
        let deliver = |records: Vec<SealedRecord>| {
            metrics.pulled(puller.corp_id.as_str(), records.len() as u64);
            totals.pulled(records.len());
            let pages = self.pages.clone();
            async move { pages.send(records).await.is_ok() }.boxed()
        };
        let reading = puller.run(self.start, self.silent, *drain, stop, deliver);
        let progress = Arc::clone(&puller.progress);
        let ended = self.contact.keep_current(progress, reading).await;
        ended.map_err(|error| {
            let corp = puller.corp_id.clone();
            match error {
                PullError::GaveUp(fault) | PullError::Position(fault) => {
                    DriverError::Source { corp, fault }
                }
                PullError::ArchiveGap(source) => DriverError::ArchiveGap { corp, source },
            }
        })
    }
}
