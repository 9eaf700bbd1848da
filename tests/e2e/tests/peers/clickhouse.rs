//! ClickHouse crashes, is unreachable, does not respond, is full, overloaded or read-only.
//!
//! The engine is real. Settings of its tables make it report that it is full, overloaded or read-only;
//! a proxy causes the other faults.

use chatledger_e2e::janitor::Janitor;
use chatledger_e2e::proxy::{FaultProxy, ProxyMode};
use chatledger_e2e::services::{self, Engine};
use chatledger_e2e::tenant::{Tenant, TenantPlan};
use chatledger_e2e::waiting::until_true;
use chatledger_e2e::{ClickHouse, Driver, Expected};
use test_case::test_case;

use super::{SOON, all_delivered, equals_truth, exceeds, metric};

const ERRORS: &str = "chatledger_sink_errors_total";
const SINK: &[&str] = &["sink=\"clickhouse\""];

/// A fault of ClickHouse or the connection to it.
enum ServerFault {
    /// A mode of the proxy.
    Proxy(ProxyMode),
    /// Statements that start and end a fault of the table.
    Table(&'static str, &'static str),
}

/// Faults, each with a text that the log must contain.
const FAULTS: &[(ServerFault, &str)] = &[
    (
        ServerFault::Proxy(ProxyMode::Unreachable),
        "the connection failed",
    ),
    (
        ServerFault::Proxy(ProxyMode::DropResponses),
        "the connection failed",
    ),
    (
        ServerFault::Proxy(ProxyMode::Hang),
        "no answer within the timeout",
    ),
    (ServerFault::Proxy(ProxyMode::ReadOnly), "READONLY"),
    (
        ServerFault::Table(
            "ALTER TABLE messages MODIFY SETTING parts_to_throw_insert = 1, parts_to_delay_insert = 1",
            "ALTER TABLE messages RESET SETTING parts_to_throw_insert, parts_to_delay_insert",
        ),
        "TOO_MANY_PARTS",
    ),
    (
        ServerFault::Table(
            "ALTER TABLE messages MODIFY SETTING min_free_disk_bytes_to_perform_insert = 1000000000000000",
            "ALTER TABLE messages RESET SETTING min_free_disk_bytes_to_perform_insert",
        ),
        "NOT_ENOUGH_SPACE",
    ),
    (
        ServerFault::Table(
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
    let proxy = FaultProxy::start(engine).await.unwrap();
    let mut plan = TenantPlan::new("fault", driver, 400)
        .faults("broken=7,unknown_key=3,duplicates=10")
        .arg("--batch-limit=100");
    plan.clickhouse = Some(proxy.url().to_owned());
    let tenant = Tenant::start(plan).await.unwrap();
    let small = "timeout = \"1500ms\"\nbatch_rows = 50\nbatch_interval = \"50ms\"\ndatabase = ";
    let roll = "url = \"file:parquet\"\nroll_interval = \"200ms\"";
    tenant
        .configure(&[("database = ", small), ("url = \"file:parquet\"", roll)])
        .unwrap();
    let direct = ClickHouse::new(engine, &format!("fault_{driver}"));
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    all_delivered(&tenant, &endpoints).await;
    // So that the table has more than one part.
    direct.query("SYSTEM STOP MERGES messages").await.unwrap();
    for (fault, text) in FAULTS {
        match fault {
            ServerFault::Proxy(mood) => proxy.set(*mood),
            ServerFault::Table(begin, _) => drop(direct.query(begin).await.unwrap()),
        }
        let before = metric(&endpoints, ERRORS, SINK).await;
        tenant.append(100).await.unwrap();
        // If only the response is lost, the rows are found at the second attempt.
        let is_written = matches!(
            fault,
            ServerFault::Proxy(ProxyMode::DropResponses | ProxyMode::Hang)
        );
        let failures = if is_written { 0.5 } else { 1.5 };
        exceeds(&endpoints, ERRORS, SINK, before + failures).await;
        match fault {
            ServerFault::Proxy(_) => proxy.set(ProxyMode::Forward),
            ServerFault::Table(_, end) => drop(direct.query(end).await.unwrap()),
        }
        all_delivered(&tenant, &endpoints).await;
        assert!(run.ended().unwrap().is_none(), "the process ended: {text}");
        let log = run.log().unwrap();
        assert!(log.contains(text), "{text:?} is not in the log:\n{log}");
    }
    direct.query("SYSTEM START MERGES messages").await.unwrap();
    equals_truth(&tenant, run).await;
}

/// The response to an insert is lost, and the server has the insert token but not the rows. This is the
/// state of a server that was killed after recording the token and before committing the part.
#[tokio::test(flavor = "multi_thread")]
async fn rows_lost_by_clickhouse_after_it_recorded_their_token_are_inserted_again() {
    let engine = services::engine().await.unwrap();
    let proxy = FaultProxy::start(engine).await.unwrap();
    let mut plan = TenantPlan::new("lost", Driver::Direct, 300).arg("--batch-limit=100");
    plan.clickhouse = Some(proxy.url().to_owned());
    let tenant = Tenant::start(plan).await.unwrap();
    let direct = ClickHouse::new(engine, "lost_direct");
    let mut run = tenant.chatledger("run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    everything_delivered_to_clickhouse(&tenant, &endpoints).await;
    let last_seq = direct
        .number("SELECT max(seq) FROM messages")
        .await
        .unwrap();

    proxy.set(ProxyMode::DropResponses);
    tenant.append(100).await.unwrap();
    let newer = format!("SELECT count() FROM messages WHERE seq > {last_seq}");
    until_true("the rows have arrived", SOON, async || {
        Ok(direct.number(&newer).await? > 0)
    })
    .await
    .unwrap();
    // The batch was inserted; ClickHouse drops every retry with the same token.
    let delete =
        format!("ALTER TABLE messages DELETE WHERE seq > {last_seq} SETTINGS mutations_sync = 2");
    direct.query(&delete).await.unwrap();
    assert_eq!(direct.number(&newer).await.unwrap(), 0);
    proxy.set(ProxyMode::Forward);
    everything_delivered_to_clickhouse(&tenant, &endpoints).await;
    let log = equals_truth(&tenant, run).await;
    assert!(log.contains("lost its rows; inserting them again"), "{log}");
}

async fn everything_delivered_to_clickhouse(
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
    let data = Janitor::get().unwrap().folder("crash").unwrap();
    let engine = Engine::start(&data, "127.0.0.1:0").await.unwrap();
    let mut plan = TenantPlan::new("crash", driver, 6000)
        .faults("broken=7,unknown_key=3,duplicates=10,slow=15")
        .arg("--batch-limit=100");
    plan.clickhouse = Some(engine.url.clone());
    let tenant = Tenant::start(plan).await.unwrap();
    // Small batches, so that the crash happens during a write.
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
        // The query fails while the server is down.
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
    until_true("the metrics report the failed sink", SOON, async || {
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
        "the process ended:\n{}",
        run.log().unwrap()
    );
    let _engine = engine.restart().await.unwrap();

    let expected = Expected::read(&tenant.truth()).unwrap();
    until_true("everything is stored", SOON, async || {
        Ok(rows(&tenant.clickhouse).await >= expected.messages.len() as u64)
    })
    .await
    .unwrap();
    equals_truth(&tenant, run).await;
}
