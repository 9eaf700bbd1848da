//! Several processes in the same consumer groups are killed, suspended, started and stopped; the broker
//! is killed; partitions are added. In each case, every row is stored once, also without FINAL.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use chatledger_e2e::proxy::{FaultProxy, ProxyMode};
use chatledger_e2e::services::{self, Broker};
use chatledger_e2e::tenant::{DrainSummary, Tenant, TenantPlan};
use chatledger_e2e::waiting::until_true;
use chatledger_e2e::{Driver, Expected, Process, groups, stored};

const SOON: Duration = Duration::from_secs(240);

/// Short timeouts, so that a dead or suspended process is detected early: its open transaction blocks
/// its partitions until it times out.
const PROPERTIES: &str = "[kafka.properties]\n\"session.timeout.ms\" = \"2500\"\n\
    \"heartbeat.interval.ms\" = \"300\"\n\"topic.metadata.refresh.interval.ms\" = \"1000\"\n\
    \"transaction.timeout.ms\" = \"6000\"";

async fn deployment(plan: TenantPlan) -> Tenant {
    let plan = plan
        .faults("broken=14,unknown_key=6,duplicates=30,slow=20")
        .arg("--batch-limit=50");
    let tenant = Tenant::start(plan).await.unwrap();
    tenant.append_config(PROPERTIES).unwrap();
    // Small batches, so that there are many writes to disturb.
    tenant
        .configure(&[
            ("topic_prefix = ", "partitions = 4\ntopic_prefix = "),
            (
                "database = ",
                "batch_rows = 100\nbatch_interval = \"50ms\"\ndatabase = ",
            ),
            (
                "url = \"file:parquet\"",
                "url = \"file:parquet\"\nroll_rows = 300\nroll_interval = \"300ms\"",
            ),
        ])
        .unwrap();
    tenant
}

async fn rows(tenant: &Tenant) -> u64 {
    let rows = tenant.clickhouse.number("SELECT count() FROM messages");
    // The table does not exist before the first process has started.
    rows.await.unwrap_or_default()
}

/// Waits until this many rows have been added.
async fn grows(tenant: &Tenant, by: u64) {
    let before = rows(tenant).await;
    until_true("messages are stored", SOON, async || {
        Ok(rows(tenant).await >= before + by)
    })
    .await
    .unwrap();
}

async fn all_stored(tenant: &Tenant) {
    let expected = Expected::read(&tenant.truth()).unwrap().messages.len() as u64;
    until_true("all messages are stored", SOON, async || {
        Ok(rows(tenant).await >= expected)
    })
    .await
    .unwrap();
}

/// Stops the processes, drains the rest, and compares everything with the truth.
async fn equals_truth(tenant: &Tenant, running: Vec<Process>) {
    for mut process in running {
        process.terminate().unwrap();
        let (code, _) = process.finish(SOON).await.unwrap();
        assert_eq!(code, 0, "{}", process.log().unwrap());
    }
    tenant.drain().await.unwrap();
    let mut again = tenant.chatledger("run", &["--drain"]).unwrap();
    let summary = Tenant::drained(&mut again).await.unwrap();
    assert_eq!(summary, DrainSummary::default(), "{}", again.log().unwrap());
    stored::equals_truth(tenant).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_killed_started_and_stopped_store_every_row_once() {
    let tenant = deployment(TenantPlan::new("membership", Driver::Kafka, 4000)).await;
    let mut running: Vec<Process> = (1..=3)
        .map(|number| tenant.member(number, &[]).unwrap())
        .collect();
    grows(&tenant, 300).await;
    assert!(running[0].kill().unwrap());
    grows(&tenant, 300).await;
    running[0] = tenant.member(4, &[]).unwrap();
    grows(&tenant, 300).await;
    running[1].terminate().unwrap();
    grows(&tenant, 300).await;
    // Restart a killed process with its instance id.
    let mut restarted = tenant.member(1, &[]).unwrap();
    grows(&tenant, 300).await;
    assert!(restarted.kill().unwrap());
    let restarted = tenant.member(1, &[]).unwrap();
    all_stored(&tenant).await;
    let stopped = running.remove(1);
    assert_eq!(finished(stopped).await, 0);
    running.push(restarted);
    equals_truth(&tenant, running).await;
}

async fn finished(mut process: Process) -> i32 {
    process.finish(SOON).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn process_suspended_beyond_its_session_timeout_writes_nothing_when_resumed() {
    let tenant = deployment(TenantPlan::new("zombie", Driver::Kafka, 2000)).await;
    let mut running: Vec<Process> = (1..=3)
        .map(|number| tenant.member(number, &[]).unwrap())
        .collect();
    grows(&tenant, 200).await;
    for zombie in &mut running {
        zombie.freeze().unwrap();
        // Other processes take over its partitions and retry its pending batches.
        all_stored(&tenant).await;
        tenant.append(400).await.unwrap();
        all_stored(&tenant).await;
        zombie.thaw().unwrap();
        tenant.append(300).await.unwrap();
        all_stored(&tenant).await;
    }
    equals_truth(&tenant, running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_insert_of_a_suspended_process_adds_nothing() {
    let plan = TenantPlan::new("late_insert", Driver::Kafka, 1500);
    let proxy = FaultProxy::start(services::engine().await.unwrap())
        .await
        .unwrap();
    let tenant = deployment(plan).await;
    // Only the zombie uses the proxy.
    let engine = services::engine().await.unwrap();
    tenant.configure(&[(engine, proxy.url())]).unwrap();
    let mut zombie = tenant.member(1, &[]).unwrap();
    tenant.configure(&[(proxy.url(), engine)]).unwrap();
    grows(&tenant, 100).await;

    // Hold back its inserts and suspend it.
    proxy.set(ProxyMode::Delay);
    until_true("an insert is held back", SOON, async || {
        Ok(proxy.disturbed() > 0)
    })
    .await
    .unwrap();
    zombie.freeze().unwrap();
    let successor = tenant.member(2, &[]).unwrap();
    all_stored(&tenant).await;
    // Forward the held-back inserts.
    proxy.set(ProxyMode::Forward);
    until_true("the late insert has been forwarded", SOON, async || {
        Ok(proxy.waiting() == 0)
    })
    .await
    .unwrap();
    zombie.thaw().unwrap();
    tenant.append(200).await.unwrap();
    all_stored(&tenant).await;
    equals_truth(&tenant, vec![zombie, successor]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_killed_and_restarted_loses_and_duplicates_no_row() {
    let broker = Broker::start().await.unwrap();
    let mut plan = TenantPlan::new("broker", Driver::Kafka, 3000);
    plan.brokers = Some(broker.address.clone());
    let tenant = deployment(plan).await;
    let running: Vec<Process> = (1..=2)
        .map(|number| tenant.member(number, &[]).unwrap())
        .collect();
    grows(&tenant, 500).await;
    broker.kill().unwrap();
    broker.restart().await.unwrap();
    tenant.append(200).await.unwrap();
    all_stored(&tenant).await;
    equals_truth(&tenant, running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_added_while_running_are_processed() {
    let tenant = deployment(TenantPlan::new("partitions", Driver::Kafka, 1500)).await;
    let broker = services::broker().await.unwrap();
    let running: Vec<Process> = (1..=2)
        .map(|number| tenant.member(number, &[]).unwrap())
        .collect();
    // A duplicate is recognised only in the partition of its original, so all duplicates must be
    // processed before.
    all_stored(&tenant).await;
    for topic in ["raw", "messages", "violations", "deadletter"] {
        let topic = format!("{}.{topic}", tenant.topic_prefix);
        groups::add_partitions(broker, &topic, 7).await.unwrap();
    }
    let raw = format!("{}.raw", tenant.topic_prefix);
    let mut sent = 0;
    until_true("the new partitions are in use", SOON, async || {
        tenant.append(50).await?;
        sent += 50;
        all_stored(&tenant).await;
        groups::have_records(broker, &raw, 4..7)
    })
    .await
    .unwrap();
    assert!(sent > 0);
    equals_truth(&tenant, running).await;
}
