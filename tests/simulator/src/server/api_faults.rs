//! Decides which archive calls fail: injected faults derived from the seed, and the limit of 600
//! calls per minute.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::faults::{ApiFault, FaultSpec};
use crate::options::TenantOptions;
use crate::random::{Purpose, number};

/// Calls that the archive allows in any minute.
const CALLS_PER_MINUTE: usize = 600;

/// What is done to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallFault {
    /// It fails.
    Fails(ApiFault),
    /// It returns an empty page.
    Empty,
}

/// Decides which archive calls fail.
#[derive(Debug)]
pub(crate) struct ApiFaults {
    spec: FaultSpec,
    seed: u64,
    enforce_limits: bool,
    history: Mutex<CallHistory>,
}

#[derive(Debug, Default)]
struct CallHistory {
    calls: u64,
    failed: usize,
    /// Whether the previous call returned an empty page; then the next one does not.
    emptied: bool,
    recent: VecDeque<Instant>,
}

fn share(chance: u64) -> f64 {
    (chance >> 11) as f64 / (1u64 << 53) as f64
}

impl ApiFaults {
    pub(crate) fn new(options: &TenantOptions, enforce_limits: bool) -> Self {
        Self {
            spec: options.faults.clone(),
            seed: options.seed,
            enforce_limits,
            history: Mutex::default(),
        }
    }

    /// Returns the minimum duration of every archive call.
    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(self.spec.slow_ms)
    }

    /// Counts a call against the limit; returns false if it exceeds the limit.
    pub(crate) fn within_limit(&self, now: Instant) -> bool {
        if !self.enforce_limits {
            return true;
        }
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        while history
            .recent
            .front()
            .is_some_and(|&at| now.duration_since(at) >= Duration::from_secs(60))
        {
            history.recent.pop_front();
        }
        let within = history.recent.len() < CALLS_PER_MINUTE;
        if within {
            history.recent.push_back(now);
        }
        within
    }

    /// Returns what is done to the next call.
    pub(crate) fn next(&self) -> Option<CallFault> {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.calls += 1;
        let chance = |salt: u64| share(number(self.seed, Purpose::Api, history.calls | salt << 48));
        if chance(1) < self.spec.api {
            let kinds: &[ApiFault] = if self.spec.api_kinds.is_empty() {
                &ApiFault::ALL
            } else {
                &self.spec.api_kinds
            };
            let kind = kinds[history.failed % kinds.len()];
            history.failed += 1;
            return Some(CallFault::Fails(kind));
        }
        if chance(2) < self.spec.empty && !history.emptied {
            history.emptied = true;
            return Some(CallFault::Empty);
        }
        history.emptied = false;
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn api_faults(faults: &str, enforce_limits: bool) -> ApiFaults {
        ApiFaults {
            spec: faults.parse().unwrap(),
            seed: 3,
            enforce_limits,
            history: Mutex::default(),
        }
    }

    #[test]
    fn next_fails_the_requested_share_in_every_way_and_reproducibly() {
        let run = || {
            let api_faults = api_faults("api=0.2", false);
            (0..2_000).map(|_| api_faults.next()).collect::<Vec<_>>()
        };
        let calls = run();
        let failed = calls.iter().flatten().count();
        assert!((300..500).contains(&failed), "{failed}");
        for kind in ApiFault::ALL {
            assert!(calls.contains(&Some(CallFault::Fails(kind))), "{kind:?}");
        }
        assert_eq!(run(), calls);
    }

    #[test]
    fn empty_pages_are_never_returned_twice_in_a_row() {
        let api_faults = api_faults("empty=0.5", false);
        let calls: Vec<_> = (0..500).map(|_| api_faults.next()).collect();
        assert!(calls.contains(&Some(CallFault::Empty)));
        assert!(
            !calls
                .windows(2)
                .any(|two| two == [Some(CallFault::Empty); 2])
        );
    }

    #[test]
    fn limit_counts_any_sliding_minute() {
        let api_faults = api_faults("", true);
        let start = Instant::now();
        assert!((0..600).all(|_| api_faults.within_limit(start)));
        assert!(!api_faults.within_limit(start + Duration::from_secs(59)));
        assert!(api_faults.within_limit(start + Duration::from_secs(60)));
    }
}
