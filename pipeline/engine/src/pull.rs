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

use crate::clock::{ClockReading, LastAnswer, Silence, boot_id};
use crate::fault::{Fault, Retry, sleep_unless};
use crate::ports::Source;
use crate::shared::Progress;

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
const MS_PER_MINUTE: i64 = 60_000;

/// The archive was not read for longer than it keeps its messages, so some may be lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct ArchiveGap {
    /// The time up to which everything was read, milliseconds since the epoch, UTC.
    pub silent_since: i64,
    /// When this was found, milliseconds since the epoch, UTC.
    pub now: i64,
    /// By how many milliseconds the last answer is dated in the future. Then the clock was wrong, and the times above
    /// tell nothing.
    pub ahead: Option<i64>,
}

impl ArchiveGap {
    fn text(&self) -> String {
        let found = match self.ahead {
            None => format!(
                "what the archive returned is delivered only up to {} hours ago, and the archive keeps messages for {} \
                 hours: messages from between may be lost. If the clock of this machine is wrong, correct it and start \
                 again",
                (self.now - self.silent_since) / MS_PER_HOUR,
                ARCHIVE_RETENTION.as_secs() / 3600
            ),
            Some(ahead) => format!(
                "the last answer of the archive is dated {} minutes in the future. The clock of this machine is wrong \
                 now, or was wrong then, so it is unknown whether the archive was read in time. If it is wrong now, \
                 correct it and start again",
                ahead / MS_PER_MINUTE
            ),
        };
        format!(
            "{found}. To continue, start once with --accept-gap, which records the gap in the ledger"
        )
    }
}

/// Checks whether an archive read up to a position may have dropped records since it answered last
/// (`None`: unknown). Returns how long it has been silent.
///
/// # Errors
/// It may have.
pub fn check_archive_gap(
    after: u64,
    answered: Option<&LastAnswer>,
    now: ClockReading,
) -> Result<Duration, ArchiveGap> {
    let Some(answered) = answered.filter(|_| after > 0) else {
        return Ok(Duration::ZERO);
    };
    match answered.silence(now, boot_id()) {
        Silence::Lasted(silent) if silent > ARCHIVE_RETENTION.as_millis() as i64 => {
            Err(ArchiveGap {
                silent_since: now.wall - silent,
                now: now.wall,
                ahead: None,
            })
        }
        Silence::Lasted(silent) => Ok(Duration::from_millis(silent.unsigned_abs())),
        Silence::Unknown { ahead } => Err(ArchiveGap {
            silent_since: now.wall,
            now: now.wall,
            ahead: Some(ahead),
        }),
    }
}

/// The corps whose gaps are accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AcceptGap {
    /// None.
    #[default]
    Refuse,
    /// Those of every corp.
    All,
    /// Those of these corps.
    Corps(Vec<CorpId>),
}

impl AcceptGap {
    /// Whether a gap of this corp is accepted.
    pub fn covers(&self, corp: &CorpId) -> bool {
        match self {
            Self::Refuse => false,
            Self::All => true,
            Self::Corps(corps) => corps.contains(corp),
        }
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
    /// Where to continue cannot be read.
    #[error("{0}")]
    Position(Fault),
}

/// One corp's archive and how to read it.
#[derive(Clone)]
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
    /// nothing more. The archive was silent for `silent` before ([`check_archive_gap`]).
    ///
    /// # Errors
    /// See [`PullError`].
    pub async fn run(
        &self,
        mut after: u64,
        silent: Duration,
        drain: bool,
        stop: &CancellationToken,
        mut deliver: impl FnMut(Vec<SealedRecord>) -> BoxFuture<'static, bool> + Send,
    ) -> Result<(), PullError> {
        let mut empty = 0;
        let mut retry = Retry::new(stop);
        let mut last_answer = Instant::now();
        // Silence before the start and silence after it are one silence.
        let mut answered = ClockReading::now().minus(silent);
        self.progress.reads_archive(answered);
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
            let now = ClockReading::now();
            check_archive_gap(after, Some(&LastAnswer::at(answered)), now)?;
            answered = now;
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
        let check = |after, answered: Option<i64>, hours: i64| {
            let now = ClockReading {
                wall: hours * HOUR,
                boot: 0,
            };
            check_archive_gap(
                after,
                answered.map(LastAnswer::at_time_of_day).as_ref(),
                now,
            )
        };
        assert_eq!(check(7, Some(0), 120), Ok(ARCHIVE_RETENTION));
        assert_eq!(check(0, Some(0), 500), Ok(Duration::ZERO));
        assert_eq!(check(7, None, 500), Ok(Duration::ZERO));
        let gap = check(7, Some(HOUR), 122).unwrap_err();
        assert_eq!((gap.silent_since, gap.ahead), (HOUR, None));
        let text = gap.to_string();
        assert!(
            text.contains("121 hours") && text.contains("120 hours") && text.contains("clock"),
            "{text}"
        );
        let ahead = check(7, Some(500 * HOUR), 499).unwrap_err();
        assert_eq!(ahead.ahead, Some(HOUR));
        assert!(
            ahead.to_string().contains("60 minutes in the future"),
            "{ahead}"
        );
    }

    #[test]
    fn gap_is_accepted_for_the_corps_that_are_named() {
        let [a, b] = ["wwa", "wwb"].map(CorpId::from);
        assert!(!AcceptGap::Refuse.covers(&a));
        assert!(AcceptGap::All.covers(&a));
        let named = AcceptGap::Corps(vec![a.clone()]);
        assert!(named.covers(&a) && !named.covers(&b));
    }
}
