//! Deserialises JSON values of the wrong type, which WeCom and gateways are known to send.
//!
//! Accepts numbers as text, text as numbers, and `null` for an empty value
//! (`connectors/wecom/WECOM.md` §4.3). Any other value becomes the default, so that one invalid field
//! does not fail a whole directory sync.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

fn to_integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn to_text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Reads an `errcode`: a number, text that holds one, or `null` for 0. Anything else is an error,
/// because an unreadable errcode must not count as success.
pub(crate) fn errcode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(0),
        value => to_integer(&value).ok_or_else(|| D::Error::custom("errcode is not a number")),
    }
}

/// Reads text, or a number as text. Anything else is empty.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(to_text(Value::deserialize(deserializer)?).unwrap_or_default())
}

/// Reads an integer, or text that holds one. Anything else, or a value out of range, is the default.
pub(crate) fn integer<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64> + Default,
{
    Ok(to_integer(&Value::deserialize(deserializer)?)
        .and_then(|number| T::try_from(number).ok())
        .unwrap_or_default())
}

/// Reads an array of texts without elements of other types. Anything else is empty.
pub(crate) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Array(values) => values.into_iter().filter_map(to_text).collect(),
        _ => Vec::new(),
    })
}

/// Reads an array of ids without elements of other types. Anything else is empty.
pub(crate) fn ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Array(values) => values
            .iter()
            .filter_map(to_integer)
            .filter_map(|number| u32::try_from(number).ok())
            .collect(),
        _ => Vec::new(),
    })
}

/// Reads an array; `null` is empty.
pub(crate) fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[derive(Deserialize)]
    struct SampleRow {
        #[serde(default, deserialize_with = "text")]
        name: String,
        #[serde(default, deserialize_with = "integer")]
        id: u32,
        #[serde(default, deserialize_with = "ids")]
        departments: Vec<u32>,
        #[serde(default, deserialize_with = "texts")]
        tags: Vec<String>,
        #[serde(default, deserialize_with = "list")]
        rows: Vec<SampleRow>,
    }

    #[test]
    fn wrong_types_are_converted_or_become_the_default() {
        let row: SampleRow = serde_json::from_str(
            r#"{"name":7,"id":"12","departments":[1,"2",-3,null],"tags":["a",5,{}],
                "rows":[{"name":null,"id":-1,"departments":null,"tags":"x","rows":null}]}"#,
        )
        .unwrap();
        assert_eq!((row.name.as_str(), row.id), ("7", 12));
        assert_eq!(row.departments, [1, 2]);
        assert_eq!(row.tags, ["a", "5"]);
        let inner = &row.rows[0];
        assert_eq!((inner.name.as_str(), inner.id), ("", 0));
        assert!(inner.departments.is_empty() && inner.tags.is_empty() && inner.rows.is_empty());
    }
}
