//! Services with TLS and passwords: a real Kafka with SASL_SSL, and a real ClickHouse engine with a user
//! behind a TLS proxy. Wrong credentials and certificates are reported immediately and without secrets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use chatledger_e2e::janitor::Janitor;
use chatledger_e2e::services::{self, Broker, Engine};
use chatledger_e2e::tenant::{FinishedRun, Tenant, TenantPlan};
use chatledger_e2e::tls::{Certificates, TlsProxy};
use chatledger_e2e::{DrainSummary, Driver, stored};

const PASSWORD: &str = "tiger-lily-and-seven-otters";
const WRONG: &str = "not-the-password-of-anybody";

/// Writes a file that only its owner can read.
fn write_private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Asserts that a run ended with exit code 3, printed these texts and no password.
fn assert_rejected(ended: &FinishedRun, words: &[&str]) {
    let output = format!("{}\n{}", ended.stdout.join("\n"), ended.stderr);
    assert_eq!(ended.code, 3, "{output}");
    for word in words {
        assert!(output.contains(word), "{word:?} is missing:\n{output}");
    }
    for secret in [PASSWORD, WRONG] {
        assert!(
            !output.contains(secret),
            "the output contains a password:\n{output}"
        );
    }
}

/// Drains with a debug log and asserts that it contains no password.
async fn drain_logging_no_password(tenant: &Tenant) -> DrainSummary {
    let mut run = tenant
        .chatledger_logging("debug", "run", &["--drain"])
        .unwrap();
    let summary = Tenant::drained(&mut run).await.unwrap();
    let log = run.log().unwrap();
    assert!(log.contains("DEBUG"), "the log contains no debug messages");
    assert!(!log.contains(PASSWORD), "the log contains the password");
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_with_tls_and_sasl_works_and_wrong_credentials_are_rejected() {
    let folder = Janitor::get().unwrap().folder("sasl-ssl").unwrap();
    let certificates = Certificates::create(&folder).unwrap();
    write_private(&folder.join("user"), &format!("chatledger\n{PASSWORD}\n"));

    let mut plan = TenantPlan::new("sasl", Driver::Kafka, 1200).faults("broken=7,duplicates=5");
    let broker = Broker::start_secure(&folder).await.unwrap();
    plan.brokers = Some(broker.address);
    let tenant = Tenant::start(plan).await.unwrap();
    let password = tenant.dir.join("kafka.password");
    write_private(&password, &format!("{PASSWORD}\n"));
    fs::copy(&certificates.authority, tenant.dir.join("ca.pem")).unwrap();
    let ca = tenant.dir.join("ca.pem");
    let properties = format!(
        "sasl_password_file = \"kafka.password\"\n\
         properties = {{ \"security.protocol\" = \"sasl_ssl\", \"sasl.mechanism\" = \
         \"SCRAM-SHA-512\", \"sasl.username\" = \"chatledger\", \"ssl.ca.location\" = \"{}\" }}\n\
         topic_prefix = ",
        ca.display()
    );
    tenant
        .configure(&[("topic_prefix = ", properties.as_str())])
        .unwrap();
    drain_logging_no_password(&tenant).await;
    stored::equals_truth(&tenant).await.unwrap();

    write_private(&password, WRONG);
    let ended = tenant.run_to_end("run", &["--drain"]).await.unwrap();
    assert_rejected(&ended, &["reject this client", "uthentication"]);
    let ended = tenant.run_to_end("check", &["--connect"]).await.unwrap();
    assert_rejected(&ended, &["reject this client", "uthentication"]);

    write_private(&password, PASSWORD);
    let others = Janitor::get().unwrap().folder("other-authority").unwrap();
    let others = Certificates::create(&others).unwrap();
    fs::copy(&others.authority, &ca).unwrap();
    let ended = tenant.run_to_end("run", &["--drain"]).await.unwrap();
    assert_rejected(&ended, &["reject this client", "certificate"]);

    // A password in the configuration itself is accepted; a warning names only its key.
    fs::copy(&certificates.authority, &ca).unwrap();
    let inline = format!("properties = {{ \"sasl.password\" = \"{PASSWORD}\",");
    tenant
        .configure(&[
            ("sasl_password_file = \"kafka.password\"\n", ""),
            ("properties = {", &inline),
        ])
        .unwrap();
    let ended = tenant.run_to_end("check", &["--connect"]).await.unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("kafka.properties.sasl.password"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains(PASSWORD), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_with_tls_and_password_works_and_wrong_credentials_are_rejected() {
    let folder = Janitor::get().unwrap().folder("guarded").unwrap();
    let certificates = Certificates::create(&folder).unwrap();
    let secret = folder.join("engine.password");
    write_private(&secret, &format!("{PASSWORD}\n"));
    let data = Janitor::get().unwrap().folder("guarded-engine").unwrap();
    let login = ["--user", "writer", "--password-file"].map(str::to_owned);
    let login = [&login[..], &[secret.display().to_string()]].concat();
    let engine = Engine::start_with(&data, "127.0.0.1:0", &login)
        .await
        .unwrap();
    let proxy = TlsProxy::start(&certificates, &engine.url).await.unwrap();

    let plan = TenantPlan::new("guarded", Driver::Direct, 1200).faults("broken=7,duplicates=5");
    let tenant = Tenant::start(plan).await.unwrap();
    fs::copy(&certificates.authority, tenant.dir.join("ca.pem")).unwrap();
    let password = tenant.dir.join("clickhouse.password");
    write_private(&password, PASSWORD);
    let shared = services::engine().await.unwrap();
    let (open, secure) = (
        format!("url = \"{shared}\""),
        format!(
            "url = \"{}\"\nuser = \"writer\"\npassword_file = \"clickhouse.password\"\n\
         ca_file = \"ca.pem\"",
            proxy.url
        ),
    );
    tenant
        .configure(&[(open.as_str(), secure.as_str())])
        .unwrap();
    let summary = drain_logging_no_password(&tenant).await;
    let rows = services::query_as(
        &engine.url,
        "writer",
        PASSWORD,
        "SELECT count() FROM guarded_direct.messages FINAL",
    );
    assert_eq!(rows.await.unwrap(), summary.messages.to_string());

    write_private(&password, WRONG);
    let ended = tenant.run_to_end("run", &["--drain"]).await.unwrap();
    assert_rejected(&ended, &["ClickHouse", "AUTHENTICATION_FAILED"]);
    assert!(
        ended.duration < Duration::from_secs(60),
        "{:?}",
        ended.duration
    );

    write_private(&password, PASSWORD);
    let others = Janitor::get().unwrap().folder("other-authority").unwrap();
    let others = Certificates::create(&others).unwrap();
    fs::copy(&others.authority, tenant.dir.join("ca.pem")).unwrap();
    let ended = tenant.run_to_end("run", &["--drain"]).await.unwrap();
    assert_rejected(&ended, &["ClickHouse", "certificate"]);

    // Without the certificate authority.
    tenant.configure(&[("ca_file = \"ca.pem\"\n", "")]).unwrap();
    let ended = tenant.run_to_end("check", &["--connect"]).await.unwrap();
    assert_rejected(&ended, &["certificate"]);
}
