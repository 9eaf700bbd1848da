//! Checks that the dashboards, their provisioning, the metrics and the totals are consistent.
//! Alerts: `alerts_static`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use chatledger_e2e::grafana::{
    self, CLICKHOUSE, Dashboard, DashboardView, PROMETHEUS, Panel, metrics, totals,
};
use serde_json::Value;

/// ClickHouse panels without a total, and why.
const NO_TOTAL: &[(&str, &str)] = &[
    ("chatledger-violations", "较上一周期"), // the truth has no earlier period
    ("chatledger-violations", "高危违规"),   // the truth of the panels has no severities
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

/// Runs `check` on every panel that is not a heading and reports all failures.
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

/// Returns the values of `key: value` lines of a YAML file without comments and quotes. This is
/// sufficient because promtool and Grafana check the syntax.
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
        // 36 is the first version with data source references as objects, 42 the last with this format.
        assert!((36..=42).contains(&d.json["schemaVersion"].as_u64().unwrap()));
        assert!(d.json["id"].is_null(), "{}: Grafana assigns the id", d.uid);
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
fn panels_have_title_description_unit_and_text_for_no_data() {
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
            "no text for missing data",
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
            require(
                refs.insert(target.json["refId"].as_str()),
                "duplicate refId",
            )?;
            let clickhouse = target.json["datasource"]["type"] == CLICKHOUSE;
            require(
                clickhouse == target.raw_sql().is_some(),
                "SQL must belong to a ClickHouse target",
            )?;
            require(
                clickhouse != target.expr().is_some(),
                "PromQL must belong to a Prometheus target",
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
                    "{}: {} overlaps {other:?}",
                    d.uid,
                    panel.title()
                );
            }
        }
    }
}

#[test]
fn clickhouse_panels_use_time_range_corp_and_final() {
    each_panel(|_, panel| {
        for sql in panel.targets().filter_map(grafana::PanelTarget::raw_sql) {
            require(
                sql.contains("$__timeFilter_ms(") || sql.contains("$__fromTime_ms"),
                "no time range",
            )?;
            // Every table must be filtered by corp and read with FINAL.
            let words: Vec<&str> = sql.split_whitespace().collect();
            let tables = ["messages", "violations", "dead_letters", "reconciliations"];
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
                "time series panels, and only they, need format 0",
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
fn sql_of_every_panel_expands_with_empty_variables() {
    let view = DashboardView::new(1_700_000_000_000, 1_700_100_000_000);
    let mut queries = 0;
    for d in &dashboards() {
        for query in d.panel_queries(&view).unwrap() {
            assert!(!query.sql.contains('$'), "{}: {}", query.panel, query.sql);
            queries += 1;
        }
    }
    assert!(queries >= 40, "found only {queries} ClickHouse queries");
}

#[test]
fn variable_queries_belong_to_variables_of_a_view() {
    for d in &dashboards() {
        for query in d.variable_queries() {
            assert!(["corp", "msgtype", "severity", "rule"].contains(&query.name.as_str()));
            assert!(
                query.sql.contains("GROUP BY"),
                "{}: duplicate values",
                query.name
            );
        }
    }
}

#[test]
fn dashboards_contain_no_corp_id() {
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
fn every_total_has_a_panel_and_every_panel_a_total() {
    let listed: BTreeSet<_> = totals::names().collect();
    assert_eq!(
        listed.len(),
        totals::names().count(),
        "duplicate entry for a panel"
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

#[test]
fn prometheus_panels_use_existing_metrics_and_the_corp() {
    let mut used = BTreeSet::new();
    for d in &dashboards() {
        for panel in d.panels() {
            for expr in panel.targets().filter_map(grafana::PanelTarget::expr) {
                for (metric, selector) in metrics::named_in(expr) {
                    let labels = metrics::labels_of(metric)
                        .unwrap_or_else(|| panic!("{metric} does not exist"));
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
    let all: BTreeSet<String> = metrics::METRICS
        .iter()
        .map(|(m, _)| (*m).to_owned())
        .collect();
    assert_eq!(used, all, "every metric must be shown");
}
