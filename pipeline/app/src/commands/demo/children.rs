//! The child processes of the demo: the embedded ClickHouse and the simulated WeCom tenant.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cli::DemoArgs;
use crate::exit::Failure;

/// Time limit for a child to start.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// Time limit for a child to stop after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Children in the order of their start. They are killed when this value is dropped.
#[derive(Default)]
pub struct Children(Vec<Child>);

/// The first line that the simulator prints.
#[derive(Deserialize)]
struct SimulatorReady {
    listen: String,
}

impl Children {
    /// Starts the embedded ClickHouse and returns its address.
    pub async fn clickhouse(&mut self, args: &DemoArgs, dir: &Path) -> Result<String, Failure> {
        let program = std::env::current_exe().map_err(Failure::other)?;
        let mut command = Command::new(program);
        command
            .arg("embedded-clickhouse")
            .arg("--data-dir")
            .arg(dir);
        command
            .arg("--listen")
            .arg(args.clickhouse_listen.to_string());
        if let Some(lib) = &args.lib {
            command.arg("--lib").arg(lib);
        }
        self.start(command, &dir.with_extension("log")).await
    }

    /// Starts the simulated tenant and returns the address of its archive.
    pub async fn company(
        &mut self,
        args: &DemoArgs,
        dir: &Path,
        clickhouse: &str,
    ) -> Result<String, Failure> {
        let program = match &args.simulator {
            Some(program) => program.clone(),
            None => program_next_to_this_one("wecom-sim")?,
        };
        let mut command = Command::new(program);
        command.arg("serve").arg("--dir").arg(dir);
        command.args(["--messages", &args.messages.to_string()]);
        command.args(["--seed", &args.seed.to_string(), "--faults", &args.faults]);
        command.args(["--clickhouse-url", clickhouse]);
        command.args(["--metrics-listen", &args.metrics_listen.to_string()]);
        if let Some(corpus) = &args.corpus {
            command.arg("--corpus").arg(corpus);
        }
        let line = self.start(command, &dir.with_extension("log")).await?;
        let ready: SimulatorReady = serde_json::from_str(&line).map_err(Failure::other)?;
        Ok(format!("http://{}", ready.listen))
    }

    /// Starts a child and returns the first line it prints. Its stderr goes to `log`.
    async fn start(&mut self, mut command: Command, log: &Path) -> Result<String, Failure> {
        let name = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let stderr = std::fs::File::create(log).map_err(Failure::other)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| Failure::unreachable(format!("{name} cannot be started: {error}")))?;
        let stdout = child.stdout.take().map(BufReader::new);
        self.0.push(child);
        let first = async {
            match stdout {
                Some(stdout) => stdout.lines().next_line().await.ok().flatten(),
                None => None,
            }
        };
        if let Ok(Some(line)) = tokio::time::timeout(START_TIMEOUT, first).await {
            return Ok(line);
        }
        let logged = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = logged.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
        let log = log.display();
        let what = format!("{name} did not start; the last lines of {log}:\n  {last}");
        Err(Failure::unreachable(what))
    }

    /// Stops the children, the last one first, and waits for them.
    pub async fn stop(mut self) {
        while let Some(mut child) = self.0.pop() {
            let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
            if let Some(pid) = pid
                && let Err(error) = kill_process(pid, Signal::TERM)
            {
                tracing::warn!(%error, "a child process cannot be stopped");
            }
            // A child that does not stop in time is killed when it is dropped.
            if tokio::time::timeout(STOP_TIMEOUT, child.wait())
                .await
                .is_err()
            {
                tracing::warn!("a child process did not stop in time; killing it");
            }
        }
    }
}

fn program_next_to_this_one(name: &str) -> Result<PathBuf, Failure> {
    let here = std::env::current_exe().map_err(Failure::other)?;
    let there = here.with_file_name(name);
    if there.exists() {
        Ok(there)
    } else {
        let what =
            "does not exist; build it (cargo build --release -p wecom-sim) or use --simulator";
        Err(Failure::unreachable(format!("{} {what}", there.display())))
    }
}
