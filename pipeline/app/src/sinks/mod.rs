//! The sinks this program knows, in one list.
//!
//! Whatever deals with sinks goes through [`KINDS`] or the list of [`Sink`] values made from it: the
//! configuration and its schema, the drivers, `check`, what must be reachable at the start,
//! `migrate`, `reconcile`, `verify` and the crash matrix. To add a sink, write its file here, put its
//! [`SinkKind`] into the list, and add its crate to `Cargo.toml`.

mod clickhouse;
mod jsonl;
mod parquet;

use std::collections::BTreeMap;

use chatledger_engine::failpoint::{self, FailPoint};
use chatledger_engine::sink::Sink;
use chatledger_schemas::config::Config;
use schemars::{JsonSchema, schema_for};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::{Corp, Validator};

/// Bytes of memory after which a lane writes its open batch, whatever its other limits are.
const LANE_BYTES: usize = 48 << 20;

/// A kind of sink.
pub struct SinkKind {
    /// Its name: the table `[sink.NAME]`, and see [`Sink::name`].
    pub name: &'static str,
    /// The JSON Schema of its table.
    schema: fn() -> Value,
    /// Makes the sink from its table; `None` if there was a problem. Does not connect.
    make: fn(&mut SinkConfig<'_, '_>) -> Option<Sink>,
    /// The fail points inside its writes.
    fail_points: fn() -> Vec<failpoint::Step>,
}

/// Every kind of sink.
pub const KINDS: &[SinkKind] = &[clickhouse::KIND, parquet::KIND, jsonl::KIND];

/// The table of one sink, and what else of the configuration a sink may need.
struct SinkConfig<'a, 'v> {
    /// Reads files and collects problems.
    validator: &'a mut Validator<'v>,
    table: Value,
    /// The corps, for their time zones.
    corps: &'a [Corp],
    /// Prefix of the deployment's names on shared systems.
    prefix: &'a str,
}

impl SinkConfig<'_, '_> {
    /// The table, in the type that its schema was made from.
    fn table<T: DeserializeOwned>(&mut self, at: &str) -> Option<T> {
        serde_json::from_value(self.table.take())
            .map_err(|error| self.validator.problem(at, error.to_string()))
            .ok()
    }
}

/// The JSON Schema of a sink's table.
fn schema_of<T: JsonSchema>() -> Value {
    schema_for!(T).to_value()
}

/// The JSON Schema of a configuration file, with the tables of all sinks.
pub fn config_schema() -> Value {
    let mut schema = schema_for!(Config).to_value();
    let mut tables = serde_json::Map::new();
    for kind in KINDS {
        let mut table = (kind.schema)();
        if let Some(table) = table.as_object_mut() {
            table.remove("$schema");
            if let (Some(Value::Object(own)), Some(all)) =
                (table.remove("$defs"), schema["$defs"].as_object_mut())
            {
                all.extend(own);
            }
        }
        schema["$defs"][format!("sink.{}", kind.name)] = table;
        let reference = json!({ "$ref": format!("#/$defs/sink.{}", kind.name) });
        tables.insert(
            kind.name.to_owned(),
            json!({ "anyOf": [reference, { "type": "null" }] }),
        );
    }
    let sink = &mut schema["properties"]["sink"];
    sink["properties"] = Value::Object(tables);
    sink["additionalProperties"] = Value::Bool(false);
    schema
}

/// Makes the sinks of a configuration, in the order of [`KINDS`]. `None` if there was a problem; the
/// validator has it then.
pub fn configured(
    validator: &mut Validator<'_>,
    mut tables: BTreeMap<String, Value>,
    corps: &[Corp],
    prefix: &str,
) -> Option<Vec<Sink>> {
    let mut sinks = Vec::new();
    for kind in KINDS {
        let table = tables.remove(kind.name).filter(|table| !table.is_null());
        if let Some(table) = table {
            sinks.push((kind.make)(&mut SinkConfig {
                validator,
                table,
                corps,
                prefix,
            }));
        }
    }
    if sinks.is_empty() && !validator.touches("sink") {
        let names: Vec<String> = KINDS
            .iter()
            .map(|kind| format!("[sink.{}]", kind.name))
            .collect();
        let what = format!(
            "no sink is configured; accepted: one or more of {}",
            names.join(", ")
        );
        validator.problem("sink", what);
    }
    sinks.into_iter().collect()
}

/// Every fail point of the program, in the order in which a record passes them.
#[cfg_attr(
    not(any(test, feature = "failpoints")),
    expect(dead_code, reason = "only builds with fail points list them")
)]
pub fn fail_points() -> Vec<FailPoint> {
    let mut points = failpoint::of_stages();
    for kind in KINDS {
        points.extend(failpoint::of_sink(kind.name, &(kind.fail_points)()));
    }
    points
}

/// The name of a lane's sink checkpoint: logs of different deployments may share one sink.
fn checkpoint_name(prefix: &str, log: &str) -> String {
    format!("{prefix}.{log}")
}

/// A connector's fail points without the name of the sink before them.
fn steps(
    sink: &str,
    points: &'static [&'static str],
    step: fn(&'static str) -> failpoint::Step,
) -> Vec<failpoint::Step> {
    let own = points
        .iter()
        .filter_map(|point| point.strip_prefix(sink)?.strip_prefix('.'));
    own.map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The schema of the configuration file is generated. Cure for a failure:
    /// `UPDATE_SCHEMAS=1 cargo test --release -p chatledger --bin chatledger config_schema`
    #[test]
    fn config_schema_matches_the_types() {
        let mut fresh = serde_json::to_string_pretty(&config_schema()).unwrap();
        fresh.push('\n');
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../schemas/json/config.schema.json"
        );
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(path, &fresh).unwrap();
        }
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            stored == fresh,
            "schemas/json/config.schema.json is stale; run: UPDATE_SCHEMAS=1 cargo test --release \
             -p chatledger --bin chatledger config_schema"
        );
    }

    #[test]
    fn every_sink_has_a_name_of_its_own_and_its_fail_points_bear_it() {
        let mut names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
        let points = fail_points();
        for kind in KINDS {
            let own = format!("{}.batch_gathered", kind.name);
            assert!(points.iter().any(|point| point.name == own), "{own}");
        }
    }
}
