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

/// The server has forgotten the insert token of the batch, or the log no longer returns the same records: the rows that are
/// there are found, and only the missing ones are inserted.
#[tokio::test(flavor = "multi_thread")]
async fn pending_batch_whose_rows_are_stored_is_not_stored_again() {
    let plan = TenantPlan::new("pending", Driver::Direct, 400).faults("broken=7,duplicates=5");
    let tenant = Tenant::start(plan).await.unwrap();
    assert_eq!(tenant.run_to_end("migrate", &[]).await.unwrap().code, 0);
    stored::set_merges(&tenant.clickhouse, false).await.unwrap();
    tenant.drain().await.unwrap();
    let counts = async || {
        let mut counts = Vec::new();
        for table in ["messages", "violations", "dead_letters"] {
            let sql = format!("SELECT count() FROM {table}");
            counts.push(tenant.clickhouse.number(&sql).await.unwrap());
        }
        counts
    };
    let before = counts().await;

    let folder = std::fs::read_dir(tenant.dir.join("state")).unwrap();
    let journal = folder
        .flatten()
        .map(|entry| entry.path().join("clickhouse.json"))
        .find(|path| path.exists())
        .unwrap();
    let text = std::fs::read_to_string(&journal).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    let end = state["position"].clone();
    // Another digest than that of the batches that were written: no token of the server matches.
    state["cut"] = serde_json::json!({"first": 1, "last": end, "records": end, "digest": 1});
    state["position"] = 0.into();
    std::fs::write(&journal, state.to_string()).unwrap();
    // A deletion is a merge.
    stored::set_merges(&tenant.clickhouse, true).await.unwrap();
    let some = "ALTER TABLE messages DELETE WHERE seq % 7 = 3 SETTINGS mutations_sync = 2";
    tenant.clickhouse.query(some).await.unwrap();
    stored::set_merges(&tenant.clickhouse, false).await.unwrap();
    assert_ne!(counts().await, before);

    let again = tenant.run_to_end("run", &["--drain"]).await.unwrap();
    assert_eq!(again.code, 0, "{}", again.stderr);
    assert!(
        again.stderr.contains("repeating the pending batch"),
        "{}",
        again.stderr
    );
    assert_eq!(counts().await, before);
    stored::equals_truth(&tenant).await.unwrap();
}
