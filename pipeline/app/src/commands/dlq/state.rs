//! DeadLetterIndex in the state folder of the direct driver.

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

/// Pause between two looks for an answer.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct State {
    file: PathBuf,
    folder: PathBuf,
    corps: Vec<CorpId>,
}

impl State {
    pub(super) fn new(settings: &Settings, file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            folder: settings.driver.state_dir.clone(),
            corps: settings.corps.iter().map(|corp| corp.id.clone()).collect(),
        }
    }

    /// Reads beside whoever writes.
    pub(super) fn read(
        &self,
        retained: impl Fn(&DeadLetter) -> Shown,
    ) -> Result<DeadLetterIndex<Shown>, Failure> {
        let mut all = DeadLetterIndex::default();
        for corp in &self.corps {
            let folder = self.folder.join(corp.as_str());
            let letters =
                dead_letter_store::read(&folder, &retained).map_err(|error| refused(&error))?;
            all.append(letters);
        }
        Ok(all)
    }

    /// Has it done by the process that runs, or does it itself.
    pub(super) async fn serve(
        &self,
        request: DeadLetterRequest,
        wait: Duration,
    ) -> Result<ReplayCounts, Failure> {
        let corps = self.corps.iter().filter(|corp| wanted(&request, corp));
        let corps: Vec<&CorpId> = corps.collect();
        match StateLock::take(&self.folder) {
            Ok(lock) => self.alone(&request, &corps, lock).await,
            Err(StateError::Locked { .. }) => self.asking(&request, &corps, wait).await,
            Err(error) => Err(Failure::other(error)),
        }
    }

    async fn alone(
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

    /// Leaves the request with the running process and waits for its answer. Should the process end
    /// meanwhile, the request is taken back.
    async fn asking(
        &self,
        request: &DeadLetterRequest,
        corps: &[&CorpId],
        wait: Duration,
    ) -> Result<ReplayCounts, Failure> {
        let deadline = Instant::now() + wait;
        let void = now_ms().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        let mut outcome = ReplayCounts::default();
        for corp in corps {
            let inbox = ControlInbox::at(&self.folder.join(corp.as_str()));
            let id = inbox
                .submit(request.clone(), void)
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
                            "the process that uses {} has not taken the request up within \
                             {wait:?}; it has been withdrawn, and nothing was changed for {corp}",
                            self.folder.display()
                        )));
                    }
                    RequestStatus::Pending | RequestStatus::Accepted => {
                        return Err(Failure::unreachable(format!(
                            "the running process has begun and not ended within {wait:?}; it goes \
                             on, a sink may be away: see `chatledger dlq list`"
                        )));
                    }
                }
            }
        }
        Ok(outcome)
    }
}

fn wanted(request: &DeadLetterRequest, corp: &CorpId) -> bool {
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
