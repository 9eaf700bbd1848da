//! What the parts of one process share: values that are replaced while others read them, counts, and
//! how far each corp is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use chatledger_crypto::{KeyRing, OpenError, OpenedRecord, Opener};
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

    /// Returns the current value.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the value. Readers that hold the old one keep it.
    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl Opener for Current<KeyRing> {
    fn open(&self, batch: &[SealedRecord]) -> Vec<Result<OpenedRecord, OpenError>> {
        self.get().open(batch)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rooms seen in messages that the directory must look up; bounded.
#[derive(Debug, Default)]
pub struct WantedRooms(Mutex<BTreeSet<String>>);

impl WantedRooms {
    const MOST: usize = 50_000;

    /// Adds rooms. Those beyond the bound are dropped, and added when a message names them again.
    pub fn add(&self, rooms: impl IntoIterator<Item = String>) {
        let mut wanted = lock(&self.0);
        for room in rooms {
            if wanted.len() < Self::MOST {
                wanted.insert(room);
            }
        }
    }

    /// Returns the rooms.
    pub fn list(&self) -> Vec<String> {
        lock(&self.0).iter().cloned().collect()
    }

    /// Removes rooms that were looked up.
    pub fn remove(&self, rooms: &[String]) {
        let mut wanted = lock(&self.0);
        for room in rooms {
            wanted.remove(room);
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        lock(&self.0).is_empty()
    }
}

/// Counts of one run, over all corps.
#[derive(Debug, Default)]
pub struct Totals {
    pulled: AtomicU64,
    messages: AtomicU64,
    violations: AtomicU64,
    dead_letters: AtomicU64,
    duplicates: AtomicU64,
}

/// [`Totals`] at one moment. A drain prints them as its last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Records received from the archive.
    pub pulled: u64,
    /// Messages opened.
    pub messages: u64,
    /// Violations found.
    pub violations: u64,
    /// Records dead-lettered.
    pub dead_letters: u64,
    /// Duplicates of earlier messages.
    pub duplicates: u64,
}

impl Totals {
    /// Counts records received from the archive.
    pub fn pulled(&self, records: usize) {
        self.pulled.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Counts a batch that went through the stages.
    pub fn processed(&self, processed: &Processed) {
        let batch = &processed.batch;
        self.messages
            .fetch_add(batch.messages.len() as u64, Ordering::Relaxed);
        self.violations
            .fetch_add(batch.violations.len() as u64, Ordering::Relaxed);
        let dead_letters: u64 = reasons(batch).map(|(_, count)| count).sum();
        self.dead_letters.fetch_add(dead_letters, Ordering::Relaxed);
        self.duplicates
            .fetch_add(processed.duplicates(), Ordering::Relaxed);
    }

    /// Returns the counts.
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
    /// Notes that this process reads the corp's archive. Only then does it know what may be lost there.
    pub fn reads_archive(&self) {
        self.reads_archive.store(true, Ordering::Relaxed);
    }

    /// Notes that the archive answered, with or without records; milliseconds since the epoch, UTC.
    pub fn answered(&self, at: i64) {
        self.answered.store(at, Ordering::Relaxed);
    }

    /// Returns when the archive answered last, milliseconds since the epoch, UTC; `None` if it has not.
    pub fn last_answer(&self) -> Option<i64> {
        let at = self.answered.load(Ordering::Relaxed);
        (at > 0).then_some(at)
    }

    /// Notes that the archive was read up to a position; `at_end` if it has nothing after it.
    pub fn pulled(&self, position: u64, at_end: bool) {
        let before = self.pulled_to.fetch_max(position, Ordering::Relaxed);
        // What waits in memory for a sink is not delivered, even if the archive has nothing more.
        if at_end && self.cursor() >= before.max(position) {
            self.last_at_end.store(now_ms(), Ordering::Relaxed);
        }
        self.at_end.store(at_end, Ordering::Relaxed);
    }

    /// Notes that a sink holds everything up to a position; `newest` is the time of its newest message,
    /// milliseconds since the epoch, UTC.
    pub fn reached(&self, sink: &'static str, position: u64, newest: Option<i64>) {
        let mut sinks = lock(&self.sinks);
        let progress = sinks.entry(sink).or_default();
        progress.position = progress.position.max(position);
        progress.newest = progress.newest.max(newest);
    }

    /// Notes when the directory was read, milliseconds since the epoch, UTC.
    pub fn directory(&self, taken_at: i64) {
        *lock(&self.directory_at) = Some(taken_at);
    }

    /// Returns the position that every sink has reached.
    pub fn cursor(&self) -> u64 {
        lock(&self.sinks)
            .values()
            .map(|sink| sink.position)
            .min()
            .unwrap_or_default()
    }

    /// Updates the gauges that depend on the time of day; `now` is in milliseconds since the epoch, UTC.
    pub fn publish(&self, corp: &str, metrics: &Metrics, now: i64) {
        let since = |then: i64| Duration::from_millis(now.saturating_sub(then).max(0) as u64);
        let cursor = self.cursor();
        metrics.cursor(corp, cursor);
        // The log that `source` writes to has no message times, and does not count.
        let newest = lock(&self.sinks)
            .values()
            .filter_map(|sink| sink.newest)
            .min();
        if let Some(newest) = newest {
            metrics.lag(corp, since(newest));
        }
        if self.reads_archive.load(Ordering::Relaxed) {
            let at_end = self.at_end.load(Ordering::Relaxed)
                && cursor >= self.pulled_to.load(Ordering::Relaxed);
            // Undelivered messages are newer than delivered ones, and newer than the last time the
            // archive had nothing more and everything was delivered.
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

/// Returns the time of day, milliseconds since the epoch, UTC.
pub fn now_ms() -> i64 {
    #[cfg(any(test, feature = "testing"))]
    if let Some(now) = crate::testing::now_ms() {
        return now;
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}
