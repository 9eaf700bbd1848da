//! Consumer groups reset to the beginning: existing rows are not written again, and deleted rows are
//! restored.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use chatledger_e2e::tenant::{DrainSummary, Tenant, TenantPlan};
use chatledger_e2e::{Driver, groups, services, stored};

async fn drained_tenant(name: &str) -> Tenant {
    let plan = TenantPlan::new(name, Driver::Kafka, 2500)
        .faults("broken=14,unknown_key=6,duplicates=40")
        .arg("--batch-limit=200");
    let tenant = Tenant::start(plan).await.unwrap();
    let short = "[kafka.properties]\n\"session.timeout.ms\" = \"2000\"\n\
        \"heartbeat.interval.ms\" = \"300\"";
    tenant.append_config(short).unwrap();
    // Batches whose ranges would differ if the topics were read again.
    tenant
        .configure(&[
            ("database = ", "batch_rows = 150\ndatabase = "),
            (
                "url = \"file:parquet\"",
                "url = \"file:parquet\"\nroll_rows = 700",
            ),
        ])
        .unwrap();
    tenant.drain().await.unwrap();
    stored::equals_truth(&tenant).await.unwrap();
    tenant
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_reset_to_the_beginning_add_no_row() {
    let tenant = drained_tenant("group_reset").await;
    let broker = services::broker().await.unwrap();
    let rows = async |table: &str| {
        let sql = format!("SELECT count() FROM {table}");
        tenant.clickhouse.number(&sql).await.unwrap()
    };
    let before = (rows("messages").await, rows("lanes").await);
    let groups = groups::reset(broker, &tenant.topic_prefix).await.unwrap();
    assert!(groups.len() >= 7, "{groups:?}");

    let mut again = tenant.chatledger("run", &["--drain"]).unwrap();
    let summary = Tenant::drained(&mut again).await.unwrap();
    assert_eq!(summary, DrainSummary::default(), "{}", again.log().unwrap());
    stored::equals_truth(&tenant).await.unwrap();
    assert_eq!(rows("messages").await, before.0);
    let log = again.log().unwrap();
    for message in [
        "the group is behind the sink checkpoint",
        "the group is behind the process checkpoint",
    ] {
        assert!(
            log.contains(message),
            "{message:?} is not in the log:\n{log}"
        );
    }

    // Later messages are delivered once, and the groups are at the end of their topics again.
    tenant.append(120).await.unwrap();
    assert_eq!(tenant.drain().await.unwrap().messages, 120);
    let mut third = tenant.chatledger("run", &["--drain"]).unwrap();
    assert_eq!(
        Tenant::drained(&mut third).await.unwrap(),
        DrainSummary::default()
    );
    assert!(!third.log().unwrap().contains("the group is behind"));
    stored::equals_truth(&tenant).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_sink_is_rebuilt_by_resetting_its_groups() {
    let tenant = drained_tenant("rebuilt").await;
    let broker = services::broker().await.unwrap();
    for table in ["messages", "violations", "dead_letters", "lanes"] {
        let sql = format!("TRUNCATE TABLE {table}");
        tenant.clickhouse.query(&sql).await.unwrap();
    }
    std::fs::remove_dir_all(tenant.parquet()).unwrap();
    let sinks = format!("{}.sink", tenant.topic_prefix);
    let groups = groups::reset(broker, &sinks).await.unwrap();
    assert_eq!(groups.len(), 5, "{groups:?}");
    assert_eq!(tenant.drain().await.unwrap(), DrainSummary::default());
    stored::equals_truth(&tenant).await.unwrap();
}
