//! One sink stands still for as long as it takes to fill every queue: memory stays within its bound,
//! and afterwards everything arrives.

use std::time::{Duration, Instant};

use chatledger_e2e::proxy::{Mood, Proxy};
use chatledger_e2e::tenant::{self, Plan, Tenant};
use chatledger_e2e::{Driver, Expected, services};

use super::{all_delivered, equals_truth, exceeds, metric};

/// For how many seconds the sink stays away while messages go on coming in (default: 0, as long as
/// what is there already takes).
const AWAY: &str = "CHATLEDGER_E2E_AWAY";

/// Messages that come in at once while it is away.
const WAVE: u64 = 20;

fn away() -> Duration {
    let seconds = std::env::var(AWAY).map_or(0, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

/// What `pipeline/ARCHITECTURE.md` states, in bytes.
const BOUND_DIRECT: u64 = 384 << 20;
const BOUND_KAFKA: u64 = 640 << 20;

async fn stalled(name: &str, driver: Driver) -> (Proxy, Tenant) {
    let engine = services::engine().await.unwrap();
    let proxy = Proxy::start(engine).await.unwrap();
    let mut plan = Plan::new(name, driver, tenant::messages().unwrap())
        .faults("broken=7,unknown_key=3,duplicates=10")
        .with("--batch-limit=1000");
    plan.clickhouse = Some(proxy.url().to_owned());
    let tenant = Tenant::start(plan).await.unwrap();
    tenant
        .configure(&[
            ("database = ", "batch_rows = 2000\ndatabase = "),
            (
                "url = \"file:parquet\"",
                "url = \"file:parquet\"\nroll_rows = 20000\nroll_interval = \"2s\"",
            ),
        ])
        .unwrap();
    // The tables are there; then the server goes.
    assert_eq!(tenant.ended("migrate", &[]).await.unwrap().code, 0);
    (proxy, tenant)
}

#[tokio::test(flavor = "multi_thread")]
async fn sink_that_stands_still_in_the_kafka_driver_holds_up_no_other_and_memory_is_bounded() {
    let (proxy, tenant) = stalled("stalled", Driver::Kafka).await;
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    proxy.set(Mood::Gone);
    let began = Instant::now();
    let written = "chatledger_sink_rows_total";
    let rows = loop {
        let expected = Expected::read(&tenant.truth()).unwrap();
        let rows = (expected.messages.len() + expected.violations.len()) as f64;
        exceeds(&endpoints, written, &["sink=\"parquet\""], rows - 0.5).await;
        if began.elapsed() >= away() {
            break rows;
        }
        tenant.append(WAVE).await.unwrap();
    };
    let in_tables = metric(&endpoints, written, &["sink=\"clickhouse\""]).await;
    assert!(in_tables < rows, "ClickHouse was not held up");
    let peak = run.peak_memory().unwrap();
    eprintln!(
        "kafka: {rows} rows, peak of {} MiB while ClickHouse stood still for {:?}",
        peak >> 20,
        began.elapsed()
    );
    assert!(peak < BOUND_KAFKA, "{peak} bytes");

    proxy.set(Mood::Well);
    all_delivered(&tenant, &endpoints).await;
    let peak = run.peak_memory().unwrap();
    eprintln!("kafka: peak of {} MiB after catching up", peak >> 20);
    assert!(peak < BOUND_KAFKA, "{peak} bytes");
    equals_truth(&tenant, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sink_that_stands_still_in_the_direct_driver_stops_the_pulling_and_memory_is_bounded() {
    let (proxy, tenant) = stalled("stalled", Driver::Direct).await;
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    proxy.set(Mood::Gone);
    let errors = "chatledger_sink_errors_total";
    exceeds(&endpoints, errors, &["sink=\"clickhouse\""], 4.5).await;
    let pulled = metric(&endpoints, "chatledger_records_pulled_total", &[]).await;
    let peak = run.peak_memory().unwrap();
    eprintln!(
        "direct: {pulled} pulled, peak of {} MiB while ClickHouse stood still",
        peak >> 20
    );
    assert!(peak < BOUND_DIRECT, "{peak} bytes");

    proxy.set(Mood::Well);
    all_delivered(&tenant, &endpoints).await;
    let peak = run.peak_memory().unwrap();
    eprintln!("direct: peak of {} MiB after catching up", peak >> 20);
    assert!(peak < BOUND_DIRECT, "{peak} bytes");
    equals_truth(&tenant, run).await;
}
