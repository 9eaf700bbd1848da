//! Checks that the alert rules, their test cases, the runbooks and the metrics agree, without running
//! any of them. promtool runs the cases: `promtool test rules chatledger_test.yml`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chatledger_e2e::grafana::metrics;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Returns the values of `key: value` lines of a YAML file without comments and quotes. This is
/// sufficient because promtool checks the syntax.
fn yaml_values(text: &str, key: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.trim_start().trim_start_matches("- "))
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .map(|value| value.split(" #").next().unwrap_or_default().trim())
        .map(|value| value.trim_matches(['"', '\'']).to_owned())
        .collect()
}

#[test]
fn alert_rules_use_metrics_and_labels_that_exist() {
    let rules = read("deploy/prometheus/rules/chatledger.yml");
    let rules: Vec<&str> = rules
        .lines()
        .filter(|l| !l.trim_start().starts_with('#'))
        .collect();
    let rules = rules.join("\n");
    let metrics = metrics::named_in(&rules);
    assert!(metrics.len() > 10);
    for (metric, selector) in metrics {
        let labels =
            metrics::labels_of(metric).unwrap_or_else(|| panic!("{metric} does not exist"));
        for matcher in selector.split(',').filter(|m| !m.is_empty()) {
            let label = matcher.split(['=', '!']).next().unwrap().trim();
            assert!(labels.contains(&label), "{metric} has no label {label}");
        }
    }
}

#[test]
fn every_alert_has_texts_a_runbook_and_cases_that_fire_and_that_do_not() {
    let rules = read("deploy/prometheus/rules/chatledger.yml");
    let cases = read("deploy/prometheus/rules/chatledger_test.yml");
    let blocks: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    let mut pages = BTreeSet::new();
    for block in &blocks {
        let name = block.lines().next().unwrap().trim();
        for key in ["severity", "summary", "summary_en", "description"] {
            let values = yaml_values(block, key);
            assert!(values.len() == 1 && !values[0].is_empty(), "{name}: {key}");
        }
        let page = yaml_values(block, "runbook_url").pop().expect(name);
        let page = page
            .strip_prefix("deploy/runbooks/")
            .and_then(|p| p.strip_suffix(".md"));
        assert_eq!(page.map(str::to_owned), Some(page_of(name)), "{name}");
        pages.insert(page_of(name));
        let outcomes: Vec<bool> = cases
            .split("alertname: ")
            .skip(1)
            .filter(|case| case.lines().next().unwrap().trim() == name)
            .map(|case| {
                case.contains("exp_alerts:")
                    && !case.split("exp_alerts:").nth(1).unwrap().starts_with(" []")
            })
            .collect();
        assert!(outcomes.contains(&true), "{name}: no case that fires");
        // The watchdog always fires.
        assert!(
            name == "ChatledgerWatchdog" || outcomes.contains(&false),
            "{name}: no case that does not fire"
        );
    }
    let written: BTreeSet<String> = fs::read_dir(repository().join("deploy/runbooks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
        // The index, the page about peers and the pages about exit codes belong to no alert.
        .filter(|name| !["README", "peers"].contains(&name.as_str()) && !name.starts_with("exit-"))
        .collect();
    assert_eq!(
        pages, written,
        "runbook pages of the alerts, existing pages"
    );
}

/// Returns the page of an alert: `ChatledgerSourceStalled` → `source-stalled`.
fn page_of(alert: &str) -> String {
    let name = alert
        .strip_prefix("Chatledger")
        .expect("alerts begin with the program's name");
    let mut page = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !page.is_empty() {
            page.push('-');
        }
        page.push(c.to_ascii_lowercase());
    }
    page
}

#[test]
fn every_runbook_has_the_same_parts_and_names_metrics_that_exist() {
    for entry in fs::read_dir(repository().join("deploy/runbooks")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).unwrap();
        for (metric, _) in metrics::named_in(&text) {
            assert!(
                metrics::labels_of(metric).is_some(),
                "{name}: {metric} does not exist"
            );
        }
        if ["README", "peers"].contains(&name.as_str()) {
            continue;
        }
        let parts: Vec<&str> = text.lines().filter(|l| l.starts_with("## ")).collect();
        let expected = [
            "## What it means",
            "## How urgent it is",
            "## What to check",
            "## What to do",
            "## How to see that it is over",
        ];
        assert_eq!(parts, expected, "{name}");
    }
}

#[test]
fn links_between_runbooks_lead_to_pages_and_headings_that_exist() {
    let folder = repository().join("deploy/runbooks");
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            let (page, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = fs::read_to_string(folder.join(page))
                .unwrap_or_else(|e| panic!("{}: {link}: {e}", path.display()));
            let headings: Vec<String> = target
                .lines()
                .filter(|line| line.starts_with('#'))
                .map(|line| line.trim_start_matches(['#', ' ']).to_lowercase())
                .map(|line| line.replace(' ', "-"))
                .collect();
            assert!(
                heading.is_empty() || headings.iter().any(|h| h == heading),
                "{}: {link}: no such heading",
                path.display()
            );
        }
    }
}
