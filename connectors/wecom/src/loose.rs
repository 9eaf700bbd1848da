//! Reads JSON values of the wrong type where WeCom or a gateway is known to send them.
//!
//! Numbers as text, text as numbers, `null` for nothing (`wecom-api` §4.3). What cannot be
//! understood becomes the empty value: one odd field must not cost a whole directory.

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

/// An `errcode`: a number, a text holding one, or `null` for 0; anything else is an error, because
/// nothing may pass for success that does not say so.
pub(crate) fn errcode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(0),
        value => to_integer(&value).ok_or_else(|| D::Error::custom("errcode is no number")),
    }
}

/// Text, or a number as text; else empty.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(to_text(Value::deserialize(deserializer)?).unwrap_or_default())
}

/// An integer, or text holding one; else (also when it does not fit) the default.
pub(crate) fn integer<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64> + Default,
{
    Ok(to_integer(&Value::deserialize(deserializer)?)
        .and_then(|number| T::try_from(number).ok())
        .unwrap_or_default())
}

/// An array of texts, leaving out what is none; else empty.
pub(crate) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::Array(values) => values.into_iter().filter_map(to_text).collect(),
        _ => Vec::new(),
    })
}

/// An array of ids, leaving out what is none; else empty.
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

/// An array, or `null` for an empty one.
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
    struct Row {
        #[serde(default, deserialize_with = "text")]
        name: String,
        #[serde(default, deserialize_with = "integer")]
        id: u32,
        #[serde(default, deserialize_with = "ids")]
        departments: Vec<u32>,
        #[serde(default, deserialize_with = "texts")]
        tags: Vec<String>,
        #[serde(default, deserialize_with = "list")]
        rows: Vec<Row>,
    }

    #[test]
    fn odd_types_become_the_value_meant_or_nothing() {
        let row: Row = serde_json::from_str(
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
