//! What the parts of one process share: the present directory and rules, and how far things are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use chatledger_crypto::{KeyRing, Opened, Opener, Rejected};
use chatledger_schemas::SealedRecord;
use serde::Serialize;

use crate::metrics::Metrics;
use crate::stages::{Processed, reasons};

/// A value that is replaced as a whole while others read it.
#[derive(Debug, Default)]
pub struct Current<T>(RwLock<Arc<T>>);

impl<T> Current<T> {
    /// Starts with a value.
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The value as it is now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value for readers to come.
    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl Opener for Current<KeyRing> {
    fn open(&self, batch: &[SealedRecord]) -> Vec<Result<Opened, Rejected>> {
        self.get().open(batch)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rooms seen in messages that the directory has not been requester about; bounded.
#[derive(Debug, Default)]
pub struct WantedRooms(Mutex<BTreeSet<String>>);

impl WantedRooms {
    const MOST: usize = 50_000;

    /// Adds rooms; what is over the bound will be seen again.
    pub fn add(&self, rooms: impl IntoIterator<Item = String>) {
        let mut wanted = lock(&self.0);
        for room in rooms {
            if wanted.len() < Self::MOST {
                wanted.insert(room);
            }
        }
    }

    /// The rooms wanted now.
    pub fn list(&self) -> Vec<String> {
        lock(&self.0).iter().cloned().collect()
    }

    /// Forgets rooms that have been requester about.
    pub fn remove(&self, rooms: &[String]) {
        let mut wanted = lock(&self.0);
        for room in rooms {
            wanted.remove(room);
        }
    }

    /// Whether none is wanted.
    pub fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }
}

/// What one run has done, over all corps.
#[derive(Debug, Default)]
pub struct Totals {
    pulled: AtomicU64,
    messages: AtomicU64,
    violations: AtomicU64,
    dead_letters: AtomicU64,
    duplicates: AtomicU64,
}

/// The numbers of [`Totals`] at one moment; the last line of a drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Records the archive gave.
    pub pulled: u64,
    /// Messages opened.
    pub messages: u64,
    /// Violations found.
    pub violations: u64,
    /// Records parked.
    pub dead_letters: u64,
    /// Messages that had been there before.
    pub duplicates: u64,
}

impl Totals {
    /// The archive gave records.
    pub fn pulled(&self, records: usize) {
        self.pulled.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// A batch went through the stages.
    pub fn processed(&self, processed: &Processed) {
        let batch = &processed.batch;
        self.messages
            .fetch_add(batch.messages.len() as u64, Ordering::Relaxed);
        self.violations
            .fetch_add(batch.violations.len() as u64, Ordering::Relaxed);
        let parked: u64 = reasons(batch).map(|(_, count)| count).sum();
        self.dead_letters.fetch_add(parked, Ordering::Relaxed);
        self.duplicates
            .fetch_add(processed.duplicates(), Ordering::Relaxed);
    }

    /// The numbers now.
    pub fn summary(&self) -> Summary {
        Summary {
            pulled: self.pulled.load(Ordering::Relaxed),
            messages: self.messages.load(Ordering::Relaxed),
            violations: self.violations.load(Ordering::Relaxed),
            dead_letters: self.dead_letters.load(Ordering::Relaxed),
            duplicates: self.duplicates.load(Ordering::Relaxed),
        }
    }
}

/// How far one corp is.
#[derive(Debug, Default)]
pub struct Progress {
    reads_archive: AtomicBool,
    pulled_to: AtomicU64,
    at_end: AtomicBool,
    last_at_end: AtomicI64,
    answered: AtomicI64,
    sinks: Mutex<BTreeMap<&'static str, SinkProgress>>,
    directory_at: Mutex<Option<i64>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct SinkProgress {
    position: u64,
    newest: Option<i64>,
}

impl Progress {
    /// This process reads the corp's archive; only then does it know what may be lost there.
    pub fn reads_archive(&self) {
        self.reads_archive.store(true, Ordering::Relaxed);
    }

    /// The archive gave an answer at a time, with or without records.
    pub fn answered(&self, at: i64) {
        self.answered.store(at, Ordering::Relaxed);
    }

    /// When the archive answered last, milliseconds since the epoch, UTC; `None` if it has not.
    pub fn last_answer(&self) -> Option<i64> {
        let at = self.answered.load(Ordering::Relaxed);
        (at > 0).then_some(at)
    }

    /// The archive was read up to a position; `at_end` if it had nothing behind it.
    pub fn pulled(&self, position: u64, at_end: bool) {
        let before = self.pulled_to.fetch_max(position, Ordering::Relaxed);
        // What waits in memory for a sink is not delivered, however often the archive says that it
        // has nothing more.
        if at_end && self.cursor() >= before.max(position) {
            self.last_at_end.store(now_ms(), Ordering::Relaxed);
        }
        self.at_end.store(at_end, Ordering::Relaxed);
    }

    /// A sink holds everything up to a position; `newest` is the time of its newest message.
    pub fn reached(&self, sink: &'static str, position: u64, newest: Option<i64>) {
        let mut sinks = lock(&self.sinks);
        let reached = sinks.entry(sink).or_default();
        reached.position = reached.position.max(position);
        reached.newest = reached.newest.max(newest);
    }

    /// The directory was read at a time.
    pub fn directory(&self, taken_at: i64) {
        *lock(&self.directory_at) = Some(taken_at);
    }

    /// The position that every sink has reached.
    pub fn cursor(&self) -> u64 {
        lock(&self.sinks)
            .values()
            .map(|reached| reached.position)
            .min()
            .unwrap_or_default()
    }

    /// Brings the gauges that depend on the time of day up to date.
    pub fn publish(&self, corp: &str, metrics: &Metrics, now: i64) {
        let since = |then: i64| Duration::from_millis(now.saturating_sub(then).max(0) as u64);
        let cursor = self.cursor();
        metrics.cursor(corp, cursor);
        // The log that source writes to knows no message times; it holds no one up.
        let newest = lock(&self.sinks)
            .values()
            .filter_map(|reached| reached.newest)
            .min();
        if let Some(newest) = newest {
            metrics.lag(corp, since(newest));
        }
        if self.reads_archive.load(Ordering::Relaxed) {
            let at_end = self.at_end.load(Ordering::Relaxed)
                && cursor >= self.pulled_to.load(Ordering::Relaxed);
            // What is not delivered yet is newer than what is, and than the last time at which
            // there was nothing more and everything was delivered.
            let last_at_end = self.last_at_end.load(Ordering::Relaxed);
            let oldest = newest.unwrap_or_default().max(last_at_end);
            let waiting = if at_end || oldest == 0 {
                Duration::ZERO
            } else {
                since(oldest)
            };
            metrics.hours_until_loss(corp, waiting);
        }
        if let Some(taken_at) = *lock(&self.directory_at) {
            metrics.directory_age(corp, since(taken_at));
        }
    }
}

/// The time of day, for the rim: milliseconds since the epoch, UTC.
pub fn now_ms() -> i64 {
    #[cfg(any(test, feature = "testing"))]
    if let Some(now) = crate::testing::now_ms() {
        return now;
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
