//! Dead letters: list, show, replay and drop; automatic replay when a missing key is added. Each record
//! is delivered exactly once, even if a process is killed or several replay at the same time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::time::Duration;

use chatledger_e2e::metrics::Endpoints;
use chatledger_e2e::tenant::{FinishedRun, Tenant, TenantPlan};
use chatledger_e2e::waiting::{until, until_true};
use chatledger_e2e::{Driver, Expected, stored};
use serde_json::Value;
use test_case::test_case;

const SOON: Duration = Duration::from_secs(90);
const UNKNOWN_KEY: u64 = 10;
const BROKEN: u64 = 20;
/// Reason of the dead letters whose key is withheld.
const UNKNOWN_KEY_REASON: &str = "unknown_key_version";
const OPEN: &str = "SELECT count() FROM dead_letters FINAL";
const EVENTS: &str = "SELECT seq, event, attempt, actor, because, reason FROM dead_letter_events";

/// Returns a tenant that was drained without the withheld key.
async fn drained(name: &str, driver: Driver) -> Tenant {
    let faults = format!("broken={BROKEN},unknown_key={UNKNOWN_KEY},duplicates=15");
    let tenant = Tenant::start(TenantPlan::new(name, driver, 1200).faults(&faults))
        .await
        .unwrap();
    let rolling = "url = \"file:parquet\"\nroll_interval = \"500ms\"";
    tenant
        .configure(&[("url = \"file:parquet\"", rolling)])
        .unwrap();
    tenant.drain().await.unwrap();
    stored::equals_truth(&tenant).await.unwrap();
    tenant
}

/// Adds the withheld key to the configuration.
fn add_key(tenant: &Tenant) {
    let text = fs::read_to_string(&tenant.config).unwrap();
    let last = text.rfind("[[corp.archive.key]]").unwrap();
    let key = "[[corp.archive.key]]\nversion = 3\nfile = \"withheld/key-3.pem\"\n\n";
    fs::write(
        &tenant.config,
        format!("{}{key}{}", &text[..last], &text[last..]),
    )
    .unwrap();
}

async fn dlq(tenant: &Tenant, words: &[&str]) -> FinishedRun {
    tenant.run_to_end("dlq", words).await.unwrap()
}

/// Runs a `dlq` command with `--json` and returns its output.
async fn dlq_json(tenant: &Tenant, words: &[&str]) -> Value {
    let words = [words, &["--json"]].concat();
    let ended = dlq(tenant, &words).await;
    assert_eq!(ended.code, 0, "{words:?}: {}", ended.stderr);
    serde_json::from_str(&ended.stdout.concat()).unwrap()
}

#[track_caller]
fn assert_counts(output: &Value, counts: [(&str, u64); 5]) {
    for (name, count) in counts {
        assert_eq!(output[name], count, "{name} in {output}");
    }
}

fn counts(replayed: u64, failed: u64, dropped: u64) -> [(&'static str, u64); 5] {
    [
        ("replayed", replayed),
        ("duplicates", 0),
        ("failed", failed),
        ("dropped", dropped),
        ("waiting", 0),
    ]
}

/// Waits until the tables contain the withheld messages; returns the expected rows.
async fn withheld_messages_stored(tenant: &Tenant) -> Expected {
    let expected = Expected::with_withheld_key(&tenant.truth()).unwrap();
    until_true("the withheld messages are stored", SOON, async || {
        let rows = tenant
            .clickhouse
            .number("SELECT count() FROM messages")
            .await?;
        let open = tenant.clickhouse.number(OPEN).await?;
        Ok(rows >= expected.messages.len() as u64 && open <= expected.dead_letters.len() as u64)
    })
    .await
    .unwrap();
    expected
}

async fn assert_equal(tenant: &Tenant, expected: &Expected) {
    stored::tables_equal(&tenant.clickhouse, expected)
        .await
        .unwrap();
    stored::files_equal(&tenant.parquet(), expected).unwrap();
    // No event was recorded twice.
    let twice =
        "SELECT count() - uniqExact(corp_id, seq, msgid, attempt, event) FROM dead_letter_events";
    assert_eq!(tenant.clickhouse.number(twice).await.unwrap(), 0);
}

async fn files_contain(tenant: &Tenant, expected: &Expected) {
    until(
        "the files contain the withheld messages",
        SOON,
        async || {
            let found = stored::parquet_rows(&tenant.parquet().join("messages"), "messages")?;
            Ok((found.len() >= expected.messages.len()).then_some(()))
        },
    )
    .await
    .unwrap();
}

/// Asserts what `dlq list`, `dlq show` and a dry run print before any replay.
async fn assert_listed_and_shown(tenant: &Tenant, all: u64) {
    let list = dlq_json(tenant, &["list"]).await;
    assert_eq!(list["open"], all);
    let reasons = list["reasons"].as_array().unwrap();
    let unknown_key = reasons
        .iter()
        .find(|group| group["reason"] == UNKNOWN_KEY_REASON)
        .unwrap();
    assert_eq!(
        (&unknown_key["letters"], &unknown_key["attempts"]),
        (&UNKNOWN_KEY.into(), &0.into())
    );
    let some = dlq_json(
        tenant,
        &["list", "--reason", UNKNOWN_KEY_REASON, "--limit", "3"],
    )
    .await;
    assert_eq!(
        (&some["open"], some["letters"].as_array().unwrap().len()),
        (&UNKNOWN_KEY.into(), 3)
    );
    let table = dlq(tenant, &["list"]).await.stdout.join("\n");
    assert!(
        table.contains("unknown_key_version")
            && table.contains(&format!("{all} open dead letters")),
        "{table}"
    );
    let seq = some["letters"][0]["seq"].to_string();
    let dead_letter = dlq_json(tenant, &["show", "--seq", &seq]).await;
    let sealed: Value = serde_json::from_str(dead_letter["sealed"].as_str().unwrap()).unwrap();
    assert!(sealed["encrypt_chat_msg"].is_string(), "{dead_letter}");
    let text = dlq(tenant, &["show", "--seq", &seq])
        .await
        .stdout
        .join("\n");
    assert!(text.contains("sealed record:"), "{text}");

    let dry = dlq_json(tenant, &["replay", "--dry-run"]).await;
    assert_counts(&dry, counts(0, all, 0));
    assert_eq!(dry["dry_run"], true);
    assert_eq!(
        dlq_json(tenant, &["list"]).await["reasons"][0]["attempts"],
        0
    );
}

/// Replays without the key, by the running process: all dead letters stay open with one more attempt.
async fn assert_replay_without_key_fails(tenant: &Tenant, all: u64) {
    let tried = dlq_json(tenant, &["replay"]).await;
    assert_counts(&tried, counts(0, all, 0));
    let list = dlq_json(tenant, &["list"]).await;
    assert_eq!(list["open"], all);
    assert!(
        list["reasons"]
            .as_array()
            .unwrap()
            .iter()
            .all(|group| group["attempts"] == 1),
        "{list}"
    );
    let attempts = "SELECT count() FROM dead_letters FINAL WHERE attempts = 1";
    until_true("the attempt is in the table", SOON, async || {
        Ok(tenant.clickhouse.number(attempts).await? == all)
    })
    .await
    .unwrap();
    stored::tables_equal(
        &tenant.clickhouse,
        &Expected::read(&tenant.truth()).unwrap(),
    )
    .await
    .unwrap();
}

/// Discards dead letters that can never be opened, and asserts that this is recorded. Returns the list
/// of the open ones.
async fn discard_some(tenant: &Tenant) -> Value {
    let chosen = [
        "--reason",
        "wrong_key,bad_json",
        "--because",
        "测试：发送方已确认",
    ];
    let unconfirmed = dlq(tenant, &[&["drop"], &chosen[..]].concat()).await;
    assert_eq!(unconfirmed.code, 4, "{}", unconfirmed.stderr);
    assert!(
        unconfirmed.stderr.contains("--yes"),
        "{}",
        unconfirmed.stderr
    );
    let some = dlq_json(tenant, &["list", "--reason", "wrong_key,bad_json"]).await;
    let discarded = some["open"].as_u64().unwrap();
    assert!(discarded > 0 && discarded < BROKEN, "{some}");
    let dropped = dlq_json(tenant, &[&["drop", "--yes"], &chosen[..]].concat()).await;
    assert_counts(&dropped, counts(0, 0, discarded));
    let rest = dlq_json(tenant, &["list"]).await;
    assert_eq!(rest["open"], BROKEN - discarded);
    let seq = some["letters"][0]["seq"].to_string();
    assert_eq!(dlq(tenant, &["show", "--seq", &seq]).await.code, 4);
    let events = format!(
        "{EVENTS} FINAL WHERE event = 'dropped' AND actor != '' AND because = '{}'",
        chosen[3]
    );
    until_true("the events are in the tables", SOON, async || {
        Ok(
            tenant.clickhouse.rows(&events).await?.len() as u64 == discarded
                && tenant.clickhouse.number(OPEN).await? == BROKEN - discarded,
        )
    })
    .await
    .unwrap();
    rest
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_wait_for_their_key_and_are_then_delivered_once(driver: Driver) {
    let tenant = drained("dead_letters", driver).await;
    let all = UNKNOWN_KEY + BROKEN;

    assert_listed_and_shown(&tenant, all).await;
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    assert_replay_without_key_fails(&tenant, all).await;

    // Once the key is added, its dead letters are replayed automatically; the others stay open.
    add_key(&tenant);
    run.hang_up().unwrap();
    let expected = withheld_messages_stored(&tenant).await;
    files_contain(&tenant, &expected).await;
    assert_equal(&tenant, &expected).await;
    open_dead_letters_are(&endpoints, BROKEN).await;
    assert_eq!(dlq_json(&tenant, &["list"]).await["open"], BROKEN);
    let automatic =
        format!("{EVENTS} FINAL WHERE event = 'replayed' AND actor = 'chatledger' AND attempt = 2");
    assert_eq!(
        tenant.clickhouse.rows(&automatic).await.unwrap().len() as u64,
        UNKNOWN_KEY
    );

    let rest = discard_some(&tenant).await;
    let still_open = rest["open"].as_u64().unwrap();
    open_dead_letters_are(&endpoints, still_open).await;
    run.terminate().unwrap();
    assert_eq!(run.finish(SOON).await.unwrap().0, 0);

    // The next start delivers nothing again.
    let again = tenant.drain().await.unwrap();
    assert_eq!(
        (again.pulled, again.messages, again.dead_letters),
        (0, 0, 0)
    );
    let open = tenant.clickhouse.number(OPEN).await.unwrap();
    assert_eq!(open, still_open);
    let listed = rest["letters"].as_array().unwrap();
    let is_open = |row: &Value| listed.iter().any(|open| open["seq"] == row["seq"]);
    let mut expected = expected;
    expected.dead_letters.retain(is_open);
    assert_equal(&tenant, &expected).await;
}

async fn open_dead_letters_are(endpoints: &Endpoints, count: u64) {
    until_true("the gauge of open dead letters", SOON, async || {
        let open = endpoints
            .scrape()
            .await?
            .sum("chatledger_dead_letters_open", &[]);
        Ok((open - count as f64).abs() < 0.5)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_replayed_and_dropped_while_no_process_runs() {
    let tenant = drained("alone", Driver::Direct).await;
    let tried = dlq_json(&tenant, &["replay", "--reason", UNKNOWN_KEY_REASON]).await;
    assert_counts(&tried, counts(0, UNKNOWN_KEY, 0));
    add_key(&tenant);
    let dry = dlq_json(&tenant, &["replay", "--dry-run"]).await;
    assert_counts(&dry, counts(UNKNOWN_KEY, BROKEN, 0));
    let done = dlq_json(&tenant, &["replay", "--reason", UNKNOWN_KEY_REASON]).await;
    assert_counts(&done, counts(UNKNOWN_KEY, 0, 0));
    let expected = withheld_messages_stored(&tenant).await;
    assert_equal(&tenant, &expected).await;
    let nothing = dlq_json(&tenant, &["replay", "--reason", UNKNOWN_KEY_REASON]).await;
    assert_counts(&nothing, counts(0, 0, 0));
    tenant.drain().await.unwrap();
    assert_equal(&tenant, &expected).await;

    let dropped = dlq_json(&tenant, &["drop", "--yes", "--because", "test"]).await;
    assert_counts(&dropped, counts(0, 0, BROKEN));
    let empty = dlq(&tenant, &["list"]).await;
    assert!(
        empty.stdout.concat().contains("no open dead letters"),
        "{empty:?}"
    );
    let unknown = dlq(&tenant, &["list", "--corp", "ww-other"]).await;
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
}

/// The process is killed when the replay has reached only one of two sinks.
#[tokio::test(flavor = "multi_thread")]
async fn replay_killed_between_two_sinks_is_completed_without_duplicates() {
    let tenant = drained("torn", Driver::Direct).await;
    add_key(&tenant);
    let (files, moved) = (
        tenant.parquet().join("messages"),
        tenant.parquet().join("_moved"),
    );
    fs::rename(&files, &moved).unwrap();
    fs::write(&files, "not a folder").unwrap();
    let state = tenant.dir.join("state").read_dir().unwrap();
    let corp = state
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    for kill in 0..3 {
        let mut run = tenant.chatledger("run", &[]).unwrap();
        until_true(
            "ClickHouse has the rows and Parquet does not",
            SOON,
            async || Ok(run.log()?.contains("replay not written") || run.ended()?.is_some()),
        )
        .await
        .unwrap();
        assert!(
            corp.join("replay.json").exists(),
            "kill {kill}: {}",
            run.log().unwrap()
        );
        assert!(run.kill().unwrap());
    }
    let stored = "SELECT count() FROM messages";
    let expected = Expected::with_withheld_key(&tenant.truth()).unwrap();
    assert_eq!(
        tenant.clickhouse.number(stored).await.unwrap() as usize,
        expected.messages.len()
    );
    fs::remove_file(&files).unwrap();
    fs::rename(&moved, &files).unwrap();
    tenant.drain().await.unwrap();
    assert!(!corp.join("replay.json").exists());
    assert_equal(&tenant, &expected).await;
}

/// Kills the process at different times during the replay that starts automatically with a new key.
#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn replay_killed_at_any_moment_delivers_once(driver: Driver) {
    let tenant = drained("shot", driver).await;
    add_key(&tenant);
    for delay in [0, 60, 150, 300, 500, 800] {
        let mut run = tenant.chatledger("run", &[]).unwrap();
        let _endpoints = Tenant::endpoints(&mut run).await.unwrap();
        tokio::time::timeout(Duration::from_millis(delay), run.exit(SOON))
            .await
            .ok();
        assert!(run.kill().unwrap(), "{}", run.log().unwrap());
    }
    tenant.drain().await.unwrap();
    let expected = Expected::with_withheld_key(&tenant.truth()).unwrap();
    assert_equal(&tenant, &expected).await;
    assert_eq!(dlq_json(&tenant, &["list"]).await["open"], BROKEN);
}

/// Two replays from the command line and one at the start of a process run at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_replays_in_the_kafka_driver_deliver_once() {
    let tenant = drained("concurrent", Driver::Kafka).await;
    add_key(&tenant);
    let replay = ["replay", "--wait", "60s", "--reason", UNKNOWN_KEY_REASON];
    let mut replays: Vec<_> = (0..2)
        .map(|_| tenant.chatledger("dlq", &replay).unwrap())
        .collect();
    tenant.drain().await.unwrap();
    for replay in &mut replays {
        let (code, _) = replay.finish(SOON).await.unwrap();
        assert!([0, 3].contains(&code), "{}", replay.log().unwrap());
    }
    // The last replay can have published records after the drain.
    tenant.drain().await.unwrap();
    let expected = Expected::with_withheld_key(&tenant.truth()).unwrap();
    assert_equal(&tenant, &expected).await;
    let replayed =
        "SELECT count() FROM dead_letter_events WHERE event = 'replayed' AND attempt = 1";
    assert_eq!(
        tenant.clickhouse.number(replayed).await.unwrap(),
        UNKNOWN_KEY
    );
}

/// Dead letters after the position of the Parquet lane are replayed; after a kill, their records are
/// pulled again. They are dead-lettered again, and every record is still accounted for.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_replayed_before_their_records_are_pulled_again_stay_accounted_for() {
    let faults = format!("broken={BROKEN},unknown_key={UNKNOWN_KEY},duplicates=15");
    let plan = TenantPlan::new("pulled_again", Driver::Direct, 1200).faults(&faults);
    let tenant = Tenant::start(plan).await.unwrap();
    let rolling = "url = \"file:parquet\"\nroll_interval = \"1h\"";
    tenant
        .configure(&[("url = \"file:parquet\"", rolling)])
        .unwrap();
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    open_dead_letters_are(&endpoints, UNKNOWN_KEY + BROKEN).await;
    add_key(&tenant);
    run.hang_up().unwrap();
    let expected = withheld_messages_stored(&tenant).await;
    open_dead_letters_are(&endpoints, BROKEN).await;
    assert!(run.kill().unwrap());

    tenant.drain().await.unwrap();
    assert_equal(&tenant, &expected).await;
    for command in ["reconcile", "verify"] {
        let ended = tenant.run_to_end(command, &[]).await.unwrap();
        assert_eq!(ended.code, 0, "{command}: {}", ended.stdout.join("\n"));
    }
}
