//! Independent readers that share no code with chatledger: clickhouse-connect reads the tables,
//! confluent-kafka the raw topic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::process::Command;

use chatledger_e2e::tenant::{Tenant, TenantPlan};
use chatledger_e2e::{Driver, paths, services, stored};
use serde_json::Value;

/// Runs a script of `python/` and returns the JSON it prints.
fn python<S: AsRef<OsStr>>(script: &str, arguments: &[S]) -> Value {
    let output = Command::new(paths::python().unwrap())
        .arg(paths::python_script(script))
        .args(arguments)
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {messages}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_connect_reads_rows_that_match_the_truth() {
    let plan = TenantPlan::new("connect", Driver::Direct, 1500).faults("broken=7,unknown_key=3");
    let tenant = Tenant::start(plan).await.unwrap();
    tenant.drain().await.unwrap();
    let expected = stored::equals_truth(&tenant).await.unwrap();

    let engine = services::engine().await.unwrap();
    let found = python("clickhouse_tables.py", &[engine, "connect_direct"]);
    assert_eq!(found["messages"], expected.messages.len());
    assert_eq!(found["violations"], expected.violations.len());
    assert_eq!(found["dead_letters"], 10);
    let mut by_type: BTreeMap<String, u64> = BTreeMap::new();
    for row in &expected.messages {
        *by_type
            .entry(row["msgtype"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    assert_eq!(found["by_type"], serde_json::to_value(by_type).unwrap());
    let first = &found["first"];
    let truth = expected
        .messages
        .iter()
        .find(|row| row["msgid"] == first["msgid"])
        .unwrap();
    for column in ["msgtime", "content", "to_ids", "seq"] {
        assert_eq!(first[column], truth[column], "{column}");
    }
    let violation = &found["violation"];
    let truth =
        |row: &&Value| row["msgid"] == violation["msgid"] && row["rule_id"] == violation["rule_id"];
    let truth = expected.violations.iter().find(truth).unwrap();
    assert_eq!(
        (&violation["spans"], &violation["matched"]),
        (&truth["spans"], &truth["matched"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn confluent_kafka_reads_each_sealed_record_once() {
    let plan = TenantPlan::new("confluent", Driver::Kafka, 1500).faults("broken=7,unknown_key=3");
    let tenant = Tenant::start(plan).await.unwrap();
    tenant.drain().await.unwrap();
    let expected = stored::equals_truth(&tenant).await.unwrap();

    let broker = services::broker().await.unwrap();
    let topic = format!("{}.raw", tenant.topic_prefix);
    let found = python("raw_msgids.py", &[broker, &topic]);
    let mut found: Vec<&str> = found
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    found.sort_unstable();
    let all = expected.messages.iter().chain(&expected.dead_letters);
    let mut all: Vec<&str> = all.filter_map(|row| row["msgid"].as_str()).collect();
    all.sort_unstable();
    assert_eq!(found, all);
}
