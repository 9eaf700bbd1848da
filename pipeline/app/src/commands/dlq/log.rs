//! Dead letters on the topic `deadletter`.

use std::time::Duration;

use chatledger_engine::dead_letter_index::DeadLetterIndex;
use chatledger_engine::dead_letter_requests::Requester;
use chatledger_engine::dead_letter_requests::{DeadLetterRequest, ReplayCounts};
use chatledger_engine::fault::Fault;
use chatledger_engine::kafka::dead_letters::DeadLetterLog;
use chatledger_engine::shared::now_ms;
use chatledger_schemas::{DeadLetter, FaultClass};
use tokio::time::{Instant, timeout};

use super::Shown;
use crate::config::Settings;
use crate::exit::Failure;
use crate::wiring;

/// Longest time the topic may take to be read or written.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Topic(DeadLetterLog);

impl Topic {
    pub(super) async fn new(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self(wiring::dead_letter_log(settings).await?))
    }

    pub(super) async fn read(
        &self,
        retain: impl Fn(&DeadLetter) -> Shown,
    ) -> Result<DeadLetterIndex<Shown>, Failure> {
        Ok(within(self.0.read(retain)).await?.dead_letters)
    }

    pub(super) async fn serve(
        &self,
        request: DeadLetterRequest,
        wait: Duration,
    ) -> Result<ReplayCounts, Failure> {
        let at = now_ms();
        match request {
            DeadLetterRequest::Replay { filter, actor } => {
                let requester = Requester { actor, at };
                let published = within(self.0.replay(&filter, &requester)).await?;
                let deadline = Instant::now() + wait;
                let outcome = self.0.await_outcomes(published, deadline).await;
                outcome.map_err(Failure::unreachable)
            }
            DeadLetterRequest::Drop {
                filter,
                actor,
                because,
            } => {
                let requester = Requester { actor, at };
                within(self.0.discard(&filter, &requester, &because)).await
            }
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Failure> {
    match timeout(PATIENCE, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(fault)) if fault.class == FaultClass::Refresh => Err(Failure::unreachable(format!(
            "{fault}; another command may be replaying or discarding dead letters: look with \
             `chatledger dlq list` and try again"
        ))),
        Ok(Err(fault)) => Err(Failure::unreachable(fault)),
        Err(_) => Err(Failure::unreachable(format!(
            "the topic of dead letters could not be read and written within {PATIENCE:?}; requests \
             made before that continue: `chatledger dlq list` shows what is left"
        ))),
    }
}
