//! The expected rows of tables and files, read from the simulator's truth.
//!
//! Rows are JSON objects with the columns that the truth states; [`crate::stored`] reads the same
//! columns. Not here: room names and department paths, which the truth does not state, and times
//! that depend on when the program ran.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use chrono::{DateTime, FixedOffset};
use serde_json::Value;

use crate::tenant::{DrainSummary, json_lines};

/// The rows of one tenant, without duplicates.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Rows of `messages`.
    pub messages: Vec<Value>,
    /// Rows of `violations`.
    pub violations: Vec<Value>,
    /// Rows of `dead_letters`.
    pub dead_letters: Vec<Value>,
    /// The simulator's counts.
    pub summary: Value,
}

impl Expected {
    /// Reads a truth folder.
    ///
    /// # Errors
    /// A file is missing or invalid.
    pub fn read(truth: &Path) -> Result<Self> {
        let rows = |name: &str| json_lines(&truth.join(name));
        let (messages, violations) = (rows("messages.jsonl")?, rows("violations.jsonl")?);
        Self::of(truth, messages, violations, rows("dead_letters.jsonl")?)
    }

    /// Like [`Expected::read`], for a run with the key that the simulator withholds: the records sealed
    /// with it are messages instead of dead letters.
    ///
    /// # Errors
    /// A file is missing or invalid.
    pub fn with_withheld_key(truth: &Path) -> Result<Self> {
        let rows = |name: &str| json_lines(&truth.join(name));
        let mut messages = rows("messages.jsonl")?;
        messages.extend(rows("withheld_messages.jsonl")?);
        let mut violations = rows("violations.jsonl")?;
        violations.extend(rows("withheld_violations.jsonl")?);
        let mut dead_letters = rows("dead_letters.jsonl")?;
        dead_letters.retain(|dead_letter| dead_letter["reason"] != "unknown_key_version");
        Self::of(truth, messages, violations, dead_letters)
    }

    fn of(
        truth: &Path,
        messages: Vec<Value>,
        mut violations: Vec<Value>,
        dead_letters: Vec<Value>,
    ) -> Result<Self> {
        let summary = std::fs::read(truth.join("summary.json")).context("read the summary")?;
        let summary = serde_json::from_slice(&summary).context("read the summary")?;
        // Columns that a violation copies from its message.
        let by_id: HashMap<&str, &Value> = messages
            .iter()
            .filter_map(|row| Some((row["msgid"].as_str()?, row)))
            .collect();
        for violation in &mut violations {
            let message = violation["msgid"].as_str().and_then(|id| by_id.get(id));
            let message = message.context("a violation of the truth has no message")?;
            for column in ["corp_id", "msgtime", "conversation_id", "from_id"] {
                violation[column] = message[column].clone();
            }
        }
        Ok(Self {
            messages,
            violations,
            dead_letters,
            summary,
        })
    }

    /// Returns the summary that one complete drain must print.
    pub fn drained(&self) -> DrainSummary {
        let count = |name: &str| self.summary[name].as_u64().unwrap_or_default();
        DrainSummary {
            pulled: count("records"),
            messages: count("messages"),
            violations: count("violations"),
            dead_letters: count("dead_letters"),
            duplicates: count("duplicates"),
        }
    }

    /// Returns the rows as in the Parquet files: with the day in Shanghai, which is part of the path.
    pub fn with_days(rows: &[Value]) -> Vec<Value> {
        rows.iter()
            .map(|row| {
                let mut row = row.clone();
                row["dt"] = row["msgtime"].as_i64().and_then(shanghai_day).into();
                row
            })
            .collect()
    }

    /// Returns the corp's id.
    pub fn corp_id(&self) -> &str {
        self.summary["corp_id"].as_str().unwrap_or_default()
    }
}

/// Returns the day in Shanghai of a time in milliseconds since the epoch.
fn shanghai_day(msgtime: i64) -> Option<String> {
    let shanghai = FixedOffset::east_opt(8 * 3600)?;
    let time = DateTime::from_timestamp_millis(msgtime)?.with_timezone(&shanghai);
    Some(time.format("%Y-%m-%d").to_string())
}
