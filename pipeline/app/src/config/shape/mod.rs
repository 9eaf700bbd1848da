//! Checks a configuration file against the JSON Schema of its shape: names, types, bounds, patterns.
//!
//! [`read`] reports every deviation and also returns the rest of the file, so that one wrong key
//! does not prevent the other keys from being validated. Not here: what a schema cannot express.

mod describe;
mod rest;

use std::collections::BTreeSet;

use chatledger_schemas::config::Config;
use serde_json::Value;

use super::Problem;
use describe::Deviations;
pub use describe::redacted;

/// The result of reading a file.
#[derive(Debug)]
pub struct ShapeReport {
    /// The configuration. A key that is reported in `problems` has its default value or, if it is
    /// required, a placeholder. `None` if the text is not TOML.
    pub config: Option<Config>,
    /// Every deviation from the schema.
    pub problems: Vec<Problem>,
    /// The keys whose value in `config` is not the one of the file.
    pub invalid: InvalidKeys,
}

/// Key paths whose values are wrong or missing.
#[derive(Debug, Default)]
pub struct InvalidKeys(BTreeSet<String>);

impl InvalidKeys {
    /// Returns whether the key, or a table that contains it, is invalid.
    pub fn covers(&self, at: &str) -> bool {
        self.0.iter().any(|invalid| is_within(at, invalid))
    }

    /// Returns whether the key, a table that contains it, or a key inside it is invalid.
    pub fn touches(&self, at: &str) -> bool {
        self.covers(at) || self.0.iter().any(|invalid| is_within(invalid, at))
    }
}

fn is_within(at: &str, outer: &str) -> bool {
    at.strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Reads the text of a configuration file; `schema` is its JSON Schema.
pub fn read(text: &str, schema: &Value) -> ShapeReport {
    let table: toml::Table = match toml::from_str(text) {
        Ok(table) => table,
        Err(error) => {
            let line = error
                .span()
                .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            return unreadable(format!("line {line}: not TOML: {}", error.message()));
        }
    };
    let file = toml::Value::Table(table);
    let value = as_json(&file);
    let validator = match jsonschema::validator_for(schema) {
        Ok(validator) => validator,
        Err(error) => return unreadable(error.to_string()),
    };
    let mut deviations = Deviations::new(schema, &file);
    for error in validator.iter_errors(&value) {
        deviations.add(&error);
    }
    let Deviations {
        mut problems,
        unusable,
        invalid,
        ..
    } = deviations;
    problems.sort_by(|a, b| a.at.cmp(&b.at));
    problems.dedup();
    match rest::of(value, schema, &unusable) {
        Ok(config) => ShapeReport {
            config: Some(config),
            problems,
            invalid: InvalidKeys(invalid),
        },
        Err(_) if !problems.is_empty() => ShapeReport {
            config: None,
            problems,
            invalid: InvalidKeys(invalid),
        },
        Err(error) => unreadable(error.to_string()),
    }
}

fn unreadable(what: String) -> ShapeReport {
    ShapeReport {
        config: None,
        problems: vec![Problem {
            at: String::new(),
            what,
        }],
        invalid: InvalidKeys::default(),
    }
}

/// JSON Schema accepts 10.0 as an integer and has no dates, and JSON has no infinity. No key of a
/// configuration takes a number with a fraction, so all of these become one.
fn as_json(value: &toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::from(text.as_str()),
        toml::Value::Integer(number) => Value::from(*number),
        toml::Value::Boolean(flag) => Value::from(*flag),
        toml::Value::Float(_) | toml::Value::Datetime(_) => Value::from(0.5),
        toml::Value::Array(items) => items.iter().map(as_json).collect(),
        toml::Value::Table(table) => table
            .iter()
            .map(|(key, value)| (key.clone(), as_json(value)))
            .collect(),
    }
}
