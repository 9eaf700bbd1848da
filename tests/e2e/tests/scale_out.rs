//! Several processes on the same groups: killed, stopped and woken, joining and leaving; the broker
//! killed; topics made wider. Whatever happens, each row stands there once, before FINAL too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use chatledger_e2e::proxy::{Mood, Proxy};
use chatledger_e2e::services::{self, Broker};
use chatledger_e2e::tenant::{Plan, Summary, Tenant};
use chatledger_e2e::waiting::until_true;
use chatledger_e2e::{Driver, Expected, Process, groups, stored};

const SOON: Duration = Duration::from_secs(240);

/// Short sessions and transactions, so that what is dead or stopped is missed soon: what it left open
/// keeps others from its partitions until it has run out.
const PROPERTIES: &str = "[kafka.properties]\n\"session.timeout.ms\" = \"2500\"\n\
    \"heartbeat.interval.ms\" = \"300\"\n\"topic.metadata.refresh.interval.ms\" = \"1000\"\n\
    \"transaction.timeout.ms\" = \"6000\"";

async fn deployment(plan: Plan) -> Tenant {
    let plan = plan
        .faults("broken=14,unknown_key=6,duplicates=30,slow=20")
        .with("--batch-limit=50");
    let tenant = Tenant::start(plan).await.unwrap();
    tenant.configure_also(PROPERTIES).unwrap();
    // Small cuts, so that there are many writes to be disturbed in.
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
    // Before the first process is up there is no table.
    rows.await.unwrap_or_default()
}

/// Waits until so many rows have been added.
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

/// Stops what runs, takes in what is left, and compares everything with the truth.
async fn equals_truth(tenant: &Tenant, running: Vec<Process>) {
    for mut process in running {
        process.terminate().unwrap();
        let (code, _) = process.finish(SOON).await.unwrap();
        assert_eq!(code, 0, "{}", process.log().unwrap());
    }
    tenant.drain().await.unwrap();
    let mut again = tenant.chatledger("run", &["--drain"]).unwrap();
    let summary = Tenant::drained(&mut again).await.unwrap();
    assert_eq!(summary, Summary::default(), "{}", again.log().unwrap());
    stored::equals_truth(tenant).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_killed_joining_and_leaving_hold_every_row_once() {
    let tenant = deployment(Plan::new("coming_and_going", Driver::Kafka, 4000)).await;
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
    // One that was killed comes back under its own name.
    let mut back = tenant.member(1, &[]).unwrap();
    grows(&tenant, 300).await;
    assert!(back.kill().unwrap());
    let back = tenant.member(1, &[]).unwrap();
    all_stored(&tenant).await;
    let left = running.remove(1);
    assert_eq!(finished(left).await, 0);
    running.push(back);
    equals_truth(&tenant, running).await;
}

async fn finished(mut process: Process) -> i32 {
    process.finish(SOON).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn process_stopped_for_longer_than_its_session_writes_nothing_when_it_wakes() {
    let tenant = deployment(Plan::new("zombie", Driver::Kafka, 2000)).await;
    let mut running: Vec<Process> = (1..=3)
        .map(|number| tenant.member(number, &[]).unwrap())
        .collect();
    grows(&tenant, 200).await;
    for zombie in &mut running {
        zombie.freeze().unwrap();
        // Everything it held is taken over and brought to the end, cuts of its making repeated.
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
async fn insert_of_a_stopped_process_that_arrives_late_adds_nothing() {
    let plan = Plan::new("late_insert", Driver::Kafka, 1500);
    let proxy = Proxy::start(services::engine().await.unwrap())
        .await
        .unwrap();
    let tenant = deployment(plan).await;
    // The zombie alone goes through the proxy.
    let engine = services::engine().await.unwrap();
    tenant.configure(&[(engine, proxy.url())]).unwrap();
    let mut zombie = tenant.member(1, &[]).unwrap();
    tenant.configure(&[(proxy.url(), engine)]).unwrap();
    grows(&tenant, 100).await;

    // Its inserts are on their way, and it stops.
    proxy.set(Mood::Late);
    until_true(
        "an insert is held up",
        SOON,
        async || Ok(proxy.bitten() > 0),
    )
    .await
    .unwrap();
    zombie.freeze().unwrap();
    let heir = tenant.member(2, &[]).unwrap();
    all_stored(&tenant).await;
    // Now they arrive.
    proxy.set(Mood::Well);
    until_true("the late insert has arrived", SOON, async || {
        Ok(proxy.waiting() == 0)
    })
    .await
    .unwrap();
    zombie.thaw().unwrap();
    tenant.append(200).await.unwrap();
    all_stored(&tenant).await;
    equals_truth(&tenant, vec![zombie, heir]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broker_killed_and_started_again_costs_no_row_and_doubles_none() {
    let broker = Broker::start().await.unwrap();
    let mut plan = Plan::new("broker", Driver::Kafka, 3000);
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
async fn topics_made_wider_while_running_are_taken_up() {
    let tenant = deployment(Plan::new("wider", Driver::Kafka, 1500)).await;
    let broker = services::broker().await.unwrap();
    let running: Vec<Process> = (1..=2)
        .map(|number| tenant.member(number, &[]).unwrap())
        .collect();
    // A repeat by the archive is recognised in the partition of its first only: all of them come
    // before.
    all_stored(&tenant).await;
    for topic in ["raw", "messages", "violations", "deadletter"] {
        let topic = format!("{}.{topic}", tenant.topic_prefix);
        groups::widen(broker, &topic, 7).await.unwrap();
    }
    let raw = format!("{}.raw", tenant.topic_prefix);
    let mut sent = 0;
    until_true("the new partitions are in use", SOON, async || {
        tenant.append(50).await?;
        sent += 50;
        all_stored(&tenant).await;
        groups::used(broker, &raw, 4..7)
    })
    .await
    .unwrap();
    assert!(sent > 0);
    equals_truth(&tenant, running).await;
}
