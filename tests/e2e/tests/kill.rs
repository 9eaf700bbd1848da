//! `kill -9` at ten moments of one drain, and once at its end: the same rows as without.
//!
//! `CHATLEDGER_E2E_SEED` gives other moments and another tenant.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

use std::time::Duration;

use chatledger_e2e::kills::{Moment, kill_at, moments};
use chatledger_e2e::tenant::{self, Plan, Tenant};
use chatledger_e2e::{Driver, Expected, stored};
use test_case::test_case;

const KILLS: usize = 10;

fn seed() -> u64 {
    match std::env::var("CHATLEDGER_E2E_SEED") {
        Ok(text) => text.parse().expect("CHATLEDGER_E2E_SEED is no number"),
        Err(_) => 20,
    }
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn drain_killed_ten_times_equals_the_truth(driver: Driver) {
    let messages = tenant::messages().unwrap();
    // Small pages that take their time, so that there is a middle to be killed in.
    let plan = Plan::new("kill", driver, messages)
        .seed(seed())
        .faults("broken=20,unknown_key=10,duplicates=40,slow=25")
        .with(format!(
            "--batch-limit={}",
            (messages / 100).clamp(50, 1000)
        ));
    let tenant = Tenant::start(plan).await.unwrap();
    assert_eq!(tenant.ended("migrate", &[]).await.unwrap().code, 0);
    stored::merge(&tenant.clickhouse, false).await.unwrap();

    let mut hits = 0;
    for moment in moments(seed(), KILLS, messages) {
        let hit = kill_at(&tenant, moment).await.unwrap();
        eprintln!(
            "{driver}: kill {moment}: {}",
            if hit { "hit" } else { "had ended" }
        );
        hits += usize::from(hit);
    }
    let records = Expected::read(&tenant.truth()).unwrap().drained().pulled;
    let stored = tenant
        .clickhouse
        .number("SELECT count() FROM messages")
        .await
        .unwrap();
    // The end of a drain: everything is pulled, nothing more comes, sinks are being closed.
    let near = Moment::Stored(
        messages.saturating_sub(stored + 40),
        Duration::from_millis(30),
    );
    let last = kill_at(&tenant, near).await.unwrap();
    eprintln!(
        "{driver}: kill {near}: {}",
        if last { "hit" } else { "had ended" }
    );
    eprintln!("{driver}: {hits} of {KILLS} kills hit a running process, {records} records");
    assert_eq!(hits, KILLS, "a kill came after the end of the drain");

    tenant.drain().await.unwrap();
    stored::equals_truth(&tenant).await.unwrap();
}
