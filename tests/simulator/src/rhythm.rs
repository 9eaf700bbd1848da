//! The distribution of messages over time: office hours of Asia/Shanghai, fewer at lunch and in the
//! evening, still fewer at weekends.
//!
//! Guarantee: [`Rhythm::at`] is monotonic, so the order of positions is the order of times.

use chrono::{Datelike, TimeZone, Timelike, Utc, Weekday};
use chrono_tz::Asia::Shanghai;

const MINUTE_MS: i64 = 60_000;

/// The distribution of the backlog over time.
#[derive(Clone, Debug)]
pub struct Rhythm {
    start_ms: i64,
    /// Share of all messages sent before the end of each minute; the last one is 1.
    before: Vec<f64>,
}

impl Rhythm {
    /// Creates the distribution over the days before a time (milliseconds since the epoch).
    pub fn new(until_ms: i64, days: u32) -> Self {
        let minutes = i64::from(days) * 24 * 60;
        let start_ms = until_ms - minutes * MINUTE_MS;
        let mut sum = 0.0;
        let mut before: Vec<f64> = (0..minutes)
            .map(|minute| {
                sum += weight(start_ms + minute * MINUTE_MS);
                sum
            })
            .collect();
        for share in &mut before {
            *share /= sum;
        }
        Self { start_ms, before }
    }

    /// Returns the time (milliseconds since the epoch) before which this share of messages is sent.
    pub fn at(&self, share: f64) -> i64 {
        let share = share.clamp(0.0, 1.0);
        let minute = self
            .before
            .partition_point(|&before| before < share)
            .min(self.before.len() - 1);
        let low = if minute == 0 {
            0.0
        } else {
            self.before[minute - 1]
        };
        let inside = ((share - low) / (self.before[minute] - low)).clamp(0.0, 1.0);
        self.start_ms + minute as i64 * MINUTE_MS + (inside * (MINUTE_MS - 1) as f64) as i64
    }
}

fn weight(at_ms: i64) -> f64 {
    let Some(utc) = Utc.timestamp_millis_opt(at_ms).single() else {
        return 0.01;
    };
    let local = utc.with_timezone(&Shanghai);
    let hour = f64::from(local.hour()) + f64::from(local.minute()) / 60.0;
    let day = match hour {
        h if h < 7.0 => 0.008,
        h if h < 8.0 => 0.1,
        h if h < 9.0 => 0.5,
        h if h < 10.0 => 1.0,
        h if h < 11.5 => 1.2,
        h if h < 12.0 => 0.9,
        h if h < 13.5 => 0.3,
        h if h < 15.0 => 0.95,
        h if h < 17.0 => 1.15,
        h if h < 18.0 => 0.9,
        h if h < 19.0 => 0.45,
        h if h < 22.0 => 0.22,
        _ => 0.05,
    };
    match local.weekday() {
        Weekday::Sat => day * 0.3,
        Weekday::Sun => day * 0.22,
        _ => day,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wednesday 2026-03-18, 20:00 in Shanghai.
    const UNTIL: i64 = 1_773_835_200_000;

    #[test]
    fn at_is_monotonic_and_within_the_days() {
        let rhythm = Rhythm::new(UNTIL, 4);
        let times: Vec<i64> = (0..=10_000)
            .map(|n| rhythm.at(f64::from(n) / 10_000.0))
            .collect();
        assert!(times.is_sorted());
        assert!(times[0] >= UNTIL - 4 * 86_400_000);
        assert!(times[10_000] < UNTIL);
    }

    #[test]
    fn at_prefers_office_hours_of_working_days() {
        let rhythm = Rhythm::new(UNTIL, 7);
        let office = (0..10_000)
            .map(|n| {
                Utc.timestamp_millis_opt(rhythm.at(f64::from(n) / 10_000.0))
                    .unwrap()
            })
            .map(|time| time.with_timezone(&Shanghai))
            .filter(|time| {
                time.weekday().number_from_monday() <= 5 && (8..18).contains(&time.hour())
            })
            .count();
        assert!(office > 6_500, "{office}");
    }
}
