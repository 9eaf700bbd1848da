//! CPU time and memory of this thread, this process and its children, as counted by the kernel.
//!
//! CPU time is used instead of wall time because it depends less on other load of the machine.

use std::ops::Sub;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// CPU time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// User time.
    pub user: Duration,
    /// System time.
    pub sys: Duration,
}

impl Cpu {
    /// Returns the CPU time of the calling thread so far.
    pub fn of_thread() -> Result<Self> {
        Self::of(UsageWho::RUSAGE_THREAD)
    }

    /// Returns the CPU time of this process so far, without its children.
    pub fn of_process() -> Result<Self> {
        Self::of(UsageWho::RUSAGE_SELF)
    }

    /// Returns the CPU time of the children that have ended and been waited for.
    pub fn of_ended_children() -> Result<Self> {
        Self::of(UsageWho::RUSAGE_CHILDREN)
    }

    /// Returns the sum of user and system time.
    pub fn total(self) -> Duration {
        self.user + self.sys
    }

    fn of(who: UsageWho) -> Result<Self> {
        let usage = getrusage(who).context("getrusage")?;
        Ok(Self {
            user: duration(usage.user_time()),
            sys: duration(usage.system_time()),
        })
    }
}

impl Sub for Cpu {
    type Output = Self;
    fn sub(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            sys: self.sys.saturating_sub(earlier.sys),
        }
    }
}

/// Returns the peak resident memory in bytes of all children that have ended and been waited for.
///
/// The kernel includes the memory of a child before it loads its program, when it is a copy of this
/// process. So the value is meaningful only if this process is small.
pub fn peak_rss_of_ended_children() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage")?;
    Ok(u64::try_from(usage.max_rss()).unwrap_or(0) * 1024)
}

fn duration(time: TimeVal) -> Duration {
    Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn thread_time_grows_with_work() {
        let before = Cpu::of_thread().unwrap();
        let mut sum = 0_u64;
        let spent = loop {
            sum = std::hint::black_box((0..100_000_u64).fold(sum, |sum, n| sum ^ n.rotate_left(7)));
            let spent = (Cpu::of_thread().unwrap() - before).total();
            if spent >= Duration::from_millis(5) {
                break spent;
            }
        };
        assert!(spent <= (Cpu::of_process().unwrap()).total());
    }

    #[test]
    fn child_is_counted_after_it_was_waited_for() {
        let before = Cpu::of_ended_children().unwrap();
        let script = "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .spawn()
            .unwrap();
        assert!(child.wait().unwrap().success());
        assert!((Cpu::of_ended_children().unwrap() - before).total() > Duration::ZERO);
        assert!(peak_rss_of_ended_children().unwrap() > 100 << 10);
    }
}
