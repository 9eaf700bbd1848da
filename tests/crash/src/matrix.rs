//! Every fail point, with every action, in every driver; and each point killed in turn in few runs.
//!
//! What a case must end with is what a straight run of the same tenant has. In the direct driver, and
//! for the sinks of the kafka driver (over copies of the topics), cuts are made to depend on nothing
//! but the records, and the Parquet objects are compared one by one. In the rest of the kafka driver
//! offsets depend on when transactions end, so there the rows are compared and not the objects.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use chatledger_e2e::tenant::{Plan, Tenant};
use chatledger_e2e::{Driver, Expected, services, stored};
use serde::Serialize;

use crate::compare::{self, Straight};
use crate::points::{Action, Point, all, passings};
use crate::progress::Progress;
use crate::site::{LIFE, Shape, Site, sinks_alone};
use crate::topics::{self, Log};

/// Cuts that depend on the records alone: they end by rows, at ends of pages.
const BY_ROWS: Shape = Shape {
    batch_rows: 200,
    batch_interval: "1h",
    roll_rows: 300,
    roll_interval: "1h",
    partitions: 2,
};
/// Cuts that depend on the records alone where batches end when the broker has no more: one cut for
/// a partition.
const WHOLE: Shape = Shape {
    batch_rows: 100_000,
    roll_rows: 10_000_000,
    ..BY_ROWS
};
/// Small cuts that end by time as well, as in production.
const BY_TIME: Shape = Shape {
    batch_interval: "100ms",
    roll_interval: "200ms",
    ..BY_ROWS
};

/// How the disturbed life of a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// By SIGKILL, and another one went on.
    Killed,
    /// With this exit code, and another one went on.
    Exit(i32),
    /// By itself, with everything delivered.
    WentOn,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// The driver.
    pub driver: String,
    /// The fail point.
    pub point: String,
    /// What was done there.
    pub action: Action,
    /// At which passing.
    pub passing: u64,
    /// How the life ended in which it was done; `None` if the point was not reached.
    pub ending: Option<Ending>,
    /// What is wrong afterwards; `None` if everything is as in a straight run.
    pub wrong: Option<String>,
}

impl Case {
    /// Whether the point was reached and nothing is wrong.
    pub fn holds(&self) -> bool {
        self.ending.is_some() && self.wrong.is_none()
    }
}

/// Where the cases of a group of points run.
struct Ground<'a> {
    tenant: &'a Tenant,
    driver: Driver,
    url: String,
    /// What the names of its sites begin with.
    name: &'static str,
    shape: Shape,
    /// The log to be copied for each site whose sinks alone run.
    log: Option<&'a Log>,
    straight: Straight,
    /// How often each point was passed in the straight run.
    passed: BTreeMap<String, u64>,
    sites: std::cell::Cell<u32>,
}

impl Ground<'_> {
    /// A new site, with the log where it needs one.
    async fn site(&self) -> Result<Site> {
        self.sites.set(self.sites.get() + 1);
        let name = format!("{}_{}", self.name, self.sites.get());
        let stages = self.log.and_then(|_| sinks_alone(self.driver));
        let site = Site::new(self.tenant, &self.url, &name, self.shape, stages).await?;
        if let Some(log) = self.log {
            topics::write(services::broker().await?, &site.topic_prefix, log).await?;
        }
        Ok(site)
    }

    async fn clear(&self, site: &Site) -> Result<()> {
        if self.driver == Driver::Kafka {
            topics::remove(services::broker().await?, &site.topic_prefix).await?;
        }
        Ok(())
    }

    /// The straight run: what every case is compared with. It passes every point of the group.
    async fn lay(&mut self, points: &[&Point], objects: bool) -> Result<()> {
        let site = self.site().await?;
        let mut process = site.run(true, Some("*=log"))?;
        let (code, _) = process.finish(LIFE).await?;
        let log = process.log()?;
        ensure!(code == 0, "straight run: exit code {code}:\n{log}");
        compare::same(&site, &self.straight)
            .await
            .context("straight run")?;
        if objects {
            self.straight.objects = Some(compare::objects(&site.parquet)?);
        }
        for point in points {
            let passed = passings(&point.name, &log);
            ensure!(passed > 0, "{}: never passed {}", self.driver, point.name);
            self.passed.insert(point.name.clone(), passed);
        }
        self.clear(&site).await?;
        self.sees(&site).await
    }

    /// A comparison that finds nothing is worth as much as what it would find: here it is shown a
    /// row that stands there twice and a file that is gone.
    async fn sees(&self, site: &Site) -> Result<()> {
        let again = "INSERT INTO messages SELECT * FROM messages LIMIT 1";
        site.clickhouse.ask(again).await?;
        let found = stored::tables_equal(&site.clickhouse, &self.straight.expected).await;
        let told = found.err().map(|error| error.to_string());
        ensure!(
            told.is_some_and(|told| told.contains("there more than once")),
            "a row that stands there twice is not found"
        );
        let file = stored::visible_files(&site.parquet)?.pop();
        std::fs::remove_file(file.context("there are no files")?).context("remove a file")?;
        ensure!(
            compare::same_files(site, &self.straight).is_err(),
            "a file that is gone is not missed"
        );
        Ok(())
    }

    /// One life with an action at a point. `None` if it ended without having reached it.
    async fn disturb(&self, site: &Site, order: (&str, Action, u64)) -> Result<Option<Ending>> {
        let (point, action, passing) = order;
        let mut process = site.run(true, Some(&action.at(point, passing)))?;
        let status = process.exit(LIFE).await?;
        let ending = match status.code() {
            None => Ending::Killed,
            Some(0) => Ending::WentOn,
            Some(code) => Ending::Exit(code),
        };
        let log = process.log()?;
        let reached = action.is_told(point, &log);
        ensure!(
            reached || ending == Ending::WentOn,
            "ended before {point} was reached: {status}:\n{log}"
        );
        let fits = match action {
            Action::Kill => ending == Ending::Killed,
            Action::Error => ending != Ending::Killed,
            Action::Delay => ending == Ending::WentOn,
        };
        ensure!(
            !reached || fits,
            "{action} at {point} ended it by {status}:\n{log}"
        );
        Ok(reached.then_some(ending))
    }

    fn case(&self, point: &str, action: Action, passing: u64) -> Case {
        Case {
            driver: self.driver.to_string(),
            point: point.to_owned(),
            action,
            passing,
            ending: None,
            wrong: None,
        }
    }

    /// A case on a site of its own.
    async fn one(&self, point: &str, action: Action) -> Result<Case> {
        // In the middle; where passings depend on time, rather early.
        let passed = self.passed.get(point).copied().unwrap_or(1);
        let middle = passed.div_ceil(2);
        let passing = match self.straight.objects {
            Some(_) => middle,
            None => middle.min(2),
        };
        let site = self.site().await?;
        let mut case = self.case(point, action, passing);
        case.ending = self.disturb(&site, (point, action, passing)).await?;
        if case.ending != Some(Ending::WentOn) {
            site.drain().await?;
        }
        case.wrong = wrong(compare::same(&site, &self.straight).await);
        self.clear(&site).await?;
        Ok(case)
    }

    /// Dies at each point in turn, each life going on where the last one died; when everything is
    /// delivered before a point is reached, begins anew.
    async fn tour(&self, points: &[&Point], progress: &Progress) -> Result<Vec<Case>> {
        let mut cases: Vec<Case> = Vec::new();
        let mut site = self.site().await?;
        let mut begun = cases.len();
        for point in points {
            let order = (point.name.as_str(), Action::Kill, 1);
            let mut ending = self.disturb(&site, order).await?;
            if ending.is_none() && begun < cases.len() {
                self.close(&site, &mut cases[begun..]).await?;
                begun = cases.len();
                site = self.site().await?;
                ending = self.disturb(&site, order).await?;
            }
            let mut case = self.case(&point.name, Action::Kill, 1);
            case.ending = ending;
            cases.push(case);
            progress.step("");
        }
        self.close(&site, &mut cases[begun..]).await?;
        Ok(cases)
    }

    /// Drains a site after a tour and tells its cases what is wrong.
    async fn close(&self, site: &Site, cases: &mut [Case]) -> Result<()> {
        site.drain().await?;
        let same = async {
            compare::same(site, &self.straight).await?;
            site.audits().await
        };
        let wrong = wrong(same.await);
        for case in cases {
            case.wrong.clone_from(&wrong);
        }
        self.clear(site).await
    }
}

fn wrong(result: Result<()>) -> Option<String> {
    result.err().map(|error| format!("{error:#}"))
}

/// How much is done at the points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Each point killed in turn.
    Tour,
    /// Each point with every action, each on a site of its own.
    Whole,
}

/// Runs the cases of a driver.
///
/// # Errors
/// Something that is no finding: a program is missing, or a life ended for another reason.
pub async fn run(
    driver: Driver,
    depth: Depth,
    messages: u64,
    seed: u64,
    progress: &Progress,
) -> Result<Vec<Case>> {
    let points = all()?;
    let points: Vec<&Point> = points.iter().filter(|point| point.is_in(driver)).collect();
    let faults = format!(
        "broken={},unknown_key={},duplicates={}",
        messages / 20,
        messages / 50,
        messages / 30
    );
    let plan = Plan::new("crash", driver, messages)
        .seed(seed)
        .faults(&faults)
        .with("--batch-limit=100");
    let tenant = Tenant::start(plan).await?;
    let straight = Straight {
        expected: Expected::read(&tenant.truth())?,
        objects: None,
    };
    let mut ground = Ground {
        tenant: &tenant,
        driver,
        url: services::engine().await?.to_owned(),
        name: match driver {
            Driver::Direct => "direct",
            Driver::Kafka => "kafka",
        },
        shape: match driver {
            Driver::Direct => BY_ROWS,
            Driver::Kafka => BY_TIME,
        },
        log: None,
        straight: straight.clone(),
        passed: BTreeMap::new(),
        sites: std::cell::Cell::default(),
    };
    ground.lay(&points, driver == Driver::Direct).await?;
    if depth == Depth::Tour {
        progress.begin(points.len() as u64);
        return ground.tour(&points, progress).await;
    }
    progress.begin((points.len() * Action::ALL.len()) as u64);
    let (of_sinks, others): (Vec<&Point>, Vec<&Point>) = points
        .iter()
        .copied()
        .partition(|point| driver == Driver::Kafka && point.is_of_a_sink());
    let mut cases = each(&ground, &others, progress).await?;
    if !of_sinks.is_empty() {
        let source = ground.site().await?;
        source.drain().await?;
        let broker = services::broker().await?;
        let log = topics::read(broker, &source.topic_prefix)?;
        let mut ground = Ground {
            name: "sinks",
            shape: WHOLE,
            log: Some(&log),
            straight,
            ..ground
        };
        ground.lay(&of_sinks, true).await?;
        cases.extend(each(&ground, &of_sinks, progress).await?);
    }
    Ok(cases)
}

async fn each(ground: &Ground<'_>, points: &[&Point], progress: &Progress) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for point in points {
        for action in Action::ALL {
            let case = ground.one(&point.name, action).await;
            let case =
                case.with_context(|| format!("{}: {action} at {}", ground.driver, point.name))?;
            if !case.holds() {
                progress.tell(&format!("FAILED {case:?}"));
            }
            cases.push(case);
            progress.step("");
        }
    }
    Ok(cases)
}
