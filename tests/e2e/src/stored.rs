//! Compares the stored data with the truth: every row and every column that the truth states, in the
//! tables with and without FINAL and in the Parquet files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::clickhouse::ClickHouse;
use crate::difference::same;
use crate::expected::Expected;
use crate::paths;
use crate::tenant::Tenant;

const MESSAGES: &str = "corp_id, seq, msgid, action, msgtype, toUnixTimestamp64Milli(msgtime) AS \
    msgtime, conversation_id, conversation_kind, room_id, from_id, from_kind, from_name, \
    from_department_id, to_ids, content, key_version, length(payload) AS payload_bytes, \
    lower(hex(SHA256(payload))) AS payload_sha256";
const VIOLATIONS: &str = "corp_id, msgid, seq, toUnixTimestamp64Milli(msgtime) AS msgtime, \
    conversation_id, from_id, rule_id, severity, matched, spans";
const DEAD_LETTERS: &str = "seq, msgid, reason";
/// Without FINAL, a dead letter can have a row for each replay attempt, and a settled one has a row
/// with `is_deleted`.
const OPEN_DEAD_LETTERS: &str = " WHERE is_deleted = 0 AND (corp_id, seq, msgid, version) IN (SELECT \
    corp_id, seq, msgid, max(version) FROM dead_letters GROUP BY corp_id, seq, msgid)";

/// Compares all stored data of a tenant with its truth.
///
/// # Errors
/// The data differs; the error describes the difference.
pub async fn equals_truth(tenant: &Tenant) -> Result<Expected> {
    let expected = Expected::read(&tenant.truth())?;
    tables_equal(&tenant.clickhouse, &expected).await?;
    files_equal(&tenant.parquet(), &expected)?;
    Ok(expected)
}

/// Compares the tables with the truth, with and without FINAL.
///
/// # Errors
/// The data differs, or the server returns an error.
pub async fn tables_equal(clickhouse: &ClickHouse, expected: &Expected) -> Result<()> {
    for when in ["", " FINAL"] {
        for (table, columns, key, rows) in [
            (
                "messages",
                MESSAGES,
                ["msgid"].as_slice(),
                &expected.messages,
            ),
            (
                "violations",
                VIOLATIONS,
                &["msgid", "rule_id"],
                &expected.violations,
            ),
            (
                "dead_letters",
                DEAD_LETTERS,
                &["seq"],
                &expected.dead_letters,
            ),
        ] {
            let rows_of = match (table, when) {
                ("dead_letters", "") => OPEN_DEAD_LETTERS,
                _ => "",
            };
            let found = clickhouse
                .rows(&format!("SELECT {columns} FROM {table}{when}{rows_of}"))
                .await?;
            let found: Vec<Value> = found.into_iter().map(Value::Object).collect();
            same(&format!("table {table}{when}"), key, rows, &found)?;
        }
    }
    let invalid = clickhouse.number(
        "SELECT (SELECT count() FROM violations) - (SELECT uniqExact(violation_id) FROM violations) \
         + (SELECT count() FROM dead_letters FINAL WHERE sealed = '' OR error = '')",
    );
    ensure!(
        invalid.await? == 0,
        "a violation_id is duplicated, or a dead letter lacks its sealed record"
    );
    Ok(())
}

/// Enables or disables merges of the tables. A merge removes duplicated rows, so it would hide them from
/// a query without FINAL.
///
/// # Errors
/// The tables do not exist, or the server returns an error.
pub async fn set_merges(clickhouse: &ClickHouse, on: bool) -> Result<()> {
    let word = if on { "START" } else { "STOP" };
    for table in ["messages", "violations", "dead_letters"] {
        clickhouse
            .query(&format!("SYSTEM {word} MERGES {table}"))
            .await?;
    }
    Ok(())
}

/// Compares the Parquet files with the truth; pyarrow reads them as a Hive-partitioned dataset.
///
/// # Errors
/// The data differs, a file cannot be read, or the folder contains other files.
pub fn files_equal(folder: &Path, expected: &Expected) -> Result<()> {
    check_hive_layout(folder, expected.corp_id())?;
    for (table, key, rows) in [
        ("messages", ["msgid"].as_slice(), &expected.messages),
        ("violations", &["msgid", "rule_id"], &expected.violations),
    ] {
        let found = parquet_rows(&folder.join(table), table)?;
        same(
            &format!("Parquet {table}"),
            key,
            &Expected::with_days(rows),
            &found,
        )?;
    }
    Ok(())
}

/// Returns the rows of a folder of Parquet files, including the columns of the path.
///
/// # Errors
/// pyarrow cannot read it.
pub fn parquet_rows(folder: &Path, table: &str) -> Result<Vec<Value>> {
    let output = Command::new(paths::python()?)
        .arg(paths::python_script("parquet_rows.py"))
        .arg(folder)
        .arg(table)
        .stdin(Stdio::null())
        .output()
        .context("start Python")?;
    let messages = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "pyarrow on {}: {messages}",
        folder.display()
    );
    let text = String::from_utf8(output.stdout).context("read the output of pyarrow")?;
    text.lines()
        .map(|line| serde_json::from_str(line).context("parse a row"))
        .collect()
}

/// Checks that the path of every visible file is `TABLE/corp_id=…/dt=…/*.parquet`.
fn check_hive_layout(folder: &Path, corp_id: &str) -> Result<()> {
    for file in visible_files(folder)? {
        let path = file.strip_prefix(folder)?.to_string_lossy().into_owned();
        let parts: Vec<&str> = path.split('/').collect();
        let fits = matches!(parts.as_slice(), [table, corp, day, name]
            if matches!(*table, "messages" | "violations")
                && *corp == format!("corp_id={corp_id}")
                && day.strip_prefix("dt=").is_some_and(|day| day.len() == 10)
                && name.ends_with(".parquet"));
        ensure!(
            fits,
            "{path} does not have the form TABLE/corp_id=ID/dt=DAY/NAME.parquet"
        );
    }
    Ok(())
}

/// Returns the files below a folder that readers see; they skip names that begin with `.` or `_`.
///
/// # Errors
/// The folder cannot be read.
pub fn visible_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(['.', '_']) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}
