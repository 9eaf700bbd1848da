//! Which archive calls go wrong: a sequence that follows from the seed, and the limit of 600 calls
//! a minute.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::faults::{ApiFault, FaultSpec};
use crate::options::TenantOptions;
use crate::random::{Purpose, number};

/// Calls the archive allows in any minute.
const CALLS_A_MINUTE: usize = 600;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// It fails.
    Fails(ApiFault),
    /// It is answered with an empty page.
    Empty,
}

/// Decides about archive calls.
#[derive(Debug)]
pub(crate) struct Mishaps {
    spec: FaultSpec,
    seed: u64,
    enforce_limits: bool,
    past: Mutex<Past>,
}

#[derive(Debug, Default)]
struct Past {
    calls: u64,
    failed: usize,
    /// The call before was answered with an empty page; this one will not be.
    emptied: bool,
    recent: VecDeque<Instant>,
}

fn share(chance: u64) -> f64 {
    (chance >> 11) as f64 / (1u64 << 53) as f64
}

impl Mishaps {
    pub(crate) fn new(options: &TenantOptions, enforce_limits: bool) -> Self {
        Self {
            spec: options.faults.clone(),
            seed: options.seed,
            enforce_limits,
            past: Mutex::default(),
        }
    }

    /// Time every archive call takes at least.
    pub(crate) fn delay(&self) -> Duration {
        Duration::from_millis(self.spec.slow_ms)
    }

    /// Counts a call against the limit; false means it is one too many.
    pub(crate) fn within_limit(&self, now: Instant) -> bool {
        if !self.enforce_limits {
            return true;
        }
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        while past
            .recent
            .front()
            .is_some_and(|&at| now.duration_since(at) >= Duration::from_secs(60))
        {
            past.recent.pop_front();
        }
        let within = past.recent.len() < CALLS_A_MINUTE;
        if within {
            past.recent.push_back(now);
        }
        within
    }

    /// What happens to the next call.
    pub(crate) fn next(&self) -> Option<Mishap> {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        past.calls += 1;
        let chance = |salt: u64| share(number(self.seed, Purpose::Api, past.calls | salt << 48));
        if chance(1) < self.spec.api {
            let kinds: &[ApiFault] = if self.spec.api_kinds.is_empty() {
                &ApiFault::ALL
            } else {
                &self.spec.api_kinds
            };
            let kind = kinds[past.failed % kinds.len()];
            past.failed += 1;
            return Some(Mishap::Fails(kind));
        }
        if chance(2) < self.spec.empty && !past.emptied {
            past.emptied = true;
            return Some(Mishap::Empty);
        }
        past.emptied = false;
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mishaps(faults: &str, enforce_limits: bool) -> Mishaps {
        Mishaps {
            spec: faults.parse().unwrap(),
            seed: 3,
            enforce_limits,
            past: Mutex::default(),
        }
    }

    #[test]
    fn next_fails_the_share_asked_for_in_every_way_and_again_the_same() {
        let play = || {
            let mishaps = mishaps("api=0.2", false);
            (0..2_000).map(|_| mishaps.next()).collect::<Vec<_>>()
        };
        let calls = play();
        let failed = calls.iter().flatten().count();
        assert!((300..500).contains(&failed), "{failed}");
        for kind in ApiFault::ALL {
            assert!(calls.contains(&Some(Mishap::Fails(kind))), "{kind:?}");
        }
        assert_eq!(play(), calls);
    }

    #[test]
    fn empty_pages_never_come_twice_in_a_row() {
        let mishaps = mishaps("empty=0.5", false);
        let calls: Vec<_> = (0..500).map(|_| mishaps.next()).collect();
        assert!(calls.contains(&Some(Mishap::Empty)));
        assert!(!calls.windows(2).any(|two| two == [Some(Mishap::Empty); 2]));
    }

    #[test]
    fn limit_counts_any_sliding_minute() {
        let mishaps = mishaps("", true);
        let start = Instant::now();
        assert!((0..600).all(|_| mishaps.within_limit(start)));
        assert!(!mishaps.within_limit(start + Duration::from_secs(59)));
        assert!(mishaps.within_limit(start + Duration::from_secs(60)));
    }
}
