//! Replays of one corp beside its pipeline: by themselves when a key has come, and on request.
//!
//! One replay is under way at a time, and one left by an earlier process comes first. The window
//! that knows repeats belongs to the processor, so letters are opened there ([`Ask`]); delivery,
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
use super::desk::Desk;
use super::parked::Parked;
use super::replay::{
    JOURNAL, Look, Outlet, Prepared, ResumeError, deliver, drop_letters, finish, prepare, resume,
};
use crate::fault::Fault;
use crate::letters::{Choice, Key};
use crate::metrics::Metrics;
use crate::requests::{Asked, Outcome, Request};
use crate::shared::{Current, now_ms};
use crate::stages::{Processed, Tools};
use crate::window::{MsgHash, Window};

/// Letters opened and delivered together.
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
pub enum Ask {
    /// Open these and write down what is to be delivered.
    Prepare {
        /// The letters.
        chosen: Vec<Key>,
        /// On whose behalf.
        asked: Asked,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Look, StateError>>,
    },
    /// Open what an earlier process has written down.
    Resume {
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Option<Prepared>, ResumeError>>,
    },
}

/// Hands an [`Ask`] on; false if nobody is there any more.
pub type Opening = Box<dyn Fn(Ask) -> BoxFuture<'static, bool> + Send + Sync>;

/// The replays of one corp.
pub struct Replayer {
    /// The corp.
    pub corp_id: CorpId,
    /// Its keys.
    pub keys: Arc<Current<KeyRing>>,
    /// Its letters.
    pub parked: Arc<Mutex<Parked>>,
    /// Folder for its state.
    pub folder: PathBuf,
    /// Who opens.
    pub opening: Opening,
    /// The sinks.
    pub outlets: Vec<Outlet>,
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
        let desk = Desk::at(&self.folder);
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
            while let Some(request) = desk.take() {
                let answer = self.serve(&request.body).await;
                if let Err(ReplayError::Sink(fault)) = answer {
                    return Err(fault);
                }
                desk.answer(&request, &answer.map_err(|failure| chain(&failure)));
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
        let known = (versions.clone(), lock(&self.parked).index().told());
        if self.looked_at.as_ref() == Some(&known) {
            return Ok(());
        }
        let done = self.replay(&Choice::lacking(&versions), ITSELF).await?;
        if done == Outcome::default() {
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
    pub async fn serve(&mut self, request: &Request) -> Result<Outcome, ReplayError> {
        self.resume().await?;
        match request {
            Request::Replay { choice, actor } => self.replay(choice, actor).await,
            Request::Drop {
                choice,
                actor,
                because,
            } => self.drop_letters(choice, actor, because).await,
        }
    }

    async fn resume(&mut self) -> Result<(), ReplayError> {
        if !self.folder.join(JOURNAL).exists() {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.ask(Ask::Resume { answer }).await?;
        let prepared = answered.await.map_err(|_| ReplayError::Stopping)??;
        if let Some(prepared) = prepared {
            info!(corp = %self.corp_id, letters = prepared.events().len(), "replay taken up again");
            self.complete(prepared, &mut Outcome::default()).await?;
        }
        Ok(())
    }

    async fn replay(&mut self, choice: &Choice, actor: &str) -> Result<Outcome, ReplayError> {
        let mut outcome = Outcome::default();
        let mut after = None;
        loop {
            let chosen = self.choose(after.as_ref(), choice);
            let Some(last) = chosen.last() else {
                return Ok(outcome);
            };
            if self.stop.is_cancelled() {
                return Err(ReplayError::Stopping);
            }
            after = Some(last.clone());
            let asked = Asked {
                actor: actor.to_owned(),
                at: now_ms(),
            };
            let (answer, answered) = oneshot::channel();
            let ask = Ask::Prepare {
                chosen,
                asked,
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
        choice: &Choice,
        actor: &str,
        because: &str,
    ) -> Result<Outcome, ReplayError> {
        let mut outcome = Outcome::default();
        loop {
            let chosen = self.choose(None, choice);
            let asked = Asked {
                actor: actor.to_owned(),
                at: now_ms(),
            };
            let (parked, folder) = (Arc::clone(&self.parked), self.folder.clone());
            let because = because.to_owned();
            let prepared =
                blocking(move || drop_letters(&folder, &lock(&parked), &chosen, &asked, &because))
                    .await?;
            match prepared {
                Some(prepared) => self.complete(prepared, &mut outcome).await?,
                None => return Ok(outcome),
            }
        }
    }

    fn choose(&self, after: Option<&Key>, choice: &Choice) -> Vec<Key> {
        lock(&self.parked).index().choose(after, choice, CHUNK)
    }

    async fn ask(&mut self, ask: Ask) -> Result<(), ReplayError> {
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
        outcome: &mut Outcome,
    ) -> Result<(), ReplayError> {
        let log = format!("{}-replay", self.corp_id);
        let (outlets, metrics) = (&mut self.outlets, &self.metrics);
        if !deliver(&prepared, &log, outlets, metrics, &self.abandon)
            .await
            .map_err(ReplayError::Sink)?
        {
            return Err(ReplayError::Stopping);
        }
        for event in prepared.events() {
            outcome.count(event.event);
        }
        let (parked, folder) = (Arc::clone(&self.parked), self.folder.clone());
        let open = blocking(move || {
            let mut parked = lock(&parked);
            finish(&folder, &mut parked, &prepared)?;
            Ok(parked.index().open().len())
        })
        .await?;
        self.metrics.dead_letters_open(self.corp_id.as_str(), open);
        Ok(())
    }
}

/// Does what is asked for, for whoever has the window; `count` is told of newly opened records.
pub(super) fn answer(
    ask: Ask,
    tools: &Tools<'_>,
    folder: &Path,
    parked: &Parked,
    window: &mut Window,
    behind: &HashSet<MsgHash>,
    count: impl FnOnce(&Processed),
) {
    // Whoever asked may have gone; what is written down is taken up by the next.
    match ask {
        Ask::Prepare {
            chosen,
            asked,
            answer,
        } => {
            let look = prepare(tools, folder, parked, window, behind, &chosen, &asked);
            if let Ok(Look {
                processed: Some(processed),
                ..
            }) = &look
            {
                count(processed);
            }
            answer.send(look).ok();
        }
        Ask::Resume { answer } => {
            answer.send(resume(tools, folder, parked)).ok();
        }
    }
}

/// The letters, whatever became of who had them last.
pub(super) fn lock(parked: &Mutex<Parked>) -> std::sync::MutexGuard<'_, Parked> {
    parked.lock().unwrap_or_else(PoisonError::into_inner)
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
