//! The task of one lane: takes batches from its queue and delivers them to its sink.

use std::sync::Arc;

use chatledger_schemas::CorpId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Flow;
use super::journal::{JournalFile, OpenedJournal};
use super::setup::{Context, DriverError};
use crate::batch::Batch;
use crate::delivery::{Delivery, Flushed};
use crate::shared::Progress;
use crate::sink::Sink;

/// One lane and what it reads from.
pub(super) struct LaneTask {
    sink: &'static str,
    delivery: Delivery,
    journal: JournalFile,
    queue: mpsc::Receiver<Arc<Batch>>,
    progress: Arc<Progress>,
    /// Ends waits for the sink.
    abandon: CancellationToken,
}

/// What the lane waits for.
enum Awaited {
    Batch(Arc<Batch>),
    /// The open batch must be flushed.
    Deadline,
    /// There are no more batches.
    Closed,
}

impl LaneTask {
    /// Resumes a lane from its journal.
    pub(super) fn new(
        sink: &Sink,
        corp_id: &CorpId,
        opened: OpenedJournal,
        queue: mpsc::Receiver<Arc<Batch>>,
        progress: Arc<Progress>,
        context: &Context,
    ) -> Self {
        let OpenedJournal {
            journal,
            checkpoint,
            ..
        } = opened;
        progress.reached(sink.name, checkpoint.position, None);
        let (log, metrics) = (corp_id.to_string(), Arc::clone(&context.metrics));
        Self {
            sink: sink.name,
            delivery: Delivery::resume(sink, log, checkpoint, metrics),
            journal,
            queue,
            progress,
            abandon: context.abandon.clone(),
        }
    }

    /// Runs until the queue is closed and everything from it is in the sink, or until the process
    /// does not wait for the sink any longer.
    ///
    /// # Errors
    /// The rows cannot be gathered, or the journal refuses.
    pub(super) async fn run(mut self) -> Result<(), DriverError> {
        loop {
            let awaited = self.next().await;
            let closed = matches!(awaited, Awaited::Closed);
            if let Awaited::Batch(batch) = awaited
                && self.push(&batch).await? == Flow::Stop
            {
                return Ok(());
            }
            if (closed || self.delivery.is_due()) && self.flush().await? == Flow::Stop {
                return Ok(());
            }
            if closed {
                return Ok(());
            }
        }
    }

    async fn next(&mut self) -> Awaited {
        let deadline = self.delivery.deadline();
        let due = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => Awaited::Deadline,
            batch = self.queue.recv() => batch.map_or(Awaited::Closed, Awaited::Batch),
        }
    }

    /// Adds a batch to the open batch, which is flushed first if it must end before this one.
    async fn push(&mut self, batch: &Arc<Batch>) -> Result<Flow, DriverError> {
        let sink = self.sink;
        loop {
            let taken = self.delivery.push(batch).await;
            if taken.map_err(|fault| DriverError::Sink { sink, fault })? {
                return Ok(Flow::Continue);
            }
            if self.flush().await? == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
    }

    async fn flush(&mut self) -> Result<Flow, DriverError> {
        let sink = self.sink;
        let flushed = self.delivery.flush(&mut self.journal, &self.abandon).await;
        match flushed.map_err(|fault| DriverError::Sink { sink, fault })? {
            Flushed::Delivered(position) => {
                let newest = self.delivery.newest();
                self.progress.reached(sink, position, newest);
                Ok(Flow::Continue)
            }
            Flushed::Nothing => Ok(Flow::Continue),
            Flushed::Cancelled => Ok(Flow::Stop),
        }
    }
}
