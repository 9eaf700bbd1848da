//! A drain killed at ten moments and once near its end stores the same rows as an undisturbed one.
//!
//! `CHATLEDGER_E2E_SEED` selects other moments and another tenant.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

use std::time::Duration;

use chatledger_e2e::kills::{KillMoment, kill_at, moments};
use chatledger_e2e::tenant::{self, Tenant, TenantPlan};
use chatledger_e2e::{Driver, Expected, stored};
use test_case::test_case;

const KILLS: usize = 10;

fn seed() -> u64 {
    match std::env::var("CHATLEDGER_E2E_SEED") {
        Ok(text) => text.parse().expect("CHATLEDGER_E2E_SEED is not a number"),
        Err(_) => 20,
    }
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn drain_killed_ten_times_equals_the_truth(driver: Driver) {
    let messages = tenant::messages().unwrap();
    // Small, slow pages, so that the drain takes long enough to be killed.
    let plan = TenantPlan::new("kill", driver, messages)
        .seed(seed())
        .faults("broken=20,unknown_key=10,duplicates=40,slow=25")
        .arg(format!(
            "--batch-limit={}",
            (messages / 100).clamp(50, 1000)
        ));
    let tenant = Tenant::start(plan).await.unwrap();
    assert_eq!(tenant.run_to_end("migrate", &[]).await.unwrap().code, 0);
    stored::set_merges(&tenant.clickhouse, false).await.unwrap();

    let mut hits = 0;
    for moment in moments(seed(), KILLS, messages) {
        let hit = kill_at(&tenant, moment).await.unwrap();
        eprintln!(
            "{driver}: kill {moment}: {}",
            if hit { "hit" } else { "already ended" }
        );
        hits += usize::from(hit);
    }
    let records = Expected::read(&tenant.truth()).unwrap().drained().pulled;
    let stored = tenant
        .clickhouse
        .number("SELECT count() FROM messages")
        .await
        .unwrap();
    // Near the end of a drain, everything is pulled and the sinks are being closed.
    let near_end = KillMoment::Stored(
        messages.saturating_sub(stored + 40),
        Duration::from_millis(30),
    );
    let last = kill_at(&tenant, near_end).await.unwrap();
    eprintln!(
        "{driver}: kill {near_end}: {}",
        if last { "hit" } else { "already ended" }
    );
    eprintln!("{driver}: {hits} of {KILLS} kills hit a running process, {records} records");
    assert_eq!(hits, KILLS, "the drain ended before a kill");

    tenant.drain().await.unwrap();
    stored::equals_truth(&tenant).await.unwrap();
}
