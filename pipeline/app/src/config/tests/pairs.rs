//! Every pair of faults gives exactly two problems.

use super::*;

/// A file with every section, and two corps.
fn two_corps() -> String {
    let corp = |id: &str| {
        format!(
            "[[corp]]\nid = \"{id}\"\ntimezone = \"Asia/Shanghai\"\n\
             [corp.archive]\nbase_url = \"https://{id}:1\"\nsecret_file = \"secret\"\n\
             poll_interval = \"2s\"\n\
             [[corp.archive.key]]\nversion = 1\nfile = \"key.pem\"\n\
             [[corp.archive.key]]\nversion = 2\nfile = \"key.pem\"\n\
             [corp.directory]\nbase_url = \"https://{id}/\"\nsecret_file = \"secret\"\n"
        )
    };
    let rest = "[driver]\nmode = \"kafka\"\n\
                [kafka]\npartitions = 8\nproperties = { \"client.id\" = \"x\" }\n\
                [[kafka.seal_key]]\nversion = 1\nfile = \"seal.key\"\n\
                [sink.clickhouse]\nurl = \"http://127.0.0.1:8123\"\n\
                password_file = \"secret\"\nbatch_interval = \"1s\"\n\
                [sink.parquet]\nurl = \"file:parquet\"\n\
                [metrics]\nlisten = \"127.0.0.1:0\"\n\
                [secrets]\nallow_open_files = false\n";
    format!("{}{}{rest}", corp("ww1"), corp("ww2"))
}

/// A change of the good file: the text, what replaces it, and the problem it causes.
type Fault = (&'static str, &'static str, &'static str);

/// Each contradicts the schema.
const SHAPE_FAULTS: &[Fault] = &[
    (
        "mode = \"kafka\"",
        "mode = \"rabbit\"",
        "driver.mode: found \"rabbit\"; accepted: \"direct\", \"kafka\"",
    ),
    (
        "[driver]",
        "[driver]\nstatedir = \"x\"",
        "driver.statedir: unknown key; accepted: mode, state_dir",
    ),
    (
        "[driver]",
        "[tables]\n[driver]",
        "tables: unknown key; accepted: corp, driver, kafka, ",
    ),
    (
        "partitions = 8",
        "partitions = 8.0",
        "kafka.partitions: found 8.0; accepted: integer",
    ),
    (
        "[[corp.archive.key]]\nversion = 1",
        "[[corp.archive.key]]\nversion = \"one\"",
        "corp[0].archive.key[0].version: found \"one\"; accepted: integer",
    ),
    (
        "[[corp.archive.key]]\nversion = 1",
        "[[corp.archive.key]]\nversion = 5000000000",
        "corp[0].archive.key[0].version: found 5000000000; accepted: at most 4294967295",
    ),
    (
        "[[corp.archive.key]]\nversion = 1\n",
        "[[corp.archive.key]]\n",
        "corp[0].archive.key[0].version: missing; accepted: integer",
    ),
    (
        "id = \"ww1\"\n",
        "",
        "corp[0].id: missing; accepted: 1 to 64 letters, digits, '_' or '-'",
    ),
    (
        "poll_interval = \"2s\"",
        "poll_interval = 2026-01-01",
        "corp[0].archive.poll_interval: found 2026-01-01; accepted: string",
    ),
    (
        "https://ww1/",
        "ldap://somebody:hunter2@ww1/",
        "corp[0].directory.base_url: found \"ldap://***@ww1/\"; accepted: an address beginning",
    ),
    (
        "properties = { \"client.id\" = \"x\" }",
        "properties = [{ \"sasl.password\" = \"hunter2\" }]",
        "kafka.properties: accepted: table",
    ),
    (
        "allow_open_files = false",
        "allow_open_files = \"yes\"",
        "secrets.allow_open_files: found \"yes\"; accepted: boolean",
    ),
];

/// Each is accepted by the schema.
const VALUE_FAULTS: &[Fault] = &[
    (
        "id = \"ww2\"\ntimezone = \"Asia/Shanghai\"",
        "id = \"ww2\"\ntimezone = \"Mars/Olympus\"",
        "corp[1].timezone: found \"Mars/Olympus\"; accepted: an IANA name",
    ),
    (
        "https://ww2:1\"\nsecret_file = \"secret\"",
        "https://ww2:1\"\nsecret_file = \"nowhere\"",
        "corp[1].archive.secret_file: nowhere: cannot be read",
    ),
    (
        "https://ww1/",
        "http://somebody:hunter2@ww1/",
        "corp[0].directory.base_url: found \"http://***@ww1/\", to which the secret would be sent",
    ),
    (
        "https://ww2:1",
        "https://[ww2",
        "corp[1].archive.base_url: found \"https://[ww2\"; accepted: http://HOST:PORT",
    ),
    (
        "base_url = \"https://ww2:1\"\n",
        "",
        "corp[1].archive.base_url: missing; accepted: the address of the gateway",
    ),
    (
        "[[corp.archive.key]]\nversion = 2\nfile = \"key.pem\"\n[corp.directory]\nbase_url = \"https://ww2/\"",
        "[[corp.archive.key]]\nversion = 1\nfile = \"key.pem\"\n[corp.directory]\nbase_url = \"https://ww2/\"",
        "corp[1].archive.key[1].version: found 1, as for another key; accepted: one key per version",
    ),
    (
        "[[corp.archive.key]]\nversion = 2\nfile = \"key.pem\"\n[corp.directory]\nbase_url = \"https://ww1/\"",
        "[[corp.archive.key]]\nversion = 0\nfile = \"secret\"\n[corp.directory]\nbase_url = \"https://ww1/\"",
        "corp[0].archive.key[1].file: secret: not an RSA private key",
    ),
    (
        "file = \"seal.key\"",
        "file = \"secret\"",
        "kafka.seal_key[0].file: secret: not a key",
    ),
    (
        "http://127.0.0.1:8123",
        "http://u:hunter2@127.0.0.1:8123/?x=hunter2",
        "sink.clickhouse.url: found more than \"http://***@127.0.0.1:8123/\"; accepted: the address",
    ),
    (
        "batch_interval = \"1s\"",
        "batch_interval = \"0s\"",
        "sink.clickhouse.batch_interval: found \"0s\"; accepted: a duration greater than zero",
    ),
    (
        "127.0.0.1:0",
        "localhost",
        "metrics.listen: found \"localhost\"; accepted: IP:PORT",
    ),
    (
        "[metrics]",
        "[rules]\ndir = \"nowhere\"\n[metrics]",
        "rules.dir: found \"",
    ),
];

fn changed(text: &str, fault: &Fault) -> Option<String> {
    let (old, new, _) = fault;
    text.contains(old).then(|| text.replacen(old, new, 1))
}

#[test]
fn every_pair_of_faults_is_reported_as_exactly_two_problems() {
    let folder = folder();
    private(&folder.path().join("seal.key"), &[7; 32]);
    let good = two_corps();
    assert_eq!(problems_in(&folder, &good), Vec::<String>::new());
    let all: Vec<&Fault> = SHAPE_FAULTS.iter().chain(VALUE_FAULTS).collect();
    let mut tried = 0;
    for (index, first) in all.iter().enumerate() {
        let text = changed(&good, first).unwrap_or_else(|| panic!("no {:?}", first.0));
        for second in &all[index + 1..] {
            // Both may change the same line.
            let key = |fault: &Fault| fault.2.split(": ").next().unwrap().to_owned();
            let Some(text) = changed(&text, second).filter(|_| key(first) != key(second)) else {
                continue;
            };
            let found = problems_in(&folder, &text);
            for (_, _, expected) in [first, second] {
                assert!(
                    found.iter().any(|problem| problem.starts_with(expected)),
                    "missing: {expected}\nfound: {found:#?}\n{text}"
                );
            }
            assert_eq!(found.len(), 2, "{found:#?}\n{text}");
            assert!(!found.concat().contains("hunter2"), "{found:#?}");
            tried += 1;
        }
    }
    assert!(tried > 200, "only {tried} pairs were tried");
}
