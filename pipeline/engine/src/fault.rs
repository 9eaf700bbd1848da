//! What went wrong outside, and how long to wait before the next attempt.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use chatledger_schemas::{Classified, FaultClass};
use tokio_util::sync::CancellationToken;

use crate::failpoint::Injected;

/// A failure of somebody else's system, already classified by the connector it came from.
#[derive(Debug)]
pub struct Fault {
    /// What to do about it.
    pub class: FaultClass,
    /// How long the peer asked to be left alone, if it said so.
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

    /// The same, with a pause the peer asked for.
    #[must_use]
    pub fn after(mut self, pause: Option<Duration>) -> Self {
        self.retry_after = pause;
        self
    }

    /// A failure of this machine: the state folder cannot be written, a worker died.
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
        write!(f, "{}", self.source)?;
        let mut cause = self.source.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}

/// Growing pauses between attempts: doubles from 100 ms to 30 s, the upper half of each at random,
/// so that many processes do not return at the same moment.
#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);
    /// A refusal is not cured by asking again soon.
    const REFUSED: Duration = Duration::from_secs(60);

    /// How often it has been asked since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The pause before the next attempt; `random` lies in 0..1.
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

/// Repeats an operation until it succeeds or the token is cancelled; each failure is reported.
pub async fn until_done<T, F>(
    cancel: &CancellationToken,
    mut report: impl FnMut(&Fault, Duration),
    mut operation: impl FnMut() -> F,
) -> Option<T>
where
    F: Future<Output = Result<T, Fault>>,
{
    let mut backoff = Backoff::default();
    loop {
        let fault = match operation().await {
            Ok(value) => return Some(value),
            Err(fault) => fault,
        };
        let pause = backoff.pause(&fault, rand::random());
        report(&fault, pause);
        tokio::select! {
            () = cancel.cancelled() => return None,
            () = tokio::time::sleep(pause) => {}
        }
    }
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
    fn pauses_grow_to_a_bound_and_start_again_after_success() {
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
    fn a_peer_that_names_a_pause_gets_it_and_a_refusal_a_long_one() {
        let mut backoff = Backoff::default();
        let asked = fault(FaultClass::SlowDown).after(Some(Duration::from_secs(42)));
        assert_eq!(backoff.pause(&asked, 0.5), Duration::from_secs(42));
        let refused = fault(FaultClass::Stop);
        let last = (0..5).map(|_| backoff.pause(&refused, 0.5)).last();
        assert_eq!(last, Some(Duration::from_secs(60)));
    }
}
