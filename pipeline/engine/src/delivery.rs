//! Carries out what a lane decides: gathers an open batch and delivers it to the sink.
//!
//! One [`Delivery`] is one lane into one sink. [`Delivery::flush`] delivers the open batch in four
//! steps; `pipeline/DELIVERY.md` uses the same numbers:
//!
//! 1. Record the pending batch in the journal.
//! 2. Write the rows under the range's name.
//! 3. Store the sink checkpoint beside the rows (kafka driver only).
//! 4. Save the new position in the journal.
//!
//! A delivery never gives up on a write and never drops a row: it retries with growing pauses until
//! the sink acknowledges or the process is told to stop. The next start repeats what was not
//! acknowledged. Before each write that begins more than [`FRESH`] after the pending batch was
//! recorded, step 1 is repeated: a journal that refuses means that another process owns the lane
//! now, and nothing may be written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chatledger_schemas::{Classified, CorpId, FaultClass};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::batch::{Batch, BatchRange};
use crate::failpoint;
use crate::fault::{Fault, Retry};
use crate::lane::{Closed, Lane, LaneCheckpoint, Offer};
use crate::metrics::Metrics;
use crate::ports::{BatchWriter, CheckpointStore, Journal, WriteAttempt};
use crate::shared::newest_plausible;
use crate::sink::{Layout, Limits, Sink};
use crate::sink_checkpoint::SinkCheckpoint;

/// A pending batch recorded within this time still belongs to this process: no group moves a
/// partition faster.
const FRESH: Duration = Duration::from_secs(2);

/// The result of [`Delivery::flush`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// The sink holds everything up to this position.
    Delivered(u64),
    /// There was nothing to write.
    Nothing,
    /// The process is stopping; the next start reads the rows again.
    Cancelled,
}

/// Whether a step was completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    /// The process is stopping.
    Cancelled,
}

/// One lane on its way into one sink.
pub struct Delivery {
    sink: &'static str,
    log: String,
    lane: Lane,
    limits: Limits,
    writer: Box<dyn BatchWriter>,
    checkpoints: Option<Arc<dyn CheckpointStore>>,
    layout: Option<Layout>,
    metrics: Arc<Metrics>,
    open: OpenBatch,
}

/// A pending batch would be written in other parts than before.
#[derive(Debug, thiserror::Error)]
#[error(
    "the time zone of a corp was changed while a batch of sink {sink} was being written ({log}, {first} to {last}): its \
     rows would be stored twice. Start once with the former time zone, stop, then change it"
)]
struct LayoutChanged {
    sink: &'static str,
    log: String,
    first: u64,
    last: u64,
}

impl Classified for LayoutChanged {
    fn class(&self) -> FaultClass {
        FaultClass::Stop
    }
}

/// What the delivery knows about the open batch.
#[derive(Debug)]
struct OpenBatch {
    rows: usize,
    /// Time of the newest message, milliseconds since the epoch, UTC.
    newest: Option<i64>,
    /// Fingerprint of the last record, for the sink checkpoint.
    fingerprint: u64,
    /// When its first rows arrived.
    since: Option<Instant>,
    close_now: bool,
    /// The corps whose rows are in it, if the sink divides rows by corp.
    corps: BTreeSet<CorpId>,
}

/// A batch that is being written: what a retry needs to know.
struct Write {
    range: BatchRange,
    attempt: WriteAttempt,
    /// When the journal last confirmed the pending batch; `None` before and after a failure.
    recorded: Option<Instant>,
}

impl Delivery {
    /// Resumes a lane from its journal. `log` names the lane in the names of its batches.
    pub fn resume(
        sink: &Sink,
        log: String,
        checkpoint: LaneCheckpoint,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            sink: sink.name,
            log,
            lane: Lane::resume(checkpoint),
            limits: sink.limits,
            writer: sink.writer(),
            checkpoints: None,
            layout: sink.layout.clone(),
            metrics,
            open: OpenBatch {
                rows: 0,
                newest: None,
                fingerprint: 0,
                since: None,
                close_now: false,
                corps: BTreeSet::new(),
            },
        }
    }

    /// Stores a sink checkpoint with each batch (step 3).
    #[must_use]
    pub fn with_checkpoints(mut self, checkpoints: Arc<dyn CheckpointStore>) -> Self {
        self.checkpoints = Some(checkpoints);
        self
    }

    /// Sets the fingerprint of the last record taken, for the sink checkpoint.
    pub fn set_fingerprint(&mut self, fingerprint: u64) {
        self.open.fingerprint = fingerprint;
    }

    /// Bytes of memory that the open batch uses.
    pub fn bytes(&self) -> usize {
        self.writer.bytes()
    }

    /// The lane's state.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Offers a batch; false if the open batch must be flushed first.
    ///
    /// # Errors
    /// The writer cannot gather the rows.
    pub async fn push(&mut self, batch: &Arc<Batch>) -> Result<bool, Fault> {
        match self.lane.offer(batch.range) {
            Offer::Skip => return Ok(true),
            Offer::CloseFirst => {
                self.open.close_now = true;
                return Ok(false);
            }
            Offer::Take => {}
            Offer::TakeAndClose => self.open.close_now = true,
        }
        if self.layout.is_some() {
            let messages = batch.messages.iter().map(|row| &row.corp_id);
            let violations = batch.violations.iter().map(|row| &row.corp_id);
            for corp in messages.chain(violations) {
                if !self.open.corps.contains(corp) {
                    self.open.corps.insert(corp.clone());
                }
            }
        }
        self.writer.append(Arc::clone(batch)).await?;
        self.open.rows += batch.rows();
        let newest = newest_plausible(batch.messages.iter().map(|message| message.msgtime));
        self.open.newest = self.open.newest.max(newest);
        self.open.since.get_or_insert_with(Instant::now);
        self.metrics.sink_pending(self.sink, batch.rows() as i64);
        Ok(true)
    }

    /// Time of the newest message offered so far, milliseconds since the epoch, UTC.
    pub fn newest(&self) -> Option<i64> {
        self.open.newest
    }

    /// The latest time to flush the open batch. `None` while there is none, and while a pending
    /// batch is repeated: it ends where it ended before, however long that takes.
    pub fn deadline(&self) -> Option<Instant> {
        if self.lane.repeating().is_some() {
            return None;
        }
        Some(self.open.since? + self.limits.interval)
    }

    /// Whether the open batch must be flushed now.
    pub fn is_due(&self) -> bool {
        if self.lane.open().is_none() {
            return false;
        }
        if self.open.close_now {
            return true;
        }
        let past = |deadline| Instant::now() >= deadline;
        self.lane.repeating().is_none()
            && (self.open.rows >= self.limits.rows
                || self.writer.bytes() >= self.limits.bytes
                || self.deadline().is_some_and(past))
    }

    /// Delivers the open batch in the four steps described in the module documentation.
    ///
    /// # Errors
    /// The journal refuses because another process owns the lane. Nothing is written after that.
    pub async fn flush(
        &mut self,
        journal: &mut dyn Journal,
        cancel: &CancellationToken,
    ) -> Result<Flushed, Fault> {
        let started = Instant::now();
        let repeated = self.lane.repeating();
        let Some(mut closed) = self.lane.close() else {
            return Ok(Flushed::Nothing);
        };
        self.log_repeat(repeated, closed);
        self.check_layout(&mut closed)?;
        let mut write = Write {
            range: closed.range,
            attempt: match repeated {
                Some(_) => WriteAttempt::Repeat,
                None => WriteAttempt::First,
            },
            recorded: None,
        };
        // 1. A pending batch that is repeated is in the journal already.
        if closed.record_first && self.record(&mut write, journal, cancel).await? == Step::Cancelled
        {
            return Ok(Flushed::Cancelled);
        }
        // 2.
        if self.write_rows(&mut write, journal, cancel).await? == Step::Cancelled {
            return Ok(Flushed::Cancelled);
        }
        // 3.
        if self.store_checkpoint(&mut write, journal, cancel).await? == Step::Cancelled {
            return Ok(Flushed::Cancelled);
        }
        // 4.
        let position = self.lane.delivered(write.range);
        if save(self.sink, journal, position, cancel).await? == Step::Cancelled {
            return Ok(Flushed::Cancelled);
        }
        self.finish(started);
        Ok(Flushed::Delivered(self.lane.position()))
    }

    /// Adds the layout to a range, and refuses to repeat it with another one.
    fn check_layout(&self, closed: &mut Closed) -> Result<(), Fault> {
        let Some(layout) = &self.layout else {
            return Ok(());
        };
        let mut text = String::new();
        for corp in &self.open.corps {
            for part in [corp.as_str(), "=", &layout(corp), "\n"] {
                text.push_str(part);
            }
        }
        let now = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
        if !closed.record_first && closed.range.layout.is_some_and(|before| before != now) {
            return Err(Fault::new(LayoutChanged {
                sink: self.sink,
                log: self.log.clone(),
                first: closed.range.first,
                last: closed.range.last,
            }));
        }
        closed.range.layout = Some(now);
        Ok(())
    }

    fn log_repeat(&self, repeated: Option<BatchRange>, closed: Closed) {
        let Some(BatchRange { first, last, .. }) = repeated else {
            return;
        };
        let (sink, log) = (self.sink, &self.log);
        if closed.record_first {
            error!(
                sink,
                log,
                first,
                last,
                "the log no longer returns the records of the pending batch; writing the records it returns"
            );
        }
        info!(sink, log, first, last, "repeating the pending batch");
    }

    /// Step 1: records the pending batch.
    async fn record(
        &mut self,
        write: &mut Write,
        journal: &mut dyn Journal,
        cancel: &CancellationToken,
    ) -> Result<Step, Fault> {
        let checkpoint = LaneCheckpoint {
            position: self.lane.position(),
            pending: Some(write.range),
        };
        // From before the call: the process may be suspended between its effect and its answer.
        let recorded = Instant::now();
        let step = save(self.sink, journal, checkpoint, cancel).await?;
        write.recorded = Some(recorded);
        Ok(step)
    }

    /// Repeats step 1 if the last time was too long ago.
    async fn confirm(
        &mut self,
        write: &mut Write,
        journal: &mut dyn Journal,
        cancel: &CancellationToken,
    ) -> Result<Step, Fault> {
        match write.recorded {
            Some(at) if at.elapsed() < FRESH => Ok(Step::Done),
            _ => self.record(write, journal, cancel).await,
        }
    }

    /// Step 2: writes the rows until the sink acknowledges them.
    async fn write_rows(
        &mut self,
        write: &mut Write,
        journal: &mut dyn Journal,
        cancel: &CancellationToken,
    ) -> Result<Step, Fault> {
        let mut retry = Retry::new(cancel);
        loop {
            if self.confirm(write, journal, cancel).await? == Step::Cancelled {
                return Ok(Step::Cancelled);
            }
            let written = self
                .writer
                .write(&self.log, &write.range, write.attempt)
                .await;
            let Err(fault) = written else {
                return Ok(Step::Done);
            };
            if !self.wait(&mut retry, write, &fault).await {
                return Ok(Step::Cancelled);
            }
        }
    }

    /// Step 3: stores the sink checkpoint until the sink acknowledges it.
    async fn store_checkpoint(
        &mut self,
        write: &mut Write,
        journal: &mut dyn Journal,
        cancel: &CancellationToken,
    ) -> Result<Step, Fault> {
        let Some(checkpoints) = self.checkpoints.clone() else {
            return Ok(Step::Done);
        };
        let checkpoint = SinkCheckpoint {
            position: write.range.last,
            fingerprint: self.open.fingerprint,
        };
        let mut retry = Retry::new(cancel);
        loop {
            if self.confirm(write, journal, cancel).await? == Step::Cancelled {
                return Ok(Step::Cancelled);
            }
            let stored = match failpoint::pass(self.sink, "rows_written") {
                Ok(()) => checkpoints.store(&self.log, checkpoint).await,
                Err(injected) => Err(injected.into()),
            };
            let Err(fault) = stored else {
                return Ok(Step::Done);
            };
            if !self.wait(&mut retry, write, &fault).await {
                return Ok(Step::Cancelled);
            }
        }
    }

    /// Waits after a failed write; false if the process is stopping.
    async fn wait(&mut self, retry: &mut Retry<'_>, write: &mut Write, fault: &Fault) -> bool {
        write.recorded = None;
        write.attempt = WriteAttempt::Repeat;
        let (sink, class) = (self.sink, fault.class.as_str());
        self.metrics.sink_failed(sink, fault.class);
        let log = |pause| warn!(sink, class, error = %fault, ?pause, "write failed; retrying");
        retry.wait(fault, log).await
    }

    fn finish(&mut self, started: Instant) {
        self.metrics.stage(self.sink, started.elapsed());
        self.metrics.sink_wrote(self.sink, self.open.rows);
        self.metrics
            .sink_pending(self.sink, -(self.open.rows as i64));
        self.open.rows = 0;
        self.open.since = None;
        self.open.close_now = false;
        self.open.corps.clear();
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.metrics
            .sink_pending(self.sink, -(self.open.rows as i64));
    }
}

/// Saves a checkpoint until the journal has it.
///
/// # Errors
/// The journal refuses permanently: another process owns the lane.
async fn save(
    sink: &'static str,
    journal: &mut dyn Journal,
    checkpoint: LaneCheckpoint,
    cancel: &CancellationToken,
) -> Result<Step, Fault> {
    let mut retry = Retry::new(cancel);
    loop {
        let fault = match save_once(sink, journal, checkpoint).await {
            Ok(()) => return Ok(Step::Done),
            Err(fault) if matches!(fault.class, FaultClass::Stop | FaultClass::Refresh) => {
                return Err(fault);
            }
            Err(fault) => fault,
        };
        let log = |pause| warn!(sink, error = %fault, ?pause, "cannot save the position; retrying");
        if !retry.wait(&fault, log).await {
            return Ok(Step::Cancelled);
        }
    }
}

/// Saves once, with the fail points before and after.
async fn save_once(
    sink: &'static str,
    journal: &mut dyn Journal,
    checkpoint: LaneCheckpoint,
) -> Result<(), Fault> {
    let [before, after] = match checkpoint.pending {
        Some(_) => ["batch_gathered", "batch_recorded"],
        None => ["batch_delivered", "position_saved"],
    };
    failpoint::pass(sink, before)?;
    journal.save(checkpoint).await?;
    Ok(failpoint::pass(sink, after)?)
}
