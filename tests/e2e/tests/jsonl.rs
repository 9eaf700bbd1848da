//! The JSONL sink: each row is one line, once, in files and on stdout; the audits read the files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use chatledger_e2e::tenant::{Tenant, TenantPlan, json_lines};
use chatledger_e2e::{Driver, stored};
use serde_json::Value;
use test_case::test_case;

const FAULTS: &str = "broken=10,unknown_key=5,duplicates=20";

/// All lines of the files of one kind.
fn lines(folder: &Path, kind: &str) -> Vec<Value> {
    let entries = std::fs::read_dir(folder.join(kind)).unwrap();
    let files = entries.map(|entry| entry.unwrap().path());
    files.flat_map(|file| json_lines(&file).unwrap()).collect()
}

fn ids(lines: &[Value], id: &str) -> BTreeSet<String> {
    let each = lines
        .iter()
        .map(|line| line[id].as_str().unwrap().to_owned());
    each.collect()
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn files_hold_each_row_once_and_the_audits_read_them(driver: Driver) {
    let plan = TenantPlan::new("jsonl", driver, 2000).faults(FAULTS);
    let tenant = Tenant::start(plan).await.unwrap();
    tenant
        .append_config("[sink.jsonl]\npath = \"jsonl\"\n")
        .unwrap();
    let drained = tenant.drain().await.unwrap();
    let expected = stored::equals_truth(&tenant).await.unwrap();
    assert_eq!(drained, expected.drained());

    let folder = tenant.dir.join("jsonl");
    let messages = lines(&folder, "messages");
    assert_eq!(messages.len(), expected.messages.len());
    assert_eq!(
        ids(&messages, "msgid"),
        ids(&expected.messages, "msgid"),
        "messages"
    );
    let violations = lines(&folder, "violations");
    assert_eq!(violations.len(), expected.violations.len());
    let dead_letters = lines(&folder, "dead_letters");
    assert_eq!(dead_letters.len(), expected.dead_letters.len());

    let clean = tenant.run_to_end("reconcile", &[]).await.unwrap();
    assert_eq!(clean.code, 0, "{:?}", clean.stdout);
    assert!(clean.stdout.concat().contains("jsonl"));
    let intact = tenant.run_to_end("verify", &[]).await.unwrap();
    assert_eq!(intact.code, 0, "{:?}", intact.stdout);

    // Remove the first line of a file: both audits report the message.
    let file = std::fs::read_dir(folder.join("messages")).unwrap();
    let file = file.map(|entry| entry.unwrap().path()).min().unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let removed: Value = serde_json::from_str(first).unwrap();
    std::fs::write(&file, rest).unwrap();
    let found = tenant.run_to_end("reconcile", &[]).await.unwrap();
    let finding = format!("seq {}: missing in jsonl", removed["seq"]);
    assert_eq!(found.code, 1);
    assert!(
        found.stdout.iter().any(|line| line.contains(&finding)),
        "{finding}: {:?}",
        found.stdout
    );
    let changed = tenant.run_to_end("verify", &[]).await.unwrap();
    assert_eq!(changed.code, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_on_stdout_come_before_the_summary() {
    let plan = TenantPlan::new("jsonl_stdout", Driver::Direct, 500);
    let tenant = Tenant::start(plan).await.unwrap();
    tenant
        .append_config("[sink.jsonl]\npath = \"-\"\n")
        .unwrap();
    let run = tenant.run_to_end("run", &["--drain"]).await.unwrap();
    assert_eq!(run.code, 0);
    let (summary, rows) = run.stdout.split_last().unwrap();
    let summary: Value = serde_json::from_str(summary).unwrap();
    assert_eq!(summary["messages"], 500);
    let rows: Vec<Value> = rows
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let messages = rows.iter().filter(|row| row["kind"] == "message").count();
    assert_eq!(messages, 500);
    stored::equals_truth(&tenant).await.unwrap();
}
