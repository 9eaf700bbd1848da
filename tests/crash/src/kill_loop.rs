//! Random SIGKILLs over one deployment that is kept busy, and the count afterwards.
//!
//! Messages are sent all the while, also while nothing runs, so every life has something to do from
//! its first moment to its last. The moments follow from the seed, as far as the machine lets them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chatledger_e2e::tenant::{Plan, Tenant};
use chatledger_e2e::waiting::until;
use chatledger_e2e::{Driver, Expected, difference, services, stored};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::progress::Progress;
use crate::site::{Shape, Site};
use crate::topics;

/// Small cuts that end by time, so that there are many to die in.
const SHAPE: Shape = Shape {
    batch_rows: 200,
    batch_interval: "100ms",
    roll_rows: 1000,
    roll_interval: "400ms",
    partitions: 4,
};
/// Messages that are sent together, and how often.
const SENT: u64 = 15;
const EVERY: Duration = Duration::from_millis(100);
/// Kills after which tables are looked through for repeats and then merged.
const LOOK: u32 = 10;
/// How long a life may take to store its first row before it is killed without.
const FIRST_ROW: Duration = Duration::from_secs(10);

/// When a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// So long after its start.
    Started(Duration),
    /// So long after it has stored its first row.
    Stored(Duration),
}

/// The moments of `kills` lives.
pub fn moments(seed: u64, kills: u32) -> Vec<Moment> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut within = |most: u64| Duration::from_micros(rng.random_range(0..most * 1000));
    (0..kills)
        .map(|kill| match kill % 4 {
            0 => Moment::Started(within(1500)),
            _ => Moment::Stored(within(1500)),
        })
        .collect()
}

/// What a loop has found.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// The driver.
    pub driver: String,
    /// The seed of moments and tenant.
    pub seed: u64,
    /// Kills asked for.
    pub kills: u32,
    /// Kills that hit a running process.
    pub hit: u32,
    /// Of those, how many hit one that had stored rows in that life.
    pub while_storing: u32,
    /// Messages of the tenant in the end.
    pub messages: usize,
    /// Messages that are not in a sink.
    pub lost: Sinks,
    /// Rows of messages that stand in a sink beside another of the same message, before `FINAL`.
    pub twice: Sinks,
    /// How the rest differs from the truth, every table and column; `None` if in nothing.
    pub wrong: Option<String>,
    /// How long the loop took.
    pub seconds: u64,
}

/// A number for each sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sinks {
    /// Of the tables.
    pub clickhouse: u64,
    /// Of the files.
    pub parquet: u64,
}

impl Findings {
    /// Whether nothing was lost, nothing stands there twice, and every kill hit.
    pub fn hold(&self) -> bool {
        let nothing = Sinks::default();
        self.wrong.is_none()
            && self.lost == nothing
            && self.twice == nothing
            && self.hit == self.kills
    }
}

/// Kills `kills` lives and counts.
///
/// # Errors
/// Something that is no finding: a program is missing, or a life ended by itself.
pub async fn run(driver: Driver, kills: u32, seed: u64, progress: &Progress) -> Result<Findings> {
    let began = Instant::now();
    progress.begin(u64::from(kills));
    let plan = Plan::new("loop", driver, 1000)
        .seed(seed)
        .faults("broken=20,unknown_key=10,duplicates=40,slow=10")
        .with("--batch-limit=50");
    let tenant = Tenant::start(plan).await?;
    let url = services::engine().await?;
    let site = Site::new(&tenant, url, &format!("loop_{driver}"), SHAPE, None).await?;
    let sending = Sending::start(&tenant.base_url);
    let (mut hit, mut while_storing, mut repeats) = (0, 0, 0);
    for (kill, moment) in (1..).zip(moments(seed, kills)) {
        let (was_hit, stored) = life(&site, moment).await?;
        hit += u32::from(was_hit);
        while_storing += u32::from(was_hit && stored);
        if kill % LOOK == 0 || kill == kills {
            repeats += look(&site)
                .await
                .with_context(|| format!("after kill {kill}"))?;
        }
        progress.step(&format!("{hit} hit, {repeats} twice"));
    }
    sending.stop().await?;
    site.drain().await?;
    repeats += look(&site).await?;

    let expected = Expected::read(&tenant.truth())?;
    let files = stored::parquet_rows(&site.parquet.join("messages"), "messages")?;
    let ids: BTreeSet<&str> = files
        .iter()
        .filter_map(|row| row["msgid"].as_str())
        .collect();
    let distinct = site
        .clickhouse
        .number("SELECT uniqExact(msgid) FROM messages");
    let messages = expected.messages.len();
    let lost = |found: u64| (messages as u64).saturating_sub(found);
    let findings = Findings {
        driver: driver.to_string(),
        seed,
        kills,
        hit,
        while_storing,
        messages,
        lost: Sinks {
            clickhouse: lost(distinct.await?),
            parquet: lost(ids.len() as u64),
        },
        twice: Sinks {
            clickhouse: repeats,
            parquet: (files.len() - ids.len()) as u64,
        },
        wrong: differs(&site, &expected, &files)
            .await
            .err()
            .map(|e| format!("{e:#}")),
        seconds: began.elapsed().as_secs(),
    };
    if driver == Driver::Kafka {
        topics::remove(services::broker().await?, &site.topic_prefix).await?;
    }
    Ok(findings)
}

async fn differs(site: &Site, expected: &Expected, messages: &[Value]) -> Result<()> {
    stored::tables_equal(&site.clickhouse, expected).await?;
    let want = Expected::with_days(&expected.messages);
    difference::same("Parquet messages", &["msgid"], &want, messages)?;
    let violations = stored::parquet_rows(&site.parquet.join("violations"), "violations")?;
    let want = Expected::with_days(&expected.violations);
    difference::same(
        "Parquet violations",
        &["msgid", "rule_id"],
        &want,
        &violations,
    )?;
    site.audits().await
}

/// One life: whether the kill hit it while it ran, and whether it had stored rows.
async fn life(site: &Site, moment: Moment) -> Result<(bool, bool)> {
    let rows = async || site.clickhouse.number("SELECT count() FROM messages").await;
    let before = rows().await?;
    let began = Instant::now();
    let mut process = site.run(false, None)?;
    let delay = match moment {
        Moment::Started(delay) => delay.saturating_sub(began.elapsed()),
        Moment::Stored(delay) => {
            until("a row is stored", FIRST_ROW * 2, async || {
                let late = began.elapsed() >= FIRST_ROW;
                let done = late || rows().await? > before || process.ended()?.is_some();
                Ok(done.then_some(()))
            })
            .await?;
            delay
        }
    };
    tokio::time::sleep(delay).await;
    let hit = process.kill()?;
    ensure!(hit, "it ended by itself:\n{}", process.log()?);
    Ok((hit, rows().await? > before))
}

/// Counts rows that stand there twice, then lets the tables be merged, which would hide them.
async fn look(site: &Site) -> Result<u64> {
    let mut repeats = 0;
    let keys = [
        ("messages", "msgid"),
        ("violations", "violation_id"),
        ("dead_letters", "seq"),
    ];
    for (table, key) in keys {
        let sql = format!("SELECT count() - uniqExact({key}) FROM {table}");
        repeats += site.clickhouse.number(&sql).await?;
    }
    stored::merge(&site.clickhouse, true).await?;
    for (table, _) in keys {
        let sql = format!("OPTIMIZE TABLE {table}");
        site.clickhouse.ask(&sql).await?;
    }
    stored::merge(&site.clickhouse, false).await?;
    Ok(repeats)
}

/// Messages on their way into the archive.
struct Sending {
    task: JoinHandle<Result<()>>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl Sending {
    fn start(base_url: &str) -> Self {
        let url = format!("{base_url}/sim/append?count={SENT}");
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let client = reqwest::Client::new();
            let mut ticks = tokio::time::interval(EVERY);
            loop {
                tokio::select! {
                    _ = &mut stopped => return Ok(()),
                    _ = ticks.tick() => {}
                }
                let answer = client.post(&url).send().await.context("send messages")?;
                ensure!(answer.status().is_success(), "the simulator refuses");
            }
        });
        Self { task, stop }
    }

    /// Ends it; everything sent is in the truth then.
    async fn stop(self) -> Result<()> {
        // It may have failed before; the task says how.
        let _ = self.stop.send(());
        self.task.await.context("send messages")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_follow_from_the_seed() {
        assert_eq!(moments(7, 40), moments(7, 40));
        assert_ne!(moments(7, 40), moments(8, 40));
        let at_start = moments(7, 40)
            .iter()
            .filter(|moment| matches!(moment, Moment::Started(_)))
            .count();
        assert_eq!(at_start, 10);
    }
}
