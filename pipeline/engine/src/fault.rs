//! Failures of other systems, and how long to wait before the next attempt.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use chatledger_schemas::{Classified, FaultClass};
use tokio_util::sync::CancellationToken;

use crate::failpoint::Injected;

/// A failure of another system, classified by the connector that reported it.
#[derive(Debug)]
pub struct Fault {
    /// What to do about it.
    pub class: FaultClass,
    /// How long the peer requester to be left alone, if it said so.
    pub retry_after: Option<Duration>,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Fault {
    /// Wraps a connector's error.
    pub fn new(error: impl Classified) -> Self {
        Self {
            class: error.class(),
            retry_after: None,
            source: Box::new(error),
        }
    }

    /// Sets the pause that the peer asked for.
    #[must_use]
    pub fn after(mut self, pause: Option<Duration>) -> Self {
        self.retry_after = pause;
        self
    }

    /// Wraps a failure of this machine: the state folder cannot be written, a worker thread died.
    pub fn local(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self {
            class: FaultClass::Retry,
            retry_after: None,
            source: Box::new(error),
        }
    }
}

impl From<Injected> for Fault {
    fn from(injected: Injected) -> Self {
        Self::new(injected)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&error_chain(&*self.source))
    }
}

impl std::error::Error for Fault {}

/// Growing pauses between attempts: doubles from 100 ms to 30 s. The upper half of each pause is
/// random, so that many processes do not return at the same moment.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);
    /// A refusal does not go away by asking again soon.
    const REFUSED: Duration = Duration::from_secs(60);

    /// Number of failures since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The pause before the next attempt; `random` is in 0..1.
    pub fn pause(&mut self, fault: &Fault, random: f64) -> Duration {
        let doubled = Self::FIRST
            .saturating_mul(1 << self.attempts.min(10))
            .min(Self::LONGEST);
        self.attempts = self.attempts.saturating_add(1);
        let jittered = doubled.mul_f64(0.5 + random / 2.0);
        match fault.class {
            FaultClass::Retry | FaultClass::Refresh => fault.retry_after.unwrap_or(jittered),
            FaultClass::SlowDown => fault.retry_after.unwrap_or(Self::LONGEST).max(jittered),
            FaultClass::Stop if self.attempts <= 3 => jittered,
            FaultClass::Stop => Self::REFUSED,
        }
    }

    /// Forgets past failures.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// A loop of attempts: waits between them and ends when the process is told to stop.
#[derive(Debug)]
pub struct Retry<'a> {
    backoff: Backoff,
    cancel: &'a CancellationToken,
}

impl<'a> Retry<'a> {
    /// Starts a loop that ends early when `cancel` is cancelled.
    pub fn new(cancel: &'a CancellationToken) -> Self {
        Self {
            backoff: Backoff::default(),
            cancel,
        }
    }

    /// Waits before the next attempt; `log` receives the pause. False if the process is told to
    /// stop meanwhile.
    pub async fn wait(&mut self, fault: &Fault, log: impl FnOnce(Duration)) -> bool {
        let pause = self.backoff.pause(fault, jitter());
        log(pause);
        sleep_unless(self.cancel, pause).await
    }

    /// Forgets past failures.
    pub fn succeeded(&mut self) {
        self.backoff.reset();
    }
}

/// Sleeps; false if `cancel` is cancelled first.
pub async fn sleep_unless(cancel: &CancellationToken, pause: Duration) -> bool {
    tokio::select! {
        biased;
        () = cancel.cancelled() => false,
        () = tokio::time::sleep(pause) => true,
    }
}

/// Repeats an operation until it succeeds; `log` receives each fault and the pause after it. `None`
/// if the process is told to stop meanwhile.
pub async fn retry<T, F>(
    cancel: &CancellationToken,
    mut log: impl FnMut(&Fault, Duration),
    mut operation: impl FnMut() -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut retry = Retry::new(cancel);
    loop {
        let fault = match operation().await {
            Ok(value) => return Some(value),
            Err(fault) => fault,
        };
        if !retry.wait(&fault, |pause| log(&fault, pause)).await {
            return None;
        }
    }
}

/// Repeats an operation until it succeeds, at most `attempts` times, and not after a refusal (class
/// stop). `log` receives each error and the pause after it.
///
/// # Errors
/// The last error.
pub async fn retry_limited<T, E, F>(
    attempts: u32,
    mut log: impl FnMut(&E, Duration),
    mut operation: impl FnMut() -> F,
) -> Result<T, E>
where
    E: Classified,
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::default();
    loop {
        let error = match operation().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if error.class() == FaultClass::Stop || backoff.attempts() + 1 >= attempts {
            return Err(error);
        }
        let pause = backoff.pause(&Fault::local(fmt::Error), jitter());
        log(&error, pause);
        tokio::time::sleep(pause).await;
    }
}

/// A random number in 0..1, for pauses.
fn jitter() -> f64 {
    #[cfg(any(test, feature = "testing"))]
    if let Some(jitter) = crate::testing::jitter() {
        return jitter;
    }
    rand::random()
}

/// An error with its causes, outermost first.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(class: FaultClass) -> Fault {
        Fault {
            class,
            ..Fault::local(std::fmt::Error)
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_start_again_after_success() {
        let mut backoff = Backoff::default();
        let retry = fault(FaultClass::Retry);
        let pauses: Vec<_> = (0..12)
            .map(|_| backoff.pause(&retry, 1.0).as_millis())
            .collect();
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[11], 30_000);
        backoff.reset();
        assert_eq!(backoff.pause(&retry, 0.0).as_millis(), 50);
    }

    #[test]
    fn pause_requested_by_the_peer_is_kept_and_a_refusal_waits_long() {
        let mut backoff = Backoff::default();
        let requester = fault(FaultClass::SlowDown).after(Some(Duration::from_secs(42)));
        assert_eq!(backoff.pause(&requester, 0.5), Duration::from_secs(42));
        let refused = fault(FaultClass::Stop);
        let last = (0..5).map(|_| backoff.pause(&refused, 0.5)).last();
        assert_eq!(last, Some(Duration::from_secs(60)));
    }
}
