//! Secrets, private keys, access tokens and texts of messages are not in logs, metrics or command lines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use chatledger_e2e::tenant::{Tenant, TenantPlan};
use chatledger_e2e::waiting::until_true;
use chatledger_e2e::{Driver, Expected, stored};
use serde_json::Value;
use test_case::test_case;

/// Minimum length in characters of the texts to search for; shorter texts can occur in a log by chance.
const SHORTEST: usize = 8;

/// User name and password in the archive's address, for a gateway that asks for them.
const GATEWAY_USER: &str = "gateway-user-4711:gateway-password-0815@";

/// Puts [`GATEWAY_USER`] into every address of the archive and the directory in the tenant's configuration.
fn put_password_into_addresses(tenant: &Tenant) {
    let config = fs::read_to_string(&tenant.config).unwrap();
    let plain = format!("base_url = \"{}", tenant.base_url);
    let host = tenant.base_url.strip_prefix("http://").unwrap();
    let changed = config.replace(&plain, &format!("base_url = \"http://{GATEWAY_USER}{host}"));
    assert_ne!(
        config, changed,
        "the configuration has no base_url to change"
    );
    fs::write(&tenant.config, changed).unwrap();
}

/// Returns the secret texts and what each of them is.
async fn secrets(tenant: &Tenant) -> Vec<(&'static str, String)> {
    let (user, password) = GATEWAY_USER.trim_end_matches('@').split_once(':').unwrap();
    let mut secrets = vec![
        ("user name of the address", user.to_owned()),
        ("password of the address", password.to_owned()),
    ];
    for (what, file) in [
        ("archive secret", "archive.secret"),
        ("contact secret", "contact.secret"),
        ("seal key", "seal-1.key"),
    ] {
        secrets.push((
            what,
            fs::read_to_string(tenant.dir.join(file))
                .unwrap()
                .trim()
                .to_owned(),
        ));
    }
    for file in ["key-1.pem", "key-2.pem"] {
        let pem = fs::read_to_string(tenant.dir.join(file)).unwrap();
        let lines = pem.lines().filter(|line| !line.starts_with("-----"));
        secrets.extend(lines.map(|line| ("private key", line.to_owned())));
    }
    // A token is reused while it is valid, so these are the tokens that the process used.
    let config = fs::read_to_string(&tenant.config).unwrap();
    let id = config
        .lines()
        .find_map(|line| line.strip_prefix("id = "))
        .unwrap()
        .trim_matches('"');
    let of_apps: Vec<String> = ["archive secret", "contact secret"]
        .into_iter()
        .filter_map(|app| secrets.iter().find(|(what, _)| *what == app))
        .map(|(_, secret)| secret.clone())
        .collect();
    assert_eq!(of_apps.len(), 2);
    for secret in of_apps {
        let base = &tenant.base_url;
        let url = format!("{base}/cgi-bin/gettoken?corpid={id}&corpsecret={secret}");
        let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
        secrets.push((
            "access token",
            answer["access_token"].as_str().unwrap().to_owned(),
        ));
    }
    assert!(
        secrets.iter().all(|(_, text)| text.len() >= 16),
        "a secret is too short to search for"
    );
    secrets
}

/// Checks that other users can neither read nor change what is below a folder, nor the folder.
fn assert_private(path: &Path) {
    let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", path.display());
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            assert_private(&entry.unwrap().path());
        }
    }
}

/// Returns the contents of messages that occur in a text.
fn contents_in(text: &str, contents: &[&str]) -> Vec<String> {
    let start = |content: &str| content.chars().take(SHORTEST).collect::<String>();
    let characters: Vec<char> = text.chars().collect();
    let windows: HashSet<String> = characters
        .windows(SHORTEST)
        .map(|window| window.iter().collect())
        .collect();
    contents
        .iter()
        .filter(|content| windows.contains(&start(content)) && text.contains(**content))
        .map(|content| (*content).to_owned())
        .collect()
}

#[test_case(Driver::Direct; "direct")]
#[test_case(Driver::Kafka; "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn run_with_a_detailed_log_reveals_no_secret_and_no_message(driver: Driver) {
    let faults = "broken=14,unknown_key=5,duplicates=5,api=0.05@busy+expired+cut";
    let plan = TenantPlan::new("secrets", driver, 3000).faults(faults);
    let tenant = Tenant::start(plan).await.unwrap();
    put_password_into_addresses(&tenant);
    let mut run = tenant.chatledger_logging("debug", "run", &[]).unwrap();
    let endpoints = Tenant::endpoints(&mut run).await.unwrap();
    let expected = Expected::read(&tenant.truth()).unwrap();
    until_true(
        "all messages are stored",
        Duration::from_secs(120),
        async || {
            let rows = tenant
                .clickhouse
                .number("SELECT count() FROM messages")
                .await?;
            Ok(rows >= expected.messages.len() as u64)
        },
    )
    .await
    .unwrap();
    let command_line = fs::read(format!("/proc/{}/cmdline", run.id())).unwrap();
    // Only root may read that of a process that is not dumpable.
    let environment = match fs::read(format!("/proc/{}/environ", run.id())) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Vec::new(),
        environment => environment.unwrap(),
    };
    let metrics = endpoints.scrape().await.unwrap().0;
    run.terminate().unwrap();
    let (code, stdout) = run.finish(Duration::from_secs(60)).await.unwrap();
    let log = run.log().unwrap();
    assert_eq!(code, 0, "{log}");
    stored::equals_truth(&tenant).await.unwrap();
    assert!(log.contains("DEBUG"), "the log contains no debug messages");

    for folder in ["state", "parquet"] {
        assert_private(&tenant.dir.join(folder));
    }

    // Error messages are checked too: of an archive that answers, of one that does not, and of an address that is wrong.
    let check = tenant.run_to_end("check", &["--connect"]).await.unwrap();
    let config = fs::read_to_string(&tenant.config).unwrap();
    let failing = |from: &str, to: &str| {
        let changed = config.replace(from, to);
        assert_ne!(config, changed);
        fs::write(&tenant.config, changed).unwrap();
    };
    let host = tenant.base_url.strip_prefix("http://").unwrap();
    failing(host, "127.0.0.1:1");
    let unreachable = tenant.run_to_end("check", &["--connect"]).await.unwrap();
    assert_eq!(unreachable.code, 3, "{}", unreachable.stderr);
    failing(host, ":99999");
    let invalid = tenant.run_to_end("check", &[]).await.unwrap();
    assert_eq!(invalid.code, 2, "{}", invalid.stderr);
    fs::write(&tenant.config, &config).unwrap();
    let of_check = [check, unreachable, invalid]
        .map(|check| format!("{}\n{}", check.stdout.join("\n"), check.stderr))
        .join("\n");
    let outputs = [
        ("log", log),
        ("stdout", stdout.join("\n")),
        ("metrics", metrics),
        (
            "command line",
            String::from_utf8_lossy(&command_line).into_owned(),
        ),
        (
            "environment",
            String::from_utf8_lossy(&environment).into_owned(),
        ),
        ("check", of_check),
    ];
    let contents = expected
        .messages
        .iter()
        .filter_map(|row| row["content"].as_str());
    let contents: Vec<&str> = contents
        .filter(|text| text.chars().count() >= SHORTEST)
        .collect();
    assert!(contents.len() > 1000, "too few texts to search for");
    let secrets = secrets(&tenant).await;
    for (output, text) in &outputs {
        for (what, secret) in &secrets {
            assert!(!text.contains(secret), "{output} contains the {what}");
        }
        // The output of check contains the words of rules, which can be the whole text of a message.
        if *output != "check" {
            let leaked = contents_in(text, &contents);
            assert!(
                leaked.is_empty(),
                "{output} contains texts of messages: {leaked:?}"
            );
        }
    }
}

#[test]
fn contents_in_finds_a_message_in_the_middle_of_a_line() {
    let text = "WARN sink failed: row 请把客户资料发到我的私人邮箱 refused";
    let contents = ["请把客户资料发到我的私人邮箱", "请把客户资料发到公司邮箱里"];
    assert_eq!(
        contents_in(text, &contents),
        ["请把客户资料发到我的私人邮箱"]
    );
}
