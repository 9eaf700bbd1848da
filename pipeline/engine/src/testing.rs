//! Test support: a simulated world in which stages run without Kafka, sinks or an archive.
//!
//! [`simulate`] runs a scenario on one thread with a virtual clock. Every choice (faults, delays,
//! kills, order) is drawn from one random number generator, so a seed always gives the same run.
//! The parts are:
//!
//! | module | stands for |
//! |---|---|
//! | this one | the clock, the random choices, processes that die or freeze |
//! | [`archive`] | an archive and the keys that open its records |
//! | [`sink`] | a sink that recognises names, and its checkpoints |
//! | [`journal`] | a journal with an owner |
//! | [`crate::kafka::testing`] | a Kafka cluster |
//!
//! Compiled only for tests and with the feature `testing`; never part of a release.

pub mod archive;
pub mod journal;
pub mod sink;

use std::cell::RefCell;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chatledger_schemas::{Classified, FaultClass};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fault::Fault;

/// The virtual time at which every simulation starts: milliseconds since the epoch, UTC.
const EPOCH_MS: i64 = 1_800_000_000_000;
/// How long a client waits for an answer that never arrives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

thread_local! {
    static SKIPPED: std::cell::Cell<i64> = const { std::cell::Cell::new(0) };
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// The simulation that runs on this thread.
struct Current {
    jitter: Dice,
    began: Option<Instant>,
    /// By how much the time of day is wrong, milliseconds.
    clock_error: i64,
}

/// Runs a scenario with a seed and returns its result. Time is virtual: it advances to the next
/// timer as soon as every task waits.
///
/// # Panics
/// The runtime cannot be built.
#[allow(clippy::expect_used, reason = "test support")]
pub fn simulate<F: Future>(seed: u64, scenario: impl FnOnce(Simulation) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O");
    SKIPPED.set(0);
    CURRENT.set(Some(Current {
        jitter: Dice::new(!seed),
        began: None,
        clock_error: 0,
    }));
    let _reset = ResetOnDrop;
    runtime.block_on(async {
        let began = Instant::now();
        CURRENT.with_borrow_mut(|current| {
            if let Some(current) = current {
                current.began = Some(began);
            }
        });
        scenario(Simulation::new(seed)).await
    })
}

struct ResetOnDrop;

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

/// Whether a simulation runs on this thread; CPU work then runs inline.
pub(crate) fn is_simulated() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// A random number in 0..1 for a pause; `None` outside a simulation.
pub(crate) fn jitter() -> Option<f64> {
    CURRENT.with_borrow_mut(|current| Some(current.as_mut()?.jitter.unit()))
}

/// The virtual time, milliseconds since the epoch, UTC; `None` outside a simulation.
pub(crate) fn now_ms() -> Option<i64> {
    CURRENT.with_borrow(|current| {
        let began = current.as_ref()?.began?;
        let error = current.as_ref()?.clock_error;
        Some(EPOCH_MS + began.elapsed().as_millis() as i64 + error + skipped_ms())
    })
}

/// The virtual boot clock, milliseconds; `None` outside a simulation.
pub(crate) fn boot_ms() -> Option<i64> {
    CURRENT.with_borrow(|current| {
        let began = current.as_ref()?.began?;
        Some(began.elapsed().as_millis() as i64 + skipped_ms())
    })
}

/// Lets time pass at once on both clocks of this thread, without waking anybody.
pub fn skip_time(time: Duration) {
    SKIPPED.set(SKIPPED.get() + time.as_millis() as i64);
}

/// Time that was skipped on this thread, milliseconds.
pub(crate) fn skipped_ms() -> i64 {
    SKIPPED.get()
}

/// Makes the time of day of the simulation wrong by this many milliseconds. The boot clock stays right.
pub fn set_clock_error(error: i64) {
    CURRENT.with_borrow_mut(|current| {
        if let Some(current) = current {
            current.clock_error = error;
        }
    });
}

/// Runs a property for `cases` seeds from `PROPTEST_SEED` (0) on, `PROPTEST_CASES` of them if that is
/// set; with `SIMULATION_SEED`, for that seed alone.
///
/// # Panics
/// A seed fails. The message names it and how to run it again.
#[allow(clippy::panic, reason = "test support")]
pub fn for_each_seed(cases: u64, property: impl Fn(u64) -> Result<(), String> + Sync) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("PROPTEST_SEED").unwrap_or_default();
    let count = number("PROPTEST_CASES").unwrap_or(cases);
    let seeds = match number("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + count,
    };
    let failures = failing_seeds(seeds, property);
    if let Some((first, _)) = failures.first() {
        panic!("run a seed alone with SIMULATION_SEED={first}: {failures:#?}");
    }
}

/// The seeds that fail, each with its failure. They are divided among the processor's cores.
pub fn failing_seeds(
    seeds: std::ops::Range<u64>,
    property: impl Fn(u64) -> Result<(), String> + Sync,
) -> Vec<(u64, String)> {
    let seeds: Vec<u64> = seeds.collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures = Mutex::new(Vec::new());
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(seeds.len()) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = std::panic::AssertUnwindSafe(|| property(*seed));
                    let failure = match std::panic::catch_unwind(run) {
                        Ok(Ok(())) => continue,
                        Ok(Err(failure)) => failure,
                        Err(_) => "panicked, see above".to_owned(),
                    };
                    lock(&failures).push((*seed, failure));
                }
            });
        }
    });
    let mut failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    failures.sort();
    failures
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A random number generator (SplitMix64) whose sequence depends on the seed alone.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Starts the sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with a probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.unit() < probability
    }

    /// A number in a range; its start if it is empty.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.number() % range.end.saturating_sub(range.start).max(1)
    }

    /// A time in a range of milliseconds.
    pub fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    /// Puts values into a random order.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for index in (1..values.len()).rev() {
            values.swap(index, self.within(0..index as u64 + 1) as usize);
        }
    }
}

/// How likely things go wrong at each point that a call passes: one before it takes effect, one
/// after.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultOdds {
    /// The call takes up to 300 ms longer.
    pub delay: f64,
    /// The call fails.
    pub fail: f64,
    /// A call that fails does so after 30 s, because no answer arrives.
    pub silent: f64,
    /// The effect of a call that fails happens later.
    pub late: f64,
    /// The process dies.
    pub kill: f64,
    /// The process is frozen for up to 40 s.
    pub freeze: f64,
}

impl FaultOdds {
    /// Nothing goes wrong.
    pub const CALM: Self = Self {
        delay: 0.0,
        fail: 0.0,
        silent: 0.0,
        late: 0.0,
        kill: 0.0,
        freeze: 0.0,
    };
    /// Everything goes wrong from time to time.
    pub const STORMY: Self = Self {
        delay: 0.1,
        fail: 0.02,
        silent: 0.1,
        late: 0.3,
        kill: 0.004,
        freeze: 0.003,
    };
}

/// The shared state of one simulated world.
#[derive(Clone)]
pub struct Simulation(Arc<SimulationState>);

struct SimulationState {
    dice: Mutex<Dice>,
    odds: Mutex<FaultOdds>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        Self(Arc::new(SimulationState {
            dice: Mutex::new(Dice::new(seed)),
            odds: Mutex::default(),
        }))
    }

    /// Draws from the one random number generator.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut Dice) -> T) -> T {
        draw(&mut lock(&self.0.dice))
    }

    /// How likely things go wrong from now on.
    pub fn set_odds(&self, odds: FaultOdds) {
        *lock(&self.0.odds) = odds;
    }

    fn odds(&self) -> FaultOdds {
        *lock(&self.0.odds)
    }

    /// Starts a process.
    pub fn process(&self, name: &str) -> SimulatedProcess {
        SimulatedProcess(Arc::new(ProcessState {
            name: name.to_owned(),
            simulation: self.clone(),
            dead: AtomicBool::new(false),
            killed: CancellationToken::new(),
            freezes: Mutex::default(),
        }))
    }

    /// Applies an effect some time later, if a call that has failed may still be carried out.
    pub(crate) fn maybe_later(&self, effect: impl FnOnce() + Send + 'static) {
        let late = self.odds().late;
        if self.draw(|dice| dice.chance(late)) {
            let pause = self.draw(|dice| dice.millis(100..60_000));
            tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                effect();
            });
        }
    }
}

/// A process of a simulation. It acts on the world only through calls that pass its gates; there it
/// is delayed, frozen or killed, and calls fail.
#[derive(Clone)]
pub struct SimulatedProcess(Arc<ProcessState>);

struct ProcessState {
    name: String,
    simulation: Simulation,
    dead: AtomicBool,
    killed: CancellationToken,
    freezes: Mutex<Vec<Freeze>>,
}

#[derive(Debug, Clone, Copy)]
struct Freeze {
    since: Instant,
    until: Instant,
}

/// A call failed. It may have taken effect.
#[derive(Debug, thiserror::Error)]
#[error("injected: {call} {outcome}")]
struct InjectedFault {
    call: &'static str,
    outcome: &'static str,
}

impl Classified for InjectedFault {
    fn class(&self) -> FaultClass {
        FaultClass::Retry
    }
}

impl SimulatedProcess {
    /// Its name, the same in every life.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The world it is in.
    pub fn simulation(&self) -> &Simulation {
        &self.0.simulation
    }

    /// Kills it: no call passes a gate any more.
    pub fn kill(&self) {
        self.0.dead.store(true, Ordering::Relaxed);
        self.0.killed.cancel();
    }

    /// Whether it was killed.
    pub fn is_dead(&self) -> bool {
        self.0.dead.load(Ordering::Relaxed)
    }

    /// Returns when it is killed.
    pub async fn killed(&self) {
        self.0.killed.cancelled().await;
    }

    /// Stops it for a while, as SIGSTOP does.
    pub fn freeze(&self, pause: Duration) {
        let since = Instant::now();
        lock(&self.0.freezes).push(Freeze {
            since,
            until: since + pause,
        });
    }

    /// Whether peers did not hear from it for longer than `limit` at a stretch after `joined`,
    /// seen at `now`.
    pub(crate) fn was_silent(&self, joined: Instant, limit: Duration, now: Instant) -> bool {
        lock(&self.0.freezes).iter().any(|freeze| {
            freeze.until > joined && now.min(freeze.until) > freeze.since.max(joined) + limit
        })
    }

    /// Waits while it is frozen; does not return once it is dead.
    pub async fn run(&self) {
        loop {
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            let now = Instant::now();
            let frozen = lock(&self.0.freezes)
                .iter()
                .map(|freeze| freeze.until)
                .filter(|until| *until > now)
                .max();
            match frozen {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    /// Passes a point at which the process may be delayed, frozen or killed.
    pub async fn pause(&self) {
        let (odds, simulation) = (self.0.simulation.odds(), &self.0.simulation);
        if simulation.draw(|dice| dice.chance(odds.kill)) {
            self.kill();
        }
        if simulation.draw(|dice| dice.chance(odds.freeze)) {
            self.freeze(simulation.draw(|dice| dice.millis(500..40_000)));
        }
        if simulation.draw(|dice| dice.chance(odds.delay)) {
            tokio::time::sleep(simulation.draw(|dice| dice.millis(1..300))).await;
        }
        self.run().await;
    }

    /// Passes a gate of a call.
    ///
    /// # Errors
    /// The call fails here.
    pub async fn pass(&self, call: &'static str) -> Result<(), Fault> {
        self.pause().await;
        let (odds, simulation) = (self.0.simulation.odds(), &self.0.simulation);
        if !simulation.draw(|dice| dice.chance(odds.fail)) {
            return Ok(());
        }
        let silent = simulation.draw(|dice| dice.chance(odds.silent));
        if silent {
            tokio::time::sleep(ANSWER_TIMEOUT).await;
            self.run().await;
        }
        let outcome = if silent { "was not answered" } else { "failed" };
        Err(Fault::new(InjectedFault { call, outcome }))
    }

    /// Makes a call: it may fail before it takes effect, or after.
    ///
    /// # Errors
    /// The call failed, or was refused.
    pub async fn call<T>(
        &self,
        call: &'static str,
        effect: impl FnOnce() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.pass(call).await?;
        let value = effect()?;
        self.pass(call).await?;
        Ok(value)
    }
}
