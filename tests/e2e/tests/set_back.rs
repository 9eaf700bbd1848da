//! Consumer groups set back to the beginning: what has been written is not written again, and what
//! has been removed on purpose is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use chatledger_e2e::tenant::{Plan, Summary, Tenant};
use chatledger_e2e::{Driver, groups, services, stored};

async fn drained_tenant(name: &str) -> Tenant {
    let plan = Plan::new(name, Driver::Kafka, 2500)
        .faults("broken=14,unknown_key=6,duplicates=40")
        .with("--batch-limit=200");
    let tenant = Tenant::start(plan).await.unwrap();
    let short = "[kafka.properties]\n\"session.timeout.ms\" = \"2000\"\n\
        \"heartbeat.interval.ms\" = \"300\"";
    tenant.configure_also(short).unwrap();
    // Cuts that a second reading would cut otherwise.
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
async fn groups_set_back_to_the_beginning_add_no_row() {
    let tenant = drained_tenant("set_back").await;
    let broker = services::broker().await.unwrap();
    let rows = async |table: &str| {
        let sql = format!("SELECT count() FROM {table}");
        tenant.clickhouse.number(&sql).await.unwrap()
    };
    let before = (rows("messages").await, rows("lanes").await);
    let groups = groups::set_back(broker, &tenant.topic_prefix)
        .await
        .unwrap();
    assert!(groups.len() >= 7, "{groups:?}");

    let mut again = tenant.chatledger("run", &["--drain"]).unwrap();
    let summary = Tenant::drained(&mut again).await.unwrap();
    assert_eq!(summary, Summary::default(), "{}", again.log().unwrap());
    stored::equals_truth(&tenant).await.unwrap();
    assert_eq!(rows("messages").await, before.0);
    let log = again.log().unwrap();
    for told in [
        "the group is behind the sink checkpoint",
        "the group is behind the process checkpoint",
    ] {
        assert!(log.contains(told), "{told:?} is not in\n{log}");
    }

    // What comes later comes once, and the groups stand at their ends again.
    tenant.append(120).await.unwrap();
    assert_eq!(tenant.drain().await.unwrap().messages, 120);
    let mut third = tenant.chatledger("run", &["--drain"]).unwrap();
    assert_eq!(
        Tenant::drained(&mut third).await.unwrap(),
        Summary::default()
    );
    assert!(!third.log().unwrap().contains("the group is behind"));
    stored::equals_truth(&tenant).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sink_wiped_on_purpose_is_rebuilt_by_setting_its_groups_back() {
    let tenant = drained_tenant("rebuilt").await;
    let broker = services::broker().await.unwrap();
    for table in ["messages", "violations", "dead_letters", "lanes"] {
        let sql = format!("TRUNCATE TABLE {table}");
        tenant.clickhouse.ask(&sql).await.unwrap();
    }
    std::fs::remove_dir_all(tenant.parquet()).unwrap();
    let sinks = format!("{}.sink", tenant.topic_prefix);
    let groups = groups::set_back(broker, &sinks).await.unwrap();
    assert_eq!(groups.len(), 5, "{groups:?}");
    assert_eq!(tenant.drain().await.unwrap(), Summary::default());
    stored::equals_truth(&tenant).await.unwrap();
}
