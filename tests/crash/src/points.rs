//! The fail points, as the program itself lists them, and what is done at them.

use std::fmt;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use chatledger_e2e::{Driver, place};
use serde::{Deserialize, Serialize};

use crate::site::{ARMED, RELEASE};

/// A place at which the program can be stopped.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Point {
    /// Its name, `who.step`.
    pub name: String,
    /// Whether the direct driver passes it.
    pub direct: bool,
    /// Whether the kafka driver passes it.
    pub kafka: bool,
}

impl Point {
    /// Whether a driver passes it.
    pub fn is_in(&self, driver: Driver) -> bool {
        match driver {
            Driver::Direct => self.direct,
            Driver::Kafka => self.kafka,
        }
    }

    /// Whether a sink passes it.
    pub fn is_of_a_sink(&self) -> bool {
        ["clickhouse.", "parquet."]
            .iter()
            .any(|sink| self.name.starts_with(sink))
    }
}

/// What is done at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The process dies.
    Kill,
    /// The step fails.
    Error,
    /// Time passes.
    Delay,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kill, Self::Error, Self::Delay];

    /// As `CHATLEDGER_FAILPOINTS` says it.
    fn order(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Error => "error",
            Self::Delay => "delay:800",
        }
    }

    /// The value of `CHATLEDGER_FAILPOINTS` for a point's passing.
    pub fn at(self, point: &str, passing: u64) -> String {
        format!("{point}={}@{passing}", self.order())
    }

    /// Whether a log shows that it was done at a point.
    pub fn is_told(self, point: &str, log: &str) -> bool {
        match self {
            Self::Kill => log.contains(&format!("fail point {point}: kill")),
            Self::Delay => log.contains(&format!("fail point {point}: delay")),
            // Told by whoever was given the error, at the end of its chain of causes.
            Self::Error => log.contains("fail point"),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Error => "error",
            Self::Delay => "delay",
        })
    }
}

/// Asks the program for its points.
///
/// # Errors
/// It has not been built with them.
pub fn all() -> Result<Vec<Point>> {
    let output = Command::new(place::program(ARMED)?)
        .args(["check", "--config", "none"])
        .env("CHATLEDGER_FAILPOINTS", "list")
        .output()
        .context("ask for the fail points")?;
    ensure!(
        output.status.success(),
        "{ARMED} has no fail points: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("read the fail points")
}

/// Makes sure that the program as it is released has no fail points.
///
/// # Errors
/// It has some.
pub fn release_has_none() -> Result<()> {
    let path = place::program(RELEASE)?;
    let program = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let variable = b"CHATLEDGER_FAILPOINTS";
    let found = program
        .windows(variable.len())
        .any(|bytes| bytes == variable);
    ensure!(
        !found,
        "{} has been built with its fail points",
        path.display()
    );
    Ok(())
}

/// How often a log that tells every passing (`*=log`) shows a point.
pub fn passings(point: &str, log: &str) -> u64 {
    let told = format!("fail point {point}: passed");
    log.matches(&told).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_read_from_the_log() {
        let log = "WARN fail point a.b: passed\nWARN fail point a.c: kill\n";
        assert_eq!(passings("a.b", log), 1);
        assert!(Action::Kill.is_told("a.c", log));
        assert!(!Action::Kill.is_told("a.b", log) && !Action::Delay.is_told("a.c", log));
        assert_eq!(Action::Kill.at("a.b", 3), "a.b=kill@3");
    }
}
