//! Peers that misbehave: an archive that fails in every way, a ClickHouse that dies in the middle.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use chatledger_e2e::janitor::Janitor;
use chatledger_e2e::services::Engine;
use chatledger_e2e::tenant::{Plan, Tenant};
use chatledger_e2e::waiting::until_true;
use chatledger_e2e::{ClickHouse, Driver, Expected, stored};

const SOON: Duration = Duration::from_secs(120);

async fn failing_archive(driver: Driver) {
    let faults = "broken=14,unknown_key=5,envelope=4,duplicates=20,api=0.1,empty=0.05";
    let plan = Plan::new("failing", driver, 3000)
        .seed(7)
        .faults(faults)
        .with("--batch-limit=40");
    let tenant = Tenant::start(plan).await.unwrap();
    let first = tenant.drain().await.unwrap();
    let expected = stored::equals_truth(&tenant).await.unwrap();
    assert_eq!(first.messages, expected.drained().messages);
    let calls = tenant.calls().await.unwrap();
    let failed = calls["calls"]["getchatdata faults"]["refused"].as_u64();
    assert!(failed > Some(2), "the archive has hardly failed: {calls}");
}

#[tokio::test(flavor = "multi_thread")]
async fn archive_that_fails_one_call_in_ten_is_drained_whole_by_the_direct_driver() {
    failing_archive(Driver::Direct).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn archive_that_fails_one_call_in_ten_is_drained_whole_by_the_kafka_driver() {
    failing_archive(Driver::Kafka).await;
}

async fn clickhouse_dies(driver: Driver) {
    let data = Janitor::get().unwrap().folder("dying").unwrap();
    let engine = Engine::start(&data, "127.0.0.1:0").await.unwrap();
    let mut plan = Plan::new("dying", driver, 6000)
        .faults("broken=7,unknown_key=3,duplicates=10,slow=15")
        .with("--batch-limit=100");
    plan.clickhouse = Some(engine.url.clone());
    let tenant = Tenant::start(plan).await.unwrap();
    // Small cuts, so that there are many writes to die in.
    tenant
        .configure(&[(
            "database = ",
            "batch_rows = 500\nbatch_interval = \"100ms\"\ndatabase = ",
        )])
        .unwrap();
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    let rows = async |clickhouse: &ClickHouse| {
        let rows = clickhouse.number("SELECT count() FROM messages").await;
        // While it is dead there is no answer.
        rows.unwrap_or_default()
    };
    until_true("some messages are stored", SOON, async || {
        Ok(rows(&tenant.clickhouse).await > 1000)
    })
    .await
    .unwrap();

    let mut engine = engine;
    assert!(engine.process.kill().unwrap());
    let errors = "chatledger_sink_errors_total";
    until_true("the metrics tell of the dead sink", SOON, async || {
        Ok(endpoints
            .scrape()
            .await?
            .sum(errors, &["sink=\"clickhouse\""])
            > 0.0)
    })
    .await
    .unwrap();
    assert!(
        run.ended().unwrap().is_none(),
        "it gave up:\n{}",
        run.log().unwrap()
    );
    let _engine = engine.restart().await.unwrap();

    let expected = Expected::read(&tenant.truth()).unwrap();
    until_true("everything is stored after all", SOON, async || {
        Ok(rows(&tenant.clickhouse).await >= expected.messages.len() as u64)
    })
    .await
    .unwrap();
    run.terminate().unwrap();
    let (code, _) = run.finish(SOON).await.unwrap();
    assert_eq!(code, 0, "{}", run.log().unwrap());
    stored::equals_truth(&tenant).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_killed_and_started_again_under_the_direct_driver_holds_every_row_once() {
    clickhouse_dies(Driver::Direct).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_killed_and_started_again_under_the_kafka_driver_holds_every_row_once() {
    clickhouse_dies(Driver::Kafka).await;
}
