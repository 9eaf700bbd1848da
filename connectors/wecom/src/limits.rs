//! Client-side rate limits: keeps the calls of every API below WeCom's limit.
//!
//! Guarantees at most [`Api::calls_per_minute`] calls in any minute. Calls made before this process
//! started are unknown here; WeCom's errcode 45009 covers that case.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::Api;

/// One limiter for each API. Create one set for each corp and secret.
pub(crate) struct ApiRateLimits {
    by_api: [DefaultDirectRateLimiter; Api::ALL.len()],
}

impl ApiRateLimits {
    pub(crate) fn new() -> Self {
        Self {
            by_api: Api::ALL.map(|api| RateLimiter::direct(quota(api))),
        }
    }

    /// Waits until the API may be called again.
    pub(crate) async fn acquire(&self, api: Api) {
        if let Some(limiter) = self.by_api.get(api as usize) {
            limiter.until_ready().await;
        }
    }
}

/// Returns burst and refill of an API's limit; their sum never exceeds its calls a minute.
///
/// The archive has a single reader with an even load, so nearly all of its limit is refill. Directory
/// syncs are bursts, and the corp's other programs use the same APIs: a fifth of the limit is burst,
/// three fifths are refill, and the rest is left to them.
fn quota(api: Api) -> Quota {
    let limit = api.calls_per_minute();
    let (burst, refill) = match api {
        Api::ChatData => (10, limit - 10),
        _ => (limit / 5, limit / 5 * 3),
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
    fn limiter_under_constant_load_stays_within_the_limit_in_every_minute() {
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
            let limit = api.calls_per_minute() as usize;
            assert!(most <= limit, "{api}: {most} calls in one minute");
            assert!(most >= limit * 3 / 4, "{api}: only {most} calls");
        }
    }
}
