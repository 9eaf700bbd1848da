//! Problems of configuration files, as an operator sees them.

mod pairs;

use super::*;

const KEY: &str = "key.pem";

fn folder() -> tempfile::TempDir {
    use rsa::pkcs8::{EncodePrivateKey, LineEnding};
    let folder = tempfile::tempdir().unwrap();
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
    let pem = key.to_pkcs8_pem(LineEnding::LF).unwrap();
    private(&folder.path().join(KEY), pem.as_bytes());
    private(&folder.path().join("secret"), b"s3cret\n");
    folder
}

/// Writes a file that only its owner can read.
fn private(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn problems(text: &str) -> Vec<String> {
    problems_in(&folder(), text)
}

fn problems_in(folder: &tempfile::TempDir, text: &str) -> Vec<String> {
    let file = folder.path().join("chatledger.toml");
    std::fs::write(&file, text).unwrap();
    match load(&file) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.problems.iter().map(ToString::to_string).collect(),
    }
}

const GOOD: &str = r#"
    [[corp]]
    id = "ww1"
    [corp.archive]
    base_url = "http://127.0.0.1:1"
    secret_file = "secret"
    [[corp.archive.key]]
    version = 1
    file = "key.pem"
    [sink.clickhouse]
    url = "http://127.0.0.1:8123"
    [sink.parquet]
    url = "file:parquet"
"#;

#[test]
fn minimal_file_is_accepted() {
    assert_eq!(problems(GOOD), Vec::<String>::new());
}

#[test]
fn errors_of_shape_are_all_reported_with_key_and_accepted_values() {
    let text = r#"
        [driver]
        mode = "rabbit"
        statedir = "x"
        [[corp]]
        id = "ww1"
        timezone = "Mars/Olympus"
        [corp.archive]
        transport = "http"
        secret_file = "nowhere"
        batch_limit = 2000
        poll_interval = "soon"
        [[corp.archive.key]]
        version = "one"
        file = "key.pem"
        [sink.clickhouse]
        url = "tcp://x"
    "#;
    let found = problems(text).join("\n");
    for expected in [
        "driver.mode: found \"rabbit\"; accepted: \"direct\", \"kafka\"",
        "driver.statedir: unknown key; accepted: mode, state_dir",
        "corp[0].archive.batch_limit: found 2000; accepted: at most 1000",
        "corp[0].archive.poll_interval: found \"soon\"; accepted: a duration",
        "corp[0].archive.key[0].version: found \"one\"; accepted: integer",
        "sink.clickhouse.url: found \"tcp://x\"; accepted: an address",
    ] {
        assert!(
            found.contains(expected),
            "missing: {expected}\nfound:\n{found}"
        );
    }
}

#[test]
fn errors_that_a_schema_cannot_express_are_all_reported() {
    let text = GOOD
        .replace("id = \"ww1\"", "id = \"ww1\"\ntimezone = \"Mars/Olympus\"")
        .replace("\"secret\"", "\"nowhere\"")
        .replace(
            "file = \"key.pem\"",
            "file = \"key.pem\"\n[[corp.archive.key]]\nversion = 1\nfile = \"secret\"",
        );
    let found = problems(&text).join("\n");
    for expected in [
        "corp[0].timezone: found \"Mars/Olympus\"",
        "corp[0].archive.secret_file: ",
        "corp[0].archive.key[1].version: found 1, as for another key",
        "corp[0].archive.key[1].file: secret: not an RSA private key",
    ] {
        assert!(
            found.contains(expected),
            "missing: {expected}\nfound:\n{found}"
        );
    }
    let none = problems("[[corp]]\nid='a'\n[corp.archive]\nsecret_file='secret'\n[sink]\n");
    assert!(
        none.join("\n")
            .contains("corp[0].archive.base_url: missing"),
        "{none:?}"
    );
    assert!(
        none.join("\n").contains("sink: no sink is configured"),
        "{none:?}"
    );
}

#[test]
fn secret_files_readable_by_others_are_refused_unless_allowed() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = folder();
    let file = folder.path().join("chatledger.toml");
    for name in [KEY, "secret"] {
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(folder.path().join(name), open).unwrap();
    }
    std::fs::write(&file, GOOD).unwrap();
    let found = load(&file).err().unwrap().to_string();
    for expected in [
        "corp[0].archive.secret_file: secret: mode 0644 lets users other",
        "corp[0].archive.key[0].file: key.pem: mode 0644 lets users other",
        "chmod 600",
    ] {
        assert!(found.contains(expected), "missing: {expected}\n{found}");
    }
    std::fs::write(
        &file,
        format!("{GOOD}\n[secrets]\nallow_open_files = true\n"),
    )
    .unwrap();
    assert!(load(&file).is_ok());
}

#[test]
fn secrets_are_sent_in_plain_text_only_to_this_machine_unless_allowed() {
    let folder = folder();
    let file = folder.path().join("chatledger.toml");
    let with = |url: &str, rest: &str| {
        let archive = GOOD.replace("http://127.0.0.1:1", url);
        let directory =
            format!("[corp.directory]\nbase_url = \"{url}\"\nsecret_file = \"secret\"\n");
        let config = archive.replacen("[sink.", &format!("{directory}[sink."), 1);
        std::fs::write(&file, format!("{config}\n{rest}")).unwrap();
        load(&file)
    };
    for url in [
        "http://127.0.0.1:1",
        "http://127.8.9.1",
        "http://[::1]:80",
        "http://[::ffff:127.0.0.1]",
        "http://localhost",
        "http://LOCALHOST.:9",
        "http://wecom.localhost:9",
        "http://2130706433",
        "https://gateway",
        "https://10.0.0.1",
    ] {
        assert!(with(url, "").is_ok(), "{url}");
    }
    for url in [
        "http://gateway:9701",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://[fe80::1]",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1@gateway",
        "http://qyapi.weixin.qq.com",
    ] {
        let found = with(url, "").err().unwrap().to_string();
        for key in ["corp[0].archive.base_url", "corp[0].directory.base_url"] {
            let line = found.lines().find(|line| line.contains(key));
            let line = line.unwrap_or_else(|| panic!("{url}: no {key}\n{found}"));
            assert!(line.contains("sent in plain text"), "{url}: {line}");
        }
        let allowed = with(url, "[secrets]\nallow_plain_http = true\n");
        assert!(allowed.is_ok(), "{url}");
    }
}

#[test]
fn kafka_passwords_are_read_from_files_and_never_shown() {
    let folder = folder();
    let file = folder.path().join("chatledger.toml");
    let with = |kafka: &str| {
        std::fs::write(&file, format!("{GOOD}\n[kafka]\n{kafka}")).unwrap();
        load(&file)
    };
    let properties = "properties = { \"sasl.username\" = \"u\" }";
    let settings = with(&format!("sasl_password_file = \"secret\"\n{properties}"));
    let brokers = settings.ok().unwrap().kafka.brokers;
    assert_eq!(brokers.secrets["sasl.password"].expose(), "s3cret");
    assert!(!format!("{brokers:?}").contains("s3cret"), "{brokers:?}");

    let inline = "properties = { \"sasl.password\" = \"hunter2\" }";
    let brokers = with(inline).ok().unwrap().kafka.brokers;
    assert_eq!(brokers.secrets["sasl.password"].expose(), "hunter2");
    assert!(!format!("{brokers:?}").contains("hunter2"), "{brokers:?}");

    let both = with(&format!("sasl_password_file = \"secret\"\n{inline}"));
    let both = both.err().unwrap().to_string();
    assert!(
        both.contains("kafka.sasl_password_file") && !both.contains("hunter2"),
        "{both}"
    );

    // A password of the wrong type is not shown either.
    let number = with("properties = { \"sasl.password\" = 271828 }");
    let number = number.err().unwrap().to_string();
    assert!(
        number.contains("sasl.password") && !number.contains("271828"),
        "{number}"
    );
}

#[test]
fn seal_keys_are_read_from_files_and_invalid_ones_are_refused() {
    let folder = folder();
    let file = folder.path().join("chatledger.toml");
    private(&folder.path().join("seal.key"), &[7; 32]);
    let with = |keys: &[(u32, &str)]| {
        let table = |(version, name): &(u32, &str)| {
            format!("[[kafka.seal_key]]\nversion = {version}\nfile = \"{name}\"\n")
        };
        let keys: String = keys.iter().map(table).collect();
        std::fs::write(&file, format!("{GOOD}\n{keys}")).unwrap();
        load(&file)
    };
    let good = with(&[(1, "seal.key"), (4, "seal.key")]).ok().unwrap();
    assert_eq!(good.kafka.seal.versions(), [1, 4]);
    let bad = with(&[
        (1, "secret"),
        (1, "nowhere"),
        (2, "seal.key"),
        (2, "seal.key"),
    ]);
    let bad = bad.err().unwrap().to_string();
    for expected in [
        "kafka.seal_key[0].file: secret: not a key: 32 random bytes",
        "kafka.seal_key[1].file: nowhere: cannot be read",
        "kafka.seal_key[1].version: found 1, as for another key",
        "kafka.seal_key[3].version: found 2, as for another key",
    ] {
        assert!(bad.contains(expected), "missing: {expected}\n{bad}");
    }
}

#[test]
fn file_larger_than_the_limit_is_refused() {
    let long = format!("{GOOD}\n# {}", "x".repeat(1 << 20));
    assert!(problems(&long)[0].contains("more than 1048576 bytes"));
}

#[test]
fn metrics_listen_on_the_loopback_by_default() {
    let folder = folder();
    let file = folder.path().join("chatledger.toml");
    std::fs::write(&file, GOOD).unwrap();
    assert!(load(&file).ok().unwrap().metrics_listen.ip().is_loopback());
}

#[test]
fn invalid_toml_is_reported_with_its_line() {
    assert!(problems("[driver\nmode = 1")[0].contains("line 1"));
}

#[test]
fn tables_of_the_wrong_type_are_reported_and_the_others_validated() {
    let folder = folder();
    private(&folder.path().join("seal.key"), &[7; 32]);
    let corp_of = |body: &str| {
        let sink = "[sink.clickhouse]\nurl = \"http://h:1\"\ntimeout = \"0s\"\n";
        problems_in(&folder, &format!("{body}\n{sink}"))
    };
    let timeout = "sink.clickhouse.timeout: found \"0s\"; accepted: a duration greater than zero";
    assert_eq!(
        corp_of("corp = []"),
        [
            "corp: found an empty array; accepted: at least one [[corp]] table with id and archive",
            timeout
        ]
    );
    assert_eq!(
        corp_of("corp = [5]"),
        ["corp[0]: found 5; accepted: table", timeout]
    );
    assert_eq!(
        corp_of("corp = { id = \"a\" }"),
        ["corp: found a table; accepted: array", timeout]
    );
    assert_eq!(
        corp_of("[[corp]]\nid = \"a\"\n"),
        [
            "corp[0].archive: missing; accepted: a [corp.archive] table",
            timeout
        ]
    );
    let text = GOOD.split("[sink.clickhouse]").next().unwrap();
    assert_eq!(
        problems_in(&folder, &format!("sink = 5\n{text}")),
        ["sink: found 5; accepted: table"]
    );
    assert_eq!(
        problems_in(&folder, &format!("{text}\n[sink]\nparquet = \"file:x\"")),
        ["sink.parquet: found \"file:x\"; accepted: table"]
    );
    assert_eq!(
        problems_in(&folder, text),
        ["sink: missing; accepted: a [sink] table"]
    );
}

#[test]
fn corp_without_a_private_key_is_refused_with_the_table_to_add() {
    let key = "[[corp.archive.key]]\n    version = 1\n    file = \"key.pem\"\n";
    assert!(GOOD.contains(key));
    let table = "at least one [[corp.archive.key]] table with version and file";
    assert_eq!(
        problems(&GOOD.replace(key, "")),
        [format!("corp[0].archive.key: missing; accepted: {table}")]
    );
    assert_eq!(
        problems(&GOOD.replace(key, "key = []\n")),
        [format!(
            "corp[0].archive.key: found an empty array; accepted: {table}"
        )]
    );
    let folder = folder();
    let file = folder.path().join("chatledger.toml");
    std::fs::write(&file, GOOD.replace(key, "")).unwrap();
    let problems = load_keys(&file).err().unwrap().to_string();
    assert!(
        problems.contains("corp[0].archive.key: missing"),
        "{problems}"
    );
}

#[test]
fn secret_pasted_into_the_file_is_not_repeated() {
    let pasted = GOOD.replace(
        "file = \"key.pem\"",
        "file = \"\"\"\n-----BEGIN PRIVATE KEY-----\nhunter2\n\"\"\"",
    );
    assert_eq!(
        problems(&pasted),
        [
            "corp[0].archive.key[0].file: found a text of several lines; accepted: the path of a file"
        ]
    );
}
