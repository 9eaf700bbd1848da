//! One sink is unreachable until every queue is full: memory stays within its limit, and afterwards
//! everything is delivered.

use std::time::{Duration, Instant};

use chatledger_e2e::proxy::{FaultProxy, ProxyMode};
use chatledger_e2e::tenant::{self, Tenant, TenantPlan};
use chatledger_e2e::{Driver, Expected, services};

use super::{all_delivered, equals_truth, exceeds, metric};

/// Variable with the seconds for which the sink is unreachable while messages keep arriving (default: 0,
/// until the backlog is processed).
const OUTAGE: &str = "CHATLEDGER_E2E_AWAY";

/// Messages sent at once during the outage.
const MESSAGES_AT_ONCE: u64 = 20;

fn outage() -> Duration {
    let seconds = std::env::var(OUTAGE).map_or(0, |seconds| seconds.parse().unwrap());
    Duration::from_secs(seconds)
}

/// Memory limits stated in `pipeline/ARCHITECTURE.md`, in bytes.
const MAX_MEMORY_DIRECT: u64 = 384 << 20;
const MAX_MEMORY_KAFKA: u64 = 640 << 20;

async fn tenant_behind_proxy(name: &str, driver: Driver) -> (FaultProxy, Tenant) {
    let engine = services::engine().await.unwrap();
    let proxy = FaultProxy::start(engine).await.unwrap();
    let mut plan = TenantPlan::new(name, driver, tenant::messages().unwrap())
        .faults("broken=7,unknown_key=3,duplicates=10")
        .arg("--batch-limit=1000");
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
    // The tables must exist before the server becomes unreachable.
    assert_eq!(tenant.run_to_end("migrate", &[]).await.unwrap().code, 0);
    (proxy, tenant)
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_sink_in_the_kafka_driver_does_not_delay_others_and_memory_is_bounded() {
    let (proxy, tenant) = tenant_behind_proxy("stalled", Driver::Kafka).await;
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    proxy.set(ProxyMode::Unreachable);
    let began = Instant::now();
    let written = "chatledger_sink_rows_total";
    let rows = loop {
        let expected = Expected::read(&tenant.truth()).unwrap();
        let rows = (expected.messages.len() + expected.violations.len()) as f64;
        exceeds(&endpoints, written, &["sink=\"parquet\""], rows - 0.5).await;
        if began.elapsed() >= outage() {
            break rows;
        }
        tenant.append(MESSAGES_AT_ONCE).await.unwrap();
    };
    let in_tables = metric(&endpoints, written, &["sink=\"clickhouse\""]).await;
    assert!(in_tables < rows, "ClickHouse was reachable");
    let peak = run.peak_memory().unwrap();
    eprintln!(
        "kafka: {rows} rows, peak of {} MiB while ClickHouse was unreachable for {:?}",
        peak >> 20,
        began.elapsed()
    );
    assert!(peak < MAX_MEMORY_KAFKA, "{peak} bytes");

    proxy.set(ProxyMode::Forward);
    all_delivered(&tenant, &endpoints).await;
    let peak = run.peak_memory().unwrap();
    eprintln!("kafka: peak of {} MiB after catching up", peak >> 20);
    assert!(peak < MAX_MEMORY_KAFKA, "{peak} bytes");
    equals_truth(&tenant, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_sink_in_the_direct_driver_stops_pulling_and_memory_is_bounded() {
    let (proxy, tenant) = tenant_behind_proxy("stalled", Driver::Direct).await;
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    proxy.set(ProxyMode::Unreachable);
    let errors = "chatledger_sink_errors_total";
    exceeds(&endpoints, errors, &["sink=\"clickhouse\""], 4.5).await;
    let pulled = metric(&endpoints, "chatledger_records_pulled_total", &[]).await;
    let peak = run.peak_memory().unwrap();
    eprintln!(
        "direct: {pulled} pulled, peak of {} MiB while ClickHouse was unreachable",
        peak >> 20
    );
    assert!(peak < MAX_MEMORY_DIRECT, "{peak} bytes");

    proxy.set(ProxyMode::Forward);
    all_delivered(&tenant, &endpoints).await;
    let peak = run.peak_memory().unwrap();
    eprintln!("direct: peak of {} MiB after catching up", peak >> 20);
    assert!(peak < MAX_MEMORY_DIRECT, "{peak} bytes");
    equals_truth(&tenant, run).await;
}
