//! Error messages and exit codes of chatledger for invalid input and unreachable services at startup.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;

use chatledger_e2e::tenant::{FinishedRun, Tenant, TenantPlan};
use chatledger_e2e::{Driver, stored};
use test_case::test_case;

/// Returns an address where no server listens: its port was free before.
fn unused_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn tenant(name: &str, driver: Driver) -> Tenant {
    Tenant::start(TenantPlan::new(name, driver, 200))
        .await
        .unwrap()
}

#[track_caller]
fn assert_fails_with(ended: &FinishedRun, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, code, "{}", ended.stderr);
    let last = ended
        .stderr
        .lines()
        .rev()
        .take(20)
        .collect::<Vec<_>>()
        .join("\n");
    for part in parts {
        assert!(
            last.contains(part),
            "{part:?} is missing in the last lines:\n{}",
            ended.stderr
        );
    }
    assert!(ended.stdout.is_empty(), "{:?}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_with_many_errors_reports_all_of_them_and_exits_2() {
    let tenant = tenant("config", Driver::Direct).await;
    let changes = [
        ("mode = \"direct\"", "mode = \"carrier-pigeon\""),
        ("batch_limit = 1000", "batch_limit = 5000\nbatch_size = 3"),
        ("poll_interval = \"50ms\"", "poll_interval = \"soon\""),
        ("refresh_interval = \"10m\"", "refresh_interval = 10"),
        ("url = \"file:parquet\"", "url = \"ftp://x\""),
        ("[metrics]", "[tables]\n\n[metrics]"),
    ];
    tenant.configure(&changes).unwrap();
    for command in ["run", "check", "migrate"] {
        let parts = [
            "driver.mode: found \"carrier-pigeon\"; accepted: \"direct\", \"kafka\"",
            "corp[0].archive.batch_limit: found 5000; accepted: at most 1000",
            "corp[0].archive.batch_size: unknown key; accepted: ",
            "corp[0].archive.poll_interval: found \"soon\"; accepted: a duration",
            "corp[0].directory.refresh_interval: found 10; accepted: string",
            "sink.parquet.url: found \"ftp://x\"; accepted: file:PATH or s3://BUCKET/PREFIX",
            "tables: unknown key; accepted: ",
        ];
        assert_fails_with(&tenant.run_to_end(command, &[]).await.unwrap(), 2, &parts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_and_invalid_files_are_all_named_and_exit_code_is_2() {
    let tenant = tenant("files", Driver::Direct).await;
    fs::remove_file(tenant.dir.join("archive.secret")).unwrap();
    fs::write(tenant.dir.join("contact.secret"), "\n").unwrap();
    fs::write(
        tenant.dir.join("key-1.pem"),
        "-----BEGIN PRIVATE KEY-----\nAAAA\n",
    )
    .unwrap();
    tenant
        .configure(&[("Asia/Shanghai", "Mars/Olympus")])
        .unwrap();
    let parts = [
        "corp[0].archive.secret_file: archive.secret: cannot be read",
        "corp[0].directory.secret_file: contact.secret: the file is empty",
        "corp[0].archive.key[0]",
        "corp[0].timezone: found \"Mars/Olympus\"",
    ];
    assert_fails_with(
        &tenant.run_to_end("run", &["--drain"]).await.unwrap(),
        2,
        &parts,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_rules_are_all_named_and_exit_code_is_2() {
    let tenant = tenant("rules", Driver::Direct).await;
    let rules = tenant.dir.join("rules");
    fs::write(rules.join("a.toml"), "[[rule]\n").unwrap();
    fs::write(
        rules.join("b.toml"),
        "[[rule]]\nid = \"b\"\nname = \"B\"\nseverity = \"dire\"\n",
    )
    .unwrap();
    fs::remove_file(rules.join("bribery-words.txt")).unwrap();
    let parts = ["a.toml", "b.toml", "bribery-words.txt"];
    assert_fails_with(
        &tenant.run_to_end("run", &["--drain"]).await.unwrap(),
        2,
        &parts,
    );
    assert_fails_with(&tenant.run_to_end("check", &[]).await.unwrap(), 2, &parts);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_configuration_exits_2_and_names_the_file() {
    let tenant = tenant("absent", Driver::Direct).await;
    fs::remove_file(&tenant.config).unwrap();
    let name = tenant.config.to_str().unwrap();
    assert_fails_with(
        &tenant.run_to_end("run", &[]).await.unwrap(),
        2,
        &[name, "cannot be read"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_clickhouse_exits_3_and_names_the_address() {
    let address = unused_address();
    let mut plan = TenantPlan::new("no_clickhouse", Driver::Direct, 200);
    plan.clickhouse = Some(format!("http://{address}"));
    let tenant = Tenant::start(plan).await.unwrap();
    let ended = tenant.run_to_end("run", &["--drain"]).await.unwrap();
    assert_fails_with(&ended, 3, &["ClickHouse", &address]);
    assert_fails_with(
        &tenant.run_to_end("migrate", &[]).await.unwrap(),
        3,
        &["ClickHouse", &address],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_archive_exits_3_and_names_the_address() {
    let mut tenant = tenant("no_archive", Driver::Direct).await;
    let address = tenant.base_url.clone();
    tenant.simulator.kill().unwrap();
    assert_fails_with(
        &tenant.run_to_end("run", &["--drain"]).await.unwrap(),
        3,
        &["archive", &address],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn archive_that_rejects_the_secret_exits_3_and_does_not_print_it() {
    let tenant = tenant("wrong_secret", Driver::Direct).await;
    fs::write(
        tenant.dir.join("archive.secret"),
        "not-the-secret-of-anybody",
    )
    .unwrap();
    let ended = tenant.run_to_end("run", &["--drain"]).await.unwrap();
    assert_fails_with(&ended, 3, &["archive", "40001"]);
    assert!(
        !ended.stderr.contains("not-the-secret-of-anybody"),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_kafka_exits_3_and_names_the_brokers() {
    let tenant = tenant("no_kafka", Driver::Kafka).await;
    let (address, text) = (
        unused_address(),
        fs::read_to_string(&tenant.config).unwrap(),
    );
    let brokers = text
        .lines()
        .find(|line| line.starts_with("brokers"))
        .unwrap();
    tenant
        .configure(&[(brokers, &format!("brokers = \"{address}\""))])
        .unwrap();
    assert_fails_with(
        &tenant.run_to_end("run", &["--drain"]).await.unwrap(),
        3,
        &["Kafka", &address],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_with_connect_reports_which_services_respond() {
    let mut tenant = tenant("connect", Driver::Direct).await;
    let good = tenant.run_to_end("check", &["--connect"]).await.unwrap();
    assert_eq!(good.code, 0, "{}", good.stderr);
    tenant.simulator.kill().unwrap();
    let bad = tenant.run_to_end("check", &["--connect"]).await.unwrap();
    assert_eq!(bad.code, 3, "{}", bad.stderr);
    let output = bad.stdout.join("\n");
    assert!(
        output.contains("ClickHouse") && output.contains(": answers"),
        "{output}"
    );
    assert!(output.contains(&tenant.base_url), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_lists_rules_and_why_some_are_inactive() {
    let tenant = tenant("check", Driver::Direct).await;
    let ended = tenant.run_to_end("check", &["--json"]).await.unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    let output: serde_json::Value = serde_json::from_str(&ended.stdout.join("\n")).unwrap();
    let rules = output["rules"].as_array().unwrap();
    let state = |id: &str| {
        let rule = rules.iter().find(|rule| rule["id"] == id).unwrap();
        (
            rule["active"].as_bool().unwrap(),
            rule["inactive_because"].is_string(),
        )
    };
    assert_eq!(state("private-deal"), (true, false));
    assert_eq!(state("no-words-yet"), (false, true));
    assert_eq!(state("no-scope-yet"), (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn schema_newer_than_the_program_is_refused_with_exit_code_4_and_not_changed() {
    let tenant = tenant("newer", Driver::Direct).await;
    assert_eq!(tenant.run_to_end("migrate", &[]).await.unwrap().code, 0);
    let newer = "INSERT INTO schema_migrations (version, name) VALUES (9999, 'future')";
    tenant.clickhouse.query(newer).await.unwrap();
    for further in [["run", "--drain"].as_slice(), &["migrate"]] {
        let ended = tenant.run_to_end(further[0], &further[1..]).await.unwrap();
        assert_fails_with(&ended, 4, &["9999"]);
    }
    let rows = tenant
        .clickhouse
        .number("SELECT count() FROM messages")
        .await
        .unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn second_migrate_changes_nothing() {
    let tenant = tenant("migrate", Driver::Direct).await;
    let tables = "SELECT name, create_table_query FROM system.tables WHERE database = \
                  currentDatabase() ORDER BY name";
    let first = tenant.run_to_end("migrate", &[]).await.unwrap();
    assert_eq!(first.code, 0, "{}", first.stderr);
    let before = tenant.clickhouse.rows(tables).await.unwrap();
    let second = tenant.run_to_end("migrate", &[]).await.unwrap();
    assert_eq!(
        (second.code, second.stdout.len()),
        (0, 1),
        "{}",
        second.stderr
    );
    assert!(
        second.stdout[0].contains("nothing to do"),
        "{:?}",
        second.stdout
    );
    assert_eq!(tenant.clickhouse.rows(tables).await.unwrap(), before);
    assert!(before.len() >= 10, "{before:?}");
    tenant.drain().await.unwrap();
    stored::equals_truth(&tenant).await.unwrap();
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn second_process_on_a_state_folder_is_refused_with_exit_code_4(driver: Driver) {
    let tenant = tenant("locked", driver).await;
    let mut first = tenant.chatledger("run", &[]).unwrap();
    Tenant::endpoints(&mut first).await.unwrap();
    let second = tenant.run_to_end("run", &["--drain"]).await.unwrap();
    assert_fails_with(&second, 4, &["another process", "state"]);
    first.terminate().unwrap();
    let (code, _) = first
        .finish(std::time::Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(code, 0, "{}", first.log().unwrap());
    // The lock is released when its process ends.
    tenant.drain().await.unwrap();
    stored::equals_truth(&tenant).await.unwrap();
}
