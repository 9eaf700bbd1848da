//! The arrows between the crates point down only, as `cargo metadata` tells them.
//!
//! What counts is what a crate is built with; for its own tests (dev-dependencies) a connector may
//! take the embedded engine to have a server to talk to, and no more.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use chatledger_e2e::place;
use serde_json::Value;

const SCHEMAS: &str = "chatledger-schemas";
const PURE: [&str; 4] = [
    "chatledger-crypto",
    "chatledger-decode",
    "chatledger-directory",
    "chatledger-rules",
];
const ENGINE: &str = "chatledger-engine";
const CONNECTORS: [&str; 5] = [
    "chatledger-clickhouse",
    "chatledger-embedded-clickhouse",
    "chatledger-kafka",
    "chatledger-parquet",
    "chatledger-wecom",
];
const APP: &str = "chatledger";
const TESTS: [&str; 5] = [
    "wecom-sim",
    "chatledger-e2e",
    "chatledger-crash",
    "chatledger-fuzz",
    "chatledger-perf",
];

/// What brings an async runtime, a network, a clock or a vendor's protocol.
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
        .current_dir(place::repository())
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
    /// What a package is built with.
    fn built_with(&self, package: &str) -> BTreeSet<&str> {
        let all = self
            .packages
            .get(package)
            .unwrap_or_else(|| panic!("no package {package}"));
        all.iter()
            .filter(|(_, kind)| kind != "dev")
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// What it takes for its own tests besides.
    fn tested_with(&self, package: &str) -> BTreeSet<&str> {
        let all = &self.packages[package];
        all.iter()
            .filter(|(_, kind)| kind == "dev")
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Which packages of this workspace a package is built with.
    fn ours(&self, package: &str) -> BTreeSet<&str> {
        let ours = |name: &&str| self.packages.contains_key(*name);
        self.built_with(package).into_iter().filter(ours).collect()
    }
}

#[track_caller]
fn assert_within(package: &str, found: &BTreeSet<&str>, allowed: &[&str]) {
    let others: Vec<_> = found
        .iter()
        .filter(|name| !allowed.contains(name))
        .collect();
    assert!(others.is_empty(), "{package} must not know {others:?}");
}

#[test]
fn packages_are_all_known_to_these_tests() {
    let workspace = workspace();
    let known = [SCHEMAS, ENGINE, APP];
    let known: BTreeSet<&str> = known
        .into_iter()
        .chain(PURE)
        .chain(CONNECTORS)
        .chain(TESTS)
        .collect();
    let found: BTreeSet<&str> = workspace.packages.keys().map(String::as_str).collect();
    assert_eq!(found, known);
}

#[test]
fn schemas_know_nothing_of_ours() {
    let workspace = workspace();
    assert_within(SCHEMAS, &workspace.ours(SCHEMAS), &[]);
    let outside = workspace.built_with(SCHEMAS);
    let impure: Vec<_> = outside
        .iter()
        .filter(|name| IMPURE.contains(name))
        .collect();
    assert!(impure.is_empty(), "{SCHEMAS} must not know {impure:?}");
}

#[test]
fn pure_crates_know_schemas_alone_and_neither_runtime_nor_network_nor_clock() {
    let workspace = workspace();
    for package in PURE {
        assert_within(package, &workspace.ours(package), &[SCHEMAS]);
        let outside = workspace.built_with(package);
        let impure: Vec<_> = outside
            .iter()
            .filter(|name| IMPURE.contains(name))
            .collect();
        assert!(impure.is_empty(), "{package} must not know {impure:?}");
    }
}

#[test]
fn engine_knows_the_pure_crates_and_no_connector() {
    let workspace = workspace();
    let allowed: Vec<&str> = PURE.into_iter().chain([SCHEMAS]).collect();
    assert_within(ENGINE, &workspace.ours(ENGINE), &allowed);
    let vendors = [
        "axum",
        "clickhouse",
        "object_store",
        "parquet",
        "rdkafka",
        "reqwest",
    ];
    let outside = workspace.built_with(ENGINE);
    let found: Vec<_> = outside
        .iter()
        .filter(|name| vendors.contains(name))
        .collect();
    assert!(found.is_empty(), "{ENGINE} must not know {found:?}");
}

#[test]
fn connectors_know_schemas_and_not_each_other() {
    let workspace = workspace();
    for package in CONNECTORS {
        assert_within(package, &workspace.ours(package), &[SCHEMAS]);
        let ours = |name: &&str| workspace.packages.contains_key(*name);
        let tests = workspace
            .tested_with(package)
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
fn app_alone_puts_engine_and_connectors_together_and_nobody_knows_it() {
    let workspace = workspace();
    let app = workspace.ours(APP);
    let all = PURE.into_iter().chain(CONNECTORS).chain([SCHEMAS, ENGINE]);
    assert_within(APP, &app, &all.collect::<Vec<_>>());
    assert!(
        CONNECTORS
            .iter()
            .chain([&ENGINE])
            .all(|part| app.contains(part)),
        "{app:?}"
    );
    for package in workspace.packages.keys() {
        assert!(
            !workspace.ours(package).contains(APP),
            "{package} knows {APP}"
        );
        if package != APP {
            assert!(
                !workspace.ours(package).contains(ENGINE),
                "{package} knows {ENGINE}"
            );
        }
    }
}

#[test]
fn the_simulator_and_these_tests_know_nothing_of_the_product() {
    let workspace = workspace();
    for package in ["wecom-sim", "chatledger-e2e"] {
        assert_within(package, &workspace.ours(package), &[]);
    }
    let crash = workspace.ours("chatledger-crash");
    assert_within("chatledger-crash", &crash, &["chatledger-e2e"]);
}

#[test]
fn every_dependency_comes_from_the_workspaces_one_list() {
    for manifest in chatledger_e2e::tidy::tracked().unwrap() {
        // The fuzzers are a workspace of their own.
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
                    line.contains("workspace = true"),
                    "{}: {line}",
                    manifest.path
                );
            }
        }
    }
}
