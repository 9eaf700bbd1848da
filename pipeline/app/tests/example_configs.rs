//! The files in `deploy/config` and the `example.toml` of connectors: the program accepts the former,
//! together they show every key of the configuration and no other, and the defaults in their comments
//! are the program's.
//!
//! Each example is read twice: unchanged, by the program; and with the commented-out keys activated
//! (`# key = …` becomes `key = …`), for the comparison with `schemas/json/config.schema.json`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rsa::pkcs1::{EncodeRsaPrivateKey, LineEnding};
use serde_json::Value;

const EXAMPLES: [&str; 2] = ["direct.toml", "kafka.toml"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn example(name: &str) -> String {
    read(&format!("deploy/config/{name}"))
}

/// Every example that shows keys: the names of the files, and their texts.
fn all_examples() -> Vec<(String, String)> {
    let own = EXAMPLES.map(|name| (format!("deploy/config/{name}"), example(name)));
    let connectors = std::fs::read_dir(root().join("connectors")).unwrap();
    let of_connectors = connectors.filter_map(|entry| {
        let path = entry.unwrap().path().join("example.toml");
        let text = std::fs::read_to_string(&path).ok()?;
        Some((path.display().to_string(), text))
    });
    own.into_iter().chain(of_connectors).collect()
}

/// One `key = value` of an example, active or commented out.
#[derive(Debug)]
struct ExampleLine {
    /// Its key path in the schema: `corp.archive.key.version`.
    path: String,
    /// The value as JSON; null if it is not valid JSON.
    value: Value,
    /// The comment directly above it, in one line.
    comment: String,
}

/// Removes the `#` in front of a key or header. Other comments begin with a capital letter and are not
/// a single word in brackets, so they are not mistaken for one.
fn activated(line: &str) -> &str {
    let bare = line.strip_prefix("# ").unwrap_or(line);
    let is_key = bare.split_once(" = ").is_some_and(|(key, _)| {
        key.trim_matches('"')
            .chars()
            .all(|c| c.is_ascii_lowercase() || matches!(c, '_' | '.'))
    });
    let is_header = bare.starts_with('[') && bare.ends_with(']') && !bare.contains(' ');
    if is_key || is_header { bare } else { line }
}

/// Returns every key of an example. Reads line by line, because a TOML parser drops comments; the
/// tests compare the result with the keys that a TOML parser finds.
fn lines(text: &str) -> Vec<ExampleLine> {
    let (mut found, mut section, mut comment) = (Vec::new(), String::new(), Vec::new());
    for line in text.lines().map(activated) {
        if let Some(words) = line.strip_prefix('#') {
            comment.push(words.trim());
            continue;
        }
        if line.starts_with('[') {
            line.trim_matches(['[', ']']).clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once(" = ") {
            found.push(ExampleLine {
                path: join(&section, key),
                value: serde_json::from_str(value).unwrap_or_default(),
                comment: comment.join(" "),
            });
        }
        comment.clear();
    }
    found
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A key of the configuration in the schema.
#[derive(Debug, Default)]
struct SchemaKey {
    default: Option<Value>,
    required: bool,
}

/// Returns every key whose value is not a table, by its key path.
fn keys_of_schema() -> BTreeMap<String, SchemaKey> {
    let schema: Value = serde_json::from_str(&read("schemas/json/config.schema.json")).unwrap();
    let mut keys = BTreeMap::new();
    walk(&schema, &schema, "", &mut keys);
    keys
}

fn walk(schema: &Value, table: &Value, path: &str, keys: &mut BTreeMap<String, SchemaKey>) {
    let required: Vec<&str> = table["required"]
        .as_array()
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    for (name, property) in table["properties"].as_object().unwrap() {
        let path = join(path, name);
        let below = follow(schema, property);
        let below = if below["type"] == "array" {
            follow(schema, &below["items"])
        } else {
            below
        };
        if below["properties"].is_object() {
            walk(schema, below, &path, keys);
        } else {
            let default = property
                .get("default")
                .filter(|default| !default.is_null())
                .cloned();
            keys.insert(
                path,
                SchemaKey {
                    default,
                    required: required.contains(&name.as_str()),
                },
            );
        }
    }
}

/// Follows the reference of a property, also of an optional one.
fn follow<'a>(schema: &'a Value, property: &'a Value) -> &'a Value {
    let direct = property.get("$ref");
    let optional = || {
        property["anyOf"]
            .as_array()?
            .iter()
            .find_map(|option| option.get("$ref"))
    };
    match direct.or_else(optional).and_then(Value::as_str) {
        Some(reference) => schema
            .pointer(reference.strip_prefix('#').unwrap())
            .unwrap(),
        None => property,
    }
}

/// Returns the key paths that a TOML parser finds. Maps such as `kafka.properties` count as one key.
fn keys_of_toml(text: &str, leaves: &BTreeMap<String, SchemaKey>) -> BTreeSet<String> {
    fn walk(
        value: &toml::Value,
        path: &str,
        leaves: &BTreeMap<String, SchemaKey>,
        found: &mut BTreeSet<String>,
    ) {
        match value {
            _ if leaves.contains_key(path) => drop(found.insert(path.to_owned())),
            toml::Value::Table(table) => {
                for (key, value) in table {
                    walk(value, &join(path, key), leaves, found);
                }
            }
            toml::Value::Array(list) => {
                for value in list {
                    walk(value, path, leaves, found);
                }
            }
            _ => drop(found.insert(path.to_owned())),
        }
    }
    let table: toml::Table = toml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut found = BTreeSet::new();
    walk(&toml::Value::Table(table), "", leaves, &mut found);
    found
}

fn all_activated(text: &str) -> String {
    text.lines()
        .map(activated)
        .flat_map(|line| [line, "\n"])
        .collect()
}

/// Creates every file that the example names, and a rules folder with one rule.
fn create_files(folder: &Path, text: &str) {
    let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
    let pem = key.to_pkcs1_pem(LineEnding::LF).unwrap();
    for line in lines(text) {
        let Some(named) = line.value.as_str() else {
            continue;
        };
        let place = folder.join(named);
        let content = if line.path == "kafka.seal_key.file" {
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"
        } else if line.path.ends_with("key.file") {
            pem.as_str()
        } else if line.path.ends_with("_file") {
            "s3cret\n"
        } else if line.path == "rules.dir" {
            std::fs::create_dir_all(&place).unwrap();
            let rule = "[[rule]]\nid = \"a\"\nname = \"A\"\nseverity = \"high\"\nwords = [\"x\"]\n\
                        scope.all = true\n";
            std::fs::write(place.join("a.toml"), rule).unwrap();
            continue;
        } else {
            continue;
        };
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(&place, content).unwrap();
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Runs `chatledger check --json` and returns its exit code, stdout and stderr.
fn check(config: &Path) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_chatledger"))
        .arg("check")
        .arg("--config")
        .arg(config)
        .arg("--json")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn every_example_is_accepted() {
    for name in EXAMPLES {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("chatledger.toml");
        let text = example(name);
        create_files(folder.path(), &text);
        std::fs::write(&config, &text).unwrap();

        let (code, stdout, stderr) = check(&config);
        assert_eq!(code, Some(0), "{name}: {stderr}");
        let output: Value = serde_json::from_str(&stdout).unwrap();
        let versions: Vec<i64> = lines(&text)
            .iter()
            .filter(|line| line.path == "corp.archive.key.version")
            .filter_map(|line| line.value.as_i64())
            .collect();
        assert_eq!(
            output["corps"][0]["keys"],
            serde_json::json!(versions),
            "{name}"
        );
        assert_eq!(output["corps"][0]["directory"], true, "{name}");
        assert_eq!(output["rules"][0]["active"], true, "{name}");
    }
}

#[test]
fn unknown_key_and_missing_secret_are_reported_together() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("chatledger.toml");
    let text = example("direct.toml");
    create_files(folder.path(), &text);
    std::fs::write(&config, text.replace("batch_limit = ", "batch_limits = ")).unwrap();
    std::fs::remove_file(folder.path().join("secrets/archive.secret")).unwrap();
    let (code, _, stderr) = check(&config);
    assert_eq!(code, Some(2), "{stderr}");
    for expected in [
        "chatledger.toml: 2 errors",
        "corp[0].archive.batch_limits: unknown key",
        "corp[0].archive.secret_file: secrets/archive.secret: cannot be read",
    ] {
        assert!(stderr.contains(expected), "missing: {expected}\n{stderr}");
    }
}

#[test]
fn examples_together_show_exactly_the_keys_of_the_schema() {
    let keys = keys_of_schema();
    let known: BTreeSet<String> = keys.keys().cloned().collect();
    assert!(
        known.contains("corp.archive.key.version"),
        "the schema was not read correctly: {known:?}"
    );
    let mut shown = BTreeSet::new();
    for (name, text) in all_examples() {
        let found = keys_of_toml(&all_activated(&text), &keys);
        let unknown: Vec<&String> = found.difference(&known).collect();
        assert!(
            unknown.is_empty(),
            "{name} has keys that are not in the schema: {unknown:?}"
        );
        shown.extend(found);
    }
    let missing: Vec<&String> = known.difference(&shown).collect();
    assert!(missing.is_empty(), "no example has these keys: {missing:?}");
}

#[test]
fn comment_of_every_key_has_its_default_or_that_it_is_required() {
    let keys = keys_of_schema();
    for (name, text) in all_examples() {
        let found = lines(&text);
        let by_line: BTreeSet<String> = found
            .iter()
            .map(|line| line.path.clone())
            .filter(|path| keys.contains_key(path))
            .collect();
        let mut by_toml = keys_of_toml(&all_activated(&text), &keys);
        by_toml.remove("kafka.properties");
        assert_eq!(by_line, by_toml, "{name}: a key is not on its own line");

        for line in found {
            let Some(key) = keys.get(&line.path) else {
                assert!(
                    line.path.starts_with("kafka.properties."),
                    "{name}: {}",
                    line.path
                );
                continue;
            };
            let at = format!("{name}, {}: \"{}\"", line.path, line.comment);
            let expected = match &key.default {
                _ if key.required => "Required".to_owned(),
                Some(default) => format!("Default: {default}."),
                None if line.comment.contains("Default: \"") => continue,
                None if line.comment.contains("Required with") => continue,
                None => "Not set by default.".to_owned(),
            };
            assert!(line.comment.contains(&expected), "{at} has no: {expected}");
        }
    }
}

/// Returns the values of a key of the unit file, in their order.
fn of_unit(unit: &str, key: &str) -> Vec<String> {
    let prefix = format!("{key}=");
    unit.lines()
        .filter_map(|line| line.strip_prefix(&prefix))
        .map(str::to_owned)
        .collect()
}

#[test]
fn unit_grants_write_access_to_the_folders_of_the_example_and_does_not_restart_after_2_or_4() {
    let unit = example("chatledger.service");
    let state = format!("/var/lib/{}/", of_unit(&unit, "StateDirectory")[0]);
    assert_eq!(of_unit(&unit, "ProtectSystem"), ["strict"]);
    for line in lines(&example("direct.toml")) {
        let Some(value) = line.value.as_str() else {
            continue;
        };
        let written = match line.path.as_str() {
            "driver.state_dir" => value,
            "sink.parquet.url" => value.strip_prefix("file:").unwrap(),
            _ => continue,
        };
        assert!(
            written.starts_with(&state),
            "{written} is not below {state}"
        );
    }
    assert_eq!(of_unit(&unit, "RestartPreventExitStatus"), ["2 4"]);

    // The program accepts the command line of the unit.
    let start = of_unit(&unit, "ExecStart").remove(0);
    let mut words = start
        .split_whitespace()
        .skip(1)
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let config = words.pop().unwrap();
    assert_eq!(config, "/etc/chatledger/chatledger.toml");
    let nowhere = tempfile::tempdir().unwrap().path().join("chatledger.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_chatledger"))
        .args(&words)
        .arg(&nowhere)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("chatledger.toml: 1 error") && stderr.contains("cannot be read"),
        "{stderr}"
    );
}

#[test]
fn unit_of_the_engine_is_accepted_and_keeps_its_data_private() {
    let unit = example("chatledger-clickhouse.service");
    let start = of_unit(&unit, "ExecStart").remove(0);
    let value_of = |option: &str| {
        let mut words = start.split_whitespace().skip_while(|word| *word != option);
        words.nth(1).unwrap().to_owned()
    };
    let state = format!("/var/lib/{}/", of_unit(&unit, "StateDirectory")[0]);
    assert!(value_of("--data-dir").starts_with(&state));
    assert_eq!(of_unit(&unit, "StateDirectoryMode"), ["0700"]);
    assert_eq!(of_unit(&unit, "ProtectSystem"), ["strict"]);

    // The example's sink connects to the address of the unit, as the user of the unit.
    let sink = lines(&example("direct.toml"));
    let key = |path: &str| sink.iter().find(|line| line.path == path).unwrap();
    let listen = value_of("--listen");
    assert_eq!(
        key("sink.clickhouse.url").value,
        format!("http://{listen}").as_str()
    );
    assert_eq!(
        key("sink.clickhouse.user").value,
        value_of("--user").as_str()
    );

    // The program accepts the command line of the unit, and misses only the files.
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("clickhouse.password");
    std::fs::write(&password, "s3cret\n").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o400)).unwrap();
    let words = start.split_whitespace().skip(1).map(|word| match word {
        "${CREDENTIALS_DIRECTORY}/clickhouse.password" => password.display().to_string(),
        "/usr/local/lib/libchdb.so" => folder.path().join("none.so").display().to_string(),
        word if word.starts_with(&state) => folder.path().join("data").display().to_string(),
        "127.0.0.1:8123" => "127.0.0.1:0".to_owned(),
        word => word.to_owned(),
    });
    let output = Command::new(env!("CARGO_BIN_EXE_chatledger"))
        .args(words)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("none.so") && !stderr.contains("s3cret"),
        "{stderr}"
    );
}
