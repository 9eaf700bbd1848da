//! `reconcile` and `verify` on a drained tenant: they find nothing in unchanged data and report every
//! manual change. A missed window is refused; an accepted gap is recorded.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use chatledger_e2e::tenant::{Tenant, TenantPlan};
use chatledger_e2e::{Driver, paths, services};
use serde_json::Value;
use test_case::test_case;

/// Bytes of an entry of the direct driver's ledger, and of its header.
const LINE: usize = 128;
const HEADER: usize = 16;

async fn drained(name: &str, driver: Driver) -> Tenant {
    let plan = TenantPlan::new(name, driver, 3000).faults("broken=20,unknown_key=10,duplicates=25");
    let tenant = Tenant::start(plan).await.unwrap();
    tenant.drain().await.unwrap();
    tenant
}

/// Runs a command with `--json` and returns its exit code and output.
async fn run_json(tenant: &Tenant, command: &str, further: &[&str]) -> (i32, Value) {
    let words = [&["--json"], further].concat();
    let ended = tenant.run_to_end(command, &words).await.unwrap();
    let line = ended.stdout.last();
    let line = line.unwrap_or_else(|| panic!("{command} printed nothing: {}", ended.stderr));
    (ended.code, serde_json::from_str(line).unwrap())
}

/// Returns the findings of `reconcile` in order: (first position of the block, seq, what).
fn findings(output: &Value) -> Vec<(u64, u64, String)> {
    let blocks = output["corps"][0]["blocks"].as_array().unwrap();
    let mut all = Vec::new();
    for block in blocks {
        let first = block["first_seq"].as_u64().unwrap();
        let found = block["findings"].as_array().unwrap();
        assert_eq!(block["accounted"], found.is_empty(), "{block}");
        for finding in found {
            let seq = finding["seq"].as_u64().unwrap();
            assert!((first..first + 1000).contains(&seq));
            all.push((first, seq, finding["what"].as_str().unwrap().to_owned()));
        }
    }
    all
}

async fn seq_at(tenant: &Tenant, offset: u64) -> u64 {
    let sql = format!("SELECT seq FROM messages ORDER BY seq LIMIT 1 OFFSET {offset}");
    tenant.clickhouse.number(&sql).await.unwrap()
}

fn message_files(tenant: &Tenant) -> Vec<PathBuf> {
    fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|ext| ext == "parquet") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(&tenant.parquet().join("messages"), &mut files);
    files.sort();
    files
}

fn python(script: &str, arguments: &[&str]) -> String {
    let output = Command::new(paths::python().unwrap())
        .arg(paths::python_script(script))
        .args(arguments)
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {messages}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What a sink holds of messages, in the totals of a reconciliation.
fn messages_in<'a>(total: &'a Value, sink: &str) -> &'a Value {
    let mut places = total["places"].as_array().unwrap().iter();
    let place = places.find(|place| place["sink"] == sink && place["content"] == "messages");
    place.unwrap()
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn rows_altered_by_hand_are_named_by_block(driver: Driver) {
    let tenant = drained("reconcile", driver).await;
    let (code, clean) = run_json(&tenant, "reconcile", &[]).await;
    assert_eq!((code, findings(&clean)), (0, Vec::new()), "{clean}");
    let total = &clean["corps"][0]["total"];
    let messages_in = |sink| messages_in(total, sink);
    for (what, count) in [
        (&total["pulled"]["rows"], 3025),
        (messages_in("clickhouse"), 2970),
        (messages_in("parquet"), 2970),
        (&total["dead_letters"], 30),
        (&total["duplicates"], 25),
        (&total["missing"], 0),
    ] {
        let rows = what.get("rows").unwrap_or(what);
        assert_eq!(rows, count, "{total}");
    }
    assert_eq!(
        messages_in("clickhouse")["hash"],
        messages_in("parquet")["hash"]
    );
    let kept = "SELECT accounted FROM reconciliations ORDER BY run_at DESC LIMIT 1 FORMAT TSV";
    assert_eq!(tenant.clickhouse.query(kept).await.unwrap().trim(), "true");

    // Delete one row, insert another and duplicate a third.
    let (deleted, neighbour, duplicated) = (
        seq_at(&tenant, 100).await,
        seq_at(&tenant, 1500).await,
        seq_at(&tenant, 2500).await,
    );
    let change = async |sql: String| {
        tenant.clickhouse.query(&sql).await.unwrap();
    };
    change(format!(
        "ALTER TABLE messages DELETE WHERE seq = {deleted} SETTINGS mutations_sync = 2"
    ))
    .await;
    let inserted = neighbour + 1;
    change(format!(
        "INSERT INTO messages SELECT * REPLACE (seq + 1 AS seq, concat(msgid, 'x') AS msgid) \
         FROM (SELECT * FROM messages WHERE seq = {neighbour})"
    ))
    .await;
    change(format!(
        "INSERT INTO messages SELECT * FROM messages WHERE seq = {duplicated}"
    ))
    .await;
    let block = |seq: u64| seq / 1000 * 1000;
    let altered = [
        (block(deleted), deleted, "missing_in_clickhouse".to_owned()),
        (
            block(inserted),
            inserted,
            "unexpected_in_clickhouse".to_owned(),
        ),
        (
            block(duplicated),
            duplicated,
            "repeated_in_clickhouse".to_owned(),
        ),
    ];
    let (code, found) = run_json(&tenant, "reconcile", &["--wait", "0s"]).await;
    assert_eq!((code, findings(&found)), (1, altered.to_vec()));
    // A range without changes has no findings; positions after the last record are checked too.
    let range = ["--wait", "0s", "--to-seq", &(deleted - 1).to_string()];
    let (code, _) = run_json(&tenant, "reconcile", &range).await;
    assert_eq!(code, 0);
    change(format!(
        "INSERT INTO messages SELECT * REPLACE (seq + 90000000 AS seq, concat(msgid, 'y') AS msgid) \
         FROM (SELECT * FROM messages WHERE seq = {neighbour})"
    ))
    .await;
    let (_, found) = run_json(&tenant, "reconcile", &["--wait", "0s"]).await;
    let last = findings(&found).pop().unwrap();
    assert_eq!(
        (last.1, last.2.as_str()),
        (neighbour + 90_000_000, "unexpected_in_clickhouse")
    );

    // Delete a file: all of its rows are missing, in every block.
    let files = message_files(&tenant);
    let deleted_file = &files[files.len() / 2];
    fs::remove_file(deleted_file).unwrap();
    let (code, found) = run_json(&tenant, "reconcile", &["--wait", "0s"]).await;
    assert_eq!(code, 1);
    let missing = found["corps"][0]["total"]["missing"].as_u64().unwrap();
    assert!(missing > 1, "{found}");
    let named = findings(&found);
    assert!(
        named
            .iter()
            .any(|(_, _, what)| what == "missing_in_parquet")
    );
    let text = tenant
        .run_to_end("reconcile", &["--wait", "0s"])
        .await
        .unwrap();
    assert!(
        text.stdout
            .join("\n")
            .contains(&format!("seq {deleted}: missing in clickhouse"))
    );
}

/// Runs `verify` and returns its findings: (what, place, seq).
async fn verified(tenant: &Tenant) -> Vec<(String, String, u64)> {
    let (code, output) = run_json(tenant, "verify", &["--settle", "0s"]).await;
    let found = output["corps"][0]["findings"].as_array().unwrap();
    assert_eq!(code == 0, found.is_empty(), "{output}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    found
        .iter()
        .map(|one| {
            (
                text(&one["what"]),
                text(&one["place"]),
                one["seq"].as_u64().unwrap(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_alteration_of_the_ledger_is_named_with_its_record() {
    let tenant = drained("chain", Driver::Direct).await;
    assert_eq!(verified(&tenant).await, []);

    let folder = fs::read_dir(tenant.dir.join("state")).unwrap();
    let ledger = folder
        .flatten()
        .map(|entry| entry.path().join("ledger"))
        .find(|path| path.exists())
        .unwrap();
    let good = fs::read(&ledger).unwrap();
    let at = |line: usize| HEADER + line * LINE;
    let seq = |line: usize| {
        let bytes = &good[at(line) + 8..at(line) + 16];
        u64::from_le_bytes(bytes.try_into().unwrap())
    };
    let found = async |altered: Vec<u8>| {
        fs::write(&ledger, altered).unwrap();
        let found = verified(&tenant).await;
        let (what, place, seq) = found.first().cloned().unwrap();
        assert_eq!(place, "ledger");
        (what, seq)
    };
    // Change one byte of the digest of the sealed record.
    let mut altered = good.clone();
    altered[at(700) + 41] ^= 1;
    assert_eq!(found(altered).await, ("changed".to_owned(), seq(700)));
    // Change what became of the record, the digest of its row, and that of its violations.
    for byte in [88, 92, 96, 127] {
        let mut altered = good.clone();
        altered[at(700) + byte] ^= 2;
        assert_eq!(found(altered).await, ("changed".to_owned(), seq(700)));
    }
    let mut altered = good.clone();
    altered.drain(at(700)..at(701));
    assert_eq!(found(altered).await, ("removed".to_owned(), seq(699)));
    let mut altered = good.clone();
    altered.splice(at(700)..at(700), good[at(500)..at(501)].to_vec());
    assert_eq!(found(altered).await, ("inserted".to_owned(), seq(500)));
    let mut altered = good.clone();
    let (first, second) = altered[at(700)..at(702)].split_at_mut(LINE);
    first.swap_with_slice(second);
    assert_eq!(found(altered).await, ("moved".to_owned(), seq(700)));
    // Truncate the ledger: the Parquet files refer to links after its end.
    fs::write(&ledger, &good[..at(2900)]).unwrap();
    let all = verified(&tenant).await;
    assert!(
        all.iter()
            .any(|(what, place, _)| what == "unanchored" && place != "ledger"),
        "{all:?}"
    );
    // Remove all entries: the stored rows then belong to no record.
    fs::write(&ledger, &good[..HEADER]).unwrap();
    let (code, output) = run_json(&tenant, "reconcile", &[]).await;
    let total = &output["corps"][0]["total"];
    assert_eq!((code, &total["pulled"]["rows"]), (1, &Value::from(0)));
    assert_eq!(total["unexpected"], 2970, "{total}");
    let all = verified(&tenant).await;
    assert!(all.iter().any(|(what, ..)| what == "inserted"), "{all:?}");
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn each_alteration_of_a_row_is_named(driver: Driver) {
    let tenant = drained("content", driver).await;
    assert_eq!(verified(&tenant).await, []);
    let file = message_files(&tenant)
        .into_iter()
        .max_by_key(|file| fs::metadata(file).unwrap().len());
    let file = file.unwrap();
    let good = fs::read(&file).unwrap();
    for (how, what) in [
        ("change", "changed"),
        ("drop", "removed"),
        ("add", "inserted"),
    ] {
        let seq: u64 = python("alter_parquet.py", &[file.to_str().unwrap(), how])
            .parse()
            .unwrap();
        let found = verified(&tenant).await;
        assert_eq!(found.len(), 1, "{how}: {found:?}");
        assert_eq!((found[0].0.as_str(), found[0].2), (what, seq), "{how}");
        fs::write(&file, &good).unwrap();
    }
    assert_eq!(verified(&tenant).await, []);
    let seq = seq_at(&tenant, 1234).await;
    let sql = format!(
        "ALTER TABLE messages UPDATE content = concat(content, '。') WHERE seq = {seq} \
         SETTINGS mutations_sync = 2"
    );
    tenant.clickhouse.query(&sql).await.unwrap();
    let found = |what: &str, seq| (what.to_owned(), "clickhouse".to_owned(), seq);
    assert_eq!(verified(&tenant).await, [found("changed", seq)]);
    let deleted = seq_at(&tenant, 2345).await;
    let inserted = seq + 90_000_000;
    for sql in [
        format!("ALTER TABLE messages DELETE WHERE seq = {deleted} SETTINGS mutations_sync = 2"),
        format!(
            "INSERT INTO messages SELECT * REPLACE ({inserted} AS seq, concat(msgid, 'y') AS msgid) \
             FROM (SELECT * FROM messages WHERE seq = {seq})"
        ),
    ] {
        tenant.clickhouse.query(&sql).await.unwrap();
    }
    assert_eq!(
        verified(&tenant).await,
        [
            found("changed", seq),
            found("removed", deleted),
            found("inserted", inserted)
        ]
    );
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn altered_violations_and_dead_letters_are_found(driver: Driver) {
    let tenant = drained("violations", driver).await;
    assert_eq!(verified(&tenant).await, []);
    let number = async |sql: &str| tenant.clickhouse.number(sql).await.unwrap();
    let records = number("SELECT uniqExact(seq) FROM violations").await;
    assert!(records > 10, "{records}");
    let change = async |sql: String| {
        let sql = format!("{sql} SETTINGS mutations_sync = 2");
        tenant.clickhouse.query(&sql).await.unwrap();
    };
    let found = |what: &str, place: &str, seq| (what.to_owned(), place.to_owned(), seq);
    let changed = number("SELECT min(seq) FROM violations").await;
    let removed = number("SELECT max(seq) FROM violations").await;
    let dead = number("SELECT min(seq) FROM dead_letters FINAL").await;
    change(format!(
        "ALTER TABLE violations UPDATE detected_at = detected_at + 1 WHERE seq = {changed}"
    ))
    .await;
    change(format!(
        "ALTER TABLE violations DELETE WHERE seq = {removed}"
    ))
    .await;
    change(format!(
        "ALTER TABLE dead_letters UPDATE error = 'x' WHERE seq = {dead}"
    ))
    .await;
    let mut all = verified(&tenant).await;
    all.sort_by_key(|(_, place, seq)| (place.clone(), *seq));
    assert_eq!(
        all,
        [
            found("changed", "clickhouse open dead letters", dead),
            found("changed", "clickhouse violations", changed),
            found("removed", "clickhouse violations", removed),
        ]
    );

    // All violations are removed from both sinks.
    change("ALTER TABLE violations DELETE WHERE true".to_owned()).await;
    fs::remove_dir_all(tenant.parquet().join("violations")).unwrap();
    let (code, output) = run_json(&tenant, "verify", &["--settle", "0s"]).await;
    let total = &output["corps"][0]["findings_total"];
    assert_eq!((code, total), (1, &Value::from(2 * records + 1)));
    let (code, output) = run_json(&tenant, "reconcile", &["--wait", "0s"]).await;
    let total = &output["corps"][0]["total"];
    assert_eq!(
        (code, &total["missing"]),
        (1, &Value::from(records)),
        "{total}"
    );
    let named = findings(&output);
    for what in [
        "missing_violation_in_clickhouse",
        "missing_violation_in_parquet",
    ] {
        assert!(named.iter().any(|(.., found)| found == what), "{what}");
    }
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn links_of_an_earlier_report_are_in_a_ledger_that_has_grown_and_in_no_other(driver: Driver) {
    let tenant = drained("kept", driver).await;
    let (code, report) = run_json(&tenant, "verify", &[]).await;
    assert_eq!(code, 0, "{report}");
    let kept = tenant.dir.join("kept.json");
    fs::write(&kept, report.to_string()).unwrap();
    tenant.append(100).await.unwrap();
    tenant.drain().await.unwrap();
    let compare = ["--settle", "0s", "--kept", kept.to_str().unwrap()];
    let (code, later) = run_json(&tenant, "verify", &compare).await;
    assert_eq!(code, 0, "{later}");
    let links = |report: &Value| report["corps"][0]["links"].clone();
    assert_ne!(links(&report), links(&later));

    for chain in ["pulled", "settled"] {
        let mut other = report.clone();
        let link = &mut other["corps"][0]["links"][chain]["link"];
        *link = Value::from("0".repeat(64));
        fs::write(&kept, other.to_string()).unwrap();
        let (code, output) = run_json(&tenant, "verify", &compare).await;
        let found = &output["corps"][0]["findings"];
        assert_eq!((code, &found[0]["what"]), (1, &Value::from("rewritten")));
        assert_eq!(found.as_array().unwrap().len(), 1, "{found}");
    }
    for nothing in ["{}", "{\"corps\":[]}"] {
        fs::write(&kept, nothing).unwrap();
        let refused = tenant.run_to_end("verify", &compare).await.unwrap();
        assert_eq!(refused.code, 2, "{}", refused.stderr);
    }
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn missed_window_is_refused_and_an_accepted_gap_is_recorded(driver: Driver) {
    let tenant = drained("window", driver).await;
    let six_days = Duration::from_secs(6 * 24 * 3600);
    let then = (SystemTime::now() - six_days).duration_since(SystemTime::UNIX_EPOCH);
    let then = then.unwrap().as_millis().to_string();
    match driver {
        Driver::Direct => {
            let folder = fs::read_dir(tenant.dir.join("state")).unwrap();
            let contact = folder
                .flatten()
                .map(|entry| entry.path().join("contact.json"))
                .find(|path| path.exists())
                .unwrap();
            fs::write(contact, format!("{{\"answered_at\":{then}}}")).unwrap();
        }
        Driver::Kafka => {
            let broker = services::broker().await.unwrap();
            let topic = format!("{}.cursor", tenant.topic_prefix);
            assert_eq!(python("age_cursor.py", &[broker, &topic, &then]), "1");
        }
    }
    tenant.append(100).await.unwrap();
    let refused = tenant.run_to_end("run", &["--drain"]).await.unwrap();
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("144 hours"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("--accept-gap"),
        "{}",
        refused.stderr
    );
    let accepted = tenant
        .run_to_end("run", &["--drain", "--accept-gap"])
        .await
        .unwrap();
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    // The gap has to be accepted only once.
    let again = tenant.run_to_end("run", &["--drain"]).await.unwrap();
    assert_eq!(again.code, 0, "{}", again.stderr);
    let (code, output) = run_json(&tenant, "reconcile", &[]).await;
    let total = &output["corps"][0]["total"];
    assert_eq!((code, &total["gaps"]), (0, &Value::from(1)), "{total}");
    assert_eq!(verified(&tenant).await, []);
}
