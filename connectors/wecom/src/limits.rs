//! Call budgets: keeps every API under the number of calls a minute that WeCom grants.
//!
//! Guarantees that in no minute more calls are let through than [`Api::calls_per_minute`]. Calls
//! made before this process started are not known here; WeCom's own 45009 covers that case.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::Api;

/// One limiter for each API; make one for each corp and secret.
pub(crate) struct Limits {
    by_api: [DefaultDirectRateLimiter; Api::ALL.len()],
}

impl Limits {
    pub(crate) fn new() -> Self {
        Self {
            by_api: Api::ALL.map(|api| RateLimiter::direct(quota(api))),
        }
    }

    /// Waits until the API may be called once more.
    pub(crate) async fn ready(&self, api: Api) {
        if let Some(limiter) = self.by_api.get(api as usize) {
            limiter.until_ready().await;
        }
    }
}

/// Burst and refill of an API's budget; together they never exceed its calls a minute.
///
/// The archive belongs to one reader, which reads evenly: nearly all of its budget is refill. The
/// directory comes in bursts and shares its APIs with the corp's other programs: a fifth of the
/// budget at once, three fifths as refill, the rest is left to them.
fn quota(api: Api) -> Quota {
    let granted = api.calls_per_minute();
    let (burst, refill) = match api {
        Api::ChatData => (10, granted - 10),
        _ => (granted / 5, granted / 5 * 3),
    };
    let at_least_one = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
    Quota::per_minute(at_least_one(refill)).allow_burst(at_least_one(burst))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn limiter_pressed_without_pause_stays_within_the_grant_in_every_minute() {
        for api in Api::ALL {
            let clock = FakeRelativeClock::default();
            let limiter = RateLimiter::direct_with_clock(quota(api), clock.clone());
            let step = Duration::from_millis(1);
            let mut now = Duration::ZERO;
            let mut window = VecDeque::new();
            let mut most = 0;
            while now < Duration::from_secs(150) {
                while limiter.check().is_ok() {
                    window.push_back(now);
                }
                while window
                    .front()
                    .is_some_and(|&at| at + Duration::from_secs(60) <= now)
                {
                    window.pop_front();
                }
                most = most.max(window.len());
                clock.advance(step);
                now += step;
            }
            let granted = api.calls_per_minute() as usize;
            assert!(most <= granted, "{api}: {most} calls in one minute");
            assert!(most >= granted * 3 / 4, "{api}: only {most} calls");
        }
    }
}
