//! One deployment over a tenant: a configuration, a database, files, state and topics of its own.
//!
//! Many sites share one simulated tenant, so what each of them must end with is the same. Merges of
//! the tables are stopped before the first row: a merge would hide a row that stands there twice.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chatledger_e2e::process::Process;
use chatledger_e2e::tenant::Tenant;
use chatledger_e2e::{ClickHouse, Driver, place, stored};

/// How long one life of the program may last; never reached unless something hangs.
pub const LIFE: Duration = Duration::from_secs(180);
/// The program as it is released.
pub const RELEASE: &str = "chatledger";
/// The program with its fail points.
pub const ARMED: &str = "chatledger-failpoints";
/// When cuts end, and how wide the log is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows of a cut into ClickHouse.
    pub batch_rows: u32,
    /// Time after which it ends though it has fewer.
    pub batch_interval: &'static str,
    /// Rows of a cut into Parquet files.
    pub roll_rows: u32,
    /// Time after which it ends though it has fewer.
    pub roll_interval: &'static str,
    /// Partitions of each topic.
    pub partitions: u32,
}

/// A deployment.
#[derive(Debug)]
pub struct Site {
    /// Its database.
    pub clickhouse: ClickHouse,
    /// Its folder of Parquet files.
    pub parquet: PathBuf,
    /// What its topics begin with.
    pub topic_prefix: String,
    config: PathBuf,
    stages: Option<&'static str>,
    lives: Cell<u32>,
}

impl Site {
    /// Lays out a deployment over a tenant and makes its tables. `stages` are those that it runs,
    /// where not all of them.
    ///
    /// # Errors
    /// The configuration has no such place, or ClickHouse refuses.
    pub async fn new(
        tenant: &Tenant,
        clickhouse_url: &str,
        name: &str,
        shape: Shape,
        stages: Option<&'static str>,
    ) -> Result<Self> {
        let topic_prefix = format!("crash.{name}");
        let mut text = std::fs::read_to_string(&tenant.config).context("read the configuration")?;
        let Shape {
            batch_rows,
            batch_interval,
            roll_rows,
            roll_interval,
            partitions,
        } = shape;
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
        for (begins, line) in own {
            let lines: Vec<&str> = text.lines().collect();
            let found = lines.iter().any(|line| line.starts_with(begins));
            // Only the kafka driver's configuration has topics.
            ensure!(
                found || begins.starts_with("topic"),
                "the configuration has no {begins:?}:\n{text}"
            );
            let put = |old: &str| {
                if old.starts_with(begins) {
                    line.clone()
                } else {
                    old.to_owned()
                }
            };
            text = lines.into_iter().map(put).collect::<Vec<_>>().join("\n");
        }
        let config = tenant.dir.join(format!("{name}.toml"));
        std::fs::write(&config, text).context("write the configuration")?;
        let site = Self {
            clickhouse: ClickHouse::new(clickhouse_url, name),
            parquet: tenant.dir.join(format!("parquet-{name}")),
            topic_prefix,
            config,
            stages,
            lives: Cell::default(),
        };
        let mut migrate = site.command(RELEASE, "migrate")?;
        let (code, _) = migrate.finish(LIFE).await?;
        ensure!(code == 0, "migrate: exit code {code}:\n{}", migrate.log()?);
        stored::merge(&site.clickhouse, false).await?;
        Ok(site)
    }

    fn command(&self, program: &str, word: &str) -> Result<Process> {
        self.spawn(program, word, &[], None)
    }

    fn spawn(
        &self,
        program: &str,
        word: &str,
        further: &[&str],
        failpoints: Option<&str>,
    ) -> Result<Process> {
        self.lives.set(self.lives.get() + 1);
        let log = self
            .config
            .with_extension(format!("{}.log", self.lives.get()));
        let mut command = Command::new(place::program(program)?);
        command.arg(word).arg("--config").arg(&self.config);
        command.args(further).env("CHATLEDGER_LOG", "info");
        if let Some(failpoints) = failpoints {
            command.env("CHATLEDGER_FAILPOINTS", failpoints);
        }
        Process::start(&format!("chatledger {word}"), command, &log)
    }

    /// Starts the pipeline, for a drain or until it is stopped.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(&self, drain: bool, failpoints: Option<&str>) -> Result<Process> {
        let program = if failpoints.is_some() { ARMED } else { RELEASE };
        let mut further = Vec::new();
        if drain {
            further.push("--drain");
        }
        if let Some(stages) = self.stages {
            further.extend(["--stages", stages]);
        }
        self.spawn(program, "run", &further, failpoints)
    }

    /// What the program says about itself: every record that was pulled is accounted for, and none was
    /// changed, removed or inserted.
    ///
    /// # Errors
    /// It says otherwise; what it says is in the error.
    pub async fn audits(&self) -> Result<()> {
        for word in ["reconcile", "verify"] {
            let mut audit = self.command(RELEASE, word)?;
            let (code, told) = audit.finish(LIFE).await?;
            let told = told.join("\n");
            ensure!(
                code == 0,
                "{word}: exit code {code}:\n{told}\n{}",
                audit.log()?
            );
        }
        Ok(())
    }

    /// Drains what there is, as the release does.
    ///
    /// # Errors
    /// It does not end with exit code 0.
    pub async fn drain(&self) -> Result<()> {
        let mut process = self.run(true, None)?;
        let (code, _) = process.finish(LIFE).await?;
        ensure!(code == 0, "drain: exit code {code}:\n{}", process.log()?);
        Ok(())
    }
}

/// The stages that a site runs when only its sinks are looked at.
pub fn sinks_alone(driver: Driver) -> Option<&'static str> {
    (driver == Driver::Kafka).then_some("sink")
}
