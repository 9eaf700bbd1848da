//! Replays dead letters whose key has been added: follows `[deadletter]` and the keys in use.
//!
//! Every process that runs `process` does this. Several may find the same dead letters at the same
//! moment; [`super::dead_letters`] ensures that each attempt is published once.

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
use crate::fault::{Fault, Retry};
use crate::metrics::Metrics;
use crate::shared::{Current, now_ms};

/// Longest wait for the next event of the topic.
const TICK: Duration = Duration::from_millis(200);
/// Time until the events of an attempt are expected here; then the dead letters are checked again.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest pause between attempts for a corp whose dead letters do not open although their key is
/// here. The process that opens them may not have the key yet, and each attempt is kept forever.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// The actor of the attempts that are started here.
const ACTOR: &str = "chatledger";

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

/// When a corp's dead letters may be replayed again.
struct Pause {
    until: Instant,
    next: Duration,
}

/// What the watch knows between two checks.
struct Watch {
    /// The next check.
    at: Instant,
    /// Whether anything has changed since the last check.
    changed: bool,
    /// Versions of the keys at the last check.
    versions: Vec<Vec<u32>>,
    /// Corps whose dead letters were replayed and are still open.
    pauses: BTreeMap<CorpId, Pause>,
}

impl KeyWatch {
    /// Runs until stopped. `checked` turns true once the dead letters that lacked a key at the start,
    /// and whose key is here now, have been published again.
    pub async fn run(self, checked: watch::Sender<bool>) {
        let mut retry = Retry::new(&self.stop);
        while !self.stop.is_cancelled() {
            let Err(fault) = self.follow(&checked, &mut retry).await else {
                return;
            };
            let class = fault.class.as_str();
            let log = |pause| warn!(class, error = %fault, ?pause, "cannot replay dead letters; retrying");
            retry.wait(&fault, log).await;
        }
    }

    async fn follow(
        &self,
        checked: &watch::Sender<bool>,
        retry: &mut Retry<'_>,
    ) -> Result<(), Fault> {
        let mut reader: DeadLetterReader<()> = self.log.follow().await?;
        let mut watch = Watch {
            at: Instant::now(),
            changed: true,
            versions: self.versions(),
            pauses: BTreeMap::new(),
        };
        loop {
            watch.changed |= tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                stepped = reader.step(TICK, |_| ()) => stepped?,
            };
            if Instant::now() < watch.at || !reader.is_complete() {
                continue;
            }
            watch.at = Instant::now() + TICK;
            let versions = self.versions();
            let new_keys = versions != watch.versions;
            if !watch.changed && !new_keys {
                continue;
            }
            if new_keys {
                watch.pauses.clear();
            }
            (watch.changed, watch.versions) = (false, versions);
            self.update_metrics(&reader);
            for corp in self.keys.keys() {
                self.replay(corp, &reader, &mut watch).await?;
            }
            retry.succeeded();
            checked.send_replace(true);
        }
    }

    /// Replays the dead letters of a corp that lacked a key which is here now.
    async fn replay(
        &self,
        corp: &CorpId,
        reader: &DeadLetterReader<()>,
        watch: &mut Watch,
    ) -> Result<(), Fault> {
        let Some(keys) = self.keys.get(corp) else {
            return Ok(());
        };
        let filter = DeadLetterFilter {
            corp: Some(corp.to_string()),
            ..DeadLetterFilter::lacking(&keys.get().versions())
        };
        let due = reader.dead_letters.select(None, &filter, usize::MAX);
        if due.is_empty() {
            watch.pauses.remove(corp);
        }
        let open = reader.dead_letters.open();
        let is_idle = |key| {
            open.get(key)
                .is_some_and(|status| status.retrying.is_none())
        };
        if !due.iter().any(is_idle) {
            return Ok(());
        }
        let now = Instant::now();
        let pause = watch.pauses.entry(corp.clone()).or_insert(Pause {
            until: now,
            next: PATIENCE,
        });
        if now < pause.until {
            watch.at = now + PATIENCE.min(pause.until - now);
            watch.changed = true;
            return Ok(());
        }
        pause.until = now + pause.next;
        pause.next = (pause.next * 2).min(LONGEST_PAUSE);
        let requester = Requester {
            actor: ACTOR.into(),
            at: now_ms(),
        };
        let published = self.log.replay(&filter, &requester).await?;
        // Check again, whether or not the events of the attempt have been read by then.
        (watch.at, watch.changed) = (Instant::now() + PATIENCE, true);
        let (replayed, duplicates) = (published.retried.len(), published.counts.duplicates);
        if replayed as u64 + duplicates > 0 {
            info!(%corp, replayed, duplicates, "replaying dead letters whose key has been added");
        }
        Ok(())
    }

    fn versions(&self) -> Vec<Vec<u32>> {
        let keys = self.keys.values();
        keys.map(|keys| keys.get().versions()).collect()
    }

    fn update_metrics(&self, reader: &DeadLetterReader<()>) {
        let mut open: BTreeMap<&CorpId, usize> = self.keys.keys().map(|corp| (corp, 0)).collect();
        for key in reader.dead_letters.open().keys() {
            *open.entry(&key.corp_id).or_default() += 1;
        }
        for (corp, count) in open {
            self.metrics.dead_letters_open(corp.as_str(), count);
        }
    }
}
