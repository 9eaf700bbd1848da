//! One of ten calls of the archive fails, in every possible way.

use chatledger_e2e::tenant::{self, Tenant, TenantPlan};
use chatledger_e2e::{Driver, stored};
use test_case::test_case;

/// Number of empty pages after which a drain ends.
const EMPTY_PAGES: u64 = 3;

/// Pages are small, so that there are enough calls for every kind of failure.
#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn archive_that_fails_one_call_in_ten_is_drained_completely(driver: Driver) {
    let messages = tenant::messages().unwrap();
    let page = (messages / 200).clamp(20, 1000);
    // Also: empty pages although more records follow, duplicates, and a jump of seq. The response
    // that is two seconds late exceeds the timeout.
    let faults = "broken=14,unknown_key=5,envelope=4,duplicates=20,api=0.1,empty=0.02,jump=70000";
    let plan = TenantPlan::new("failing", driver, messages)
        .seed(7)
        .faults(faults)
        .arg(format!("--batch-limit={page}"));
    let tenant = Tenant::start(plan).await.unwrap();
    tenant
        .configure(&[("batch_limit = ", "timeout = \"1s\"\nbatch_limit = ")])
        .unwrap();
    let drained = tenant.drain().await.unwrap();
    let expected = stored::equals_truth(&tenant).await.unwrap();
    assert_eq!(drained.messages, expected.drained().messages);

    let calls = tenant.calls().await.unwrap();
    let count = |api: &str, what: &str| calls["calls"][api][what].as_u64().unwrap_or_default();
    let made = count("getchatdata", "ok") + count("getchatdata", "refused");
    let failed = count("getchatdata faults", "refused");
    let without = expected.drained().pulled.div_ceil(page) + EMPTY_PAGES;
    eprintln!("{driver}: {messages} messages, {made} archive calls, {without} without faults");
    assert!(failed >= 7, "too few calls failed: {calls}");
    assert!(
        made <= 2 * without,
        "{made} calls, {without} without faults"
    );
}
