//! Holds the dashboards, their provisioning, the alert rules and the runbooks together, without
//! running any of them: what a file of one names must be there in another.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use chatledger_e2e::grafana::{self, CLICKHOUSE, Dashboard, PROMETHEUS, Panel, View, totals};
use serde_json::Value;

/// Every metric of chatledger with its labels besides those of the scrape.
const METRICS: &[(&str, &[&str])] = &[
    ("chatledger_records_pulled_total", &["corp"]),
    ("chatledger_messages_total", &["corp"]),
    ("chatledger_violations_total", &["corp", "severity"]),
    ("chatledger_dead_letters_total", &["corp", "reason"]),
    ("chatledger_duplicates_total", &["corp"]),
    ("chatledger_source_lag_seconds", &["corp"]),
    ("chatledger_source_hours_until_loss", &["corp"]),
    ("chatledger_stage_batch_seconds", &["stage"]),
    ("chatledger_sink_rows_total", &["sink"]),
    ("chatledger_sink_insert_rows", &["sink"]),
    ("chatledger_sink_errors_total", &["sink", "class"]),
    ("chatledger_sink_pending_rows", &["sink"]),
    ("chatledger_api_calls_total", &["api", "errcode_class"]),
    ("chatledger_cursor_seq", &["corp"]),
    ("chatledger_unresolved_total", &["kind"]),
    ("chatledger_directory_age_seconds", &["corp"]),
    ("chatledger_rules_active", &[]),
    ("chatledger_rules_reload_errors_total", &[]),
    ("chatledger_build_info", &["version"]),
];

/// ClickHouse panels without a total, and why.
const NO_TOTAL: &[(&str, &str)] = &[
    ("chatledger-violations", "较上一周期"), // nothing came before the truth's messages
    ("chatledger-violations", "高危违规"),   // the truth does not name severities
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn dashboards() -> Vec<Dashboard> {
    grafana::load().unwrap()
}

/// Runs `check` on every panel that is not a heading, naming it when it fails.
fn each_panel(check: impl Fn(&Dashboard, Panel<'_>) -> Result<(), String>) {
    let mut wrong = Vec::new();
    for dashboard in &dashboards() {
        for panel in dashboard.panels().into_iter().filter(|p| !p.is_row()) {
            if let Err(why) = check(dashboard, panel) {
                wrong.push(format!("{} / {}: {why}", dashboard.uid, panel.title()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn require(holds: bool, why: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_owned()) }
}

/// Values of `key: value` lines of a YAML file, comments and quotes removed. Enough for files whose
/// form promtool and Grafana check.
fn yaml_values(text: &str, key: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.trim_start().trim_start_matches("- "))
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .map(|value| value.split(" #").next().unwrap_or_default().trim())
        .map(|value| value.trim_matches(['"', '\'']).to_owned())
        .collect()
}

#[test]
fn dashboards_have_identity_and_a_corp_variable() {
    let dashboards = dashboards();
    let files: Vec<&str> = dashboards.iter().map(|d| d.file.as_str()).collect();
    assert_eq!(files, ["chats", "messages", "pipeline", "violations"]);
    for d in &dashboards {
        assert_eq!(d.uid, format!("chatledger-{}", d.file));
        assert!(d.uid.is_ascii());
        assert!(
            d.json["title"]
                .as_str()
                .unwrap()
                .starts_with("企业微信会话"),
            "{}",
            d.uid
        );
        assert!(!d.json["description"].as_str().unwrap().is_empty());
        // 36 is the first with data source references as objects, 42 the last of this form.
        assert!((36..=42).contains(&d.json["schemaVersion"].as_u64().unwrap()));
        assert!(
            d.json["id"].is_null(),
            "{}: id is the database's, not the file's",
            d.uid
        );
        let corp = d
            .variables()
            .find(|v| v["name"] == "corp")
            .expect("a corp variable");
        assert_eq!(corp["type"], "query");
        for v in d.variables() {
            let name = &v["name"];
            assert!(
                !v["label"].as_str().unwrap().is_empty(),
                "{}: {name} has no label",
                d.uid
            );
            assert!(
                !v["description"].as_str().unwrap().is_empty(),
                "{}: {name}",
                d.uid
            );
        }
    }
}

#[test]
fn ids_and_titles_are_unique_within_a_dashboard() {
    for d in &dashboards() {
        let mut ids = BTreeSet::new();
        let mut titles = BTreeSet::new();
        for panel in d.panels() {
            assert!(
                ids.insert(panel.id().unwrap()),
                "{}: id of {}",
                d.uid,
                panel.title()
            );
            assert!(
                titles.insert(panel.title().to_owned()),
                "{}: {}",
                d.uid,
                panel.title()
            );
        }
    }
}

#[test]
fn panels_explain_themselves() {
    each_panel(|_, panel| {
        let defaults = &panel.json["fieldConfig"]["defaults"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        require(!panel.title().is_empty(), "no title")?;
        require(
            text(&panel.json["description"]).chars().count() >= 10,
            "no description",
        )?;
        require(!text(&defaults["unit"]).is_empty(), "no unit")?;
        require(
            !text(&defaults["noValue"]).is_empty(),
            "nothing to say when there is no data",
        )
    });
}

#[test]
fn panels_read_from_provisioned_data_sources() {
    let file = read("dashboards/grafana/provisioning/datasources/chatledger.yaml");
    let uids = yaml_values(&file, "uid");
    let types = yaml_values(&file, "type");
    let provisioned: BTreeMap<_, _> = uids.into_iter().zip(types).collect();
    assert_eq!(
        provisioned.get("clickhouse").map(String::as_str),
        Some(CLICKHOUSE)
    );
    assert_eq!(
        provisioned.get("prometheus").map(String::as_str),
        Some(PROMETHEUS)
    );
    let known = |source: &Value| {
        let uid = source["uid"].as_str().unwrap_or_default();
        require(
            provisioned.get(uid).map(String::as_str) == source["type"].as_str(),
            &format!("data source {source} is not provisioned"),
        )
    };
    each_panel(|_, panel| {
        known(&panel.json["datasource"])?;
        require(panel.targets().next().is_some(), "no query")?;
        let mut refs = BTreeSet::new();
        for target in panel.targets() {
            known(&target.json["datasource"])?;
            require(
                target.json["datasource"] == panel.json["datasource"],
                "mixed sources",
            )?;
            require(refs.insert(target.json["refId"].as_str()), "refId twice")?;
            let clickhouse = target.json["datasource"]["type"] == CLICKHOUSE;
            require(
                clickhouse == target.raw_sql().is_some(),
                "SQL if and only if ClickHouse",
            )?;
            require(
                clickhouse != target.expr().is_some(),
                "PromQL if and only if Prometheus",
            )?;
        }
        Ok(())
    });
    for d in &dashboards() {
        for v in d.variables().filter(|v| v["type"] == "query") {
            known(&v["datasource"]).unwrap();
        }
    }
}

#[test]
fn panels_do_not_overlap() {
    for d in &dashboards() {
        let mut taken: BTreeMap<(u64, u64), String> = BTreeMap::new();
        for panel in d.panels() {
            let at = |key: &str| panel.json["gridPos"][key].as_u64().unwrap();
            let (x, y, w, h) = (at("x"), at("y"), at("w"), at("h"));
            assert!(
                w > 0 && h > 0 && x + w <= 24,
                "{}: {}",
                d.uid,
                panel.title()
            );
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                let other = taken.insert(cell, panel.title().to_owned());
                assert!(
                    other.is_none(),
                    "{}: {} lies on {other:?}",
                    d.uid,
                    panel.title()
                );
            }
        }
    }
}

#[test]
fn clickhouse_panels_follow_time_range_and_corp_and_never_show_a_repeat() {
    each_panel(|_, panel| {
        for sql in panel.targets().filter_map(grafana::Target::raw_sql) {
            require(
                sql.contains("$__timeFilter_ms(") || sql.contains("$__fromTime_ms"),
                "no time range",
            )?;
            // Every table that is read is narrowed to the corp and read with FINAL.
            let words: Vec<&str> = sql.split_whitespace().collect();
            let tables = ["messages", "violations", "dead_letters"];
            let mut reads = 0;
            for pair in words
                .windows(3)
                .filter(|w| w[0] == "FROM" && tables.contains(&w[1]))
            {
                reads += 1;
                require(
                    pair[2] == "FINAL",
                    &format!("{} is read without FINAL", pair[1]),
                )?;
            }
            require(reads > 0, "reads no table")?;
            require(
                sql.matches("${corp:percentencode}").count() == reads,
                "a table without the corp variable",
            )?;
            let (format, kind) = (
                &panel.targets().next().unwrap().json["format"],
                &panel.json["type"],
            );
            require(
                (kind == "timeseries") == (*format == 0),
                "format 0 is for time series",
            )?;
            require(
                kind != "timeseries" || sql.contains(" AS time,"),
                "no time column",
            )?;
        }
        Ok(())
    });
}

#[test]
fn every_panels_sql_expands_also_without_any_choice() {
    let view = View::new(1_700_000_000_000, 1_700_100_000_000);
    let mut queries = 0;
    for d in &dashboards() {
        for query in d.panel_queries(&view).unwrap() {
            assert!(!query.sql.contains('$'), "{}: {}", query.panel, query.sql);
            queries += 1;
        }
    }
    assert!(
        queries >= 40,
        "only {queries} ClickHouse queries were found"
    );
}

#[test]
fn variable_queries_are_for_names_that_a_view_knows() {
    for d in &dashboards() {
        for query in d.variable_queries() {
            assert!(["corp", "msgtype", "severity", "rule"].contains(&query.name.as_str()));
            assert!(
                query.sql.contains("GROUP BY"),
                "{}: a value twice",
                query.name
            );
        }
    }
}

#[test]
fn no_corp_is_written_into_a_dashboard() {
    for d in &dashboards() {
        let text = d.json.to_string();
        for written in ["corp_id = '", "corp_id='", "corp=\\\"", "corp_id IN ("] {
            assert!(!text.contains(written), "{}: {written}", d.uid);
        }
        let hex = |s: &str| s.bytes().take_while(u8::is_ascii_hexdigit).count();
        let id = text
            .match_indices("ww")
            .find(|(at, _)| hex(&text[at + 2..]) >= 8);
        assert!(id.is_none(), "{}: {id:?}", d.uid);
    }
}

#[test]
fn every_total_has_its_panel_and_every_panel_its_total() {
    let listed: BTreeSet<_> = totals::names().collect();
    assert_eq!(
        listed.len(),
        totals::names().count(),
        "a panel stands twice in the table"
    );
    let mut panels = BTreeSet::new();
    for d in &dashboards() {
        for panel in d.panels() {
            if panel.targets().any(|t| t.raw_sql().is_some()) {
                panels.insert((d.uid.clone(), panel.title().to_owned()));
            }
        }
    }
    let expected: BTreeSet<_> = listed
        .into_iter()
        .chain(NO_TOTAL.iter().copied())
        .map(|(d, p)| (d.to_owned(), p.to_owned()))
        .collect();
    assert_eq!(panels, expected);
}

/// The metric names in a text and what stands in the braces after each.
fn metrics_in(text: &str) -> Vec<(&str, &str)> {
    text.match_indices("chatledger_")
        .map(|(at, _)| {
            let rest = &text[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let (name, tail) = rest.split_at(end.unwrap_or(rest.len()));
            let labels = tail.strip_prefix('{').and_then(|t| t.split('}').next());
            (name, labels.unwrap_or_default())
        })
        .collect()
}

fn labels_of(metric: &str) -> Option<&'static [&'static str]> {
    let find = |name: &str| {
        METRICS
            .iter()
            .find(|(m, _)| *m == name)
            .map(|(_, labels)| *labels)
    };
    find(metric).or_else(|| {
        ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|s| metric.strip_suffix(s).and_then(find))
    })
}

#[test]
fn prometheus_panels_use_metrics_that_exist_and_follow_the_corp() {
    let mut used = BTreeSet::new();
    for d in &dashboards() {
        for panel in d.panels() {
            for expr in panel.targets().filter_map(grafana::Target::expr) {
                for (metric, selector) in metrics_in(expr) {
                    let labels = labels_of(metric).unwrap_or_else(|| panic!("{metric}: no such"));
                    assert_eq!(
                        labels.contains(&"corp"),
                        selector.starts_with("corp=~\"${corp:regex"),
                        "{}: {expr}",
                        panel.title()
                    );
                    used.insert(
                        metric
                            .trim_end_matches("_bucket")
                            .trim_end_matches("_sum")
                            .to_owned(),
                    );
                }
            }
        }
    }
    let all: BTreeSet<String> = METRICS.iter().map(|(m, _)| (*m).to_owned()).collect();
    assert_eq!(
        used, all,
        "every metric is shown, and none that does not exist"
    );
}

#[test]
fn alert_rules_use_metrics_and_labels_that_exist() {
    let rules = read("deploy/prometheus/rules/chatledger.yml");
    let rules: Vec<&str> = rules
        .lines()
        .filter(|l| !l.trim_start().starts_with('#'))
        .collect();
    let rules = rules.join("\n");
    let metrics = metrics_in(&rules);
    assert!(metrics.len() > 10);
    for (metric, selector) in metrics {
        let labels = labels_of(metric).unwrap_or_else(|| panic!("{metric}: no such metric"));
        for matcher in selector.split(',').filter(|m| !m.is_empty()) {
            let label = matcher.split(['=', '!']).next().unwrap().trim();
            assert!(labels.contains(&label), "{metric} has no label {label}");
        }
    }
}

#[test]
fn every_alert_has_texts_a_runbook_and_cases_that_fire_and_do_not() {
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
        assert!(
            outcomes.contains(&true),
            "{name}: no case in which it fires"
        );
        // The watchdog always fires; that is what it is for.
        assert!(
            name == "ChatledgerWatchdog" || outcomes.contains(&false),
            "{name}: no case in which it does not"
        );
    }
    let written: BTreeSet<String> = fs::read_dir(repository().join("deploy/runbooks"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".md").map(str::to_owned))
        // Pages about the program's exit codes and the index are not about alerts.
        .filter(|name| name != "README" && !name.starts_with("exit-"))
        .collect();
    assert_eq!(pages, written, "the alerts' pages and the pages written");
}

/// `ChatledgerSourceStalled` → `source-stalled`.
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
fn every_runbook_has_the_same_parts() {
    for entry in fs::read_dir(repository().join("deploy/runbooks")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "README" || name.starts_with("exit-") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let parts: Vec<&str> = text.lines().filter(|l| l.starts_with("## ")).collect();
        let expected = [
            "## What it means",
            "## What people see",
            "## First look",
            "## Cures",
            "## Escalate",
        ];
        assert_eq!(parts, expected, "{name}");
        for (metric, _) in metrics_in(&text) {
            assert!(
                labels_of(metric).is_some(),
                "{name}: {metric} does not exist"
            );
        }
    }
}
