//! What the parts of one process share: values that are replaced while others read them, counts, and
//! how far each corp is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use chatledger_crypto::{KeyRing, OpenError, OpenedRecord, Opener};
use chatledger_schemas::SealedRecord;
use serde::Serialize;

use crate::clock::ClockReading;
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

/// An older time of a message is not one, and says nothing about a lag (`connectors/wecom/WECOM.md`).
/// 2016-01-01, milliseconds since the epoch, UTC.
const EARLIEST_MESSAGE: i64 = 1_451_606_400_000;

/// Clocks of people's devices and of this machine differ by less, milliseconds.
const CLOCK_DIFFERENCE: i64 = 10 * 60 * 1000;

/// Returns the newest of the times of messages that can be right, milliseconds since the epoch, UTC. One message from the
/// future must not hide how old the others are.
pub(crate) fn newest_plausible(times: impl Iterator<Item = i64>) -> Option<i64> {
    let latest = now_ms() + CLOCK_DIFFERENCE;
    times
        .filter(|time| (EARLIEST_MESSAGE..=latest).contains(time))
        .max()
}

/// How far one corp is.
#[derive(Debug, Default)]
pub struct Progress {
    reads_archive: AtomicBool,
    pulled_to: AtomicU64,
    at_end: AtomicBool,
    last_at_end: AtomicI64,
    answered: Mutex<Option<ClockReading>>,
    /// When the archive had answered last when this process began to read it.
    reading_since: Mutex<Option<ClockReading>>,
    /// Why the archive is not read until a person acts.
    stopped: Mutex<Option<String>>,
    sinks: Mutex<BTreeMap<&'static str, SinkProgress>>,
    directory_at: Mutex<Option<ClockReading>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct SinkProgress {
    position: u64,
    newest: Option<i64>,
}

impl Progress {
    /// Notes that this process reads the corp's archive, which answered last at `answered`. Only then does it know what
    /// may be lost there.
    pub fn reads_archive(&self, answered: ClockReading) {
        *lock(&self.reading_since) = Some(answered);
        *lock(&self.stopped) = None;
        self.reads_archive.store(true, Ordering::Relaxed);
    }

    /// Notes that the archive answered, with or without records.
    pub fn answered(&self, at: ClockReading) {
        *lock(&self.answered) = Some(at);
    }

    /// Returns when the archive answered last; `None` if it has not.
    pub fn last_answer(&self) -> Option<ClockReading> {
        *lock(&self.answered)
    }

    /// Notes why the archive is not read any more: a person has to act.
    pub fn stopped(&self, why: impl Into<String>) {
        *lock(&self.stopped) = Some(why.into());
    }

    /// Notes that another process reads the archive now.
    pub fn left_to_others(&self) {
        *lock(&self.stopped) = None;
        *lock(&self.reading_since) = None;
        self.reads_archive.store(false, Ordering::Relaxed);
    }

    /// Returns why the archive is not read, if a person has to act.
    pub fn why_stopped(&self) -> Option<String> {
        lock(&self.stopped).clone()
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
    /// milliseconds since the epoch, UTC. It is when the message says that it was sent, so an implausible one is ignored.
    pub fn reached(&self, sink: &'static str, position: u64, newest: Option<i64>) {
        let newest = newest_plausible(newest.into_iter());
        let mut sinks = lock(&self.sinks);
        let progress = sinks.entry(sink).or_default();
        progress.position = progress.position.max(position);
        progress.newest = progress.newest.max(newest);
    }

    /// Notes when the directory was read.
    pub fn directory(&self, read_at: ClockReading) {
        *lock(&self.directory_at) = Some(read_at);
    }

    /// How long the archive has not answered, by the boot clock; `None` if this process does not read it.
    fn unanswered(&self, now: ClockReading) -> Duration {
        let since = self.last_answer().or(*lock(&self.reading_since));
        since.map_or(Duration::ZERO, |since| now.since(since))
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
    pub fn publish(&self, corp: &str, metrics: &Metrics, reading: ClockReading) {
        let now = reading.wall;
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
            metrics.hours_until_loss(corp, waiting.max(self.unanswered(reading)));
            metrics.unanswered(corp, self.unanswered(reading));
        } else {
            metrics.not_read_here(corp);
        }
        metrics.stopped(corp, lock(&self.stopped).is_some());
        if let Some(read_at) = *lock(&self.directory_at) {
            metrics.directory_age(corp, reading.since(read_at));
        }
    }
}

pub use crate::clock::now_ms;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::skip_time;

    const HOUR: Duration = Duration::from_secs(3600);

    fn published(progress: &Progress) -> String {
        let metrics = Metrics::new("test").unwrap();
        progress.publish("ww1", &metrics, ClockReading::now());
        metrics.render().unwrap()
    }

    fn value(text: &str, metric: &str) -> f64 {
        let name = format!("chatledger_{metric}{{corp=\"ww1\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().parse().unwrap()
    }

    #[test]
    fn message_from_the_future_hides_neither_a_lag_nor_an_archive_that_does_not_answer() {
        let progress = Progress::default();
        progress.reads_archive(ClockReading::now());
        progress.answered(ClockReading::now());
        let (now, future) = (now_ms(), now_ms() + 90 * 24 * 3_600_000);
        assert_eq!(
            newest_plausible([now - 5, future, 0].into_iter()),
            Some(now - 5)
        );
        progress.pulled(7, false);
        progress.reached("table", 6, Some(now));
        progress.reached("table", 7, Some(future));
        progress.pulled(7, true);
        skip_time(30 * HOUR);
        let text = published(&progress);
        assert!(
            (value(&text, "source_lag_seconds") / 3600.0 - 30.0).abs() < 0.1,
            "{text}"
        );
        assert!((value(&text, "source_hours_until_loss") - 90.0).abs() < 0.1);
        assert!((value(&text, "source_unanswered_seconds") / 3600.0 - 30.0).abs() < 0.1);
        progress.answered(ClockReading::now());
        let text = published(&progress);
        assert!((value(&text, "source_hours_until_loss") - 120.0).abs() < 0.1);
        assert!(value(&text, "source_unanswered_seconds") < 60.0);
    }

    #[test]
    fn message_without_a_time_shows_no_lag_of_decades() {
        let progress = Progress::default();
        progress.reads_archive(ClockReading::now());
        progress.reached("table", 7, Some(0));
        let text = published(&progress);
        assert!(!text.contains("chatledger_source_lag_seconds{"), "{text}");
    }

    #[test]
    fn stopped_corp_shows_until_its_archive_is_read_again() {
        let progress = Progress::default();
        progress.stopped("a gap");
        assert!((value(&published(&progress), "source_stopped") - 1.0).abs() < 0.1);
        progress.reads_archive(ClockReading::now());
        assert!(value(&published(&progress), "source_stopped") < 0.1);
    }

    #[test]
    fn process_that_no_longer_reads_an_archive_exports_no_time_of_it() {
        let progress = Progress::default();
        progress.reads_archive(ClockReading::now());
        let metrics = Metrics::new("test").unwrap();
        let published = || {
            progress.publish("ww1", &metrics, ClockReading::now());
            metrics.render().unwrap()
        };
        let names = [
            "chatledger_source_unanswered_seconds{",
            "chatledger_source_hours_until_loss{",
        ];
        let text = published();
        assert!(names.iter().all(|name| text.contains(name)), "{text}");
        progress.left_to_others();
        let text = published();
        assert!(!names.iter().any(|name| text.contains(name)), "{text}");
    }
}
