//! The programs around the one that is measured: the ClickHouse engine and the simulator.
//!
//! Each is told to take a free port and says on stdout when it answers. None outlives its handle.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const START: Duration = Duration::from_secs(60);

/// A program that runs until it is dropped.
pub struct Service {
    _child: Child,
    /// Kept open, so that the program may go on writing.
    _stdout: Lines<BufReader<ChildStdout>>,
}

/// Starts a program and waits for its first line.
async fn start(name: &str, mut command: Command, patience: Duration) -> Result<(Service, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let stdout = child.stdout.take().context("its stdout is a pipe")?;
    let mut stdout = BufReader::new(stdout).lines();
    let line = timeout(patience, stdout.next_line())
        .await
        .with_context(|| format!("{name} is not ready after {patience:?}"))??
        .with_context(|| format!("{name} ended before it was ready"))?;
    Ok((
        Service {
            _child: child,
            _stdout: stdout,
        },
        line,
    ))
}

/// Starts the ClickHouse engine on a folder and gives its URL.
///
/// # Errors
/// It does not come up.
pub async fn clickhouse(chatledger: &Path, data_dir: &Path) -> Result<(Service, String)> {
    let mut command = Command::new(chatledger);
    command
        .args([
            "embedded-clickhouse",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
        ])
        .arg(data_dir);
    let (service, url) = start("the ClickHouse engine", command, START).await?;
    ensure!(
        url.starts_with("http://"),
        "the ClickHouse engine says {url:?} instead of its URL"
    );
    Ok((service, url))
}

#[derive(Deserialize)]
struct Ready {
    dir: std::path::PathBuf,
}

/// What the simulator is to make.
pub struct Wanted<'a> {
    /// Distinct messages.
    pub messages: u64,
    /// The seed.
    pub seed: u64,
    /// Dialogue files to speak from.
    pub corpus: Option<&'a Path>,
    /// For the configuration.
    pub clickhouse_url: &'a str,
}

/// Starts the simulator, which makes its tenant in `dir` first.
///
/// # Errors
/// It does not come up.
pub async fn simulator(wecom_sim: &Path, dir: &Path, wanted: &Wanted<'_>) -> Result<Service> {
    let mut command = Command::new(wecom_sim);
    command
        .args([
            "serve",
            "--truth",
            "summary",
            "--clickhouse-url",
            wanted.clickhouse_url,
        ])
        .args([
            "--messages",
            &wanted.messages.to_string(),
            "--seed",
            &wanted.seed.to_string(),
        ])
        .arg("--dir")
        .arg(dir);
    if let Some(corpus) = wanted.corpus {
        command.arg("--corpus").arg(corpus);
    }
    // The truth is made first, at some ten thousand messages a second.
    let patience = START + Duration::from_millis(wanted.messages);
    let (service, line) = start("the simulator", command, patience).await?;
    let ready: Ready = serde_json::from_str(&line).context("parse the simulator's ready line")?;
    ensure!(
        ready.dir.ends_with(dir.file_name().unwrap_or_default()),
        "another tenant is served"
    );
    Ok(service)
}
