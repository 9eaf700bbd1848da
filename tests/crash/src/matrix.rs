//! Tests every fail point with every action in both drivers, or kills once at each point in few runs.
//!
//! Each case must end with the same data as an undisturbed run of the same tenant. In the direct driver,
//! and for the sinks of the kafka driver (with copies of the topics), batches depend only on the
//! records, and the Parquet objects are compared one by one. For the other stages of the kafka driver,
//! offsets depend on when transactions end, so only the rows are compared.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use chatledger_e2e::tenant::{Tenant, TenantPlan};
use chatledger_e2e::{Driver, Expected, services, stored};
use serde::Serialize;

use crate::compare::{self, Baseline};
use crate::deployment::{BatchLimits, Deployment, MAX_RUN, only_sinks};
use crate::points::{FailAction, FailPoint, all, passings};
use crate::progress::Progress;
use crate::topics::{self, TopicCopy};

/// Batches that depend only on the records: they end by number of rows, at ends of pages.
const BY_ROWS: BatchLimits = BatchLimits {
    batch_rows: 200,
    batch_interval: "1h",
    roll_rows: 300,
    roll_interval: "1h",
    partitions: 2,
};
/// Batches that depend only on the records of a topic: one batch for each partition.
const ONE_BATCH: BatchLimits = BatchLimits {
    batch_rows: 100_000,
    roll_rows: 10_000_000,
    ..BY_ROWS
};
/// Small batches that also end by time, as in production.
const BY_TIME: BatchLimits = BatchLimits {
    batch_interval: "100ms",
    roll_interval: "200ms",
    ..BY_ROWS
};

/// How the disturbed run of a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunEnding {
    /// By SIGKILL; another run continued.
    Killed,
    /// With this exit code; another run continued.
    Exit(i32),
    /// Normally, after delivering everything.
    WentOn,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// The driver.
    pub driver: String,
    /// The fail point.
    pub point: String,
    /// The action at the fail point.
    pub action: FailAction,
    /// Which passing of the fail point was disturbed, from 1.
    pub passing: u64,
    /// How the disturbed run ended; `None` if the point was not reached.
    pub ending: Option<RunEnding>,
    /// Difference from the undisturbed run; `None` if there is none.
    pub wrong: Option<String>,
}

impl Case {
    /// Returns whether the point was reached and the data is correct.
    pub fn passed(&self) -> bool {
        self.ending.is_some() && self.wrong.is_none()
    }
}

/// Runs the cases of a group of fail points.
struct CaseRunner<'a> {
    tenant: &'a Tenant,
    driver: Driver,
    url: String,
    /// Prefix of the names of its deployments.
    name: &'static str,
    limits: BatchLimits,
    /// The topics to copy for each deployment that runs only sinks.
    topics: Option<&'a TopicCopy>,
    baseline: Baseline,
    /// How often each point was passed in the undisturbed run.
    passed: BTreeMap<String, u64>,
    sites: std::cell::Cell<u32>,
}

impl CaseRunner<'_> {
    /// Creates a deployment, with copied topics if it runs only sinks.
    async fn deployment(&self) -> Result<Deployment> {
        self.sites.set(self.sites.get() + 1);
        let name = format!("{}_{}", self.name, self.sites.get());
        let stages = self.topics.and_then(|_| only_sinks(self.driver));
        let deployment =
            Deployment::new(self.tenant, &self.url, &name, self.limits, stages).await?;
        if let Some(copy) = self.topics {
            topics::write(services::broker().await?, &deployment.topic_prefix, copy).await?;
        }
        Ok(deployment)
    }

    async fn clear(&self, deployment: &Deployment) -> Result<()> {
        if self.driver == Driver::Kafka {
            topics::delete(services::broker().await?, &deployment.topic_prefix).await?;
        }
        Ok(())
    }

    /// Performs the undisturbed run, which passes every point of the group.
    async fn run_baseline(&mut self, points: &[&FailPoint], objects: bool) -> Result<()> {
        let deployment = self.deployment().await?;
        let mut process = deployment.run(true, Some("*=log"))?;
        let (code, _) = process.finish(MAX_RUN).await?;
        let log = process.log()?;
        ensure!(code == 0, "undisturbed run: exit code {code}:\n{log}");
        compare::same(&deployment, &self.baseline)
            .await
            .context("undisturbed run")?;
        if objects {
            self.baseline.objects = Some(compare::objects(&deployment.parquet)?);
        }
        for point in points {
            let passed = passings(&point.name, &log);
            ensure!(passed > 0, "{}: {} was not passed", self.driver, point.name);
            self.passed.insert(point.name.clone(), passed);
        }
        self.clear(&deployment).await?;
        self.check_comparison(&deployment).await
    }

    /// Checks that the comparison itself works: it must find a duplicated row and a deleted file.
    async fn check_comparison(&self, deployment: &Deployment) -> Result<()> {
        let duplicate = "INSERT INTO messages SELECT * FROM messages LIMIT 1";
        deployment.clickhouse.query(duplicate).await?;
        let found = stored::tables_equal(&deployment.clickhouse, &self.baseline.expected).await;
        let message = found.err().map(|error| error.to_string());
        ensure!(
            message.is_some_and(|message| message.contains("duplicated")),
            "the comparison does not find a duplicated row"
        );
        let file = stored::visible_files(&deployment.parquet)?.pop();
        std::fs::remove_file(file.context("the folder is empty")?).context("delete a file")?;
        ensure!(
            compare::same_files(deployment, &self.baseline).is_err(),
            "the comparison does not find a deleted file"
        );
        Ok(())
    }

    /// Runs the program with an action at a point; returns `None` if the point was not reached.
    async fn disturb(
        &self,
        deployment: &Deployment,
        target: (&str, FailAction, u64),
    ) -> Result<Option<RunEnding>> {
        let (point, action, passing) = target;
        let mut process = deployment.run(true, Some(&action.at(point, passing)))?;
        let status = process.exit(MAX_RUN).await?;
        let ending = match status.code() {
            None => RunEnding::Killed,
            Some(0) => RunEnding::WentOn,
            Some(code) => RunEnding::Exit(code),
        };
        let log = process.log()?;
        let reached = action.is_in_log(point, &log);
        ensure!(
            reached || ending == RunEnding::WentOn,
            "the run ended before {point}: {status}:\n{log}"
        );
        let expected = match action {
            FailAction::Kill => ending == RunEnding::Killed,
            FailAction::Error => ending != RunEnding::Killed,
            FailAction::Delay => ending == RunEnding::WentOn,
        };
        ensure!(
            !reached || expected,
            "{action} at {point}: the run ended with {status}:\n{log}"
        );
        Ok(reached.then_some(ending))
    }

    fn case(&self, point: &str, action: FailAction, passing: u64) -> Case {
        Case {
            driver: self.driver.to_string(),
            point: point.to_owned(),
            action,
            passing,
            ending: None,
            wrong: None,
        }
    }

    /// Runs a case in its own deployment.
    async fn run_case(&self, point: &str, action: FailAction) -> Result<Case> {
        // In the middle; early if the number of passings depends on time.
        let passed = self.passed.get(point).copied().unwrap_or(1);
        let middle = passed.div_ceil(2);
        let passing = match self.baseline.objects {
            Some(_) => middle,
            None => middle.min(2),
        };
        let deployment = self.deployment().await?;
        let mut case = self.case(point, action, passing);
        case.ending = self.disturb(&deployment, (point, action, passing)).await?;
        if case.ending != Some(RunEnding::WentOn) {
            deployment.drain().await?;
        }
        case.wrong = difference(compare::same(&deployment, &self.baseline).await);
        self.clear(&deployment).await?;
        Ok(case)
    }

    /// Kills at each point in turn; each run continues where the previous one was killed. Starts again
    /// with a new deployment if everything is delivered before a point is reached.
    async fn kill_at_each(&self, points: &[&FailPoint], progress: &Progress) -> Result<Vec<Case>> {
        let mut cases: Vec<Case> = Vec::new();
        let mut deployment = self.deployment().await?;
        let mut begun = cases.len();
        for point in points {
            let target = (point.name.as_str(), FailAction::Kill, 1);
            let mut ending = self.disturb(&deployment, target).await?;
            if ending.is_none() && begun < cases.len() {
                self.finish(&deployment, &mut cases[begun..]).await?;
                begun = cases.len();
                deployment = self.deployment().await?;
                ending = self.disturb(&deployment, target).await?;
            }
            let mut case = self.case(&point.name, FailAction::Kill, 1);
            case.ending = ending;
            cases.push(case);
            progress.step("");
        }
        self.finish(&deployment, &mut cases[begun..]).await?;
        Ok(cases)
    }

    /// Drains a deployment and stores the result of the comparison in its cases.
    async fn finish(&self, deployment: &Deployment, cases: &mut [Case]) -> Result<()> {
        deployment.drain().await?;
        let same = async {
            compare::same(deployment, &self.baseline).await?;
            deployment.audits().await
        };
        let wrong = difference(same.await);
        for case in cases {
            case.wrong.clone_from(&wrong);
        }
        self.clear(deployment).await
    }
}

fn difference(result: Result<()>) -> Option<String> {
    result.err().map(|error| format!("{error:#}"))
}

/// How thoroughly the points are tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// One kill at each point.
    KillAtEach,
    /// Every action at each point, each in its own deployment.
    Matrix,
}

/// Runs the cases of a driver.
///
/// # Errors
/// The test cannot be run: a program is missing, or a run ended for another reason.
pub async fn run(
    driver: Driver,
    depth: Depth,
    messages: u64,
    seed: u64,
    progress: &Progress,
) -> Result<Vec<Case>> {
    let points = all()?;
    let points: Vec<&FailPoint> = points.iter().filter(|point| point.is_in(driver)).collect();
    let faults = format!(
        "broken={},unknown_key={},duplicates={}",
        messages / 20,
        messages / 50,
        messages / 30
    );
    let plan = TenantPlan::new("crash", driver, messages)
        .seed(seed)
        .faults(&faults)
        .arg("--batch-limit=100");
    let tenant = Tenant::start(plan).await?;
    let baseline = Baseline {
        expected: Expected::read(&tenant.truth())?,
        objects: None,
    };
    let mut runner = CaseRunner {
        tenant: &tenant,
        driver,
        url: services::engine().await?.to_owned(),
        name: match driver {
            Driver::Direct => "direct",
            Driver::Kafka => "kafka",
        },
        limits: match driver {
            Driver::Direct => BY_ROWS,
            Driver::Kafka => BY_TIME,
        },
        topics: None,
        baseline: baseline.clone(),
        passed: BTreeMap::new(),
        sites: std::cell::Cell::default(),
    };
    runner
        .run_baseline(&points, driver == Driver::Direct)
        .await?;
    if depth == Depth::KillAtEach {
        progress.begin(points.len() as u64);
        return runner.kill_at_each(&points, progress).await;
    }
    progress.begin((points.len() * FailAction::ALL.len()) as u64);
    let (of_sinks, others): (Vec<&FailPoint>, Vec<&FailPoint>) = points
        .iter()
        .copied()
        .partition(|point| driver == Driver::Kafka && point.is_in_sink());
    let mut cases = each(&runner, &others, progress).await?;
    if !of_sinks.is_empty() {
        let source = runner.deployment().await?;
        source.drain().await?;
        let broker = services::broker().await?;
        let copy = topics::read(broker, &source.topic_prefix)?;
        let mut runner = CaseRunner {
            name: "sinks",
            limits: ONE_BATCH,
            topics: Some(&copy),
            baseline,
            ..runner
        };
        runner.run_baseline(&of_sinks, true).await?;
        cases.extend(each(&runner, &of_sinks, progress).await?);
    }
    Ok(cases)
}

async fn each(
    runner: &CaseRunner<'_>,
    points: &[&FailPoint],
    progress: &Progress,
) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for point in points {
        for action in FailAction::ALL {
            let case = runner.run_case(&point.name, action).await;
            let case =
                case.with_context(|| format!("{}: {action} at {}", runner.driver, point.name))?;
            if !case.passed() {
                progress.print(&format!("FAILED {case:?}"));
            }
            cases.push(case);
            progress.step("");
        }
    }
    Ok(cases)
}
