//! Checks that apply to every file of the repository.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use chatledger_e2e::paths;
use chatledger_e2e::tidy::{TrackedFile, tracked};

/// Maximum lines of a source file.
const MAX_LINES: usize = 600;

/// Files and folders allowed at the top level of the repository.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".github",
    ".gitignore",
    ".rustfmt.toml",
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

/// Runs `check` on every file and reports all failures.
fn check_files(check: impl Fn(&TrackedFile) -> Option<String>) {
    let wrong: Vec<String> = tracked()
        .unwrap()
        .iter()
        .filter_map(|file| check(file).map(|why| format!("{}: {why}", file.path)))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// Returns number and text of the first line that contains one of these.
fn first_with(file: &TrackedFile, parts: &[&str]) -> Option<String> {
    let found = |line: &str| parts.iter().any(|part| line.contains(part));
    let (number, line) = file.lines().enumerate().find(|(_, line)| found(line))?;
    Some(format!("line {}: {}", number + 1, line.trim()))
}

#[test]
fn top_level_contains_only_allowed_files() {
    check_files(|file| {
        let top = file.path.split('/').next().unwrap();
        (!TOP.contains(&top)).then(|| "is not allowed at the top level".to_owned())
    });
}

#[test]
fn every_rust_file_begins_with_its_purpose() {
    check_files(|file| {
        let first = file.lines().next().unwrap_or_default();
        (file.is_rust() && !first.starts_with("//! ")).then(|| format!("begins with {first:?}"))
    });
}

#[test]
fn every_crate_states_what_it_does_not_know() {
    check_files(|file| {
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
            .then(|| "its documentation does not state what it does not know".to_owned())
    });
}

#[test]
fn source_files_are_not_too_long() {
    check_files(|file| {
        let source = [".rs", ".py", ".sh"]
            .iter()
            .any(|end| file.path.ends_with(end));
        let lines = file.lines().count();
        (source && lines > MAX_LINES).then(|| format!("{lines} lines, at most {MAX_LINES} allowed"))
    });
}

#[test]
fn no_file_has_a_vague_name() {
    check_files(|file| {
        let vague = ["utils", "util", "common", "helpers", "helper", "misc"];
        let parts = file
            .path
            .split('/')
            .map(|part| part.split('.').next().unwrap());
        let found: Vec<&str> = parts.filter(|part| vague.contains(part)).collect();
        (!found.is_empty()).then(|| format!("{found:?} is vague"))
    });
}

#[test]
fn no_test_is_ignored_and_no_work_is_left_open() {
    // Each text is written in two parts, so that this file does not match.
    let parts = [
        concat!("#[ig", "nore"),
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("unimpl", "emented!("),
        concat!("dbg", "!("),
    ];
    check_files(|file| {
        if file.path.ends_with("Cargo.lock") || file.path.starts_with("tests/fuzz/corpus/") {
            None
        } else {
            first_with(file, &parts)
        }
    });
}

#[test]
fn sql_of_the_product_is_constant_with_bound_parameters() {
    // A value must not be formatted into a statement, because it could change the statement. This
    // finds the most common form of the mistake.
    let parts = [
        ".query(&format!(",
        ".query_raw(&format!(",
        ".query(format!(",
    ];
    check_files(|file| {
        let product = ["connectors/clickhouse/src/", "pipeline/app/src/"];
        if file.is_rust() && product.iter().any(|folder| file.path.starts_with(folder)) {
            first_with(file, &parts)
        } else {
            None
        }
    });
}

#[test]
fn no_file_contains_a_path_of_a_machine() {
    let parts = [
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
    ];
    check_files(|file| first_with(file, &parts));
}

#[test]
fn scripts_are_executable_and_stop_at_the_first_error() {
    use std::os::unix::fs::PermissionsExt;
    check_files(|file| {
        let first = file.lines().next().unwrap_or_default();
        if !first.starts_with("#!") {
            return None;
        }
        let mode = std::fs::metadata(paths::repository().join(&file.path)).unwrap();
        if mode.permissions().mode() & 0o111 == 0 {
            return Some("is not executable".to_owned());
        }
        let bash = first.contains("bash");
        (bash && !file.text.as_ref()?.contains("set -euo pipefail"))
            .then(|| "has no `set -euo pipefail`".to_owned())
    });
}

#[test]
fn documents_for_operators_exist() {
    let files: BTreeSet<String> = tracked()
        .unwrap()
        .into_iter()
        .map(|file| file.path)
        .collect();
    for path in [
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
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
        assert!(files.contains(path), "{path} is missing");
    }
    let readme = std::fs::read_to_string(paths::repository().join("README.md")).unwrap();
    assert!(readme.lines().count() < 150, "README.md is too long");
}

#[test]
fn links_in_documents_are_valid() {
    check_files(|file| {
        if !file.has_extension("md") {
            return None;
        }
        let text = file.text.as_ref()?;
        let path = paths::repository().join(&file.path);
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
        (!broken.is_empty()).then(|| format!("broken links: {broken:?}"))
    });
}
