//! Runs the SQL of every Grafana panel and variable on a drained tenant: no errors, at least one row,
//! and totals that match the truth.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use chatledger_e2e::clickhouse::{ClickHouse, JsonRow};
use chatledger_e2e::grafana::{self, DashboardView, PanelTruth};
use chatledger_e2e::tenant::{self, Tenant, TenantPlan};
use chatledger_e2e::{Driver, stored};
use serde_json::Value;

/// Panels that can be empty. None: a tenant of this size has data for every panel.
const MAY_BE_EMPTY: &[(&str, &str)] = &[];

/// A year in milliseconds.
const YEAR: i64 = 365 * 86_400_000;

/// Returns the values of the first column, which Grafana uses for a variable.
fn first_column(rows: &[JsonRow], sql: &str) -> Vec<String> {
    // JSON objects are ordered by name here, so the first column is found by its position in the SQL.
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let names: Vec<&String> = rows.iter().flat_map(|row| row.keys()).collect();
    let first = names
        .into_iter()
        .min_by_key(|name| sql.find(name.as_str()).unwrap_or(usize::MAX));
    let Some(first) = first else {
        return Vec::new();
    };
    rows.iter().map(|row| text(&row[first])).collect()
}

async fn variables(clickhouse: &ClickHouse) -> BTreeMap<String, Vec<String>> {
    let mut values = BTreeMap::new();
    for dashboard in grafana::load().unwrap() {
        for variable in dashboard.variable_queries() {
            let rows = clickhouse.rows(&variable.sql).await.unwrap();
            let found = first_column(&rows, &variable.sql);
            assert!(
                !found.is_empty(),
                "{}: ${} has no values",
                dashboard.uid,
                variable.name
            );
            values.insert(variable.name, found);
        }
    }
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn panels_on_a_drained_tenant_have_rows_and_totals_that_match_the_truth() {
    let faults = "broken=20,unknown_key=10,duplicates=25";
    let plan =
        TenantPlan::new("panels", Driver::Direct, tenant::messages().unwrap()).faults(faults);
    let tenant = Tenant::start(plan).await.unwrap();
    tenant.drain().await.unwrap();
    let reconciled = tenant.run_to_end("reconcile", &[]).await.unwrap();
    assert_eq!(reconciled.code, 0, "{}", reconciled.stderr);
    let expected = stored::equals_truth(&tenant).await.unwrap();
    let truth = PanelTruth::read(&tenant.truth()).unwrap();

    let times = || truth.messages.iter().map(|message| message.msgtime);
    // The time of a dead letter is the time of its processing: now.
    let now = chrono::Utc::now().timestamp_millis() + 60_000;
    let (from, to) = (
        times().min().unwrap() - 1000,
        times().max().unwrap().max(now) + 1000,
    );
    assert!(to - from < YEAR);
    let mut view = DashboardView::new(from, to);
    for (name, values) in variables(&tenant.clickhouse).await {
        view = view.chosen(&name, values);
    }
    view = view.chosen("corp", [expected.corp_id()]);

    let (mut wrong, mut queries, mut totals) = (Vec::new(), 0, 0);
    for dashboard in grafana::load().unwrap() {
        for query in dashboard.panel_queries(&view).unwrap() {
            queries += 1;
            let panel = (query.dashboard.as_str(), query.panel.as_str());
            let rows = match tenant.clickhouse.rows(&query.sql).await {
                Ok(rows) => rows,
                Err(error) => {
                    wrong.push(format!("{panel:?}: {error:#}"));
                    continue;
                }
            };
            if rows.is_empty() && !MAY_BE_EMPTY.contains(&panel) {
                wrong.push(format!("{panel:?}: no rows\n{}", query.sql));
            }
            if let Some(total) = query.total {
                totals += 1;
                if let Err(error) = total.check(&rows, &truth) {
                    wrong.push(format!("{panel:?}: {error:#}\n{}", query.sql));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {queries} queries:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
    assert!(
        queries >= 40 && totals >= 30,
        "{queries} queries, {totals} totals: too few"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn panels_with_injection_attempts_in_their_variables_return_no_error() {
    let tenant = Tenant::start(TenantPlan::new("hostile", Driver::Direct, 300))
        .await
        .unwrap();
    tenant.drain().await.unwrap();
    let to = chrono::Utc::now().timestamp_millis();
    for text in [
        "'",
        "\\",
        "\\'",
        "') OR 1=1 --",
        "%' OR '1'='1",
        "{x:String}",
        "?",
        "100%",
    ] {
        let mut view = DashboardView::new(to - YEAR, to);
        for name in ["keyword", "party", "conversation"] {
            view = view.typed(name, text);
        }
        for name in ["corp", "msgtype", "severity", "rule"] {
            view = view.chosen(name, [text]);
        }
        for dashboard in grafana::load().unwrap() {
            for query in dashboard.panel_queries(&view).unwrap() {
                let result = tenant.clickhouse.rows(&query.sql).await;
                result.unwrap_or_else(|e| panic!("{} with {text:?}: {e:#}", query.panel));
            }
        }
    }
}
