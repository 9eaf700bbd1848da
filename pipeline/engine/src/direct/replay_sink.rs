//! Writes a replay to every sink until each has acknowledged it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::replay::PreparedReplay;
use crate::fault::{Fault, Retry};
use crate::metrics::Metrics;
use crate::ports::{BatchWriter, WriteAttempt};
use crate::sink::Sink;

/// A sink and how replays are written to it.
pub(super) struct ReplaySink {
    /// Its name, also the metric label.
    name: &'static str,
    /// A writing end beside that of the lane.
    writer: Box<dyn BatchWriter>,
}

/// The result of [`deliver`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplayDelivery {
    /// Every sink holds the rows.
    Delivered,
    /// The process is stopping; the next start delivers the same rows.
    Cancelled,
}

impl ReplaySink {
    /// Makes a writing end of a sink for replays.
    pub(super) fn new(sink: &Sink) -> Self {
        Self {
            name: sink.name,
            writer: sink.writer(),
        }
    }
}

/// Writes a replay to every sink and retries until each has acknowledged it. `log` names the corp's
/// replays.
///
/// # Errors
/// A writer cannot gather the rows.
pub(super) async fn deliver(
    replay: &PreparedReplay,
    log: &str,
    sinks: &mut [ReplaySink],
    metrics: &Metrics,
    cancel: &CancellationToken,
) -> Result<ReplayDelivery, Fault> {
    for ReplaySink { name: sink, writer } in sinks {
        writer.append(Arc::clone(&replay.batch)).await?;
        let mut retry = Retry::new(cancel);
        let mut attempt = replay.attempt;
        while let Err(fault) = writer.write(log, &replay.batch.range, attempt).await {
            attempt = WriteAttempt::Repeat;
            metrics.sink_failed(sink, fault.class);
            let class = fault.class.as_str();
            let log =
                |pause| warn!(sink, class, error = %fault, ?pause, "replay not written; retrying");
            if !retry.wait(&fault, log).await {
                return Ok(ReplayDelivery::Cancelled);
            }
        }
        metrics.sink_wrote(sink, replay.batch.rows());
    }
    Ok(ReplayDelivery::Delivered)
}
