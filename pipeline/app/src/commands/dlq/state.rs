//! Dead letters in the state folder of the direct driver.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chatledger_engine::dead_letter_index::DeadLetterIndex;
use chatledger_engine::dead_letter_requests::{DeadLetterRequest, ReplayCounts};
use chatledger_engine::direct::control_inbox::{ControlInbox, RequestStatus};
use chatledger_engine::direct::dead_letter_store;
use chatledger_engine::direct::replayer::ReplayError;
use chatledger_engine::direct::{StateError, StateLock};
use chatledger_engine::shared::now_ms;
use chatledger_schemas::{CorpId, DeadLetter};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shown;
use crate::config::{self, Settings};
use crate::exit::{Failure, chain};
use crate::{commands, wiring};

/// Pause between two reads of the answer.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct StateFolder {
    file: PathBuf,
    folder: PathBuf,
    corps: Vec<CorpId>,
}

impl StateFolder {
    pub(super) fn new(settings: &Settings, file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            folder: settings.driver.state_dir.clone(),
            corps: settings.corps.iter().map(|corp| corp.id.clone()).collect(),
        }
    }

    /// Reads dead letters, also while a process writes.
    pub(super) fn read(
        &self,
        retained: impl Fn(&DeadLetter) -> Shown,
    ) -> Result<DeadLetterIndex<Shown>, Failure> {
        let mut all = DeadLetterIndex::default();
        for corp in &self.corps {
            let folder = self.folder.join(corp.as_str());
            let dead_letters =
                dead_letter_store::read(&folder, &retained).map_err(|error| refused(&error))?;
            all.append(dead_letters);
        }
        Ok(all)
    }

    /// Hands the request to the running process, or carries it out if none runs.
    pub(super) async fn serve(
        &self,
        request: DeadLetterRequest,
        wait: Duration,
    ) -> Result<ReplayCounts, Failure> {
        let corps = self.corps.iter().filter(|corp| concerns(&request, corp));
        let corps: Vec<&CorpId> = corps.collect();
        match StateLock::take(&self.folder) {
            Ok(lock) => self.serve_here(&request, &corps, lock).await,
            Err(StateError::Locked { .. }) => self.submit(&request, &corps, wait).await,
            Err(error) => Err(Failure::other(error)),
        }
    }

    async fn serve_here(
        &self,
        request: &DeadLetterRequest,
        corps: &[&CorpId],
        _lock: StateLock,
    ) -> Result<ReplayCounts, Failure> {
        let settings = config::load(&self.file).map_err(Failure::config)?;
        let stop = CancellationToken::new();
        commands::stop_on_signal(stop.clone(), stop.clone())?;
        let mut outcome = ReplayCounts::default();
        for mut replayer in wiring::replayers(settings, &stop).await? {
            if corps.contains(&&replayer.corp_id) {
                outcome.add(replayer.serve(request).await.map_err(failure)?);
            }
        }
        Ok(outcome)
    }

    /// Submits the request to the running process and waits for its answer. A request that is not
    /// accepted in time is withdrawn.
    async fn submit(
        &self,
        request: &DeadLetterRequest,
        corps: &[&CorpId],
        wait: Duration,
    ) -> Result<ReplayCounts, Failure> {
        let deadline = Instant::now() + wait;
        let deadline_ms =
            now_ms().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        let mut outcome = ReplayCounts::default();
        for corp in corps {
            let inbox = ControlInbox::at(&self.folder.join(corp.as_str()));
            let id = inbox
                .submit(request.clone(), deadline_ms)
                .map_err(|error| refused(&error))?;
            loop {
                match inbox.status(&id).map_err(|error| refused(&error))? {
                    RequestStatus::Answered(Ok(done)) => {
                        outcome.add(done);
                        break;
                    }
                    RequestStatus::Answered(Err(why)) => {
                        return Err(Failure::refused(format!("corp {corp}: {why}")));
                    }
                    RequestStatus::Pending | RequestStatus::Accepted
                        if Instant::now() < deadline =>
                    {
                        tokio::time::sleep(PAUSE).await;
                    }
                    RequestStatus::Pending if inbox.withdraw(&id) => {
                        return Err(Failure::unreachable(format!(
                            "the process that uses {} did not accept the request within \
                             {wait:?}; the request was withdrawn and nothing was changed for {corp}",
                            self.folder.display()
                        )));
                    }
                    RequestStatus::Pending | RequestStatus::Accepted => {
                        return Err(Failure::unreachable(format!(
                            "the running process started the request and did not finish within \
                             {wait:?}; it continues, a sink may be down: see `chatledger dlq list`"
                        )));
                    }
                }
            }
        }
        Ok(outcome)
    }
}

fn concerns(request: &DeadLetterRequest, corp: &CorpId) -> bool {
    let (DeadLetterRequest::Replay { filter, .. } | DeadLetterRequest::Drop { filter, .. }) =
        request;
    filter.corp.as_ref().is_none_or(|own| own == corp.as_str())
}

fn refused(error: &StateError) -> Failure {
    Failure::refused(chain(error))
}

fn failure(error: ReplayError) -> Failure {
    match &error {
        ReplayError::Resume(_) => Failure::refused(chain(&error)),
        ReplayError::Stopping => Failure::unreachable(chain(&error)),
        ReplayError::State(_) | ReplayError::Sink(_) => Failure::other(error),
    }
}
