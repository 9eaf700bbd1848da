//! The services of the measurement: the ClickHouse engine and the simulator.
//!
//! Each uses a free port and prints a line to stdout when it is ready. It is killed when its handle is
//! dropped.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const START: Duration = Duration::from_secs(60);

/// A process that is killed when it is dropped.
pub struct Service {
    _child: Child,
    /// Kept open, so that the process can write to it.
    _stdout: Lines<BufReader<ChildStdout>>,
}

/// Starts a process and waits for its first line on stdout.
async fn start(
    name: &str,
    mut command: Command,
    time_limit: Duration,
) -> Result<(Service, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let stdout = child.stdout.take().context("stdout is not a pipe")?;
    let mut stdout = BufReader::new(stdout).lines();
    let line = timeout(time_limit, stdout.next_line())
        .await
        .with_context(|| format!("{name} is not ready after {time_limit:?}"))??
        .with_context(|| format!("{name} ended before it was ready"))?;
    Ok((
        Service {
            _child: child,
            _stdout: stdout,
        },
        line,
    ))
}

/// Starts the ClickHouse engine with a data folder and returns its URL.
///
/// # Errors
/// It does not start.
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
        "the ClickHouse engine printed {url:?} instead of its URL"
    );
    Ok((service, url))
}

#[derive(Deserialize)]
struct ReadyLine {
    dir: std::path::PathBuf,
}

/// Describes the tenant to generate.
pub struct TenantRequest<'a> {
    /// Distinct messages.
    pub messages: u64,
    /// The seed.
    pub seed: u64,
    /// Folder with dialogue files.
    pub corpus: Option<&'a Path>,
    /// URL for the configuration.
    pub clickhouse_url: &'a str,
}

/// Starts the simulator, which generates its tenant in `dir`.
///
/// # Errors
/// It does not start.
pub async fn simulator(
    wecom_sim: &Path,
    dir: &Path,
    request: &TenantRequest<'_>,
) -> Result<Service> {
    let mut command = Command::new(wecom_sim);
    command
        .args([
            "serve",
            "--truth",
            "summary",
            "--clickhouse-url",
            request.clickhouse_url,
        ])
        .args([
            "--messages",
            &request.messages.to_string(),
            "--seed",
            &request.seed.to_string(),
        ])
        .arg("--dir")
        .arg(dir);
    if let Some(corpus) = request.corpus {
        command.arg("--corpus").arg(corpus);
    }
    // The simulator first writes the truth, about ten thousand messages per second.
    let time_limit = START + Duration::from_millis(request.messages);
    let (service, line) = start("the simulator", command, time_limit).await?;
    let ready: ReadyLine =
        serde_json::from_str(&line).context("parse the simulator's ready line")?;
    ensure!(
        ready.dir.ends_with(dir.file_name().unwrap_or_default()),
        "the simulator serves another tenant"
    );
    Ok(service)
}
