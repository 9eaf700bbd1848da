//! Serves a simulated tenant and runs `chatledger` on it.
//!
//! The simulator writes the configuration and the truth; tests change the configuration before a run
//! with [`Tenant::configure`]. The texts come from the folder in `CHATLEDGER_CORPUS`, or from the
//! simulator's built-in texts.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::clickhouse::ClickHouse;
use crate::janitor::Janitor;
use crate::metrics::Endpoints;
use crate::paths;
use crate::process::Process;
use crate::services;
use crate::waiting::until;

/// Maximum startup time of the simulator, which generates keys and writes the truth.
const READY: Duration = Duration::from_secs(180);
/// Maximum duration of a drain; only reached if a process hangs.
const DRAIN: Duration = Duration::from_secs(420);

/// The two drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// One process, no broker.
    Direct,
    /// Stages on Kafka topics.
    Kafka,
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Kafka => "kafka",
        })
    }
}

/// Describes a tenant to start.
#[derive(Clone, Debug)]
pub struct TenantPlan {
    /// Name of the tenant and its database: an identifier, unique within the test binary.
    pub name: String,
    /// The driver.
    pub driver: Driver,
    /// Distinct messages.
    pub messages: u64,
    /// The simulator's seed.
    pub seed: u64,
    /// The value of `wecom-sim --faults`.
    pub faults: String,
    /// Additional arguments of `wecom-sim serve`.
    pub extra_args: Vec<String>,
    /// URL of ClickHouse; `None` for the shared engine.
    pub clickhouse: Option<String>,
    /// Address of Kafka; `None` for the shared broker.
    pub brokers: Option<String>,
}

impl TenantPlan {
    /// Describes a tenant without faults.
    pub fn new(name: &str, driver: Driver, messages: u64) -> Self {
        Self {
            name: format!("{name}_{driver}"),
            driver,
            messages,
            seed: 1,
            faults: String::new(),
            extra_args: Vec::new(),
            clickhouse: None,
            brokers: None,
        }
    }

    /// Sets the faults.
    #[must_use]
    pub fn faults(mut self, faults: &str) -> Self {
        faults.clone_into(&mut self.faults);
        self
    }

    /// Sets the seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Adds an argument of `wecom-sim serve`, `--name=value`.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.extra_args.push(argument.into());
        self
    }
}

/// The summary that a drain prints as its last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainSummary {
    /// Records pulled from the archive.
    pub pulled: u64,
    /// Messages delivered.
    pub messages: u64,
    /// Violations found.
    pub violations: u64,
    /// Records that were dead-lettered.
    pub dead_letters: u64,
    /// Records that hold a message that an earlier record holds.
    pub duplicates: u64,
}

/// A completed run of a command.
#[derive(Clone, Debug)]
pub struct FinishedRun {
    /// The exit code.
    pub code: i32,
    /// Lines on stdout.
    pub stdout: Vec<String>,
    /// Everything on stderr.
    pub stderr: String,
    /// Its duration.
    pub duration: Duration,
}

/// A tenant served by a running simulator.
#[derive(Debug)]
pub struct Tenant {
    /// Folder of configuration, secrets, keys, rules and truth.
    pub dir: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
    /// Base URL of the simulator.
    pub base_url: String,
    /// Prefix of its topics.
    pub topic_prefix: String,
    /// Its database.
    pub clickhouse: ClickHouse,
    /// The simulator's process.
    pub simulator: Process,
    runs: std::cell::Cell<u32>,
}

impl Tenant {
    /// Starts a simulator that generates and serves the tenant.
    ///
    /// # Errors
    /// The simulator or a service does not start.
    pub async fn start(plan: TenantPlan) -> Result<Self> {
        let dir = Janitor::get()?.folder(&plan.name)?;
        let clickhouse = match plan.clickhouse {
            Some(url) => url,
            None => services::engine().await?.to_owned(),
        };
        let topic_prefix = format!("e2e.{}", plan.name);
        let mut command = Command::new(paths::program("wecom-sim")?);
        command.args(["serve", "--dir"]).arg(&dir);
        command.args(["--messages", &plan.messages.to_string()]);
        command.args(["--seed", &plan.seed.to_string(), "--faults", &plan.faults]);
        command.args([
            "--clickhouse-url",
            &clickhouse,
            "--clickhouse-database",
            &plan.name,
        ]);
        command.args([
            "--driver",
            &plan.driver.to_string(),
            "--topic-prefix",
            &topic_prefix,
        ]);
        command.args(["--poll-interval", "50ms"]);
        if plan.driver == Driver::Kafka {
            let brokers = match plan.brokers {
                Some(brokers) => brokers,
                None => services::broker().await?.to_owned(),
            };
            command.args(["--brokers", &brokers]);
        }
        if let Some(corpus) = std::env::var_os("CHATLEDGER_CORPUS") {
            command.arg("--corpus").arg(corpus);
        }
        command.args(&plan.extra_args);
        let mut simulator = Process::start("wecom-sim", command, &dir.with_extension("sim.log"))?;
        let ready: Value = serde_json::from_str(&simulator.line(READY).await?)
            .context("read the simulator's ready line")?;
        let listen = ready["listen"]
            .as_str()
            .context("the ready line contains no address")?;
        Ok(Self {
            config: dir.join("chatledger.toml"),
            base_url: format!("http://{listen}"),
            clickhouse: ClickHouse::new(&clickhouse, &plan.name),
            topic_prefix,
            simulator,
            dir,
            runs: std::cell::Cell::new(0),
        })
    }

    /// Returns the folder of Parquet files.
    pub fn parquet(&self) -> PathBuf {
        self.dir.join("parquet")
    }

    /// Returns the folder of the truth.
    pub fn truth(&self) -> PathBuf {
        self.dir.join("truth")
    }

    /// Edits the configuration: replaces the first occurrence of each first text by the second.
    ///
    /// # Errors
    /// A text does not occur, or the file cannot be written.
    pub fn configure(&self, changes: &[(&str, &str)]) -> Result<()> {
        let mut text = fs::read_to_string(&self.config).context("read the configuration")?;
        for (from, to) in changes {
            ensure!(
                text.contains(from),
                "the configuration has no {from:?}:\n{text}"
            );
            text = text.replacen(from, to, 1);
        }
        fs::write(&self.config, text).context("write the configuration")
    }

    /// Appends a text to the configuration.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append_config(&self, text: &str) -> Result<()> {
        let config = fs::read_to_string(&self.config).context("read the configuration")?;
        fs::write(&self.config, format!("{config}\n{text}\n")).context("write the configuration")
    }

    /// Starts `chatledger run` as one of several processes of the same deployment: with the same
    /// configuration and its own state folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn member(&self, number: u32, extra_args: &[&str]) -> Result<Process> {
        let text = fs::read_to_string(&self.config).context("read the configuration")?;
        let (folder, own) = (
            "state_dir = \"state\"",
            format!("state_dir = \"state-{number}\""),
        );
        ensure!(text.contains(folder), "the configuration has no {folder}");
        let config = self.dir.join(format!("member-{number}.toml"));
        fs::write(&config, text.replacen(folder, &own, 1)).context("write the configuration")?;
        let program = Command::new(paths::program("chatledger")?);
        self.spawn(program, &config, "info", "run", extra_args)
    }

    /// Starts `chatledger COMMAND --config …` with additional arguments.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn chatledger(&self, command: &str, extra_args: &[&str]) -> Result<Process> {
        self.chatledger_logging("info", command, extra_args)
    }

    /// Like [`Tenant::chatledger`], with another log level.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn chatledger_logging(
        &self,
        log_level: &str,
        command: &str,
        extra_args: &[&str],
    ) -> Result<Process> {
        let program = Command::new(paths::program("chatledger")?);
        self.spawn(program, &self.config, log_level, command, extra_args)
    }

    /// Like [`Tenant::chatledger`], but file permissions also apply to root.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn chatledger_with_file_permissions(
        &self,
        command: &str,
        extra_args: &[&str],
    ) -> Result<Process> {
        let program = paths::program("chatledger")?;
        let program = if nix::unistd::geteuid().is_root() {
            let mut setpriv = Command::new("setpriv");
            setpriv.arg("--bounding-set=-dac_override,-dac_read_search");
            setpriv.arg(program);
            setpriv
        } else {
            Command::new(program)
        };
        self.spawn(program, &self.config, "info", command, extra_args)
    }

    fn spawn(
        &self,
        mut program: Command,
        config: &Path,
        log_level: &str,
        command: &str,
        extra_args: &[&str],
    ) -> Result<Process> {
        self.runs.set(self.runs.get() + 1);
        let log = self.dir.with_extension(format!("{}.log", self.runs.get()));
        program
            .arg(command)
            .arg("--config")
            .arg(config)
            .args(extra_args);
        program.env("CHATLEDGER_LOG", log_level);
        Process::start(&format!("chatledger {command}"), program, &log)
    }

    /// Runs a command of `chatledger` until it ends, with any exit code.
    ///
    /// # Errors
    /// It cannot be started or does not end.
    pub async fn run_to_end(&self, command: &str, extra_args: &[&str]) -> Result<FinishedRun> {
        let began = Instant::now();
        let mut process = self.chatledger(command, extra_args)?;
        let (code, stdout) = process.finish(DRAIN).await?;
        Ok(FinishedRun {
            code,
            stdout,
            stderr: process.log()?,
            duration: began.elapsed(),
        })
    }

    /// Drains the archive.
    ///
    /// # Errors
    /// The exit code is not 0, or stdout is not exactly the summary.
    pub async fn drain(&self) -> Result<DrainSummary> {
        let mut process = self.chatledger("run", &["--drain"])?;
        Self::drained(&mut process).await
    }

    /// Waits for the summary of a started drain.
    ///
    /// # Errors
    /// See [`Tenant::drain`].
    pub async fn drained(process: &mut Process) -> Result<DrainSummary> {
        let (code, stdout) = process.finish(DRAIN).await?;
        ensure!(code == 0, "exit code {code}:\n{}", process.log()?);
        let [line] = stdout.as_slice() else {
            anyhow::bail!("stdout is not one line: {stdout:?}");
        };
        serde_json::from_str(line).with_context(|| format!("parse the summary {line:?}"))
    }

    /// Waits until a started `chatledger run` is running and returns its HTTP endpoints.
    ///
    /// # Errors
    /// It ends, or is not running in time.
    pub async fn endpoints(process: &mut Process) -> Result<Endpoints> {
        let up = until(
            "the log line with the metrics address",
            Duration::from_secs(90),
            async || {
                let ended = process.ended()?;
                let log = process.log()?;
                let found = log.lines().find_map(|line| {
                    let (_, rest) = line.split_once("running metrics=")?;
                    rest.split_whitespace().next().map(str::to_owned)
                });
                ensure!(
                    found.is_some() || ended.is_none(),
                    "ended: {ended:?}\n{log}"
                );
                Ok(found)
            },
        );
        Ok(Endpoints::new(&up.await?))
    }

    /// Sends messages now; they are readable and in the truth when this returns.
    ///
    /// # Errors
    /// The simulator returns an error.
    pub async fn append(&self, count: u64) -> Result<()> {
        let url = format!("{}/sim/append?count={count}", self.base_url);
        let response = reqwest::Client::new()
            .post(url)
            .send()
            .await
            .context("call the simulator")?;
        ensure!(
            response.status().is_success(),
            "the simulator returned {}",
            response.status()
        );
        Ok(())
    }

    /// Returns the simulator's counts of API calls.
    ///
    /// # Errors
    /// The simulator does not respond.
    pub async fn calls(&self) -> Result<Value> {
        let url = format!("{}/sim/stats", self.base_url);
        let response = reqwest::get(url).await.context("call the simulator")?;
        response
            .json()
            .await
            .context("read the simulator's response")
    }
}

/// Returns the number of messages of the larger tests: `CHATLEDGER_E2E_MESSAGES`, or 10,000.
///
/// # Errors
/// The variable is not a number.
pub fn messages() -> Result<u64> {
    match std::env::var("CHATLEDGER_E2E_MESSAGES") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("CHATLEDGER_E2E_MESSAGES={text}")),
        Err(_) => Ok(10_000),
    }
}

/// Parses a file with one JSON object per line.
///
/// # Errors
/// It cannot be read or parsed.
pub fn json_lines(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let rows = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>();
    rows.with_context(|| path.display().to_string())
}
