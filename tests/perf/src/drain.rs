//! Measures the product: one `chatledger run --drain` of the whole tenant.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chatledger_clickhouse::{ClickHouse, Options};
use serde::Deserialize;
use tokio::process::Command;

use crate::tenant::{ExpectedCounts, Tenant};
use crate::usage::{Cpu, peak_rss_of_ended_children};

/// Database in the simulator's configuration.
const DATABASE: &str = "chatledger";
const TIMEOUT: Duration = Duration::from_secs(60);

/// The cost of a drain.
pub struct DrainCost {
    /// CPU time of the process.
    pub cpu: Cpu,
    /// Duration of the process.
    pub wall: Duration,
    /// Records pulled.
    pub records: u64,
    /// Peak resident memory of all drains so far, in bytes.
    pub peak_rss: u64,
}

#[derive(Debug, Deserialize)]
struct DrainSummary {
    pulled: u64,
    messages: u64,
    violations: u64,
    dead_letters: u64,
}

/// Creates a client for a database on the engine.
///
/// # Errors
/// The client cannot be created.
pub fn database(url: &str, database: &str) -> Result<ClickHouse> {
    Ok(ClickHouse::new(Options {
        url: url.to_owned(),
        database: database.to_owned(),
        user: None,
        password: None,
        roots: None,
        timeout: TIMEOUT,
    })?)
}

/// Drains the tenant into empty tables and an empty folder, and checks that everything is delivered.
///
/// No other child process may end at the same time, because its CPU time would be included.
///
/// # Errors
/// The drain fails, or the delivered data does not match the truth.
pub async fn drain(chatledger: &Path, tenant: &Tenant, clickhouse_url: &str) -> Result<DrainCost> {
    let tables = database(clickhouse_url, DATABASE)?;
    let server = tables.client().clone().with_database("default");
    server
        .query(&format!("DROP DATABASE IF EXISTS {DATABASE} SYNC"))
        .execute()
        .await?;
    for folder in ["state", "parquet"] {
        match fs::remove_dir_all(tenant.dir.join(folder)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }

    let timeout = Duration::from_secs(120) + Duration::from_millis(2 * tenant.truth.records);
    let (start, before) = (Instant::now(), Cpu::of_ended_children()?);
    let child = Command::new(chatledger)
        .args(["run", "--drain", "--config"])
        .arg(tenant.config_file())
        .env("CHATLEDGER_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start chatledger")?;
    let output = tokio::time::timeout(timeout, child.wait_with_output())
        .await
        .with_context(|| format!("the drain has not ended after {timeout:?}"))??;
    let (wall, cpu) = (start.elapsed(), Cpu::of_ended_children()? - before);
    let peak_rss = peak_rss_of_ended_children()?;
    if !output.status.success() {
        bail!("chatledger run --drain: {}", output.status);
    }

    let stdout = String::from_utf8(output.stdout)?;
    let line = stdout
        .lines()
        .last()
        .context("the drain printed no summary")?;
    let summary: DrainSummary = serde_json::from_str(line).context("parse the drain's summary")?;
    let truth = tenant.truth;
    let delivered = ExpectedCounts {
        messages: summary.messages,
        violations: summary.violations,
        dead_letters: summary.dead_letters,
        records: summary.pulled,
    };
    ensure!(
        delivered == truth,
        "the drain delivered {delivered:?} instead of {truth:?}"
    );
    let rows: u64 = tables
        .client()
        .query("SELECT count() FROM messages")
        .fetch_one()
        .await?;
    ensure!(
        rows == truth.messages,
        "{rows} rows in ClickHouse instead of {}",
        truth.messages
    );
    let files = tenant.dir.join("parquet/messages");
    ensure!(files.is_dir(), "no Parquet files in {}", files.display());
    Ok(DrainCost {
        cpu,
        wall,
        records: summary.pulled,
        peak_rss,
    })
}
