//! A simulated tenant and `chatledger` running over it.
//!
//! The simulator writes the configuration and the truth; tests change the configuration before a
//! run with [`Tenant::configure`]. Messages come from the folder that `CHATLEDGER_CORPUS` names, or
//! from the simulator's own texts.

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
use crate::place;
use crate::process::Process;
use crate::services;
use crate::waiting::until;

/// How long the simulator may take to be ready: it makes keys and writes the whole truth.
const READY: Duration = Duration::from_secs(180);
/// How long a drain may take; never reached unless something hangs.
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

/// What tenant to make.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Also the database's name; unique within the test binary, as an identifier.
    pub name: String,
    /// How records travel.
    pub driver: Driver,
    /// Distinct messages.
    pub messages: u64,
    /// What follows from it: see `wecom-sim --help`.
    pub seed: u64,
    /// As `wecom-sim --faults` takes them.
    pub faults: String,
    /// Further arguments of `wecom-sim serve`.
    pub further: Vec<String>,
    /// ClickHouse's address, where it is not the one that all tests share.
    pub clickhouse: Option<String>,
    /// Kafka's address, where it is not the one that all tests share.
    pub brokers: Option<String>,
}

impl Plan {
    /// A tenant without faults.
    pub fn new(name: &str, driver: Driver, messages: u64) -> Self {
        Self {
            name: format!("{name}_{driver}"),
            driver,
            messages,
            seed: 1,
            faults: String::new(),
            further: Vec::new(),
            clickhouse: None,
            brokers: None,
        }
    }

    /// With these faults.
    #[must_use]
    pub fn faults(mut self, faults: &str) -> Self {
        faults.clone_into(&mut self.faults);
        self
    }

    /// With this seed.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// With a further argument of `wecom-sim serve`, `--name=value`.
    #[must_use]
    pub fn with(mut self, argument: impl Into<String>) -> Self {
        self.further.push(argument.into());
        self
    }
}

/// The last line of a drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Records the archive gave.
    pub pulled: u64,
    /// Messages opened.
    pub messages: u64,
    /// Violations found.
    pub violations: u64,
    /// Records parked.
    pub dead_letters: u64,
    /// Messages that had been there before.
    pub duplicates: u64,
}

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit code.
    pub code: i32,
    /// Lines on stdout.
    pub stdout: Vec<String>,
    /// Everything on stderr.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

/// A tenant being served.
#[derive(Debug)]
pub struct Tenant {
    /// Folder of configuration, secrets, keys, rules and truth.
    pub dir: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
    /// Base address of the simulator.
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
    /// Makes and serves it.
    ///
    /// # Errors
    /// The simulator or a service it needs does not start.
    pub async fn start(plan: Plan) -> Result<Self> {
        let dir = Janitor::get()?.folder(&plan.name)?;
        let clickhouse = match plan.clickhouse {
            Some(url) => url,
            None => services::engine().await?.to_owned(),
        };
        let topic_prefix = format!("e2e.{}", plan.name);
        let mut command = Command::new(place::program("wecom-sim")?);
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
        command.args(&plan.further);
        let mut simulator = Process::start("wecom-sim", command, &dir.with_extension("sim.log"))?;
        let ready: Value = serde_json::from_str(&simulator.line(READY).await?)
            .context("read the simulator's ready line")?;
        let listen = ready["listen"]
            .as_str()
            .context("the ready line names no address")?;
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

    /// The folder of Parquet files.
    pub fn parquet(&self) -> PathBuf {
        self.dir.join("parquet")
    }

    /// The folder of the truth.
    pub fn truth(&self) -> PathBuf {
        self.dir.join("truth")
    }

    /// Changes the text of the configuration: each first text, which must be there, to the second.
    ///
    /// # Errors
    /// A text is not there, or the file cannot be written.
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

    /// Adds a text to the end of the configuration.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn configure_also(&self, text: &str) -> Result<()> {
        let config = fs::read_to_string(&self.config).context("read the configuration")?;
        fs::write(&self.config, format!("{config}\n{text}\n")).context("write the configuration")
    }

    /// Starts `chatledger run` as one of several processes of the same deployment: the same
    /// configuration, a state folder of its own.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn member(&self, number: u32, further: &[&str]) -> Result<Process> {
        let text = fs::read_to_string(&self.config).context("read the configuration")?;
        let (folder, own) = (
            "state_dir = \"state\"",
            format!("state_dir = \"state-{number}\""),
        );
        ensure!(text.contains(folder), "the configuration names no {folder}");
        let config = self.dir.join(format!("member-{number}.toml"));
        fs::write(&config, text.replacen(folder, &own, 1)).context("write the configuration")?;
        let program = Command::new(place::program("chatledger")?);
        self.spawn(program, &config, "info", "run", further)
    }

    /// Starts `chatledger COMMAND --config …` and further words of the command.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn chatledger(&self, command: &str, further: &[&str]) -> Result<Process> {
        self.chatledger_logging("info", command, further)
    }

    /// As [`Tenant::chatledger`], with another detail of the log.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn chatledger_logging(
        &self,
        detail: &str,
        word: &str,
        further: &[&str],
    ) -> Result<Process> {
        let program = Command::new(place::program("chatledger")?);
        self.spawn(program, &self.config, detail, word, further)
    }

    /// As [`Tenant::chatledger`]; and what a file's mode forbids is forbidden, to root too.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn chatledger_bound_by_modes(&self, word: &str, further: &[&str]) -> Result<Process> {
        let program = place::program("chatledger")?;
        let command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.arg("--bounding-set=-dac_override,-dac_read_search");
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        self.spawn(command, &self.config, "info", word, further)
    }

    fn spawn(
        &self,
        mut command: Command,
        config: &Path,
        detail: &str,
        word: &str,
        further: &[&str],
    ) -> Result<Process> {
        self.runs.set(self.runs.get() + 1);
        let log = self.dir.with_extension(format!("{}.log", self.runs.get()));
        command.arg(word).arg("--config").arg(config).args(further);
        command.env("CHATLEDGER_LOG", detail);
        Process::start(&format!("chatledger {word}"), command, &log)
    }

    /// Runs a command of `chatledger` to its end, whatever it is.
    ///
    /// # Errors
    /// It does not end.
    pub async fn ended(&self, command: &str, further: &[&str]) -> Result<Ended> {
        let began = Instant::now();
        let mut process = self.chatledger(command, further)?;
        let (code, stdout) = process.finish(DRAIN).await?;
        Ok(Ended {
            code,
            stdout,
            stderr: process.log()?,
            took: began.elapsed(),
        })
    }

    /// Drains the archive.
    ///
    /// # Errors
    /// It does not end with exit code 0 and the summary as the only line on stdout.
    pub async fn drain(&self) -> Result<Summary> {
        let mut process = self.chatledger("run", &["--drain"])?;
        Self::drained(&mut process).await
    }

    /// The summary of a drain that has been started.
    ///
    /// # Errors
    /// As [`Tenant::drain`].
    pub async fn drained(process: &mut Process) -> Result<Summary> {
        let (code, stdout) = process.finish(DRAIN).await?;
        ensure!(code == 0, "exit code {code}:\n{}", process.log()?);
        let [line] = stdout.as_slice() else {
            anyhow::bail!("not one line on stdout: {stdout:?}");
        };
        serde_json::from_str(line).with_context(|| format!("read the summary {line:?}"))
    }

    /// Waits until a started `chatledger run` is up and gives its endpoints.
    ///
    /// # Errors
    /// It ends before, or is not up in time.
    pub async fn endpoints(process: &mut Process) -> Result<Endpoints> {
        let up = until(
            "the line that names the metrics",
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

    /// Sends messages now; when this returns they can be pulled and are in the truth.
    ///
    /// # Errors
    /// The simulator refuses.
    pub async fn append(&self, count: u64) -> Result<()> {
        let url = format!("{}/sim/append?count={count}", self.base_url);
        let answer = reqwest::Client::new()
            .post(url)
            .send()
            .await
            .context("ask the simulator")?;
        ensure!(
            answer.status().is_success(),
            "the simulator answers {}",
            answer.status()
        );
        Ok(())
    }

    /// What has been called, as the simulator counts.
    ///
    /// # Errors
    /// The simulator does not answer.
    pub async fn calls(&self) -> Result<Value> {
        let url = format!("{}/sim/stats", self.base_url);
        let answer = reqwest::get(url).await.context("ask the simulator")?;
        answer.json().await.context("read the simulator's answer")
    }
}

/// How many messages the larger tests take: `CHATLEDGER_E2E_MESSAGES`, else 10,000.
///
/// # Errors
/// The variable holds no number.
pub fn messages() -> Result<u64> {
    match std::env::var("CHATLEDGER_E2E_MESSAGES") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("CHATLEDGER_E2E_MESSAGES={text}")),
        Err(_) => Ok(10_000),
    }
}

/// The lines of a file of JSON objects.
///
/// # Errors
/// It cannot be read.
pub fn json_lines(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let rows = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>();
    rows.with_context(|| path.display().to_string())
}
