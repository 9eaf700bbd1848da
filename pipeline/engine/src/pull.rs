//! Reads one corp's archive page by page, in both drivers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chatledger_schemas::{CorpId, SealedRecord};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::fault::{Backoff, Fault};
use crate::ports::Source;
use crate::shared::{Progress, now_ms};

/// Empty answers in a row after which a drain believes that there is nothing more; one alone may be
/// a passing fault of the peer.
const EMPTY_ANSWERS: u32 = 3;
/// Longest pause between two of them.
const SOON: Duration = Duration::from_millis(100);
/// A drain gives up on an archive that has not answered for so long.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long the archive keeps what it has (`wecom-api` §1.3: five days).
pub const KEPT: Duration = Duration::from_secs(5 * 24 * 3600);

/// The archive has not been read for longer than it keeps what it has: what came in between may be
/// lost, and positions are not dense, so nothing would show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "what its archive has given is delivered up to {} hours ago, and it keeps messages for 120: \
     what came in between and is older than that is lost. To go on all the same, start once with --accept-gap; the gap is \
     then written into the ledger",
    (now - silent_since) / 3_600_000
)]
pub struct BehindWindow {
    /// When it answered last, milliseconds since the epoch, UTC.
    pub silent_since: i64,
    /// When that was found out, milliseconds since the epoch, UTC.
    pub now: i64,
}

/// Decides whether an archive that was read up to a position may have dropped records since it
/// answered last (`None`: not known). Times are in milliseconds since the epoch, UTC.
///
/// # Errors
/// It may.
pub fn within_window(after: u64, answered: Option<i64>, now: i64) -> Result<(), BehindWindow> {
    match answered {
        Some(silent_since) if after > 0 && now - silent_since > KEPT.as_millis() as i64 => {
            Err(BehindWindow { silent_since, now })
        }
        _ => Ok(()),
    }
}

/// Why reading an archive ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// In a drain: it has not answered for five minutes.
    #[error("{0}")]
    GaveUp(Fault),
    /// It answers again, but too late.
    #[error(transparent)]
    BehindWindow(#[from] BehindWindow),
}

/// One corp's archive and how to read it.
pub struct Puller {
    /// The corp.
    pub corp_id: CorpId,
    /// Its archive.
    pub source: Arc<dyn Source>,
    /// Pause after an empty answer.
    pub poll_interval: Duration,
    /// How far it is.
    pub progress: Arc<Progress>,
}

impl Puller {
    /// Reads on behind a position and hands each page over, until stopped, or in a drain until
    /// there is nothing more, or until `deliver` says that nobody wants the pages (false). The
    /// archive answered last at `answered` (milliseconds since the epoch, UTC).
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn run(
        &self,
        mut after: u64,
        mut answered: Option<i64>,
        drain: bool,
        stop: &CancellationToken,
        mut deliver: impl FnMut(Vec<SealedRecord>) -> BoxFuture<'static, bool> + Send,
    ) -> Result<(), PullError> {
        self.progress.reads_archive();
        let mut empty = 0;
        let mut backoff = Backoff::default();
        let mut heard = Instant::now();
        loop {
            let answer = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                answer = self.source.page(after) => answer,
            };
            let pause = match answer {
                Ok(records) => {
                    heard = Instant::now();
                    let now = now_ms();
                    within_window(after, answered, now)?;
                    answered = Some(now);
                    self.progress.answered(now);
                    backoff.reset();
                    if let Some(last) = records.last() {
                        (empty, after) = (0, last.seq);
                        self.progress.pulled(after, false);
                        if !deliver(records).await {
                            return Ok(());
                        }
                        continue;
                    }
                    empty += 1;
                    if drain && empty >= EMPTY_ANSWERS {
                        return Ok(());
                    }
                    self.progress.pulled(after, true);
                    if drain {
                        self.poll_interval.min(SOON)
                    } else {
                        self.poll_interval
                    }
                }
                Err(fault) if drain && heard.elapsed() > PATIENCE => {
                    return Err(PullError::GaveUp(fault));
                }
                Err(fault) => {
                    let pause = backoff.pause(&fault, rand::random());
                    let (corp, class) = (&self.corp_id, fault.class.as_str());
                    warn!(%corp, class, error = %fault, ?pause, "archive does not answer");
                    pause
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_that_was_read_within_five_days_or_never_has_dropped_nothing() {
        const HOUR: i64 = 3_600_000;
        assert_eq!(within_window(7, Some(0), 120 * HOUR), Ok(()));
        assert_eq!(within_window(0, Some(0), 500 * HOUR), Ok(()));
        assert_eq!(within_window(7, None, 500 * HOUR), Ok(()));
        let behind = within_window(7, Some(HOUR), 122 * HOUR).unwrap_err();
        assert_eq!(behind.silent_since, HOUR);
        assert!(behind.to_string().contains("121 hours"), "{behind}");
    }
}
