//! ClickHouse dies, refuses, forgets to answer, answers never, is full, overloaded or read-only.
//!
//! The engine is the real one. What it says when it is full, overloaded or read-only it says by
//! itself, because its tables are set so; the rest a proxy does to the line.

use chatledger_e2e::janitor::Janitor;
use chatledger_e2e::proxy::{Mood, Proxy};
use chatledger_e2e::services::{self, Engine};
use chatledger_e2e::tenant::{Plan, Tenant};
use chatledger_e2e::waiting::until_true;
use chatledger_e2e::{ClickHouse, Driver, Expected};
use test_case::test_case;

use super::{SOON, all_delivered, equals_truth, exceeds, metric};

const ERRORS: &str = "chatledger_sink_errors_total";
const SINK: &[&str] = &["sink=\"clickhouse\""];

/// A disturbance, and what takes it away again.
enum Trouble {
    /// Of the line.
    Line(Mood),
    /// Of the table: statements that bring it about and that end it.
    Table(&'static str, &'static str),
}

/// Troubles with a word of the log that tells which one it was.
const TROUBLES: &[(Trouble, &str)] = &[
    (Trouble::Line(Mood::Gone), "the connection failed"),
    (Trouble::Line(Mood::Forgetful), "the connection failed"),
    (Trouble::Line(Mood::Silent), "no answer within the timeout"),
    (Trouble::Line(Mood::ReadOnly), "READONLY"),
    (
        Trouble::Table(
            "ALTER TABLE messages MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 1",
            "ALTER TABLE messages RESET SETTING parts_to_throw_insert, parts_to_delay_insert",
        ),
        "TOO_MANY_PARTS",
    ),
    (
        Trouble::Table(
            "ALTER TABLE messages MODIFY SETTING min_free_disk_bytes_to_perform_insert = 1000000000000000",
            "ALTER TABLE messages RESET SETTING min_free_disk_bytes_to_perform_insert",
        ),
        "NOT_ENOUGH_SPACE",
    ),
    (
        Trouble::Table(
            "ALTER TABLE messages MODIFY SETTING table_readonly = 1",
            "ALTER TABLE messages MODIFY SETTING table_readonly = 0",
        ),
        "TABLE_IS_PERMANENTLY_READ_ONLY",
    ),
];

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_under_every_fault_holds_every_row_once(driver: Driver) {
    let engine = services::engine().await.unwrap();
    let proxy = Proxy::start(engine).await.unwrap();
    let mut plan = Plan::new("trouble", driver, 400)
        .faults("broken=7,unknown_key=3,duplicates=10")
        .with("--batch-limit=100");
    plan.clickhouse = Some(proxy.url().to_owned());
    let tenant = Tenant::start(plan).await.unwrap();
    let small = "timeout = \"1500ms\"\nbatch_rows = 50\nbatch_interval = \"50ms\"\ndatabase = ";
    let roll = "url = \"file:parquet\"\nroll_interval = \"200ms\"";
    tenant
        .configure(&[("database = ", small), ("url = \"file:parquet\"", roll)])
        .unwrap();
    let direct = ClickHouse::new(engine, &format!("trouble_{driver}"));
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    all_delivered(&tenant, &endpoints).await;
    // So that a table cannot have one part only.
    direct.ask("SYSTEM STOP MERGES messages").await.unwrap();
    for (trouble, word) in TROUBLES {
        match trouble {
            Trouble::Line(mood) => proxy.set(*mood),
            Trouble::Table(begin, _) => drop(direct.ask(begin).await.unwrap()),
        }
        let before = metric(&endpoints, ERRORS, SINK).await;
        tenant.append(100).await.unwrap();
        exceeds(&endpoints, ERRORS, SINK, before + 1.5).await;
        match trouble {
            Trouble::Line(_) => proxy.set(Mood::Well),
            Trouble::Table(_, end) => drop(direct.ask(end).await.unwrap()),
        }
        all_delivered(&tenant, &endpoints).await;
        assert!(run.ended().unwrap().is_none(), "it gave up: {word}");
        let log = run.log().unwrap();
        assert!(log.contains(word), "{word:?} is not told:\n{log}");
    }
    direct.ask("SYSTEM START MERGES messages").await.unwrap();
    equals_truth(&tenant, run).await;
}

/// The answer to an insert is lost, and the server has lost its rows though it knows the token: what
/// a server leaves that was killed between noting the one and naming the other.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_clickhouse_has_lost_behind_a_token_are_written_again() {
    let engine = services::engine().await.unwrap();
    let proxy = Proxy::start(engine).await.unwrap();
    let mut plan = Plan::new("lost", Driver::Direct, 300).with("--batch-limit=100");
    plan.clickhouse = Some(proxy.url().to_owned());
    let tenant = Tenant::start(plan).await.unwrap();
    let direct = ClickHouse::new(engine, "lost_direct");
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    all_delivered_to_clickhouse(&tenant, &endpoints).await;
    let known = direct
        .number("SELECT max(seq) FROM messages")
        .await
        .unwrap();

    proxy.set(Mood::Forgetful);
    tenant.append(100).await.unwrap();
    let newer = format!("SELECT count() FROM messages WHERE seq > {known}");
    until_true("the rows have arrived", SOON, async || {
        Ok(direct.number(&newer).await? > 0)
    })
    .await
    .unwrap();
    // The cut has been inserted; every repeat is dropped from now on.
    let lose =
        format!("ALTER TABLE messages DELETE WHERE seq > {known} SETTINGS mutations_sync = 2");
    direct.ask(&lose).await.unwrap();
    assert_eq!(direct.number(&newer).await.unwrap(), 0);
    proxy.set(Mood::Well);
    all_delivered_to_clickhouse(&tenant, &endpoints).await;
    let log = equals_truth(&tenant, run).await;
    assert!(log.contains("has lost its rows; inserting them"), "{log}");
}

async fn all_delivered_to_clickhouse(
    tenant: &Tenant,
    endpoints: &chatledger_e2e::metrics::Endpoints,
) {
    let expected = Expected::read(&tenant.truth()).unwrap();
    let rows = expected.messages.len() + expected.violations.len() + expected.dead_letters.len();
    let name = "chatledger_sink_rows_total";
    exceeds(endpoints, name, SINK, rows as f64 - 0.5).await;
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_killed_and_restarted_holds_every_row_once(driver: Driver) {
    let data = Janitor::get().unwrap().folder("dying").unwrap();
    let engine = Engine::start(&data, "127.0.0.1:0").await.unwrap();
    let mut plan = Plan::new("dying", driver, 6000)
        .faults("broken=7,unknown_key=3,duplicates=10,slow=15")
        .with("--batch-limit=100");
    plan.clickhouse = Some(engine.url.clone());
    let tenant = Tenant::start(plan).await.unwrap();
    // Small cuts, so that there are many writes to die in.
    tenant
        .configure(&[(
            "database = ",
            "batch_rows = 500\nbatch_interval = \"100ms\"\ndatabase = ",
        )])
        .unwrap();
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    let rows = async |clickhouse: &ClickHouse| {
        let rows = clickhouse.number("SELECT count() FROM messages").await;
        // While it is dead there is no answer.
        rows.unwrap_or_default()
    };
    until_true("some messages are stored", SOON, async || {
        Ok(rows(&tenant.clickhouse).await > 1000)
    })
    .await
    .unwrap();

    let mut engine = engine;
    assert!(engine.process.kill().unwrap());
    let errors = "chatledger_sink_errors_total";
    until_true("the metrics tell of the dead sink", SOON, async || {
        Ok(endpoints
            .scrape()
            .await?
            .sum(errors, &["sink=\"clickhouse\""])
            > 0.0)
    })
    .await
    .unwrap();
    assert!(
        run.ended().unwrap().is_none(),
        "it gave up:\n{}",
        run.log().unwrap()
    );
    let _engine = engine.restart().await.unwrap();

    let expected = Expected::read(&tenant.truth()).unwrap();
    until_true("everything is stored after all", SOON, async || {
        Ok(rows(&tenant.clickhouse).await >= expected.messages.len() as u64)
    })
    .await
    .unwrap();
    equals_truth(&tenant, run).await;
}
