//! Carries a lane's decisions out: gathers a cut, writes it down, writes it, moves the position.
//!
//! One [`Delivery`] is one lane into one sink. It never gives up on a write and never drops a row:
//! a failing sink is asked again with growing pauses until it answers or the process is told to
//! stop. What has not been confirmed by then is repeated at the next start. Whatever is sent to the
//! sink later than a moment after the cut was written down is sent only when it has been written
//! down once more: a journal that refuses tells that the lane has gone to somebody else while this
//! process waited or was stopped.

use std::sync::Arc;
use std::time::Duration;

use chatledger_schemas::FaultClass;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::batch::Batch;
use crate::failpoint;
use crate::fault::{Backoff, Fault};
use crate::lane::{Checkpoint, Cut, Lane, Offer};
use crate::mark::Mark;
use crate::metrics::Metrics;
use crate::ports::{Attempt, CutWriter, Journal, Marks};

/// A cut written down within this time is the lane's still: no group gives a partition away sooner.
const FRESH: Duration = Duration::from_secs(2);

/// When a cut is complete.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Rows after which it is written.
    pub rows: usize,
    /// Bytes in memory after which it is written.
    pub bytes: usize,
    /// Time after its first row after which it is written.
    pub interval: Duration,
}

/// What became of an attempt to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flushed {
    /// The sink holds everything up to this position.
    Delivered(u64),
    /// There was nothing to write.
    Nothing,
    /// The process is stopping; the rows will come again.
    Cancelled,
}

/// One lane on its way into one sink.
pub struct Delivery {
    sink: &'static str,
    log: String,
    lane: Lane,
    limits: Limits,
    writer: Box<dyn CutWriter>,
    marks: Option<Arc<dyn Marks>>,
    /// Digest of the last record taken, for the mark.
    witness: u64,
    metrics: Arc<Metrics>,
    rows: usize,
    newest: i64,
    opened: Option<Instant>,
    close_now: bool,
}

impl Delivery {
    /// Takes up a lane where its journal left it. `log` names the lane in the names of its cuts.
    pub fn resume(
        sink: &'static str,
        log: String,
        checkpoint: Checkpoint,
        limits: Limits,
        writer: Box<dyn CutWriter>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            sink,
            log,
            lane: Lane::resume(checkpoint),
            limits,
            writer,
            marks: None,
            witness: 0,
            metrics,
            rows: 0,
            newest: i64::MIN,
            opened: None,
            close_now: false,
        }
    }

    /// Keeps a mark beside the rows with each cut.
    #[must_use]
    pub fn marked(mut self, marks: Arc<dyn Marks>) -> Self {
        self.marks = Some(marks);
        self
    }

    /// Says what the last record of the last batch taken was: the mark will name it.
    pub fn ends_with(&mut self, witness: u64) {
        self.witness = witness;
    }

    /// Bytes the open cut holds in memory.
    pub fn bytes(&self) -> usize {
        self.writer.bytes()
    }

    /// The lane's state.
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Offers a batch; false if the open cut has to be written before it can be taken.
    ///
    /// # Errors
    /// The rows cannot be gathered.
    pub async fn push(&mut self, batch: &Arc<Batch>) -> Result<bool, Fault> {
        match self.lane.offer(batch.extent) {
            Offer::Skip => return Ok(true),
            Offer::CloseFirst => {
                self.close_now = true;
                return Ok(false);
            }
            Offer::Take => {}
            Offer::TakeAndClose => self.close_now = true,
        }
        self.writer.append(Arc::clone(batch)).await?;
        self.rows += batch.rows();
        let newest = batch.messages.iter().map(|message| message.msgtime).max();
        self.newest = self.newest.max(newest.unwrap_or(i64::MIN));
        self.metrics.sink_pending(self.sink, batch.rows() as i64);
        self.opened.get_or_insert_with(Instant::now);
        Ok(true)
    }

    /// Time of the newest message offered so far, milliseconds since the epoch, UTC.
    pub fn newest(&self) -> Option<i64> {
        (self.newest != i64::MIN).then_some(self.newest)
    }

    /// When the open cut has to be written at the latest; `None` while there is none, or while one
    /// is being repeated (it ends where it ended before, whenever that is).
    pub fn deadline(&self) -> Option<Instant> {
        if self.lane.repeating().is_some() {
            return None;
        }
        Some(self.opened? + self.limits.interval)
    }

    /// Whether the open cut has to be written now.
    pub fn is_due(&self) -> bool {
        if self.lane.open().is_none() {
            return false;
        }
        if self.close_now {
            return true;
        }
        self.lane.repeating().is_none()
            && (self.rows >= self.limits.rows
                || self.writer.bytes() >= self.limits.bytes
                || self
                    .deadline()
                    .is_some_and(|deadline| Instant::now() >= deadline))
    }

    /// Writes the open cut down, writes it, keeps the mark, and moves the position.
    ///
    /// # Errors
    /// The journal refuses: somebody else has taken the lane over, so nothing may be written.
    pub async fn flush(
        &mut self,
        journal: &mut dyn Journal,
        cancel: &CancellationToken,
    ) -> Result<Flushed, Fault> {
        let repeated = self.lane.repeating();
        let Some((cut, write_down)) = self.lane.close() else {
            return Ok(Flushed::Nothing);
        };
        if write_down && let Some(repeated) = repeated {
            error!(
                sink = self.sink,
                log = self.log,
                first = repeated.first,
                last = repeated.last,
                "the log does not give the records of the last cut again; writing what it gives"
            );
        }
        let mut attempt = Attempt::First;
        if let Some(Cut { first, last, .. }) = repeated {
            info!(
                sink = self.sink,
                log = self.log,
                first,
                last,
                "repeating the last cut"
            );
            attempt = Attempt::Again;
        }
        let started = Instant::now();
        let mut saved = None;
        if write_down {
            let checkpoint = Checkpoint {
                position: self.lane.position(),
                cut: Some(cut),
            };
            if !save(self.sink, journal, checkpoint, cancel).await? {
                return Ok(Flushed::Cancelled);
            }
            saved = Some(Instant::now());
        }
        if !self.write(&cut, attempt, saved, journal, cancel).await? {
            return Ok(Flushed::Cancelled);
        }
        let checkpoint = self.lane.delivered(cut);
        if !save(self.sink, journal, checkpoint, cancel).await? {
            return Ok(Flushed::Cancelled);
        }

        self.metrics.stage(self.sink, started.elapsed());
        self.metrics.sink_wrote(self.sink, self.rows);
        self.metrics.sink_pending(self.sink, -(self.rows as i64));
        self.rows = 0;
        self.opened = None;
        self.close_now = false;
        Ok(Flushed::Delivered(self.lane.position()))
    }

    /// Asks the sink until it has answered; false if the process is stopping before that.
    async fn write(
        &mut self,
        cut: &Cut,
        mut attempt: Attempt,
        mut saved: Option<Instant>,
        journal: &mut dyn Journal,
        cancel: &CancellationToken,
    ) -> Result<bool, Fault> {
        let sink = self.sink;
        let checkpoint = Checkpoint {
            position: self.lane.position(),
            cut: Some(*cut),
        };
        let mark = Mark {
            position: cut.last,
            witness: self.witness,
        };
        let mut backoff = Backoff::default();
        let mut rows_are_in = false;
        loop {
            if saved.is_none_or(|saved| saved.elapsed() >= FRESH) {
                if !save(sink, journal, checkpoint, cancel).await? {
                    return Ok(false);
                }
                saved = Some(Instant::now());
            }
            let written = if !rows_are_in {
                self.writer.write(&self.log, cut, attempt).await
            } else if let Some(marks) = &self.marks {
                match failpoint::pass(sink, "rows_written") {
                    Ok(()) => marks.keep(&self.log, mark).await,
                    Err(injected) => Err(injected.into()),
                }
            } else {
                return Ok(true);
            };
            let Err(fault) = written else {
                if rows_are_in {
                    return Ok(true);
                }
                rows_are_in = true;
                continue;
            };
            saved = None;
            attempt = Attempt::Again;
            self.metrics.sink_failed(sink, fault.class);
            let pause = backoff.pause(&fault, rand::random());
            let class = fault.class.as_str();
            warn!(sink, class, error = %fault, ?pause, "write failed; the rows are kept");
            tokio::select! {
                () = cancel.cancelled() => return Ok(false),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.metrics.sink_pending(self.sink, -(self.rows as i64));
    }
}

/// Saves until the journal has it; false if the process is stopping before that. A journal that
/// refuses for good (the lane has a new owner) is an error.
async fn save(
    sink: &'static str,
    journal: &mut dyn Journal,
    checkpoint: Checkpoint,
    cancel: &CancellationToken,
) -> Result<bool, Fault> {
    let mut backoff = Backoff::default();
    loop {
        let fault = match save_once(sink, journal, checkpoint).await {
            Ok(()) => return Ok(true),
            Err(fault) if matches!(fault.class, FaultClass::Stop | FaultClass::Refresh) => {
                return Err(fault);
            }
            Err(fault) => fault,
        };
        let pause = backoff.pause(&fault, rand::random());
        warn!(sink, error = %fault, ?pause, "position cannot be saved; waiting");
        tokio::select! {
            () = cancel.cancelled() => return Ok(false),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Saves, with the fail points before and after.
async fn save_once(
    sink: &'static str,
    journal: &mut dyn Journal,
    checkpoint: Checkpoint,
) -> Result<(), Fault> {
    let [before, after] = match checkpoint.cut {
        Some(_) => ["cut_gathered", "cut_written"],
        None => ["cut_delivered", "position_saved"],
    };
    failpoint::pass(sink, before)?;
    journal.save(checkpoint).await?;
    Ok(failpoint::pass(sink, after)?)
}
