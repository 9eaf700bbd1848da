//! Replays of one corp beside its pipeline: by themselves when a key has come, and on request.
//!
//! One replay is under way at a time, and one left by an earlier process comes first. The window
//! that knows repeats belongs to the processor, so letters are opened there ([`OpenRequest`]); delivery,
//! which may have to wait for a sink, is not, and holds nothing up.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chatledger_crypto::KeyRing;
use chatledger_schemas::CorpId;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::StateError;
use super::control_inbox::ControlInbox;
use super::dead_letter_store::DeadLetterStore;
use super::replay::{
    Look, Prepared, REPLAY_FILE, ReplaySink, ResumeError, deliver, drop_letters, finish, prepare,
    resume,
};
use crate::dead_letter_index::{DeadLetterFilter, DeadLetterKey};
use crate::dead_letter_requests::{DeadLetterRequest, ReplayCounts, Requester};
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::shared::{Current, now_ms};
use crate::stages::{Processed, Tools};
use crate::window::{MsgHash, Window};

/// DeadLetterIndex opened and delivered together.
const CHUNK: usize = 1000;
/// How often keys and requests are looked at.
const TICK: Duration = Duration::from_millis(200);
/// Who replays when a key has come.
const ITSELF: &str = "chatledger";

/// Why a replay did not come to its end; what was written down is taken up again.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The state folder cannot be used.
    #[error("state")]
    State(#[from] StateError),
    /// The one before it cannot be ended.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// Rows could not be gathered for a sink.
    #[error("a sink takes no rows: {0}")]
    Sink(Fault),
    /// The process is stopping.
    #[error("the process is stopping; what is under way goes on at the next start")]
    Stopping,
}

/// Asks whoever has the window to open letters.
pub enum OpenRequest {
    /// Open these and write down what is to be delivered.
    Prepare {
        /// The letters.
        chosen: Vec<DeadLetterKey>,
        /// On whose behalf.
        requester: Requester,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Look, StateError>>,
    },
    /// Open what an earlier process has written down.
    Resume {
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Option<Prepared>, ResumeError>>,
    },
}

/// Hands an [`OpenRequest`] on; false if nobody is there any more.
pub type Opening = Box<dyn Fn(OpenRequest) -> BoxFuture<'static, bool> + Send + Sync>;

/// The replays of one corp.
pub struct Replayer {
    /// The corp.
    pub corp_id: CorpId,
    /// Its keys.
    pub keys: Arc<Current<KeyRing>>,
    /// Its letters.
    pub store: Arc<Mutex<DeadLetterStore>>,
    /// Folder for its state.
    pub folder: PathBuf,
    /// Who opens.
    pub opening: Opening,
    /// The sinks.
    pub replay_sinks: Vec<ReplaySink>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Versions of keys, and how much had been told of the letters, when nothing was to be done.
    pub looked_at: Option<(Vec<u32>, u64)>,
    /// Begin nothing new.
    pub stop: CancellationToken,
    /// Do not wait for sinks any longer.
    pub abandon: CancellationToken,
}

impl Replayer {
    /// Replays until `end` is told; in a drain once more after that.
    ///
    /// # Errors
    /// Rows cannot be gathered for a sink.
    pub async fn run(mut self, end: CancellationToken, drain: bool) -> Result<(), Fault> {
        let inbox = ControlInbox::at(&self.folder);
        let mut told = String::new();
        loop {
            let ended = end.is_cancelled();
            if !ended || drain {
                match self.of_itself().await {
                    Ok(()) => told.clear(),
                    Err(ReplayError::Sink(fault)) => return Err(fault),
                    Err(ReplayError::Stopping) => return Ok(()),
                    Err(failure) => {
                        let text = chain(&failure);
                        if text != told {
                            error!(corp = %self.corp_id, error = text, "dead letters not replayed");
                        }
                        told = text;
                    }
                }
            }
            if ended {
                return Ok(());
            }
            while let Some(request) = inbox.take() {
                let answer = self.serve(&request.body).await;
                if let Err(ReplayError::Sink(fault)) = answer {
                    return Err(fault);
                }
                inbox.answer(&request, &answer.map_err(|failure| chain(&failure)));
            }
            tokio::select! {
                () = end.cancelled() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    /// Ends what was left, and replays letters whose key has come.
    async fn of_itself(&mut self) -> Result<(), ReplayError> {
        self.resume().await?;
        let versions = self.keys.get().versions();
        let known = (versions.clone(), lock(&self.store).index().revision());
        if self.looked_at.as_ref() == Some(&known) {
            return Ok(());
        }
        let done = self
            .replay(&DeadLetterFilter::lacking(&versions), ITSELF)
            .await?;
        if done == ReplayCounts::default() {
            self.looked_at = Some(known);
        }
        if done.replayed + done.duplicates + done.failed > 0 {
            info!(
                corp = %self.corp_id,
                replayed = done.replayed,
                duplicates = done.duplicates,
                failed = done.failed,
                "dead letters replayed, whose key has come"
            );
        }
        Ok(())
    }

    /// Does what a request asks for.
    ///
    /// # Errors
    /// It did not come to its end.
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
            } => self.drop_letters(filter, actor, because).await,
        }
    }

    async fn resume(&mut self) -> Result<(), ReplayError> {
        if !self.folder.join(REPLAY_FILE).exists() {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.ask(OpenRequest::Resume { answer }).await?;
        let prepared = answered.await.map_err(|_| ReplayError::Stopping)??;
        if let Some(prepared) = prepared {
            info!(corp = %self.corp_id, letters = prepared.events().len(), "replay taken up again");
            self.complete(prepared, &mut ReplayCounts::default())
                .await?;
        }
        Ok(())
    }

    async fn replay(
        &mut self,
        filter: &DeadLetterFilter,
        actor: &str,
    ) -> Result<ReplayCounts, ReplayError> {
        let mut outcome = ReplayCounts::default();
        let mut after = None;
        loop {
            let chosen = self.select(after.as_ref(), filter);
            let Some(last) = chosen.last() else {
                return Ok(outcome);
            };
            if self.stop.is_cancelled() {
                return Err(ReplayError::Stopping);
            }
            after = Some(last.clone());
            let requester = Requester {
                actor: actor.to_owned(),
                at: now_ms(),
            };
            let (answer, answered) = oneshot::channel();
            let ask = OpenRequest::Prepare {
                chosen,
                requester,
                answer,
            };
            self.ask(ask).await?;
            let look = answered.await.map_err(|_| ReplayError::Stopping)??;
            outcome.waiting += look.waiting as u64;
            if let Some(prepared) = look.prepared {
                self.complete(prepared, &mut outcome).await?;
            }
        }
    }

    async fn drop_letters(
        &mut self,
        filter: &DeadLetterFilter,
        actor: &str,
        because: &str,
    ) -> Result<ReplayCounts, ReplayError> {
        let mut outcome = ReplayCounts::default();
        loop {
            let chosen = self.select(None, filter);
            let requester = Requester {
                actor: actor.to_owned(),
                at: now_ms(),
            };
            let (store, folder) = (Arc::clone(&self.store), self.folder.clone());
            let because = because.to_owned();
            let prepared = blocking(move || {
                drop_letters(&folder, &lock(&store), &chosen, &requester, &because)
            })
            .await?;
            match prepared {
                Some(prepared) => self.complete(prepared, &mut outcome).await?,
                None => return Ok(outcome),
            }
        }
    }

    fn select(
        &self,
        after: Option<&DeadLetterKey>,
        filter: &DeadLetterFilter,
    ) -> Vec<DeadLetterKey> {
        lock(&self.store).index().select(after, filter, CHUNK)
    }

    async fn ask(&mut self, ask: OpenRequest) -> Result<(), ReplayError> {
        if (self.opening)(ask).await {
            Ok(())
        } else {
            Err(ReplayError::Stopping)
        }
    }

    /// Delivers what is written down and notes it.
    async fn complete(
        &mut self,
        prepared: Prepared,
        outcome: &mut ReplayCounts,
    ) -> Result<(), ReplayError> {
        let log = format!("{}-replay", self.corp_id);
        let (replay_sinks, metrics) = (&mut self.replay_sinks, &self.metrics);
        if !deliver(&prepared, &log, replay_sinks, metrics, &self.abandon)
            .await
            .map_err(ReplayError::Sink)?
        {
            return Err(ReplayError::Stopping);
        }
        for event in prepared.events() {
            outcome.count(event.event);
        }
        let (store, folder) = (Arc::clone(&self.store), self.folder.clone());
        let open = blocking(move || {
            let mut store = lock(&store);
            finish(&folder, &mut store, &prepared)?;
            Ok(store.index().open().len())
        })
        .await?;
        self.metrics.dead_letters_open(self.corp_id.as_str(), open);
        Ok(())
    }
}

/// Does what is requester for, for whoever has the window; `count` is told of newly opened records.
pub(super) fn answer(
    ask: OpenRequest,
    tools: &Tools<'_>,
    folder: &Path,
    store: &DeadLetterStore,
    window: &mut Window,
    behind: &HashSet<MsgHash>,
    count: impl FnOnce(&Processed),
) {
    // Whoever requester may have gone; what is written down is taken up by the next.
    match ask {
        OpenRequest::Prepare {
            chosen,
            requester,
            answer,
        } => {
            let look = prepare(tools, folder, store, window, behind, &chosen, &requester);
            if let Ok(Look {
                processed: Some(processed),
                ..
            }) = &look
            {
                count(processed);
            }
            answer.send(look).ok();
        }
        OpenRequest::Resume { answer } => {
            answer.send(resume(tools, folder, store)).ok();
        }
    }
}

/// The letters, whatever became of who had them last.
pub(super) fn lock(store: &Mutex<DeadLetterStore>) -> std::sync::MutexGuard<'_, DeadLetterStore> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, ReplayError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(died) => {
            warn!(error = %died, "a replay's worker died; it is taken up again");
            Err(ReplayError::Stopping)
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
