//! The rules that every file of the repository keeps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use chatledger_e2e::place;
use chatledger_e2e::tidy::{Tracked, tracked};

/// Lines of a source file at most; 400 are aimed at.
const LINES: usize = 600;

/// What may stand at the top of the repository.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".github",
    ".gitignore",
    ".rustfmt.toml",
    ".typos.toml",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "connectors",
    "dashboards",
    "deploy",
    "pipeline",
    "schemas",
    "tests",
];

/// Runs `check` on every file and names those that it finds wanting.
fn each(check: impl Fn(&Tracked) -> Option<String>) {
    let wrong: Vec<String> = tracked()
        .unwrap()
        .iter()
        .filter_map(|file| check(file).map(|why| format!("{}: {why}", file.path)))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The line and text of the first line that holds one of these.
fn first_with(file: &Tracked, parts: &[&str]) -> Option<String> {
    let found = |line: &str| parts.iter().any(|part| line.contains(part));
    let (number, line) = file.lines().enumerate().find(|(_, line)| found(line))?;
    Some(format!("line {}: {}", number + 1, line.trim()))
}

#[test]
fn top_level_holds_only_what_belongs_there() {
    each(|file| {
        let top = file.path.split('/').next().unwrap();
        (!TOP.contains(&top)).then(|| "does not belong at the top".to_owned())
    });
}

#[test]
fn every_rust_file_begins_by_saying_what_it_is_for() {
    each(|file| {
        let first = file.lines().next().unwrap_or_default();
        (file.is_rust() && !first.starts_with("//! ")).then(|| format!("begins with {first:?}"))
    });
}

#[test]
fn every_crate_says_what_it_is_for_and_what_it_does_not_know() {
    each(|file| {
        if !file.path.ends_with("src/lib.rs") {
            return None;
        }
        let head: Vec<&str> = file
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .collect();
        let head = head.join(" ");
        let absent = [
            "not know",
            "knows no",
            "not here",
            "does not",
            "Not here",
            "nothing of",
        ];
        (!absent.iter().any(|words| head.contains(words)))
            .then(|| "its head does not say what it does not know".to_owned())
    });
}

#[test]
fn source_files_are_of_a_size_to_be_read() {
    each(|file| {
        let source = [".rs", ".py", ".sh"]
            .iter()
            .any(|end| file.path.ends_with(end));
        let lines = file.lines().count();
        (source && lines > LINES).then(|| format!("{lines} lines, {LINES} at most"))
    });
}

#[test]
fn no_file_is_named_for_having_no_subject() {
    each(|file| {
        let vague = ["utils", "util", "common", "helpers", "helper", "misc"];
        let parts = file
            .path
            .split('/')
            .map(|part| part.split('.').next().unwrap());
        let found: Vec<&str> = parts.filter(|part| vague.contains(part)).collect();
        (!found.is_empty()).then(|| format!("{found:?} says nothing"))
    });
}

#[test]
fn no_test_is_left_out_and_nothing_is_left_to_do() {
    // Written in two parts, so that this file does not find itself.
    let parts = [
        concat!("#[ig", "nore"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("unimpl", "emented!("),
        concat!("dbg", "!("),
    ];
    each(|file| {
        if file.path.ends_with("Cargo.lock") || file.path.starts_with("tests/fuzz/corpus/") {
            None
        } else {
            first_with(file, &parts)
        }
    });
}

#[test]
fn sql_of_the_product_is_fixed_texts_with_bound_values() {
    // A statement put together from values is one that a value can change. Constants may be put
    // together, by hand and with a name: what is looked for is the easy slip.
    let parts = [
        ".query(&format!(",
        ".query_raw(&format!(",
        ".query(format!(",
    ];
    each(|file| {
        let product = ["connectors/clickhouse/src/", "pipeline/app/src/"];
        if file.is_rust() && product.iter().any(|folder| file.path.starts_with(folder)) {
            first_with(file, &parts)
        } else {
            None
        }
    });
}

#[test]
fn no_path_of_one_machine_is_in_the_tree() {
    let parts = [
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
    ];
    each(|file| first_with(file, &parts));
}

#[test]
fn scripts_can_be_run_and_stop_at_the_first_error() {
    use std::os::unix::fs::PermissionsExt;
    each(|file| {
        let first = file.lines().next().unwrap_or_default();
        if !first.starts_with("#!") {
            return None;
        }
        let mode = std::fs::metadata(place::repository().join(&file.path)).unwrap();
        if mode.permissions().mode() & 0o111 == 0 {
            return Some("cannot be run".to_owned());
        }
        let bash = first.contains("bash");
        (bash && !file.text.as_ref()?.contains("set -euo pipefail"))
            .then(|| "has no `set -euo pipefail`".to_owned())
    });
}

#[test]
fn documents_for_operators_are_there() {
    let files: BTreeSet<String> = tracked()
        .unwrap()
        .into_iter()
        .map(|file| file.path)
        .collect();
    for path in [
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        ".github/CONTRIBUTING.md",
        ".github/SECURITY.md",
        "pipeline/ARCHITECTURE.md",
        "deploy/config/direct.toml",
        "deploy/config/kafka.toml",
        "deploy/runbooks/README.md",
        "deploy/runbooks/exit-2.md",
        "deploy/runbooks/exit-3.md",
        "deploy/runbooks/exit-4.md",
        "deploy/compose/README.md",
        "dashboards/grafana/README.md",
    ] {
        assert!(files.contains(path), "{path} is not there");
    }
    let readme = std::fs::read_to_string(place::repository().join("README.md")).unwrap();
    assert!(
        readme.lines().count() < 150,
        "README.md is longer than a person reads"
    );
}

#[test]
fn links_in_documents_lead_somewhere() {
    each(|file| {
        if !file.ends_in("md") {
            return None;
        }
        let text = file.text.as_ref()?;
        let path = place::repository().join(&file.path);
        let folder = path.parent()?;
        let targets = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        let broken: Vec<&str> = targets
            .map(|target| target.split('#').next().unwrap_or_default())
            .filter(|target| !target.is_empty() && !target.contains("://"))
            .filter(|target| !folder.join(target).exists())
            .collect();
        (!broken.is_empty()).then(|| format!("leads nowhere: {broken:?}"))
    });
}
