//! `reconcile` and `verify` over a drained tenant: nothing is found where nothing was done, and what
//! was done by hand is named. A window that was missed is refused, and a gap that is accepted noted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use chatledger_e2e::tenant::{Plan, Tenant};
use chatledger_e2e::{Driver, place, services};
use serde_json::Value;
use test_case::test_case;

/// Bytes of a line of the direct driver's ledger, and of the header before the first.
const LINE: usize = 112;
const HEADER: usize = 16;

async fn drained(name: &str, driver: Driver) -> Tenant {
    let plan = Plan::new(name, driver, 3000).faults("broken=20,unknown_key=10,duplicates=25");
    let tenant = Tenant::start(plan).await.unwrap();
    tenant.drain().await.unwrap();
    tenant
}

/// Exit code and the JSON object of a command.
async fn told(tenant: &Tenant, command: &str, further: &[&str]) -> (i32, Value) {
    let words = [&["--json"], further].concat();
    let ended = tenant.ended(command, &words).await.unwrap();
    let line = ended.stdout.last();
    let line = line.unwrap_or_else(|| panic!("{command} says nothing: {}", ended.stderr));
    (ended.code, serde_json::from_str(line).unwrap())
}

/// What is wrong, as (first position of the block, seq, what), in the order told.
fn findings(told: &Value) -> Vec<(u64, u64, String)> {
    let blocks = told["corps"][0]["blocks"].as_array().unwrap();
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

async fn row(tenant: &Tenant, offset: u64) -> u64 {
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
    let output = Command::new(place::python().unwrap())
        .arg(place::python_script(script))
        .args(arguments)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn rows_altered_by_hand_are_named_by_block(driver: Driver) {
    let tenant = drained("reconcile", driver).await;
    let (code, clean) = told(&tenant, "reconcile", &[]).await;
    assert_eq!((code, findings(&clean)), (0, Vec::new()), "{clean}");
    let total = &clean["corps"][0]["total"];
    for (what, count) in [
        (&total["pulled"]["rows"], 3025),
        (&total["clickhouse"], 2970),
        (&total["parquet"], 2970),
        (&total["dead_letters"], 30),
        (&total["duplicates"], 25),
        (&total["missing"], 0),
    ] {
        let rows = what.get("rows").unwrap_or(what);
        assert_eq!(rows, count, "{total}");
    }
    assert_eq!(total["clickhouse"]["hash"], total["parquet"]["hash"]);
    let kept = "SELECT accounted FROM reconciliations ORDER BY run_at DESC LIMIT 1 FORMAT TSV";
    assert_eq!(tenant.clickhouse.ask(kept).await.unwrap().trim(), "true");

    // A row is deleted, another inserted, and one doubled.
    let (gone, beside, doubled) = (
        row(&tenant, 100).await,
        row(&tenant, 1500).await,
        row(&tenant, 2500).await,
    );
    let change = async |sql: String| {
        tenant.clickhouse.ask(&sql).await.unwrap();
    };
    change(format!(
        "ALTER TABLE messages DELETE WHERE seq = {gone} SETTINGS mutations_sync = 2"
    ))
    .await;
    let stranger = beside + 1;
    change(format!(
        "INSERT INTO messages SELECT * REPLACE (seq + 1 AS seq, concat(msgid, 'x') AS msgid) \
         FROM (SELECT * FROM messages WHERE seq = {beside})"
    ))
    .await;
    change(format!(
        "INSERT INTO messages SELECT * FROM messages WHERE seq = {doubled}"
    ))
    .await;
    let block = |seq: u64| seq / 1000 * 1000;
    let altered = [
        (block(gone), gone, "missing_in_clickhouse".to_owned()),
        (
            block(stranger),
            stranger,
            "unexpected_in_clickhouse".to_owned(),
        ),
        (block(doubled), doubled, "repeated_in_clickhouse".to_owned()),
    ];
    let (code, found) = told(&tenant, "reconcile", &["--wait", "0s"]).await;
    assert_eq!((code, findings(&found)), (1, altered.to_vec()));
    // Only where it was looked for, and also behind everything that was pulled.
    let range = ["--wait", "0s", "--to-seq", &(gone - 1).to_string()];
    let (code, _) = told(&tenant, "reconcile", &range).await;
    assert_eq!(code, 0);
    change(format!(
        "INSERT INTO messages SELECT * REPLACE (seq + 90000000 AS seq, concat(msgid, 'y') AS msgid) \
         FROM (SELECT * FROM messages WHERE seq = {beside})"
    ))
    .await;
    let (_, found) = told(&tenant, "reconcile", &["--wait", "0s"]).await;
    let last = findings(&found).pop().unwrap();
    assert_eq!(
        (last.1, last.2.as_str()),
        (beside + 90_000_000, "unexpected_in_clickhouse")
    );

    // A file is removed: what stood in it is missing, whatever block it was in.
    let files = message_files(&tenant);
    let removed = &files[files.len() / 2];
    fs::remove_file(removed).unwrap();
    let (code, found) = told(&tenant, "reconcile", &["--wait", "0s"]).await;
    assert_eq!(code, 1);
    let missing = found["corps"][0]["total"]["missing"].as_u64().unwrap();
    assert!(missing > 1, "{found}");
    let named = findings(&found);
    assert!(
        named
            .iter()
            .any(|(_, _, what)| what == "missing_in_parquet")
    );
    let text = tenant.ended("reconcile", &["--wait", "0s"]).await.unwrap();
    assert!(
        text.stdout
            .join("\n")
            .contains(&format!("seq {gone}: missing in clickhouse"))
    );
}

/// What `verify` has found, as (what, place begins with, seq).
async fn verified(tenant: &Tenant) -> Vec<(String, String, u64)> {
    let (code, told) = told(tenant, "verify", &["--settle", "0s"]).await;
    let found = told["corps"][0]["findings"].as_array().unwrap();
    assert_eq!(code == 0, found.is_empty(), "{told}");
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
    // One byte of the sealed record's digest.
    let mut altered = good.clone();
    altered[at(700) + 41] ^= 1;
    assert_eq!(found(altered).await, ("changed".to_owned(), seq(700)));
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
    // The end is cut off: the files know better.
    fs::write(&ledger, &good[..at(2900)]).unwrap();
    let all = verified(&tenant).await;
    assert!(
        all.iter()
            .any(|(what, place, _)| what == "unanchored" && place != "ledger"),
        "{all:?}"
    );
    // All of it is: what the places hold is then of no record.
    fs::write(&ledger, &good[..HEADER]).unwrap();
    let (code, told) = told(&tenant, "reconcile", &[]).await;
    let total = &told["corps"][0]["total"];
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
    let seq = row(&tenant, 1234).await;
    let sql = format!(
        "ALTER TABLE messages UPDATE content = concat(content, '。') WHERE seq = {seq} \
         SETTINGS mutations_sync = 2"
    );
    tenant.clickhouse.ask(&sql).await.unwrap();
    let found = |what: &str, seq| (what.to_owned(), "clickhouse".to_owned(), seq);
    assert_eq!(verified(&tenant).await, [found("changed", seq)]);
    let gone = row(&tenant, 2345).await;
    let stranger = seq + 90_000_000;
    for sql in [
        format!("ALTER TABLE messages DELETE WHERE seq = {gone} SETTINGS mutations_sync = 2"),
        format!(
            "INSERT INTO messages SELECT * REPLACE ({stranger} AS seq, concat(msgid, 'y') AS msgid) \
             FROM (SELECT * FROM messages WHERE seq = {seq})"
        ),
    ] {
        tenant.clickhouse.ask(&sql).await.unwrap();
    }
    assert_eq!(
        verified(&tenant).await,
        [
            found("changed", seq),
            found("removed", gone),
            found("inserted", stranger)
        ]
    );
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
    let refused = tenant.ended("run", &["--drain"]).await.unwrap();
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    assert!(refused.stderr.contains("144 hours"), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("--accept-gap"),
        "{}",
        refused.stderr
    );
    let accepted = tenant
        .ended("run", &["--drain", "--accept-gap"])
        .await
        .unwrap();
    assert_eq!(accepted.code, 0, "{}", accepted.stderr);
    // Once is enough.
    let again = tenant.ended("run", &["--drain"]).await.unwrap();
    assert_eq!(again.code, 0, "{}", again.stderr);
    let (code, told) = told(&tenant, "reconcile", &[]).await;
    let total = &told["corps"][0]["total"];
    assert_eq!((code, &total["gaps"]), (0, &Value::from(1)), "{total}");
    assert_eq!(verified(&tenant).await, []);
}
