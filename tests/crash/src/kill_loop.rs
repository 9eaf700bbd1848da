//! Kills a busy deployment at random moments and counts lost and duplicated rows afterwards.
//!
//! Messages are sent continuously, also while no process runs, so that every run has work to do from
//! start to end. The moments are derived from the seed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chatledger_e2e::tenant::{Tenant, TenantPlan};
use chatledger_e2e::waiting::until;
use chatledger_e2e::{Driver, Expected, difference, services, stored};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::deployment::{BatchLimits, Deployment};
use crate::progress::Progress;
use crate::topics;

/// Small batches that end by time, so that many kills happen during a write.
const LIMITS: BatchLimits = BatchLimits {
    batch_rows: 200,
    batch_interval: "100ms",
    roll_rows: 1000,
    roll_interval: "400ms",
    partitions: 4,
};
/// Number of messages sent at once, and the interval.
const MESSAGES_AT_ONCE: u64 = 15;
const SEND_INTERVAL: Duration = Duration::from_millis(100);
/// Number of kills after which duplicates are counted and the tables are merged.
const CHECK_INTERVAL: u32 = 10;
/// Maximum wait for the first stored row before a process is killed anyway.
const FIRST_ROW: Duration = Duration::from_secs(10);

/// When a process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillMoment {
    /// This time after its start.
    Started(Duration),
    /// This time after it has stored its first row.
    Stored(Duration),
}

/// Returns the moments of `kills` kills.
pub fn moments(seed: u64, kills: u32) -> Vec<KillMoment> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut within = |most: u64| Duration::from_micros(rng.random_range(0..most * 1000));
    (0..kills)
        .map(|kill| match kill % 4 {
            0 => KillMoment::Started(within(1500)),
            _ => KillMoment::Stored(within(1500)),
        })
        .collect()
}

/// The result of a kill loop.
#[derive(Clone, Debug, Serialize)]
pub struct KillLoopResult {
    /// The driver.
    pub driver: String,
    /// The seed of the moments and the tenant.
    pub seed: u64,
    /// Requested kills.
    pub kills: u32,
    /// Kills that hit a running process.
    pub hit: u32,
    /// Those of them that hit a process that had stored rows.
    pub while_storing: u32,
    /// Messages of the tenant at the end.
    pub messages: usize,
    /// Messages that are missing in a sink.
    pub lost: SinkCounts,
    /// Duplicated rows in a sink, without `FINAL`.
    pub twice: SinkCounts,
    /// Any other difference from the truth in tables and columns; `None` if there is none.
    pub wrong: Option<String>,
    /// Duration of the loop.
    pub seconds: u64,
}

/// A count for each sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SinkCounts {
    /// In the tables.
    pub clickhouse: u64,
    /// In the files.
    pub parquet: u64,
}

impl KillLoopResult {
    /// Returns whether nothing was lost or duplicated and every kill hit a running process.
    pub fn passed(&self) -> bool {
        let nothing = SinkCounts::default();
        self.wrong.is_none()
            && self.lost == nothing
            && self.twice == nothing
            && self.hit == self.kills
    }
}

/// Kills the process `kills` times and counts lost and duplicated rows.
///
/// # Errors
/// The test cannot be run: a program is missing, or a process ended by itself.
pub async fn run(
    driver: Driver,
    kills: u32,
    seed: u64,
    progress: &Progress,
) -> Result<KillLoopResult> {
    let began = Instant::now();
    progress.begin(u64::from(kills));
    let plan = TenantPlan::new("loop", driver, 1000)
        .seed(seed)
        .faults("broken=20,unknown_key=10,duplicates=40,slow=10")
        .arg("--batch-limit=50");
    let tenant = Tenant::start(plan).await?;
    let url = services::engine().await?;
    let deployment = Deployment::new(&tenant, url, &format!("loop_{driver}"), LIMITS, None).await?;
    let sender = MessageSender::start(&tenant.base_url);
    let (mut hit, mut while_storing, mut duplicates) = (0, 0, 0);
    for (kill, moment) in (1..).zip(moments(seed, kills)) {
        let (was_hit, stored) = run_and_kill(&deployment, moment).await?;
        hit += u32::from(was_hit);
        while_storing += u32::from(was_hit && stored);
        if kill % CHECK_INTERVAL == 0 || kill == kills {
            duplicates += count_duplicates(&deployment)
                .await
                .with_context(|| format!("after kill {kill}"))?;
        }
        progress.step(&format!("{hit} hit, {duplicates} duplicated"));
    }
    sender.stop().await?;
    deployment.drain().await?;
    duplicates += count_duplicates(&deployment).await?;

    let expected = Expected::read(&tenant.truth())?;
    let files = stored::parquet_rows(&deployment.parquet.join("messages"), "messages")?;
    let ids: BTreeSet<&str> = files
        .iter()
        .filter_map(|row| row["msgid"].as_str())
        .collect();
    let distinct = deployment
        .clickhouse
        .number("SELECT uniqExact(msgid) FROM messages");
    let messages = expected.messages.len();
    let lost = |found: u64| (messages as u64).saturating_sub(found);
    let result = KillLoopResult {
        driver: driver.to_string(),
        seed,
        kills,
        hit,
        while_storing,
        messages,
        lost: SinkCounts {
            clickhouse: lost(distinct.await?),
            parquet: lost(ids.len() as u64),
        },
        twice: SinkCounts {
            clickhouse: duplicates,
            parquet: (files.len() - ids.len()) as u64,
        },
        wrong: differs(&deployment, &expected, &files)
            .await
            .err()
            .map(|e| format!("{e:#}")),
        seconds: began.elapsed().as_secs(),
    };
    if driver == Driver::Kafka {
        topics::delete(services::broker().await?, &deployment.topic_prefix).await?;
    }
    Ok(result)
}

async fn differs(deployment: &Deployment, expected: &Expected, messages: &[Value]) -> Result<()> {
    stored::tables_equal(&deployment.clickhouse, expected).await?;
    let want = Expected::with_days(&expected.messages);
    difference::same("Parquet messages", &["msgid"], &want, messages)?;
    let violations = stored::parquet_rows(&deployment.parquet.join("violations"), "violations")?;
    let want = Expected::with_days(&expected.violations);
    difference::same(
        "Parquet violations",
        &["msgid", "rule_id"],
        &want,
        &violations,
    )?;
    deployment.audits().await
}

/// Starts a process and kills it; returns whether the kill hit it and whether it had stored rows.
async fn run_and_kill(deployment: &Deployment, moment: KillMoment) -> Result<(bool, bool)> {
    let rows = async || {
        deployment
            .clickhouse
            .number("SELECT count() FROM messages")
            .await
    };
    let before = rows().await?;
    let began = Instant::now();
    let mut process = deployment.run(false, None)?;
    let delay = match moment {
        KillMoment::Started(delay) => delay.saturating_sub(began.elapsed()),
        KillMoment::Stored(delay) => {
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
    ensure!(hit, "the process ended by itself:\n{}", process.log()?);
    Ok((hit, rows().await? > before))
}

/// Counts duplicated rows, then merges the tables, which removes duplicates.
async fn count_duplicates(deployment: &Deployment) -> Result<u64> {
    let mut duplicates = 0;
    let keys = [
        ("messages", "msgid"),
        ("violations", "violation_id"),
        ("dead_letters", "seq"),
    ];
    for (table, key) in keys {
        let sql = format!("SELECT count() - uniqExact({key}) FROM {table}");
        duplicates += deployment.clickhouse.number(&sql).await?;
    }
    stored::set_merges(&deployment.clickhouse, true).await?;
    for (table, _) in keys {
        let sql = format!("OPTIMIZE TABLE {table}");
        deployment.clickhouse.query(&sql).await?;
    }
    stored::set_merges(&deployment.clickhouse, false).await?;
    Ok(duplicates)
}

/// A task that sends messages to the archive.
struct MessageSender {
    task: JoinHandle<Result<()>>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl MessageSender {
    fn start(base_url: &str) -> Self {
        let url = format!("{base_url}/sim/append?count={MESSAGES_AT_ONCE}");
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let client = reqwest::Client::new();
            let mut ticks = tokio::time::interval(SEND_INTERVAL);
            loop {
                tokio::select! {
                    _ = &mut stopped => return Ok(()),
                    _ = ticks.tick() => {}
                }
                let response = client.post(&url).send().await.context("send messages")?;
                ensure!(
                    response.status().is_success(),
                    "the simulator returned an error"
                );
            }
        });
        Self { task, stop }
    }

    /// Stops it; all sent messages are then in the truth.
    async fn stop(self) -> Result<()> {
        // If the task has already failed, it returns its error.
        let _ = self.stop.send(());
        self.task.await.context("send messages")?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_derived_from_the_seed() {
        assert_eq!(moments(7, 40), moments(7, 40));
        assert_ne!(moments(7, 40), moments(8, 40));
        let at_start = moments(7, 40)
            .iter()
            .filter(|moment| matches!(moment, KillMoment::Started(_)))
            .count();
        assert_eq!(at_start, 10);
    }
}
