//! The clocks of this machine, and how long an archive was silent according to them.
//!
//! The time of day can be wrong and can jump. The boot clock (`CLOCK_BOOTTIME`) cannot: it counts from the start of
//! the machine, including the time it was suspended. But it says nothing across a restart of the machine or between
//! machines. So the boot clock decides within one boot, and the time of day otherwise.

use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A time of day in the future by more than this means that the clock was wrong, then or now, milliseconds. Clocks of
/// different machines may differ by less.
const TOLERANCE: i64 = 10 * 60 * 1000;

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// Time of day, milliseconds since the epoch, UTC.
    pub wall: i64,
    /// Boot clock, milliseconds.
    pub boot: i64,
}

impl ClockReading {
    /// Reads the clocks.
    pub fn now() -> Self {
        Self {
            wall: now_ms(),
            boot: boot_ms(),
        }
    }

    /// The time since an earlier moment of the same boot; zero if it is not earlier.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        let elapsed = self.boot.saturating_sub(earlier.boot);
        std::time::Duration::from_millis(u64::try_from(elapsed).unwrap_or(0))
    }

    /// The moment `time` earlier.
    #[must_use]
    pub fn minus(self, time: std::time::Duration) -> Self {
        let time = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        Self {
            wall: self.wall.saturating_sub(time),
            boot: self.boot.saturating_sub(time),
        }
    }
}

/// A start of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The kernel's random name for it (`/proc/sys/kernel/random/boot_id`).
    pub id: String,
    /// When it was, according to the time of day at the moment that this was written, milliseconds since the epoch, UTC.
    /// It is as wrong as the time of day was then, so the difference of the two is right.
    pub at: i64,
}

/// When an archive answered last, in a form that outlives the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAnswer {
    /// Time of day, milliseconds since the epoch, UTC.
    pub answered_at: i64,
    /// The boot in which it answered. Without it, only the time of day is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Boot>,
}

/// How long an archive has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Milliseconds.
    Lasted(i64),
    /// The last answer is dated in the future, by this many milliseconds: the clock was wrong, then or now.
    Unknown {
        /// By how much.
        ahead: i64,
    },
}

impl LastAnswer {
    /// An answer at this moment, in this boot.
    pub fn at(reading: ClockReading) -> Self {
        let boot = boot_id().map(|id| Boot {
            id: id.to_owned(),
            at: reading.wall - reading.boot,
        });
        Self {
            answered_at: reading.wall,
            boot,
        }
    }

    /// An answer of which only the time of day is known, milliseconds since the epoch, UTC.
    pub fn at_time_of_day(answered_at: i64) -> Self {
        Self {
            answered_at,
            boot: None,
        }
    }

    /// The time since the answer. `this_boot` is the name of the current boot, if it has one.
    pub fn silence(&self, now: ClockReading, this_boot: Option<&str>) -> Silence {
        let elapsed = match &self.boot {
            Some(boot) if Some(boot.id.as_str()) == this_boot => now
                .boot
                .saturating_sub(self.answered_at.saturating_sub(boot.at)),
            _ => now.wall.saturating_sub(self.answered_at),
        };
        if elapsed < -TOLERANCE {
            return Silence::Unknown { ahead: -elapsed };
        }
        Silence::Lasted(elapsed.max(0))
    }
}

/// Returns the name of the current boot; `None` where the kernel does not tell.
pub fn boot_id() -> Option<&'static str> {
    static ID: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    };
    ID.get_or_init(read).as_deref()
}

/// Returns the time of day, milliseconds since the epoch, UTC.
pub fn now_ms() -> i64 {
    #[cfg(any(test, feature = "testing"))]
    if let Some(now) = crate::testing::now_ms() {
        return now;
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = since.map_or(0, |since| since.as_millis() as i64);
    #[cfg(any(test, feature = "testing"))]
    let now = now + crate::testing::skipped_ms();
    now
}

/// Returns the boot clock, milliseconds.
fn boot_ms() -> i64 {
    #[cfg(any(test, feature = "testing"))]
    if let Some(now) = crate::testing::boot_ms() {
        return now;
    }
    // It exists on every Linux since 2.6.39, and without it the time of day is what remains.
    let Ok(time) = clock_gettime(ClockId::CLOCK_BOOTTIME) else {
        return now_ms();
    };
    let now = time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000;
    #[cfg(any(test, feature = "testing"))]
    let now = now + crate::testing::skipped_ms();
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn answer(wall: i64, boot: i64) -> LastAnswer {
        LastAnswer {
            answered_at: wall,
            boot: Some(Boot {
                id: "a".into(),
                at: wall - boot,
            }),
        }
    }

    fn now(wall: i64, boot: i64) -> ClockReading {
        ClockReading { wall, boot }
    }

    #[test]
    fn boot_clock_decides_within_one_boot_whatever_the_time_of_day_shows() {
        let answer = answer(1000 * HOUR, 5 * HOUR);
        for wall in [1000 - 144, 1000, 1000 + 144] {
            let silence = answer.silence(now(wall * HOUR, 6 * HOUR), Some("a"));
            assert_eq!(silence, Silence::Lasted(HOUR), "{wall}");
        }
        let silence = answer.silence(now(1000 * HOUR, 149 * HOUR), Some("a"));
        assert_eq!(silence, Silence::Lasted(144 * HOUR));
    }

    #[test]
    fn time_of_day_decides_after_a_restart_and_a_future_answer_tells_nothing() {
        let answer = answer(1000 * HOUR, 5 * HOUR);
        let after = |wall: i64| answer.silence(now(wall, 0), Some("b"));
        assert_eq!(after(1144 * HOUR), Silence::Lasted(144 * HOUR));
        assert_eq!(after(1000 * HOUR - 1000), Silence::Lasted(0));
        let ahead = Silence::Unknown { ahead: 2 * HOUR };
        assert_eq!(after(998 * HOUR), ahead);
        assert_eq!(answer.silence(now(998 * HOUR, 0), None), ahead);
    }

    #[test]
    fn time_of_day_that_was_changed_by_hand_counts() {
        let mut answer = answer(1000 * HOUR, 5 * HOUR);
        answer.answered_at -= 144 * HOUR;
        let silence = answer.silence(now(1000 * HOUR, 5 * HOUR), Some("a"));
        assert_eq!(silence, Silence::Lasted(144 * HOUR));
    }

    #[test]
    fn boot_clock_of_this_machine_advances() {
        let (first, second) = (ClockReading::now(), ClockReading::now());
        assert!(first.boot > 0 && second.boot >= first.boot);
    }
}
