//! One deployment for a tenant, with its own configuration, database, files, state and topics.
//!
//! Many deployments share one simulated tenant, so they must all end with the same data. Merges of the
//! tables are disabled before the first row, because a merge would hide a duplicated row.

use std::cell::Cell;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chatledger_e2e::process::Process;
use chatledger_e2e::tenant::Tenant;
use chatledger_e2e::{ClickHouse, Driver, paths, stored};

/// Maximum duration of one run of the program; only reached if it hangs.
pub const MAX_RUN: Duration = Duration::from_secs(180);
/// The program without fail points.
pub const RELEASE: &str = "chatledger";
/// The program with fail points.
pub const WITH_FAIL_POINTS: &str = "chatledger-failpoints";

/// Limits of the batches, and the number of partitions.
#[derive(Clone, Copy, Debug)]
pub struct BatchLimits {
    /// Maximum rows of a batch for ClickHouse.
    pub batch_rows: u32,
    /// Time after which the batch ends with fewer rows.
    pub batch_interval: &'static str,
    /// Maximum rows of a batch for Parquet files.
    pub roll_rows: u32,
    /// Time after which the batch ends with fewer rows.
    pub roll_interval: &'static str,
    /// Partitions of each topic.
    pub partitions: u32,
}

/// A deployment.
#[derive(Debug)]
pub struct Deployment {
    /// Its database.
    pub clickhouse: ClickHouse,
    /// Its folder of Parquet files.
    pub parquet: PathBuf,
    /// Prefix of its topics.
    pub topic_prefix: String,
    config: PathBuf,
    stages: Option<&'static str>,
    runs: Cell<u32>,
}

impl Deployment {
    /// Creates a deployment for a tenant, including its tables. `stages` are the stages to run; `None`
    /// for all of them.
    ///
    /// # Errors
    /// The configuration lacks a key to change, or ClickHouse returns an error.
    pub async fn new(
        tenant: &Tenant,
        clickhouse_url: &str,
        name: &str,
        limits: BatchLimits,
        stages: Option<&'static str>,
    ) -> Result<Self> {
        let topic_prefix = format!("crash.{name}");
        let mut text = std::fs::read_to_string(&tenant.config).context("read the configuration")?;
        let BatchLimits {
            batch_rows,
            batch_interval,
            roll_rows,
            roll_interval,
            partitions,
        } = limits;
        let own = [
            ("state_dir = ", format!("state_dir = \"state-{name}\"")),
            (
                "topic_prefix = ",
                format!("topic_prefix = \"{topic_prefix}\"\npartitions = {partitions}"),
            ),
            (
                "database = ",
                format!(
                    "database = \"{name}\"\nbatch_rows = {batch_rows}\n\
                     batch_interval = \"{batch_interval}\""
                ),
            ),
            (
                "url = \"file:",
                format!(
                    "url = \"file:parquet-{name}\"\nroll_rows = {roll_rows}\n\
                     roll_interval = \"{roll_interval}\""
                ),
            ),
        ];
        for (start, line) in own {
            let lines: Vec<&str> = text.lines().collect();
            let found = lines.iter().any(|line| line.starts_with(start));
            // Only the kafka driver's configuration has topics.
            ensure!(
                found || start.starts_with("topic"),
                "the configuration has no {start:?}:\n{text}"
            );
            let replace = |old: &str| {
                if old.starts_with(start) {
                    line.clone()
                } else {
                    old.to_owned()
                }
            };
            text = lines
                .into_iter()
                .map(replace)
                .collect::<Vec<_>>()
                .join("\n");
        }
        // The audits read these files back.
        write!(
            text,
            "\n[sink.jsonl]\npath = \"jsonl-{name}\"\nbatch_rows = {batch_rows}\n\
             batch_interval = \"{batch_interval}\"\n"
        )?;
        let config = tenant.dir.join(format!("{name}.toml"));
        std::fs::write(&config, text).context("write the configuration")?;
        let deployment = Self {
            clickhouse: ClickHouse::new(clickhouse_url, name),
            parquet: tenant.dir.join(format!("parquet-{name}")),
            topic_prefix,
            config,
            stages,
            runs: Cell::default(),
        };
        let mut migrate = deployment.command(RELEASE, "migrate")?;
        let (code, _) = migrate.finish(MAX_RUN).await?;
        ensure!(code == 0, "migrate: exit code {code}:\n{}", migrate.log()?);
        stored::set_merges(&deployment.clickhouse, false).await?;
        Ok(deployment)
    }

    fn command(&self, program: &str, word: &str) -> Result<Process> {
        self.spawn(program, word, &[], None)
    }

    fn spawn(
        &self,
        program: &str,
        word: &str,
        extra_args: &[&str],
        failpoints: Option<&str>,
    ) -> Result<Process> {
        self.runs.set(self.runs.get() + 1);
        let log = self
            .config
            .with_extension(format!("{}.log", self.runs.get()));
        let mut command = Command::new(paths::program(program)?);
        command.arg(word).arg("--config").arg(&self.config);
        command.args(extra_args).env("CHATLEDGER_LOG", "info");
        if let Some(failpoints) = failpoints {
            command.env("CHATLEDGER_FAILPOINTS", failpoints);
        }
        Process::start(&format!("chatledger {word}"), command, &log)
    }

    /// Starts the pipeline, as a drain or until it is stopped.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, drain: bool, failpoints: Option<&str>) -> Result<Process> {
        let program = if failpoints.is_some() {
            WITH_FAIL_POINTS
        } else {
            RELEASE
        };
        let mut extra_args = Vec::new();
        if drain {
            extra_args.push("--drain");
        }
        if let Some(stages) = self.stages {
            extra_args.extend(["--stages", stages]);
        }
        self.spawn(program, "run", &extra_args, failpoints)
    }

    /// Runs the audits of the program: every pulled record is accounted for, and none was changed,
    /// removed or inserted.
    ///
    /// # Errors
    /// An audit reports findings; the error contains its output.
    pub async fn audits(&self) -> Result<()> {
        for command in ["reconcile", "verify"] {
            let mut audit = self.command(RELEASE, command)?;
            let (code, output) = audit.finish(MAX_RUN).await?;
            let output = output.join("\n");
            ensure!(
                code == 0,
                "{command}: exit code {code}:\n{output}\n{}",
                audit.log()?
            );
        }
        Ok(())
    }

    /// Drains the rest without fail points.
    ///
    /// # Errors
    /// The exit code is not 0.
    pub async fn drain(&self) -> Result<()> {
        let mut process = self.run(true, None)?;
        let (code, _) = process.finish(MAX_RUN).await?;
        ensure!(code == 0, "drain: exit code {code}:\n{}", process.log()?);
        Ok(())
    }
}

/// Returns the stages of a deployment that tests only sinks.
pub fn only_sinks(driver: Driver) -> Option<&'static str> {
    (driver == Driver::Kafka).then_some("sink")
}
