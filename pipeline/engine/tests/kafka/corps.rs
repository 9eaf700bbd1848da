//! Several corps in one stage `source`: one that cannot be read any further leaves the others alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chatledger_engine::fault::Fault;
use chatledger_engine::kafka::source::{SourceError, SourceStage};
use chatledger_engine::kafka::testing::MemoryLog;
use chatledger_engine::kafka::{Ending, Topic};
use chatledger_engine::metrics::Metrics;
use chatledger_engine::ports::Source;
use chatledger_engine::pull::{AcceptGap, PullError, Puller};
use chatledger_engine::shared::Progress;
use chatledger_engine::testing::archive::FakeArchive;
use chatledger_engine::testing::{Simulation, set_clock_error, simulate, skip_time};
use chatledger_schemas::{CorpId, SealedRecord};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const HEALTHY: &str = "wwa";
const AWAY: &str = "wwb";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Longest wait for a condition, in simulated time.
const PATIENCE: Duration = Duration::from_secs(600);

/// An archive that does not answer while it is away, and counts its calls.
struct WatchedArchive {
    archive: Arc<dyn Source>,
    away: Arc<AtomicBool>,
    /// Number of calls that have ended.
    asked: Arc<AtomicU64>,
}

impl Source for WatchedArchive {
    fn page(&self, after: u64) -> BoxFuture<'_, Result<Vec<SealedRecord>, Fault>> {
        async move {
            let answer = if self.away.load(Ordering::Relaxed) {
                Err(Fault::local(std::io::Error::other("the network is down")))
            } else {
                self.archive.page(after).await
            };
            self.asked.fetch_add(1, Ordering::Relaxed);
            answer
        }
        .boxed()
    }
}

/// Two corps, and the log that their records go to.
struct TwoCorps {
    simulation: Simulation,
    log: MemoryLog,
    archives: [FakeArchive; 2],
    /// Whether the archive of [`AWAY`] does not answer.
    away: Arc<AtomicBool>,
    /// Calls of each archive that have ended.
    asked: [Arc<AtomicU64>; 2],
}

struct RunningSource {
    task: JoinHandle<Result<(), SourceError>>,
    stop: CancellationToken,
    progress: [Arc<Progress>; 2],
}

impl TwoCorps {
    fn new(simulation: &Simulation) -> Self {
        let archives = [HEALTHY, AWAY]
            .map(|corp| simulation.draw(|dice| FakeArchive::new(corp.into(), 40, 0, dice)));
        for archive in &archives {
            archive.release(20);
        }
        Self {
            simulation: simulation.clone(),
            log: MemoryLog::new(simulation, 2),
            archives,
            away: Arc::default(),
            asked: Default::default(),
        }
    }

    fn start(&self, name: &str, drain: bool, accept_gap: AcceptGap) -> RunningSource {
        let process = self.simulation.process(name);
        let progress: [Arc<Progress>; 2] = std::array::from_fn(|_| Arc::default());
        let away = [Arc::default(), Arc::clone(&self.away)];
        let corps = self
            .archives
            .iter()
            .zip([HEALTHY, AWAY])
            .zip(away)
            .zip(&self.asked)
            .zip(&progress);
        let corps = corps.map(|((((archive, corp), away), asked), progress)| {
            Arc::new(Puller {
                corp_id: corp.into(),
                source: Arc::new(WatchedArchive {
                    archive: archive.source(&process),
                    away,
                    asked: Arc::clone(asked),
                }),
                poll_interval: Duration::from_millis(500),
                progress: Arc::clone(progress),
            })
        });
        let stop = CancellationToken::new();
        let (_nothing, ended) = watch::channel(true);
        let stage = SourceStage {
            join: self.log.source(&process),
            corps: corps.collect(),
            metrics: Arc::new(Metrics::new("test").unwrap()),
            totals: Arc::default(),
            accept_gap,
            ending: Ending {
                stop: stop.clone(),
                abandon: CancellationToken::new(),
                upstream: drain.then_some(ended),
            },
        };
        RunningSource {
            task: tokio::spawn(stage.run()),
            stop,
            progress,
        }
    }

    fn release_all(&self) {
        for archive in &self.archives {
            archive.release_all();
        }
    }

    /// Number of records of a corp on `[raw]`.
    fn published(&self, corp: &str) -> usize {
        let records = self.log.records(Topic::Raw).unwrap();
        records
            .iter()
            .filter(|record| record.corp_id == corp)
            .count()
    }

    async fn until_published(&self, corp: &str, count: usize) {
        until("the records are on the log", || {
            self.published(corp) >= count
        })
        .await;
    }

    /// Waits until each archive has been asked twice more.
    async fn until_asked(&self) {
        for asked in &self.asked {
            let before = asked.load(Ordering::Relaxed);
            until("the archive is asked", || {
                asked.load(Ordering::Relaxed) >= before + 2
            })
            .await;
        }
    }

    /// Lets days pass, in which every archive is asked twice a day.
    async fn pass_days(&self, days: u32) {
        for _ in 0..2 * days {
            skip_time(DAY / 2);
            self.until_asked().await;
        }
    }
}

/// Waits for a condition.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "waiting until {what}");
}

impl RunningSource {
    async fn ended(self) -> Result<(), SourceError> {
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("the stage must end").unwrap()
    }

    async fn until_archive_is_stopped(&self) {
        until("the corp counts as stopped", || {
            self.progress[1].why_stopped().is_some()
        })
        .await;
    }

    async fn stopped(self) -> Result<(), SourceError> {
        self.stop.cancel();
        self.ended().await
    }
}

fn refused(error: &SourceError) -> bool {
    error.corp == CorpId::from(AWAY) && matches!(error.source, PullError::ArchiveGap(_))
}

#[test]
fn corp_that_was_away_too_long_is_seen_when_it_happens_and_the_others_are_read_on() {
    for seed in 0..200 {
        simulate(seed, |simulation| async move {
            let corps = TwoCorps::new(&simulation);
            let running = corps.start("a", false, AcceptGap::Refuse);
            corps.until_published(HEALTHY, 20).await;
            corps.until_published(AWAY, 20).await;
            running.stopped().await.unwrap();

            corps.away.store(true, Ordering::Relaxed);
            let running = corps.start("a", false, AcceptGap::Refuse);
            corps.until_asked().await;
            corps.pass_days(6).await;
            corps.away.store(false, Ordering::Relaxed);
            running.until_archive_is_stopped().await;
            let why = running.progress[1].why_stopped();
            assert!(why.is_some_and(|why| why.contains("--accept-gap")));
            assert_eq!(running.progress[0].why_stopped(), None);
            corps.release_all();
            corps.until_published(HEALTHY, 40).await;
            assert_eq!(corps.published(AWAY), 20);
            let error = running.stopped().await.unwrap_err();
            assert!(refused(&error), "{error}");

            // A start that finds it behind reads the other corp, and says so at the end.
            let drained = corps.start("b", true, AcceptGap::Refuse);
            let error = drained.ended().await.unwrap_err();
            assert!(refused(&error), "{error}");

            let other = AcceptGap::Corps(vec![HEALTHY.into()]);
            let drained = corps.start("b", true, other);
            assert!(refused(&drained.ended().await.unwrap_err()));

            let accepted = AcceptGap::Corps(vec![AWAY.into()]);
            corps.start("b", true, accepted).ended().await.unwrap();
            assert_eq!((corps.published(HEALTHY), corps.published(AWAY)), (40, 40));
            let again = corps.start("b", true, AcceptGap::Refuse);
            again.ended().await.unwrap();
            assert_eq!((corps.published(HEALTHY), corps.published(AWAY)), (40, 40));
        });
    }
}

#[test]
fn silence_before_a_start_and_after_it_is_one_silence() {
    simulate(1, |simulation| async move {
        let corps = TwoCorps::new(&simulation);
        let drained = corps.start("a", true, AcceptGap::Refuse);
        drained.ended().await.unwrap();
        skip_time(3 * DAY);
        corps.away.store(true, Ordering::Relaxed);
        let running = corps.start("a", false, AcceptGap::Refuse);
        corps.until_asked().await;
        corps.pass_days(3).await;
        corps.away.store(false, Ordering::Relaxed);
        running.until_archive_is_stopped().await;
        assert!(running.progress[1].why_stopped().is_some());
        assert!(refused(&running.stopped().await.unwrap_err()));
    });
}

#[test]
fn time_of_day_that_jumps_for_a_moment_stops_no_corp() {
    const SIX_DAYS: i64 = 6 * 24 * 3600 * 1000;
    for jump in [SIX_DAYS, -SIX_DAYS] {
        simulate(1, |simulation| async move {
            let corps = TwoCorps::new(&simulation);
            let running = corps.start("a", false, AcceptGap::Refuse);
            corps.until_published(HEALTHY, 20).await;
            set_clock_error(jump);
            corps.until_asked().await;
            // The process dies and starts while the clock is wrong, and starts again when it is right.
            running.stopped().await.unwrap();
            let running = corps.start("a", false, AcceptGap::Refuse);
            corps.until_asked().await;
            running.stopped().await.unwrap();
            set_clock_error(0);
            corps.release_all();
            let drained = corps.start("a", true, AcceptGap::Refuse);
            drained.ended().await.unwrap();
            assert_eq!((corps.published(HEALTHY), corps.published(AWAY)), (40, 40));
            // A real gap is found all the same.
            skip_time(6 * DAY);
            let drained = corps.start("a", true, AcceptGap::Refuse);
            drained.ended().await.unwrap_err();
        });
    }
}
