//! Peers behind TLS and passwords: the real Kafka with SASL_SSL, the real ClickHouse engine with a
//! user behind a TLS end. What does not fit is told plainly, at once, and without a secret.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use chatledger_e2e::janitor::Janitor;
use chatledger_e2e::services::{self, Broker, Engine};
use chatledger_e2e::tenant::{Ended, Plan, Tenant};
use chatledger_e2e::tls::{Certificates, Front};
use chatledger_e2e::{Driver, Summary, stored};

const PASSWORD: &str = "tiger-lily-and-seven-otters";
const WRONG: &str = "not-the-password-of-anybody";

/// Writes a file that its owner alone can read.
fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Asserts that a run ended with 3 and these words, and with neither password.
fn assert_turned_away(ended: &Ended, words: &[&str]) {
    let said = format!("{}\n{}", ended.stdout.join("\n"), ended.stderr);
    assert_eq!(ended.code, 3, "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not said:\n{said}");
    }
    for secret in [PASSWORD, WRONG] {
        assert!(!said.contains(secret), "a password is told:\n{said}");
    }
}

/// Drains with a detailed log, in which there is no password.
async fn drain_telling_no_password(tenant: &Tenant) -> Summary {
    let mut run = tenant
        .chatledger_logging("debug", "run", &["--drain"])
        .unwrap();
    let summary = Tenant::drained(&mut run).await.unwrap();
    let log = run.log().unwrap();
    assert!(
        log.contains("DEBUG"),
        "the log has no detail to be searched"
    );
    assert!(!log.contains(PASSWORD), "the log tells the password");
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_with_tls_and_a_login_is_drained_over_and_refuses_what_does_not_fit() {
    let folder = Janitor::get().unwrap().folder("sasl-ssl").unwrap();
    let certificates = Certificates::make(&folder).unwrap();
    private(&folder.join("user"), &format!("chatledger\n{PASSWORD}\n"));

    let mut plan = Plan::new("sasl", Driver::Kafka, 1200).faults("broken=7,duplicates=5");
    let broker = Broker::start_secure(&folder).await.unwrap();
    plan.brokers = Some(broker.address);
    let tenant = Tenant::start(plan).await.unwrap();
    let password = tenant.dir.join("kafka.password");
    private(&password, &format!("{PASSWORD}\n"));
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
    drain_telling_no_password(&tenant).await;
    stored::equals_truth(&tenant).await.unwrap();

    private(&password, WRONG);
    let ended = tenant.ended("run", &["--drain"]).await.unwrap();
    assert_turned_away(&ended, &["reject this client", "uthentication"]);
    let ended = tenant.ended("check", &["--connect"]).await.unwrap();
    assert_turned_away(&ended, &["reject this client", "uthentication"]);

    private(&password, PASSWORD);
    let others = Janitor::get().unwrap().folder("other-authority").unwrap();
    let others = Certificates::make(&others).unwrap();
    fs::copy(&others.authority, &ca).unwrap();
    let ended = tenant.ended("run", &["--drain"]).await.unwrap();
    assert_turned_away(&ended, &["reject this client", "certificate"]);

    // A password in the configuration itself is taken, with a warning that names the key alone.
    fs::copy(&certificates.authority, &ca).unwrap();
    let inline = format!("properties = {{ \"sasl.password\" = \"{PASSWORD}\",");
    tenant
        .configure(&[
            ("sasl_password_file = \"kafka.password\"\n", ""),
            ("properties = {", &inline),
        ])
        .unwrap();
    let ended = tenant.ended("check", &["--connect"]).await.unwrap();
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("kafka.properties.sasl.password"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains(PASSWORD), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_with_tls_and_a_password_is_written_and_refuses_what_does_not_fit() {
    let folder = Janitor::get().unwrap().folder("guarded").unwrap();
    let certificates = Certificates::make(&folder).unwrap();
    let secret = folder.join("engine.password");
    private(&secret, &format!("{PASSWORD}\n"));
    let data = Janitor::get().unwrap().folder("guarded-engine").unwrap();
    let login = ["--user", "writer", "--password-file"].map(str::to_owned);
    let login = [&login[..], &[secret.display().to_string()]].concat();
    let engine = Engine::start_with(&data, "127.0.0.1:0", &login)
        .await
        .unwrap();
    let front = Front::open(&certificates, &engine.url).await.unwrap();

    let plan = Plan::new("guarded", Driver::Direct, 1200).faults("broken=7,duplicates=5");
    let tenant = Tenant::start(plan).await.unwrap();
    fs::copy(&certificates.authority, tenant.dir.join("ca.pem")).unwrap();
    let password = tenant.dir.join("clickhouse.password");
    private(&password, PASSWORD);
    let shared = services::engine().await.unwrap();
    let (open, secure) = (
        format!("url = \"{shared}\""),
        format!(
            "url = \"{}\"\nuser = \"writer\"\npassword_file = \"clickhouse.password\"\n\
         ca_file = \"ca.pem\"",
            front.url
        ),
    );
    tenant
        .configure(&[(open.as_str(), secure.as_str())])
        .unwrap();
    let told = drain_telling_no_password(&tenant).await;
    let rows = services::ask_as(
        &engine.url,
        "writer",
        PASSWORD,
        "SELECT count() FROM guarded_direct.messages FINAL",
    );
    assert_eq!(rows.await.unwrap(), told.messages.to_string());

    private(&password, WRONG);
    let ended = tenant.ended("run", &["--drain"]).await.unwrap();
    assert_turned_away(&ended, &["ClickHouse", "AUTHENTICATION_FAILED"]);
    assert!(ended.took < Duration::from_secs(60), "{:?}", ended.took);

    private(&password, PASSWORD);
    let others = Janitor::get().unwrap().folder("other-authority").unwrap();
    let others = Certificates::make(&others).unwrap();
    fs::copy(&others.authority, tenant.dir.join("ca.pem")).unwrap();
    let ended = tenant.ended("run", &["--drain"]).await.unwrap();
    assert_turned_away(&ended, &["ClickHouse", "certificate"]);

    // Without a user, and without the authority that vouches for it.
    tenant.configure(&[("ca_file = \"ca.pem\"\n", "")]).unwrap();
    let ended = tenant.ended("check", &["--connect"]).await.unwrap();
    assert_turned_away(&ended, &["certificate"]);
}
