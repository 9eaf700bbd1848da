//! A drain: tables, files and summary match the truth, and a second drain adds nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use chatledger_e2e::tenant::{self, DrainSummary, Tenant, TenantPlan};
use chatledger_e2e::{Driver, directory, stored};
use test_case::test_case;

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn drain_of_all_types_and_faults_equals_the_truth(driver: Driver) {
    let faults = "broken=20,unknown_key=10,duplicates=40";
    let plan = TenantPlan::new("drain", driver, tenant::messages().unwrap()).faults(faults);
    let tenant = Tenant::start(plan).await.unwrap();

    let first = tenant.drain().await.unwrap();
    let expected = stored::equals_truth(&tenant).await.unwrap();
    assert_eq!(first, expected.drained());
    assert_eq!(expected.dead_letters.len(), 30);
    assert!(
        expected.violations.len() > 10,
        "the tenant has too few violations"
    );
    directory::equals_truth(&tenant, &expected).await.unwrap();

    let second = tenant.drain().await.unwrap();
    assert_eq!(second, DrainSummary::default());
    stored::equals_truth(&tenant).await.unwrap();

    // Later messages are delivered, and nothing else.
    tenant.append(57).await.unwrap();
    assert_eq!(tenant.drain().await.unwrap().messages, 57);
    stored::equals_truth(&tenant).await.unwrap();
}
