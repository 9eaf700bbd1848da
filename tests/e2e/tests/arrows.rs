//! Checks the dependencies between the crates with `cargo metadata`: they point down only.
//!
//! Development dependencies are not counted, except that the only one of a connector on another crate
//! is the embedded engine, which its tests use as a server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use chatledger_e2e::paths;
use serde_json::Value;

const SCHEMAS: &str = "chatledger-schemas";
const PURE: [&str; 4] = [
    "chatledger-crypto",
    "chatledger-decode",
    "chatledger-directory",
    "chatledger-rules",
];
const ENGINE: &str = "chatledger-engine";
const APP: &str = "chatledger";
const TESTS: [&str; 5] = [
    "wecom-sim",
    "chatledger-e2e",
    "chatledger-crash",
    "chatledger-fuzz",
    "chatledger-perf",
];

/// Crates that provide an async runtime, network access, a clock or a vendor's protocol.
const IMPURE: &[&str] = &[
    "axum",
    "chrono",
    "clickhouse",
    "futures",
    "hyper",
    "hyper-util",
    "object_store",
    "rdkafka",
    "reqwest",
    "time",
    "tokio",
    "tokio-util",
    "tracing-subscriber",
    "ureq",
];

/// The crates in `connectors/`, so that a new one is covered without being listed.
fn connectors() -> Vec<String> {
    let folder = paths::repository().join("connectors");
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.map(|name| format!("chatledger-{name}")).collect()
}

struct Workspace {
    /// Package to its dependencies: name and kind (`normal`, `build`, `dev`).
    packages: BTreeMap<String, Vec<(String, String)>>,
}

fn workspace() -> Workspace {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version=1",
            "--no-deps",
            "--locked",
            "--offline",
        ])
        .current_dir(paths::repository())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or("normal").to_owned();
    let packages = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap().iter();
            let dependencies = dependencies.map(|d| (text(&d["name"]), text(&d["kind"])));
            (text(&package["name"]), dependencies.collect())
        });
    Workspace {
        packages: packages.collect(),
    }
}

impl Workspace {
    /// Returns the dependencies of a package without development dependencies.
    fn dependencies(&self, package: &str) -> BTreeSet<&str> {
        let all = self
            .packages
            .get(package)
            .unwrap_or_else(|| panic!("package {package} does not exist"));
        all.iter()
            .filter(|(_, kind)| kind != "dev")
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Returns the development dependencies of a package.
    fn dev_dependencies(&self, package: &str) -> BTreeSet<&str> {
        let all = &self.packages[package];
        all.iter()
            .filter(|(_, kind)| kind == "dev")
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Returns the workspace's packages that a package depends on.
    fn workspace_dependencies(&self, package: &str) -> BTreeSet<&str> {
        let ours = |name: &&str| self.packages.contains_key(*name);
        self.dependencies(package)
            .into_iter()
            .filter(ours)
            .collect()
    }
}

#[track_caller]
fn assert_within(package: &str, found: &BTreeSet<&str>, allowed: &[&str]) {
    let others: Vec<_> = found
        .iter()
        .filter(|name| !allowed.contains(name))
        .collect();
    assert!(others.is_empty(), "{package} must not depend on {others:?}");
}

#[test]
fn every_package_is_covered_by_these_tests() {
    let workspace = workspace();
    let connectors = connectors();
    let known = [SCHEMAS, ENGINE, APP];
    let known: BTreeSet<&str> = known
        .into_iter()
        .chain(PURE)
        .chain(connectors.iter().map(String::as_str))
        .chain(TESTS)
        .collect();
    let found: BTreeSet<&str> = workspace.packages.keys().map(String::as_str).collect();
    assert_eq!(found, known);
}

#[test]
fn schemas_depend_on_no_workspace_crate() {
    let workspace = workspace();
    assert_within(SCHEMAS, &workspace.workspace_dependencies(SCHEMAS), &[]);
    let outside = workspace.dependencies(SCHEMAS);
    let impure: Vec<_> = outside
        .iter()
        .filter(|name| IMPURE.contains(name))
        .collect();
    assert!(impure.is_empty(), "{SCHEMAS} must not depend on {impure:?}");
}

#[test]
fn pure_crates_depend_on_schemas_only_and_on_no_runtime_network_or_clock() {
    let workspace = workspace();
    for package in PURE {
        assert_within(
            package,
            &workspace.workspace_dependencies(package),
            &[SCHEMAS],
        );
        let outside = workspace.dependencies(package);
        let impure: Vec<_> = outside
            .iter()
            .filter(|name| IMPURE.contains(name))
            .collect();
        assert!(impure.is_empty(), "{package} must not depend on {impure:?}");
    }
}

#[test]
fn engine_depends_on_the_pure_crates_and_no_connector() {
    let workspace = workspace();
    let allowed: Vec<&str> = PURE.into_iter().chain([SCHEMAS]).collect();
    assert_within(ENGINE, &workspace.workspace_dependencies(ENGINE), &allowed);
    let vendors = [
        "axum",
        "clickhouse",
        "object_store",
        "parquet",
        "rdkafka",
        "reqwest",
    ];
    let outside = workspace.dependencies(ENGINE);
    let found: Vec<_> = outside
        .iter()
        .filter(|name| vendors.contains(name))
        .collect();
    assert!(found.is_empty(), "{ENGINE} must not depend on {found:?}");
}

#[test]
fn connectors_depend_on_schemas_and_not_on_each_other() {
    let workspace = workspace();
    for package in &connectors() {
        assert_within(
            package,
            &workspace.workspace_dependencies(package),
            &[SCHEMAS],
        );
        let ours = |name: &&str| workspace.packages.contains_key(*name);
        let tests = workspace
            .dev_dependencies(package)
            .into_iter()
            .filter(ours)
            .collect();
        assert_within(
            package,
            &tests,
            &["chatledger-embedded-clickhouse", SCHEMAS],
        );
    }
}

#[test]
fn only_app_depends_on_engine_and_connectors_and_nothing_depends_on_app() {
    let workspace = workspace();
    let app = workspace.workspace_dependencies(APP);
    let connectors = connectors();
    let connectors = connectors.iter().map(String::as_str);
    let all = PURE
        .into_iter()
        .chain(connectors.clone())
        .chain([SCHEMAS, ENGINE]);
    assert_within(APP, &app, &all.collect::<Vec<_>>());
    assert!(
        connectors.chain([ENGINE]).all(|part| app.contains(&part)),
        "{app:?}"
    );
    for package in workspace.packages.keys() {
        assert!(
            !workspace.workspace_dependencies(package).contains(APP),
            "{package} depends on {APP}"
        );
        if package != APP {
            assert!(
                !workspace.workspace_dependencies(package).contains(ENGINE),
                "{package} depends on {ENGINE}"
            );
        }
    }
}

#[test]
fn simulator_and_end_to_end_tests_depend_on_no_product_crate() {
    let workspace = workspace();
    for package in ["wecom-sim", "chatledger-e2e"] {
        assert_within(package, &workspace.workspace_dependencies(package), &[]);
    }
    let crash = workspace.workspace_dependencies("chatledger-crash");
    assert_within("chatledger-crash", &crash, &["chatledger-e2e"]);
}

#[test]
fn engine_names_no_archive_sink_or_client() {
    let vendors = [
        "clickhouse",
        "parquet",
        "wecom",
        "rdkafka",
        "chdb",
        "grafana",
    ];
    for file in chatledger_e2e::tidy::tracked().unwrap() {
        if !file.path.starts_with("pipeline/engine/") || !file.has_extension("rs") {
            continue;
        }
        for (number, line) in file.lines().enumerate() {
            // Facts about the archive are cited by the document that has them.
            let text = line.replace("connectors/wecom/WECOM.md", "").to_lowercase();
            let named = vendors.iter().find(|vendor| text.contains(**vendor));
            assert!(named.is_none(), "{}:{}: {line}", file.path, number + 1);
        }
    }
}

/// A dependency on a crate of this repository has no version that could differ.
#[test]
fn every_dependency_on_other_crates_is_inherited_from_the_workspace() {
    for manifest in chatledger_e2e::tidy::tracked().unwrap() {
        // The fuzzers are a separate workspace.
        let other = manifest.path.starts_with("tests/fuzz/libfuzzer/");
        if other || !manifest.path.ends_with("/Cargo.toml") {
            continue;
        }
        let mut inside = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                inside = line.ends_with("dependencies]");
            } else if inside && line.contains('=') {
                assert!(
                    line.contains("workspace = true") || line.contains("path = \""),
                    "{}: {line}",
                    manifest.path
                );
            }
        }
    }
}
