//! Reads one corp's archive page by page, in both drivers.
//!
//! Reading continues only while nothing can have been lost: an archive that was not read for longer
//! than it keeps its messages ([`ARCHIVE_RETENTION`]) may have dropped some. Positions are not dense,
//! so nothing else would show it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chatledger_schemas::{CorpId, SealedRecord};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::fault::{Fault, Retry, sleep_unless};
use crate::ports::Source;
use crate::shared::{Progress, now_ms};

/// Number of consecutive empty answers after which a drain takes the archive to be read to its end.
/// A single one may be a passing fault.
const EMPTY_ANSWERS: u32 = 3;
/// Longest pause between them.
const EMPTY_PAUSE: Duration = Duration::from_millis(100);
/// A drain gives up on an archive that has not answered for this long.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long the archive keeps a message: five days (`connectors/wecom/WECOM.md` §1).
pub const ARCHIVE_RETENTION: Duration = Duration::from_secs(5 * 24 * 3600);

const MS_PER_HOUR: i64 = 3_600_000;

/// The archive was not read for longer than it keeps its messages, so some may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "what the archive returned is delivered only up to {} hours ago, and the archive keeps messages for \
     {} hours: messages from between may be lost. To continue, start once with --accept-gap, which \
     records the gap in the ledger",
    (now - silent_since) / MS_PER_HOUR,
    ARCHIVE_RETENTION.as_secs() / 3600
)]
pub struct ArchiveGap {
    /// When it answered last, milliseconds since the epoch, UTC.
    pub silent_since: i64,
    /// When this was found, milliseconds since the epoch, UTC.
    pub now: i64,
}

/// Checks whether an archive read up to a position may have dropped records since it answered last
/// (`None`: unknown). Times are in milliseconds since the epoch, UTC.
///
/// # Errors
/// It may have.
pub fn check_archive_gap(after: u64, answered: Option<i64>, now: i64) -> Result<(), ArchiveGap> {
    match answered {
        Some(silent_since)
            if after > 0 && now - silent_since > ARCHIVE_RETENTION.as_millis() as i64 =>
        {
            Err(ArchiveGap { silent_since, now })
        }
        _ => Ok(()),
    }
}

/// Why reading an archive failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// In a drain: it has not answered for five minutes.
    #[error("{0}")]
    GaveUp(Fault),
    /// It answers again, but too late.
    #[error(transparent)]
    ArchiveGap(#[from] ArchiveGap),
}

/// One corp's archive and how to read it.
pub struct Puller {
    /// The corp.
    pub corp_id: CorpId,
    /// Its archive.
    pub source: Arc<dyn Source>,
    /// Pause after an empty answer.
    pub poll_interval: Duration,
    /// Receives the progress.
    pub progress: Arc<Progress>,
}

impl Puller {
    /// Reads after a position and passes each page to `deliver`. Ends when stopped, when `deliver`
    /// returns false because nobody takes the pages any more, and in a drain when the archive has
    /// nothing more. The archive answered last at `answered` (milliseconds since the epoch, UTC).
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
        let mut retry = Retry::new(stop);
        let mut last_answer = Instant::now();
        loop {
            let answer = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                answer = self.source.page(after) => answer,
            };
            let records = match answer {
                Ok(records) => records,
                Err(fault) if drain && last_answer.elapsed() > PATIENCE => {
                    return Err(PullError::GaveUp(fault));
                }
                Err(fault) => {
                    let (corp, class) = (&self.corp_id, fault.class.as_str());
                    let log = |pause| {
                        warn!(%corp, class, error = %fault, ?pause, "archive does not answer; retrying");
                    };
                    if !retry.wait(&fault, log).await {
                        return Ok(());
                    }
                    continue;
                }
            };
            retry.succeeded();
            last_answer = Instant::now();
            let now = now_ms();
            check_archive_gap(after, answered, now)?;
            answered = Some(now);
            self.progress.answered(now);
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
            let pause = if drain {
                self.poll_interval.min(EMPTY_PAUSE)
            } else {
                self.poll_interval
            };
            if !sleep_unless(stop, pause).await {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_has_dropped_nothing_if_it_was_read_within_five_days_or_never() {
        const HOUR: i64 = 3_600_000;
        assert_eq!(check_archive_gap(7, Some(0), 120 * HOUR), Ok(()));
        assert_eq!(check_archive_gap(0, Some(0), 500 * HOUR), Ok(()));
        assert_eq!(check_archive_gap(7, None, 500 * HOUR), Ok(()));
        let gap = check_archive_gap(7, Some(HOUR), 122 * HOUR).unwrap_err();
        assert_eq!(gap.silent_since, HOUR);
        let text = gap.to_string();
        assert!(
            text.contains("121 hours") && text.contains("120 hours"),
            "{text}"
        );
    }
}
