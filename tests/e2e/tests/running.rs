//! A long-running process: health, rules that change while it runs, a clean stop.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::time::Duration;

use chatledger_e2e::metrics::Endpoints;
use chatledger_e2e::tenant::{Tenant, TenantPlan};
use chatledger_e2e::waiting::until_true;
use chatledger_e2e::{Driver, Expected, Process, stored};
use serde_json::Value;
use test_case::test_case;

/// Only reached if a process hangs.
const SOON: Duration = Duration::from_secs(180);

/// A rule that every conversation breaks.
const EVERYTHING: &str = "[[rule]]\nid = \"punctuation\"\nname = \"标点\"\ncategory = \"test\"\n\
    severity = \"low\"\nwords = [\"，\", \"。\", \"？\", \"！\", \"的\"]\n[rule.scope]\nall = true\n";

async fn rows(tenant: &Tenant, sql: &str) -> u64 {
    tenant.clickhouse.number(sql).await.unwrap()
}

async fn all_stored(tenant: &Tenant) {
    let expected = Expected::read(&tenant.truth()).unwrap().messages.len() as u64;
    until_true("all messages are stored", SOON, async || {
        Ok(tenant
            .clickhouse
            .number("SELECT count() FROM messages")
            .await?
            >= expected)
    })
    .await
    .unwrap();
}

async fn metric_reaches(endpoints: &Endpoints, name: &str, least: f64) {
    until_true(name, SOON, async || {
        Ok(endpoints.scrape().await?.sum(name, &[]) >= least)
    })
    .await
    .unwrap();
}

async fn stop(process: &mut Process) -> String {
    process.terminate().unwrap();
    let (code, stdout) = process.finish(SOON).await.unwrap();
    let log = process.log().unwrap();
    assert_eq!(code, 0, "{log}");
    assert!(
        stdout.is_empty(),
        "only a drain prints to stdout: {stdout:?}"
    );
    log
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn rules_changed_on_disk_take_effect_and_broken_ones_do_not(driver: Driver) {
    let tenant = Tenant::start(TenantPlan::new("reload", driver, 400))
        .await
        .unwrap();
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    all_stored(&tenant).await;
    let by_new_rule = "SELECT count() FROM violations WHERE rule_id = 'punctuation'";
    assert_eq!(rows(&tenant, by_new_rule).await, 0);
    let active = endpoints
        .scrape()
        .await
        .unwrap()
        .sum("chatledger_rules_active", &[]);

    let file = tenant.dir.join("rules/punctuation.toml");
    fs::write(&file, EVERYTHING).unwrap();
    metric_reaches(&endpoints, "chatledger_rules_active", active + 1.0).await;
    let newest = rows(&tenant, "SELECT max(seq) FROM messages").await;
    tenant.append(100).await.unwrap();
    all_stored(&tenant).await;
    until_true("new messages break the new rule", SOON, async || {
        Ok(tenant.clickhouse.number(by_new_rule).await? > 0)
    })
    .await
    .unwrap();
    let old = format!("{by_new_rule} AND seq <= {newest}");
    assert_eq!(
        rows(&tenant, &old).await,
        0,
        "the new rule was applied to old messages"
    );

    // A file with an error changes nothing and is reported.
    let failed = "chatledger_rules_reload_errors_total";
    assert!(endpoints.scrape().await.unwrap().sum(failed, &[]) < 0.5);
    fs::write(&file, "[[rule]\nid = ").unwrap();
    metric_reaches(&endpoints, failed, 1.0).await;
    let scrape = endpoints.scrape().await.unwrap();
    assert!((scrape.sum("chatledger_rules_active", &[]) - active - 1.0).abs() < 0.5);
    let before = rows(&tenant, by_new_rule).await;
    tenant.append(100).await.unwrap();
    all_stored(&tenant).await;
    until_true("the previous rule stays active", SOON, async || {
        Ok(tenant.clickhouse.number(by_new_rule).await? > before)
    })
    .await
    .unwrap();

    // Deleting a file deactivates its rules.
    fs::remove_file(&file).unwrap();
    until_true("the rule is inactive", SOON, async || {
        let now = endpoints
            .scrape()
            .await?
            .sum("chatledger_rules_active", &[]);
        Ok((now - active).abs() < 0.5)
    })
    .await
    .unwrap();
    let log = stop(&mut run).await;
    assert!(
        log.contains("punctuation.toml"),
        "the log does not name the file:\n{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_the_direct_driver_exits_0_and_delivers_everything_pulled() {
    let plan = TenantPlan::new("sigterm", Driver::Direct, 4000)
        .faults("slow=20")
        .arg("--batch-limit=100");
    let tenant = Tenant::start(plan).await.unwrap();
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    metric_reaches(&endpoints, "chatledger_records_pulled_total", 800.0).await;
    stop(&mut run).await;

    // Both sinks contain the same messages: the first ones, without gaps.
    let expected = Expected::read(&tenant.truth()).unwrap();
    let newest = rows(&tenant, "SELECT max(seq) FROM messages").await;
    let until_newest = |list: &[Value]| -> Vec<Value> {
        list.iter()
            .filter(|row| row["seq"].as_u64() <= Some(newest))
            .cloned()
            .collect()
    };
    let delivered = Expected {
        messages: until_newest(&expected.messages),
        violations: until_newest(&expected.violations),
        ..expected.clone()
    };
    let count = delivered.messages.len();
    assert!((800..4000).contains(&count), "{count} rows");
    stored::tables_equal(&tenant.clickhouse, &delivered)
        .await
        .unwrap();
    stored::files_equal(&tenant.parquet(), &delivered).unwrap();

    // The next start continues there and pulls nothing again.
    let rest = tenant.drain().await.unwrap();
    assert_eq!(rest.pulled as usize, expected.messages.len() - count);
    stored::equals_truth(&tenant).await.unwrap();
}

/// Pulled records are in the log, where the next start reads them; they are not pulled again.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_the_kafka_driver_exits_0_and_the_next_start_continues() {
    let plan = TenantPlan::new("sigterm", Driver::Kafka, 4000)
        .faults("slow=20")
        .arg("--batch-limit=100");
    let tenant = Tenant::start(plan).await.unwrap();
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    let pulled = "chatledger_records_pulled_total";
    metric_reaches(&endpoints, pulled, 800.0).await;
    let before = endpoints.scrape().await.unwrap().sum(pulled, &[]);
    stop(&mut run).await;

    let rest = tenant.drain().await.unwrap();
    assert!(
        rest.pulled <= 4000 - before as u64,
        "{rest:?} after {before}"
    );
    assert!(rest.pulled > 0, "everything was pulled before the stop");
    stored::equals_truth(&tenant).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_match_the_state_of_the_process() {
    let mut plan = TenantPlan::new("health", Driver::Direct, 200);
    // A server that accepts connections and never responds, so that the start does not complete.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    plan.clickhouse = Some(format!("http://{}", silent.local_addr().unwrap()));
    let tenant = Tenant::start(plan).await.unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    tenant
        .configure(&[("listen = \"127.0.0.1:0\"", &format!("listen = \"{free}\""))])
        .unwrap();
    let endpoints = Endpoints::new(&free.to_string());

    let mut waiting = tenant.chatledger("run", &[]).unwrap();
    until_true(
        "the endpoints respond while the process waits for ClickHouse",
        SOON,
        async || Ok(endpoints.get("/readyz").await.is_ok()),
    )
    .await
    .unwrap();
    assert_eq!(endpoints.get("/readyz").await.unwrap().0, 503);
    assert_eq!(endpoints.get("/healthz").await.unwrap().0, 200);
    assert!(waiting.kill().unwrap());

    let engine = chatledger_e2e::services::engine().await.unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    tenant.configure(&[(&silent, engine)]).unwrap();
    let mut run = tenant.chatledger("run", &[]).unwrap();
    until_true("the process is ready", SOON, async || {
        Ok(endpoints
            .get("/readyz")
            .await
            .is_ok_and(|(status, _)| status == 200))
    })
    .await
    .unwrap();
    assert_eq!(endpoints.get("/healthz").await.unwrap().0, 200);
    assert_eq!(endpoints.get("/nothing").await.unwrap().0, 404);
    stop(&mut run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_messages_are_stored_within_seconds_and_lag_is_small() {
    let plan = TenantPlan::new("live", Driver::Direct, 300).arg("--rate=50");
    let tenant = Tenant::start(plan).await.unwrap();
    // The position is that of the slowest sink.
    let rolling = "url = \"file:parquet\"\nroll_interval = \"1s\"";
    tenant
        .configure(&[("url = \"file:parquet\"", rolling)])
        .unwrap();
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    let target = rows(&tenant, "SELECT count() FROM messages").await + 600;
    until_true("live messages are stored", SOON, async || {
        Ok(tenant
            .clickhouse
            .number("SELECT count() FROM messages")
            .await?
            >= target)
    })
    .await
    .unwrap();
    metric_reaches(&endpoints, "chatledger_cursor_seq", 1.0).await;
    let scrape = endpoints.scrape().await.unwrap();
    let hours = scrape.sum("chatledger_source_hours_until_loss", &[]);
    assert!(
        hours > 119.0,
        "{hours} hours until loss although everything is delivered immediately"
    );
    for (name, labels) in [
        ("chatledger_messages_total", [].as_slice()),
        ("chatledger_sink_rows_total", &["sink=\"clickhouse\""]),
        (
            "chatledger_sink_insert_rows_count",
            &["sink=\"clickhouse\""],
        ),
        ("chatledger_stage_batch_seconds_count", &["stage=\"open\""]),
        ("chatledger_api_calls_total", &["errcode_class=\"ok\""]),
        ("chatledger_cursor_seq", &[]),
    ] {
        assert!(
            scrape.sum(name, labels) > 0.0,
            "{name} {labels:?} is 0:\n{}",
            scrape.0
        );
    }
    stop(&mut run).await;
}
