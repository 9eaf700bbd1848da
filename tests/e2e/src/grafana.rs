//! Reads the Grafana dashboards without Grafana.
//!
//! Returns every ClickHouse query of every panel and template variable, with the data source's macros
//! and the dashboard's variables expanded ([`expand`]), so that a test can run the same SQL as
//! Grafana; and, where the truth determines it, the total of a panel's rows ([`totals`]).
//!
//! Not here: rendering, expansion of Prometheus queries, and running queries.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

pub mod expand;
pub mod metrics;
pub mod totals;
pub mod truth;

pub use expand::DashboardView;
pub use totals::{Measure, Total};
pub use truth::PanelTruth;

/// `type` of the ClickHouse data source's plugin.
pub const CLICKHOUSE: &str = "grafana-clickhouse-datasource";
/// `type` of the Prometheus data source.
pub const PROMETHEUS: &str = "prometheus";

/// Returns the folder with `dashboards/` and `provisioning/` that Grafana reads.
pub fn grafana_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dashboards/grafana")
}

/// One dashboard file.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// File name without `.json`.
    pub file: String,
    /// The dashboard's `uid`.
    pub uid: String,
    /// The parsed file.
    pub json: Value,
}

/// One panel of a dashboard; as in Grafana's model, rows are panels too.
#[derive(Clone, Copy, Debug)]
pub struct Panel<'a> {
    /// The panel's object.
    pub json: &'a Value,
}

/// One query of a panel, not expanded.
#[derive(Clone, Copy, Debug)]
pub struct PanelTarget<'a> {
    /// The target's object.
    pub json: &'a Value,
}

/// An expanded ClickHouse query of a panel.
#[derive(Clone, Debug)]
pub struct PanelQuery {
    /// `uid` of the dashboard.
    pub dashboard: String,
    /// Title of the panel; unique within the dashboard.
    pub panel: String,
    /// The expanded SQL. It names no database: run it with `database=chatledger`.
    pub sql: String,
    /// Expected total of its rows, if the truth determines it.
    pub total: Option<Total>,
}

/// A template variable's ClickHouse query. The first column of its rows contains the values, the
/// second, if any, the labels.
#[derive(Clone, Debug)]
pub struct VariableQuery {
    /// `uid` of the dashboard.
    pub dashboard: String,
    /// Name of the variable; a name has the same meaning in every dashboard.
    pub name: String,
    /// The SQL. It names no database.
    pub sql: String,
}

/// Loads every dashboard of the repository, ordered by file name.
pub fn load() -> Result<Vec<Dashboard>> {
    load_from(&grafana_dir().join("dashboards"))
}

/// Loads every `*.json` of a folder, ordered by file name.
pub fn load_from(dir: &Path) -> Result<Vec<Dashboard>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .with_context(|| format!("list {}", dir.display()))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    });
    paths.sort();
    ensure!(!paths.is_empty(), "no dashboards in {}", dir.display());
    paths.iter().map(|path| Dashboard::read(path)).collect()
}

impl Dashboard {
    fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let json: Value =
            serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        let uid = json["uid"]
            .as_str()
            .with_context(|| format!("{}: uid", path.display()))?;
        let file = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            file,
            uid: uid.to_owned(),
            json,
        })
    }

    /// Returns every panel, including rows and the panels of collapsed rows, in the order of the file.
    pub fn panels(&self) -> Vec<Panel<'_>> {
        fn walk<'a>(panels: &'a Value, out: &mut Vec<Panel<'a>>) {
            for json in panels.as_array().into_iter().flatten() {
                out.push(Panel { json });
                walk(&json["panels"], out);
            }
        }
        let mut out = Vec::new();
        walk(&self.json["panels"], &mut out);
        out
    }

    /// Returns the objects of the template variables.
    pub fn variables(&self) -> impl Iterator<Item = &Value> {
        self.json["templating"]["list"]
            .as_array()
            .into_iter()
            .flatten()
    }

    /// Returns the ClickHouse queries of the template variables.
    pub fn variable_queries(&self) -> Vec<VariableQuery> {
        self.variables()
            .filter(|v| v["type"] == "query" && v["datasource"]["type"] == CLICKHOUSE)
            .map(|v| VariableQuery {
                dashboard: self.uid.clone(),
                name: v["name"].as_str().unwrap_or_default().to_owned(),
                sql: v["query"].as_str().unwrap_or_default().to_owned(),
            })
            .collect()
    }

    /// Returns the ClickHouse queries of all panels, expanded for `view`.
    pub fn panel_queries(&self, view: &DashboardView) -> Result<Vec<PanelQuery>> {
        let mut out = Vec::new();
        for panel in self.panels() {
            for target in panel.targets() {
                let Some(raw) = target.raw_sql() else {
                    continue;
                };
                let title = panel.title();
                let sql = expand::expand(raw, view)
                    .with_context(|| format!("dashboard {}, panel {title}", self.uid))?;
                out.push(PanelQuery {
                    dashboard: self.uid.clone(),
                    panel: title.to_owned(),
                    sql,
                    total: totals::of(&self.uid, title),
                });
            }
        }
        Ok(out)
    }
}

impl<'a> Panel<'a> {
    /// Returns the panel's `id`.
    pub fn id(self) -> Option<u64> {
        self.json["id"].as_u64()
    }

    /// Returns the panel's title; empty if it has none.
    pub fn title(self) -> &'a str {
        self.json["title"].as_str().unwrap_or_default()
    }

    /// Returns whether it is only a heading.
    pub fn is_row(self) -> bool {
        self.json["type"] == "row"
    }

    /// Returns the panel's queries.
    pub fn targets(self) -> impl Iterator<Item = PanelTarget<'a>> {
        self.json["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|json| PanelTarget { json })
    }
}

impl<'a> PanelTarget<'a> {
    /// Returns the SQL if this is a ClickHouse query.
    pub fn raw_sql(self) -> Option<&'a str> {
        self.json["rawSql"].as_str()
    }

    /// Returns the PromQL if this is a Prometheus query.
    pub fn expr(self) -> Option<&'a str> {
        self.json["expr"].as_str()
    }
}
