//! Dead letters: listed, shown, tried again, done without; and opened by themselves once their key
//! has come, each exactly once, also if the process is killed in the middle or several try at once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::time::Duration;

use chatledger_e2e::metrics::Endpoints;
use chatledger_e2e::tenant::{Ended, Plan, Tenant};
use chatledger_e2e::waiting::{until, until_true};
use chatledger_e2e::{Driver, Expected, stored};
use serde_json::Value;
use test_case::test_case;

const SOON: Duration = Duration::from_secs(90);
const UNKNOWN_KEY: u64 = 10;
const BROKEN: u64 = 20;
/// The truth says what the simulator makes; who lacks a key is known by this reason.
const LACKING: &str = "unknown_key_version";
const EVENTS: &str = "SELECT seq, event, attempt, actor, because, reason FROM dead_letter_events";

/// A tenant that has been drained without the key it withholds.
async fn drained(name: &str, driver: Driver) -> Tenant {
    let faults = format!("broken={BROKEN},unknown_key={UNKNOWN_KEY},duplicates=15");
    let tenant = Tenant::start(Plan::new(name, driver, 1200).faults(&faults))
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

/// Names the withheld key in the configuration.
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

async fn dlq(tenant: &Tenant, words: &[&str]) -> Ended {
    tenant.ended("dlq", words).await.unwrap()
}

/// What a command prints with `--json`.
async fn told(tenant: &Tenant, words: &[&str]) -> Value {
    let words = [words, &["--json"]].concat();
    let ended = dlq(tenant, &words).await;
    assert_eq!(ended.code, 0, "{words:?}: {}", ended.stderr);
    serde_json::from_str(&ended.stdout.concat()).unwrap()
}

#[track_caller]
fn assert_counts(told: &Value, counts: [(&str, u64); 5]) {
    for (name, count) in counts {
        assert_eq!(told[name], count, "{name} in {told}");
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

/// Waits until the tables hold what they must once the key is known, and compares everything.
async fn healed(tenant: &Tenant) -> Expected {
    let expected = Expected::with_withheld_key(&tenant.truth()).unwrap();
    until_true("the withheld messages are stored", SOON, async || {
        let rows = tenant
            .clickhouse
            .number("SELECT count() FROM messages")
            .await?;
        let open = "SELECT count() FROM dead_letters FINAL";
        let open = tenant.clickhouse.number(open).await?;
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
    // Nothing was noted twice either.
    let twice =
        "SELECT count() - uniqExact(corp_id, seq, msgid, attempt, event) FROM dead_letter_events";
    assert_eq!(tenant.clickhouse.number(twice).await.unwrap(), 0);
}

async fn files_hold(tenant: &Tenant, expected: &Expected) {
    until("the files hold the withheld messages", SOON, async || {
        let found = stored::parquet_rows(&tenant.parquet().join("messages"), "messages")?;
        Ok((found.len() >= expected.messages.len()).then_some(()))
    })
    .await
    .unwrap();
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_wait_for_their_key_and_are_then_delivered_once(driver: Driver) {
    let tenant = drained("letters", driver).await;
    let all = UNKNOWN_KEY + BROKEN;

    let list = told(&tenant, &["list"]).await;
    assert_eq!(list["open"], all);
    let reasons = list["reasons"].as_array().unwrap();
    let lacking = reasons
        .iter()
        .find(|group| group["reason"] == LACKING)
        .unwrap();
    assert_eq!(
        (&lacking["letters"], &lacking["attempts"]),
        (&UNKNOWN_KEY.into(), &0.into())
    );
    let some = told(&tenant, &["list", "--reason", LACKING, "--limit", "3"]).await;
    assert_eq!(
        (&some["open"], some["letters"].as_array().unwrap().len()),
        (&UNKNOWN_KEY.into(), 3)
    );
    let table = dlq(&tenant, &["list"]).await.stdout.join("\n");
    assert!(
        table.contains("缺少该版本私钥") && table.contains(&format!("共 {all} 条")),
        "{table}"
    );
    let seq = some["letters"][0]["seq"].to_string();
    let letter = told(&tenant, &["show", "--seq", &seq]).await;
    let sealed: Value = serde_json::from_str(letter["sealed"].as_str().unwrap()).unwrap();
    assert!(sealed["encrypt_chat_msg"].is_string(), "{letter}");
    let human = dlq(&tenant, &["show", "--seq", &seq])
        .await
        .stdout
        .join("\n");
    assert!(human.contains("密封的原文"), "{human}");

    let dry = told(&tenant, &["replay", "--dry-run"]).await;
    assert_counts(&dry, counts(0, all, 0));
    assert_eq!(dry["dry_run"], true);
    assert_eq!(told(&tenant, &["list"]).await["reasons"][0]["attempts"], 0);

    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    // Without the key all stay, one attempt more; the running process does it.
    let tried = told(&tenant, &["replay"]).await;
    assert_counts(&tried, counts(0, all, 0));
    let list = told(&tenant, &["list"]).await;
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

    // The key comes: what lacked it is delivered by itself, the rest stays.
    add_key(&tenant);
    run.hang_up().unwrap();
    let expected = healed(&tenant).await;
    files_hold(&tenant, &expected).await;
    assert_equal(&tenant, &expected).await;
    open_letters_are(&endpoints, BROKEN).await;
    assert_eq!(told(&tenant, &["list"]).await["open"], BROKEN);
    let by_itself =
        format!("{EVENTS} FINAL WHERE event = 'replayed' AND actor = 'chatledger' AND attempt = 2");
    assert_eq!(
        tenant.clickhouse.rows(&by_itself).await.unwrap().len() as u64,
        UNKNOWN_KEY
    );

    // What nobody will ever open is done without, with a trace.
    let chosen = [
        "--reason",
        "wrong_key,bad_json",
        "--because",
        "测试：发送方已确认",
    ];
    let hesitant = dlq(&tenant, &[&["drop"], &chosen[..]].concat()).await;
    assert_eq!(hesitant.code, 4, "{}", hesitant.stderr);
    assert!(hesitant.stderr.contains("--yes"), "{}", hesitant.stderr);
    let some = told(&tenant, &["list", "--reason", "wrong_key,bad_json"]).await;
    let gone = some["open"].as_u64().unwrap();
    assert!(gone > 0 && gone < BROKEN, "{some}");
    let dropped = told(&tenant, &[&["drop", "--yes"], &chosen[..]].concat()).await;
    assert_counts(&dropped, counts(0, 0, gone));
    let rest = told(&tenant, &["list"]).await;
    assert_eq!(rest["open"], BROKEN - gone);
    let seq = some["letters"][0]["seq"].to_string();
    assert_eq!(dlq(&tenant, &["show", "--seq", &seq]).await.code, 4);
    let trace = format!(
        "{EVENTS} FINAL WHERE event = 'dropped' AND actor != '' AND because = '{}'",
        chosen[3]
    );
    let open = "SELECT count() FROM dead_letters FINAL";
    until_true("the trace is in the tables", SOON, async || {
        Ok(tenant.clickhouse.rows(&trace).await?.len() as u64 == gone
            && tenant.clickhouse.number(open).await? == BROKEN - gone)
    })
    .await
    .unwrap();
    open_letters_are(&endpoints, BROKEN - gone).await;
    run.terminate().unwrap();
    assert_eq!(run.finish(SOON).await.unwrap().0, 0);

    // The next start knows all that.
    let again = tenant.drain().await.unwrap();
    assert_eq!(
        (again.pulled, again.messages, again.dead_letters),
        (0, 0, 0)
    );
    let settled = tenant.clickhouse.number(open).await.unwrap();
    assert_eq!(settled, BROKEN - gone);
    let letters = rest["letters"].as_array().unwrap();
    let is_open = |letter: &Value| letters.iter().any(|open| open["seq"] == letter["seq"]);
    let mut expected = expected;
    expected.dead_letters.retain(is_open);
    assert_equal(&tenant, &expected).await;
}

async fn open_letters_are(endpoints: &Endpoints, letters: u64) {
    until_true("the gauge of open letters", SOON, async || {
        let open = endpoints
            .scrape()
            .await?
            .sum("chatledger_dead_letters_open", &[]);
        Ok((open - letters as f64).abs() < 0.5)
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_replayed_and_dropped_while_nothing_runs() {
    let tenant = drained("alone", Driver::Direct).await;
    let tried = told(&tenant, &["replay", "--reason", LACKING]).await;
    assert_counts(&tried, counts(0, UNKNOWN_KEY, 0));
    add_key(&tenant);
    let dry = told(&tenant, &["replay", "--dry-run"]).await;
    assert_counts(&dry, counts(UNKNOWN_KEY, BROKEN, 0));
    let done = told(&tenant, &["replay", "--reason", LACKING]).await;
    assert_counts(&done, counts(UNKNOWN_KEY, 0, 0));
    let expected = healed(&tenant).await;
    assert_equal(&tenant, &expected).await;
    let nothing = told(&tenant, &["replay", "--reason", LACKING]).await;
    assert_counts(&nothing, counts(0, 0, 0));
    tenant.drain().await.unwrap();
    assert_equal(&tenant, &expected).await;

    let dropped = told(&tenant, &["drop", "--yes", "--because", "test"]).await;
    assert_counts(&dropped, counts(0, 0, BROKEN));
    let empty = dlq(&tenant, &["list"]).await;
    assert!(
        empty.stdout.concat().contains("没有未处理的死信"),
        "{empty:?}"
    );
    let unknown = dlq(&tenant, &["list", "--corp", "ww-other"]).await;
    assert_eq!(unknown.code, 2, "{}", unknown.stderr);
}

/// The replay has reached one sink and not the other when the process is killed.
#[tokio::test(flavor = "multi_thread")]
async fn replay_killed_between_two_sinks_is_repeated_exactly() {
    let tenant = drained("torn", Driver::Direct).await;
    add_key(&tenant);
    let (files, away) = (
        tenant.parquet().join("messages"),
        tenant.parquet().join("_away"),
    );
    fs::rename(&files, &away).unwrap();
    fs::write(&files, "no folder").unwrap();
    let journal = tenant.dir.join("state").read_dir().unwrap();
    let corp = journal
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    for kill in 0..3 {
        let mut run = tenant.chatledger("run", &[]).unwrap();
        until_true(
            "ClickHouse has them and Parquet does not",
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
    fs::rename(&away, &files).unwrap();
    tenant.drain().await.unwrap();
    assert!(!corp.join("replay.json").exists());
    assert_equal(&tenant, &expected).await;
}

/// Kills at moments spread over the replay that a start with a new key begins by itself.
#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn replay_killed_at_any_moment_delivers_once(driver: Driver) {
    let tenant = drained("shot", driver).await;
    add_key(&tenant);
    for delay in [0, 60, 150, 300, 500, 800] {
        let mut run = tenant.chatledger("run", &[]).unwrap();
        let _up = Tenant::endpoints(&mut run).await.unwrap();
        tokio::time::timeout(Duration::from_millis(delay), run.exit(SOON))
            .await
            .ok();
        assert!(run.kill().unwrap(), "{}", run.log().unwrap());
    }
    tenant.drain().await.unwrap();
    let expected = Expected::with_withheld_key(&tenant.truth()).unwrap();
    assert_equal(&tenant, &expected).await;
    assert_eq!(told(&tenant, &["list"]).await["open"], BROKEN);
}

/// Two people and a process that starts, all at once.
#[tokio::test(flavor = "multi_thread")]
async fn replays_begun_at_once_in_the_kafka_driver_deliver_once() {
    let tenant = drained("at_once", Driver::Kafka).await;
    add_key(&tenant);
    let replay = ["replay", "--wait", "60s", "--reason", LACKING];
    let mut people: Vec<_> = (0..2)
        .map(|_| tenant.chatledger("dlq", &replay).unwrap())
        .collect();
    tenant.drain().await.unwrap();
    for person in &mut people {
        let (code, _) = person.finish(SOON).await.unwrap();
        assert!([0, 3].contains(&code), "{}", person.log().unwrap());
    }
    // Whoever came last may have published behind the drain.
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

/// Letters stand behind what the files hold, are replayed, and their records come again after a
/// kill: they become the letters again that they were, and everything stays accounted for.
#[tokio::test(flavor = "multi_thread")]
async fn letters_replayed_before_their_records_come_again_stay_accounted_for() {
    let faults = format!("broken={BROKEN},unknown_key={UNKNOWN_KEY},duplicates=15");
    let plan = Plan::new("again", Driver::Direct, 1200).faults(&faults);
    let tenant = Tenant::start(plan).await.unwrap();
    let rolling = "url = \"file:parquet\"\nroll_interval = \"1h\"";
    tenant
        .configure(&[("url = \"file:parquet\"", rolling)])
        .unwrap();
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    open_letters_are(&endpoints, UNKNOWN_KEY + BROKEN).await;
    add_key(&tenant);
    run.hang_up().unwrap();
    let expected = healed(&tenant).await;
    open_letters_are(&endpoints, BROKEN).await;
    assert!(run.kill().unwrap());

    tenant.drain().await.unwrap();
    assert_equal(&tenant, &expected).await;
    for command in ["reconcile", "verify"] {
        let ended = tenant.ended(command, &[]).await.unwrap();
        assert_eq!(ended.code, 0, "{command}: {}", ended.stdout.join("\n"));
    }
}
