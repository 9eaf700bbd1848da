//! Faults of the archive, ClickHouse and the Parquet target. In each case, chatledger recovers without
//! a restart, loses nothing, duplicates nothing (also without FINAL), reports the fault in the right
//! metric, and stays within its memory limit.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

mod archive;
mod backpressure;
mod clickhouse;
mod parquet;

use std::time::Duration;

use chatledger_e2e::metrics::Endpoints;
use chatledger_e2e::tenant::Tenant;
use chatledger_e2e::waiting::until_true;
use chatledger_e2e::{Expected, Process, stored};

const SOON: Duration = Duration::from_secs(240);

/// Waits until a metric is above a value.
async fn exceeds(endpoints: &Endpoints, name: &str, labels: &[&str], value: f64) {
    until_true(&format!("{name}{labels:?} > {value}"), SOON, async || {
        Ok(endpoints.scrape().await?.sum(name, labels) > value)
    })
    .await
    .unwrap();
}

async fn metric(endpoints: &Endpoints, name: &str, labels: &[&str]) -> f64 {
    endpoints.scrape().await.unwrap().sum(name, labels)
}

/// Waits until the metrics report that both sinks have written everything.
async fn all_delivered(tenant: &Tenant, endpoints: &Endpoints) {
    let expected = Expected::read(&tenant.truth()).unwrap();
    let rows = expected.messages.len() + expected.violations.len();
    let dead_letters = expected.dead_letters.len();
    for (sink, rows) in [("parquet", rows), ("clickhouse", rows + dead_letters)] {
        let label = format!("sink=\"{sink}\"");
        let name = "chatledger_sink_rows_total";
        exceeds(endpoints, name, &[&label], rows as f64 - 0.5).await;
    }
}

/// Stops the process with SIGTERM, compares everything with the truth and returns the log.
async fn equals_truth(tenant: &Tenant, mut run: Process) -> String {
    run.terminate().unwrap();
    let (code, _) = run.finish(SOON).await.unwrap();
    let log = run.log().unwrap();
    assert_eq!(code, 0, "{log}");
    stored::equals_truth(tenant).await.unwrap();
    log
}
