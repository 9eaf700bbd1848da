//! The rest of a file whose shape is wrong in places.
//!
//! Wrong values are taken out. Where the type requires a value, a placeholder is put in its place;
//! [`InvalidKeys`](super::InvalidKeys) tells the validation which values these are.

use chatledger_schemas::config::Config;
use serde_json::{Map, Value};

/// Returns the configuration without the values at `unusable`, which are JSON pointers.
pub(super) fn of(
    mut value: Value,
    schema: &Value,
    unusable: &[String],
) -> Result<Config, serde_json::Error> {
    for pointer in unusable {
        remove(&mut value, pointer);
    }
    complete(&mut value, schema, schema);
    serde_json::from_value(value)
}

/// Removes a key from its table. An array element becomes null, so that the indices of the others
/// stay what they are.
fn remove(value: &mut Value, pointer: &str) {
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        return;
    };
    match value.pointer_mut(parent) {
        Some(Value::Object(table)) => {
            table.remove(&last.replace("~1", "/").replace("~0", "~"));
        }
        Some(Value::Array(items)) => {
            if let Some(item) = last.parse().ok().and_then(|i: usize| items.get_mut(i)) {
                *item = Value::Null;
            }
        }
        _ => {}
    }
}

/// Adds a placeholder for every required key that is missing.
fn complete(value: &mut Value, node: &Value, schema: &Value) {
    let node = follow(node, schema);
    if value.is_null() {
        *value = placeholder(node);
    }
    match value {
        Value::Object(table) => {
            for name in required(node) {
                table.entry(name).or_insert_with(|| {
                    let property = node.get("properties").and_then(|all| all.get(name));
                    property.map_or(Value::Null, |property| {
                        placeholder(follow(property, schema))
                    })
                });
            }
            for (name, value) in table {
                if let Some(property) = node.get("properties").and_then(|all| all.get(name)) {
                    complete(value, property, schema);
                }
            }
        }
        Value::Array(items) => {
            if let Some(node) = node.get("items") {
                for item in items {
                    complete(item, node, schema);
                }
            }
        }
        _ => {}
    }
}

/// The names of the keys that a table must have.
pub(super) fn required(node: &Value) -> impl Iterator<Item = &str> {
    let names = node.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str)
}

/// Follows a reference, also the one of an optional value.
pub(super) fn follow<'a>(node: &'a Value, schema: &'a Value) -> &'a Value {
    let optional = || {
        let choices = node.get("anyOf")?.as_array()?;
        choices.iter().find_map(|choice| choice.get("$ref"))
    };
    let target = node.get("$ref").or_else(optional).and_then(Value::as_str);
    target
        .and_then(|target| schema.pointer(target.strip_prefix('#')?))
        .unwrap_or(node)
}

fn placeholder(node: &Value) -> Value {
    match node.get("type").and_then(Value::as_str) {
        Some("object") => Value::Object(Map::new()),
        Some("array") => Value::Array(Vec::new()),
        Some("integer") => Value::from(0),
        Some("boolean") => Value::from(false),
        _ => Value::from(""),
    }
}
