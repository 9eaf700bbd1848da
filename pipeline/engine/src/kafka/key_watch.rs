//! Has dead letters tried again whose key has come: follows `[deadletter]` and the keys in use.
//!
//! Every process that runs `process` does so. They may find the same letters at the same moment:
//! [`super::dead_letters`] sees to it that each attempt is published once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chatledger_crypto::KeyRing;
use chatledger_schemas::CorpId;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::dead_letters::{DeadLetterLog, DeadLetterReader};
use crate::dead_letter_index::DeadLetterFilter;
use crate::dead_letter_requests::Requester;
use crate::fault::{Backoff, Fault};
use crate::metrics::Metrics;
use crate::shared::{Current, now_ms};

/// How long to wait for the log in one go.
const TICK: Duration = Duration::from_millis(200);
/// How long the marks of an attempt may take to be read here before it is looked at again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest pause before a corp's letters are tried again that stay closed though their key is
/// here: the process that opens them may lack it, and each attempt is kept for ever.
const LONGEST: Duration = Duration::from_secs(3600);
/// Who has letters tried again.
const ITSELF: &str = "chatledger";

/// Follows `[deadletter]` and the keys.
pub struct KeyWatch {
    /// `[deadletter]`.
    pub log: DeadLetterLog,
    /// The keys in use, by corp.
    pub keys: BTreeMap<CorpId, Arc<Current<KeyRing>>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// When it ends.
    pub stop: CancellationToken,
}

impl KeyWatch {
    /// Runs until stopped. `looked` turns true when letters that lacked a key at the start, which
    /// is there now, are on their way.
    pub async fn run(self, looked: watch::Sender<bool>) {
        let mut backoff = Backoff::default();
        while !self.stop.is_cancelled() {
            let fault = match self.follow(&looked, &mut backoff).await {
                Ok(()) => return,
                Err(fault) => fault,
            };
            let pause = backoff.pause(&fault, rand::random());
            let class = fault.class.as_str();
            warn!(class, error = %fault, ?pause, "dead letters are looked at again");
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn follow(
        &self,
        looked: &watch::Sender<bool>,
        backoff: &mut Backoff,
    ) -> Result<(), Fault> {
        let mut reading: DeadLetterReader<()> = self.log.follow().await?;
        let (mut again, mut changed) = (Instant::now(), true);
        let mut versions = self.versions();
        let mut pauses: BTreeMap<&CorpId, (Instant, Duration)> = BTreeMap::new();
        loop {
            changed |= tokio::select! {
                () = self.stop.cancelled() => return Ok(()),
                stepped = reading.step(TICK, |_| ()) => stepped?,
            };
            if Instant::now() < again || !reading.is_whole() {
                continue;
            }
            again = Instant::now() + TICK;
            let now = self.versions();
            if !changed && now == versions {
                continue;
            }
            if now != versions {
                pauses.clear();
            }
            (changed, versions) = (false, now);
            self.show(&reading);
            for (corp, keys) in &self.keys {
                let filter = DeadLetterFilter {
                    corp: Some(corp.to_string()),
                    ..DeadLetterFilter::lacking(&keys.get().versions())
                };
                let due = reading.letters.select(None, &filter, usize::MAX);
                if due.is_empty() {
                    pauses.remove(corp);
                }
                let idle = |key| reading.letters.open()[key].retrying.is_none();
                if !due.iter().any(idle) {
                    continue;
                }
                let at = Instant::now();
                let (due_at, pause) = *pauses.entry(corp).or_insert((at, PATIENCE));
                if at < due_at {
                    (again, changed) = (at + PATIENCE.min(due_at - at), true);
                    continue;
                }
                pauses.insert(corp, (at + pause, (pause * 2).min(LONGEST)));
                let requester = Requester {
                    actor: ITSELF.into(),
                    at: now_ms(),
                };
                let published = self.log.replay(&filter, &requester).await?;
                // Whether or not the marks are read by then, look once more.
                (again, changed) = (Instant::now() + PATIENCE, true);
                let (letters, duplicates) = (published.retried.len(), published.outcome.duplicates);
                if letters as u64 + duplicates > 0 {
                    info!(%corp, letters, duplicates, "dead letters tried again, whose key has come");
                }
            }
            backoff.reset();
            looked.send_replace(true);
        }
    }

    fn versions(&self) -> Vec<Vec<u32>> {
        let keys = self.keys.values();
        keys.map(|keys| keys.get().versions()).collect()
    }

    fn show(&self, reading: &DeadLetterReader<()>) {
        let mut open: BTreeMap<&CorpId, usize> = self.keys.keys().map(|corp| (corp, 0)).collect();
        for key in reading.letters.open().keys() {
            *open.entry(&key.corp_id).or_default() += 1;
        }
        for (corp, letters) in open {
            self.metrics.dead_letters_open(corp.as_str(), letters);
        }
    }
}
