//! Reads one corp's archive page by page, in both drivers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chatledger_schemas::{CorpId, SealedRecord};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::fault::{Backoff, Fault};
use crate::ports::Source;
use crate::shared::Progress;

/// Empty answers in a row after which a drain believes that there is nothing more; one alone may be
/// a passing fault of the peer.
const EMPTY_ANSWERS: u32 = 3;
/// Longest pause between two of them.
const SOON: Duration = Duration::from_millis(100);
/// A drain gives up on an archive that has not answered for so long.
const PATIENCE: Duration = Duration::from_secs(300);

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
    /// there is nothing more, or until `deliver` says that nobody wants the pages (false).
    ///
    /// # Errors
    /// In a drain: the archive has not answered for five minutes.
    pub async fn run(
        &self,
        mut after: u64,
        drain: bool,
        stop: &CancellationToken,
        mut deliver: impl FnMut(Vec<SealedRecord>) -> BoxFuture<'static, bool> + Send,
    ) -> Result<(), Fault> {
        self.progress.reads_archive();
        let mut empty = 0;
        let mut backoff = Backoff::default();
        let mut answered = Instant::now();
        loop {
            let answer = tokio::select! {
                answer = self.source.page(after) => answer,
                () = stop.cancelled() => return Ok(()),
            };
            let pause = match answer {
                Ok(records) => {
                    answered = Instant::now();
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
                Err(fault) if drain && answered.elapsed() > PATIENCE => return Err(fault),
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
