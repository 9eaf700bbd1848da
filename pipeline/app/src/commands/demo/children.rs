//! The processes beside the pipeline: the embedded ClickHouse and the made-up company.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::cli::DemoArgs;
use crate::exit::Failure;

/// How long a child may take until it answers.
const READY: Duration = Duration::from_secs(90);
/// How long a child may take to end by itself.
const END: Duration = Duration::from_secs(20);

/// Children in the order of their starting; all are killed if this process dies on its way.
#[derive(Default)]
pub struct Children(Vec<Child>);

#[derive(Deserialize)]
struct Ready {
    listen: String,
}

impl Children {
    /// Starts the engine; gives its address.
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

    /// Starts the company; gives the address of its archive.
    pub async fn company(
        &mut self,
        args: &DemoArgs,
        dir: &Path,
        clickhouse: &str,
    ) -> Result<String, Failure> {
        let program = match &args.simulator {
            Some(program) => program.clone(),
            None => beside_us("wecom-sim")?,
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
        let ready: Ready = serde_json::from_str(&line).map_err(Failure::other)?;
        Ok(format!("http://{}", ready.listen))
    }

    /// Starts a child and waits for the first line it prints.
    async fn start(&mut self, mut command: Command, log: &Path) -> Result<String, Failure> {
        let name = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let logged = std::fs::File::create(log).map_err(Failure::other)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(logged)
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
        if let Ok(Some(line)) = tokio::time::timeout(READY, first).await {
            return Ok(line);
        }
        let said = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n  ");
        let log = log.display();
        let what = format!("{name} did not come up; its last words in {log}:\n  {last}");
        Err(Failure::unreachable(what))
    }

    /// Ends the children in order, last started first, and waits for them.
    pub async fn stop(mut self) {
        while let Some(mut child) = self.0.pop() {
            let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
            if let Some(pid) = pid
                && let Err(error) = kill_process(pid, Signal::TERM)
            {
                tracing::warn!(%error, "child cannot be told to stop");
            }
            // One that does not end by itself is killed when it is dropped.
            if tokio::time::timeout(END, child.wait()).await.is_err() {
                tracing::warn!("child did not stop in time and is killed");
            }
        }
    }
}

fn beside_us(name: &str) -> Result<PathBuf, Failure> {
    let here = std::env::current_exe().map_err(Failure::other)?;
    let there = here.with_file_name(name);
    if there.exists() {
        Ok(there)
    } else {
        let what = "is not there; build it (cargo build --release) or name it with --simulator";
        Err(Failure::unreachable(format!("{} {what}", there.display())))
    }
}
