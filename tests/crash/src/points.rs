//! The fail points, as listed by the program itself, and the actions at them.

use std::fmt;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use chatledger_e2e::{Driver, paths};
use serde::{Deserialize, Serialize};

use crate::deployment::{RELEASE, WITH_FAIL_POINTS};

/// A step at which the program can be disturbed.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct FailPoint {
    /// Its name, `who.step`.
    pub name: String,
    /// Whether the direct driver passes it.
    pub direct: bool,
    /// Whether the kafka driver passes it.
    pub kafka: bool,
}

impl FailPoint {
    /// Returns whether a driver passes it.
    pub fn is_in(&self, driver: Driver) -> bool {
        match driver {
            Driver::Direct => self.direct,
            Driver::Kafka => self.kafka,
        }
    }

    /// Returns whether a sink passes it.
    pub fn is_in_sink(&self) -> bool {
        !["source.", "process.", "directory."]
            .iter()
            .any(|stage| self.name.starts_with(stage))
    }
}

/// An action at a fail point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailAction {
    /// The process is killed.
    Kill,
    /// The step fails.
    Error,
    /// The step is delayed.
    Delay,
}

impl FailAction {
    /// All actions.
    pub const ALL: [Self; 3] = [Self::Kill, Self::Error, Self::Delay];

    /// Returns its form in `CHATLEDGER_FAILPOINTS`.
    fn spec(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Error => "error",
            Self::Delay => "delay:800",
        }
    }

    /// Returns the value of `CHATLEDGER_FAILPOINTS` for one passing of a point.
    pub fn at(self, point: &str, passing: u64) -> String {
        format!("{point}={}@{passing}", self.spec())
    }

    /// Returns whether a log shows the action at a point.
    pub fn is_in_log(self, point: &str, log: &str) -> bool {
        match self {
            Self::Kill => log.contains(&format!("fail point {point}: kill")),
            Self::Delay => log.contains(&format!("fail point {point}: delay")),
            // The error is logged by its handler, at the end of a chain of causes.
            Self::Error => log.contains("fail point"),
        }
    }
}

impl fmt::Display for FailAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kill => "kill",
            Self::Error => "error",
            Self::Delay => "delay",
        })
    }
}

/// Returns the fail points of the program.
///
/// # Errors
/// The program was built without them.
pub fn all() -> Result<Vec<FailPoint>> {
    let output = Command::new(paths::program(WITH_FAIL_POINTS)?)
        .args(["check", "--config", "none"])
        .env("CHATLEDGER_FAILPOINTS", "list")
        .output()
        .context("list the fail points")?;
    ensure!(
        output.status.success(),
        "{WITH_FAIL_POINTS} has no fail points: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("parse the fail points")
}

/// Checks that the release build has no fail points.
///
/// # Errors
/// It has fail points.
pub fn release_has_none() -> Result<()> {
    let path = paths::program(RELEASE)?;
    let program = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let variable = b"CHATLEDGER_FAILPOINTS";
    let found = program
        .windows(variable.len())
        .any(|bytes| bytes == variable);
    ensure!(!found, "{} was built with fail points", path.display());
    Ok(())
}

/// Returns how often a point was passed, from a log with every passing (`*=log`).
pub fn passings(point: &str, log: &str) -> u64 {
    let message = format!("fail point {point}: passed");
    log.matches(&message).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_and_passings_are_read_from_the_log() {
        let log = "WARN fail point a.b: passed\nWARN fail point a.c: kill\n";
        assert_eq!(passings("a.b", log), 1);
        assert!(FailAction::Kill.is_in_log("a.c", log));
        assert!(
            !FailAction::Kill.is_in_log("a.b", log) && !FailAction::Delay.is_in_log("a.c", log)
        );
        assert_eq!(FailAction::Kill.at("a.b", 3), "a.b=kill@3");
    }
}
