//! Replays a corp's dead letters beside its pipeline: automatically when a missing key is added, and on
//! request.
//!
//! One replay runs at a time, and one that an earlier process has planned comes first. Dead letters
//! are opened by the part that knows which messages were opened (`open_request`); delivery, which may
//! wait for a sink, happens here and delays nothing else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chatledger_crypto::KeyRing;
use chatledger_schemas::CorpId;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::StateError;
use super::control_inbox::ControlInbox;
use super::dead_letter_store::SharedDeadLetterStore;
use super::open_request::{OpenRequest, SubmitOpenRequest};
use super::replay::{PreparedReplay, ResumeError, discard, finish};
use super::replay_plan::ReplayFile;
use super::replay_sink::{ReplayDelivery, ReplaySink, deliver};
use crate::dead_letter_index::{DeadLetterFilter, DeadLetterKey};
use crate::dead_letter_requests::{DeadLetterRequest, ReplayCounts, Requester};
use crate::fault::{Fault, error_chain};
use crate::metrics::Metrics;
use crate::shared::{Current, now_ms};

/// Dead letters opened and delivered together.
const CHUNK: usize = 1000;
/// Pause between two checks for new keys and requests.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// The actor of automatic replays.
const AUTOMATIC: &str = "chatledger";

/// Why a replay was not completed. The next one resumes what was planned.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The state folder cannot be used.
    #[error("state")]
    State(#[from] StateError),
    /// An interrupted replay cannot be completed.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// Rows could not be gathered for a sink.
    #[error("a sink cannot gather rows: {0}")]
    Sink(Fault),
    /// The process is stopping.
    #[error("the process is stopping; the next start completes the replay")]
    Stopping,
}

/// The replays of one corp.
pub struct Replayer {
    /// The corp.
    pub corp_id: CorpId,
    /// Its keys.
    pub(super) keys: Arc<Current<KeyRing>>,
    /// Its dead letters.
    pub(super) dead_letters: SharedDeadLetterStore,
    /// The folder with its control inbox.
    pub(super) folder: PathBuf,
    /// Where replays are planned.
    pub(super) replay_file: ReplayFile,
    /// Submits requests to open dead letters.
    pub(super) submit: SubmitOpenRequest,
    /// The sinks.
    pub(super) sinks: Vec<ReplaySink>,
    /// The metrics.
    pub(super) metrics: Arc<Metrics>,
    /// Key versions and revision of the index when there was nothing to replay automatically.
    pub(super) nothing_to_do_at: Option<(Vec<u32>, u64)>,
    /// Begin nothing new.
    pub(super) stop: CancellationToken,
    /// Do not wait for sinks any longer.
    pub(super) abandon: CancellationToken,
}

impl Replayer {
    /// Replays until `end` is cancelled; in a drain once more after that.
    ///
    /// # Errors
    /// Rows cannot be gathered for a sink.
    pub(super) async fn run(mut self, end: CancellationToken, drain: bool) -> Result<(), Fault> {
        let inbox = ControlInbox::at(&self.folder);
        let mut reported = String::new();
        loop {
            let ended = end.is_cancelled();
            if !ended || drain {
                match self.replay_automatically().await {
                    Ok(()) => reported.clear(),
                    Err(ReplayError::Sink(fault)) => return Err(fault),
                    Err(ReplayError::Stopping) => return Ok(()),
                    Err(failure) => {
                        let text = error_chain(&failure);
                        if text != reported {
                            error!(corp = %self.corp_id, error = text, "dead letters not replayed");
                        }
                        reported = text;
                    }
                }
            }
            if ended {
                return Ok(());
            }
            while let Some(request) = inbox.accept() {
                let answer = self.serve(&request.body).await;
                if let Err(ReplayError::Sink(fault)) = answer {
                    return Err(fault);
                }
                inbox.answer(&request, &answer.map_err(|failure| error_chain(&failure)));
            }
            tokio::select! {
                () = end.cancelled() => {}
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }

    /// Completes an interrupted replay, then replays dead letters whose key is no longer missing.
    async fn replay_automatically(&mut self) -> Result<(), ReplayError> {
        self.resume().await?;
        let versions = self.keys.get().versions();
        let revision = self.dead_letters.lock().index().revision();
        let filter = DeadLetterFilter::lacking(&versions);
        let now = (versions, revision);
        if self.nothing_to_do_at.as_ref() == Some(&now) {
            return Ok(());
        }
        let counts = self.replay(&filter, AUTOMATIC).await?;
        if counts == ReplayCounts::default() {
            self.nothing_to_do_at = Some(now);
        }
        if counts.replayed + counts.duplicates + counts.failed > 0 {
            info!(
                corp = %self.corp_id,
                replayed = counts.replayed,
                duplicates = counts.duplicates,
                failed = counts.failed,
                "dead letters replayed with a new key"
            );
        }
        Ok(())
    }

    /// Carries out a request.
    ///
    /// # Errors
    /// It was not completed.
    pub async fn serve(
        &mut self,
        request: &DeadLetterRequest,
    ) -> Result<ReplayCounts, ReplayError> {
        self.resume().await?;
        match request {
            DeadLetterRequest::Replay { filter, actor } => self.replay(filter, actor).await,
            DeadLetterRequest::Drop {
                filter,
                actor,
                because,
            } => self.discard(filter, actor, because).await,
        }
    }

    async fn resume(&mut self) -> Result<(), ReplayError> {
        if !self.replay_file.exists() {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.submit(OpenRequest::Resume { answer }).await?;
        let replay = answered.await.map_err(|_| ReplayError::Stopping)??;
        if let Some(replay) = replay {
            let dead_letters = replay.events().len();
            info!(corp = %self.corp_id, dead_letters, "interrupted replay resumed");
            self.complete(replay, &mut ReplayCounts::default()).await?;
        }
        Ok(())
    }

    async fn replay(
        &mut self,
        filter: &DeadLetterFilter,
        actor: &str,
    ) -> Result<ReplayCounts, ReplayError> {
        let mut counts = ReplayCounts::default();
        let mut after = None;
        loop {
            let selected = self.select(after.as_ref(), filter);
            let Some(last) = selected.last() else {
                return Ok(counts);
            };
            if self.stop.is_cancelled() {
                return Err(ReplayError::Stopping);
            }
            after = Some(last.clone());
            let (answer, answered) = oneshot::channel();
            let request = OpenRequest::Prepare {
                selected,
                requester: requester(actor),
                answer,
            };
            self.submit(request).await?;
            let opened = answered.await.map_err(|_| ReplayError::Stopping)??;
            counts.waiting += opened.waiting as u64;
            if let Some(replay) = opened.replay {
                self.complete(replay, &mut counts).await?;
            }
        }
    }

    async fn discard(
        &mut self,
        filter: &DeadLetterFilter,
        actor: &str,
        because: &str,
    ) -> Result<ReplayCounts, ReplayError> {
        let mut counts = ReplayCounts::default();
        loop {
            let selected = self.select(None, filter);
            let requester = requester(actor);
            let (store, file) = (self.dead_letters.clone(), self.replay_file.clone());
            let because = because.to_owned();
            let replay =
                blocking(move || discard(&file, &store.lock(), &selected, &requester, &because))
                    .await?;
            match replay {
                Some(replay) => self.complete(replay, &mut counts).await?,
                None => return Ok(counts),
            }
        }
    }

    fn select(
        &self,
        after: Option<&DeadLetterKey>,
        filter: &DeadLetterFilter,
    ) -> Vec<DeadLetterKey> {
        self.dead_letters
            .lock()
            .index()
            .select(after, filter, CHUNK)
    }

    async fn submit(&mut self, request: OpenRequest) -> Result<(), ReplayError> {
        if (self.submit)(request).await {
            Ok(())
        } else {
            Err(ReplayError::Stopping)
        }
    }

    /// Delivers a replay that is planned, then stores its events.
    async fn complete(
        &mut self,
        replay: PreparedReplay,
        counts: &mut ReplayCounts,
    ) -> Result<(), ReplayError> {
        let log = format!("{}-replay", self.corp_id);
        let (sinks, metrics) = (&mut self.sinks, &self.metrics);
        let delivery = deliver(&replay, &log, sinks, metrics, &self.abandon).await;
        if delivery.map_err(ReplayError::Sink)? == ReplayDelivery::Cancelled {
            return Err(ReplayError::Stopping);
        }
        for event in replay.events() {
            counts.count(event.event);
        }
        let (store, file) = (self.dead_letters.clone(), self.replay_file.clone());
        let open = blocking(move || {
            let mut store = store.lock();
            finish(&file, &mut store, &replay)?;
            Ok(store.index().open().len())
        })
        .await?;
        self.metrics.dead_letters_open(self.corp_id.as_str(), open);
        Ok(())
    }
}

fn requester(actor: &str) -> Requester {
    Requester {
        actor: actor.to_owned(),
        at: now_ms(),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, ReplayError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(panicked) => {
            warn!(error = %panicked, "a replay panicked; the next start resumes it");
            Err(ReplayError::Stopping)
        }
    }
}
