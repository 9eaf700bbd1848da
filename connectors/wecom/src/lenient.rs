//! Deserialises JSON values of the wrong type, which WeCom and gateways are known to send.
//!
//! Accepts numbers as text, text as numbers, and `null` for an empty value
//! (`connectors/wecom/WECOM.md` §4.3). Any other value becomes the default, so that one invalid field
//! does not fail a whole directory sync.

use serde::de::DeserializeOwned;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

fn to_integer(value: &Value) -> Option<i64> {
    match value {
        // Some JSON libraries write whole numbers as 7.0.
        Value::Number(number) => number.as_i64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| whole(text.parse().ok()?))
        }
        _ => None,
    }
}

/// The integer that a floating-point number stands for, if it is exact.
fn whole(number: f64) -> Option<i64> {
    const LIMIT: f64 = (1_i64 << 53) as f64;
    (number.fract() == 0.0 && number.abs() < LIMIT).then_some(number as i64)
}

fn to_text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Reads an `errcode`: a number, text that holds one, or `null` for none. Anything else is an error,
/// because an unreadable errcode must not count as success.
pub(crate) fn errcode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        value => to_integer(&value)
            .map(Some)
            .ok_or_else(|| D::Error::custom("errcode is not a number")),
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

/// The items of a list that could be read, and how many could not.
#[derive(Debug)]
pub(crate) struct Items<T> {
    /// Those that could be read, in order.
    pub(crate) items: Vec<T>,
    /// Number of those that could not. A list that is none at all counts as one.
    pub(crate) odd: usize,
}

impl<T> Default for Items<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            odd: 0,
        }
    }
}

/// Reads the objects of an array. `null` and an empty text are an empty list, as PHP and gateways write one. Any other
/// value, and an element that is not a `T`, costs itself alone.
impl<'de, T: DeserializeOwned> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of(Value::deserialize(deserializer)?, |element| {
            // serde would read a struct from an array too.
            let object = Some(element).filter(Value::is_object)?;
            serde_json::from_value(object).ok()
        }))
    }
}

impl<T> Items<T> {
    fn of(list: Value, read: impl Fn(Value) -> Option<T>) -> Self {
        let elements = match list {
            Value::Null => return Self::default(),
            Value::String(text) if text.trim().is_empty() => return Self::default(),
            Value::Array(elements) => elements,
            _ => {
                return Self {
                    items: Vec::new(),
                    odd: 1,
                };
            }
        };
        let total = elements.len();
        let items: Vec<T> = elements.into_iter().filter_map(read).collect();
        let odd = total - items.len();
        Self { items, odd }
    }
}

/// Reads an object; anything else is `None`.
pub(crate) fn object<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let value = Value::deserialize(deserializer)?;
    let object = Some(value).filter(Value::is_object);
    Ok(object.and_then(|object| serde_json::from_value(object).ok()))
}

/// Reads an array of texts as [`Items`] does objects.
pub(crate) fn text_items<'de, D>(deserializer: D) -> Result<Items<String>, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(Items::of(Value::deserialize(deserializer)?, |element| {
        to_text(element).filter(|text| !text.is_empty())
    }))
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
        #[serde(default)]
        rows: Items<SampleRow>,
    }

    #[test]
    fn odd_item_of_a_list_costs_itself() {
        let rows = |json: &str| {
            let rows: Items<SampleRow> = serde_json::from_str(json).unwrap();
            let ids: Vec<u32> = rows.items.iter().map(|row| row.id).collect();
            (ids, rows.odd)
        };
        let mixed = r#"[{"id":1},null,7,"x",[1],{"id":2.0,"rows":{}},{"id":"3"}]"#;
        assert_eq!(rows(mixed), (vec![1, 2, 3], 4));
        for empty in ["[]", "null", r#""""#, r#"" ""#] {
            assert_eq!(rows(empty), (vec![], 0), "{empty}");
        }
        for none in ["{}", "5", r#""x""#, "true"] {
            assert_eq!(rows(none), (vec![], 1), "{none}");
        }
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
        let inner = &row.rows.items[0];
        assert_eq!((inner.name.as_str(), inner.id), ("", 0));
        assert!(
            inner.departments.is_empty() && inner.tags.is_empty() && inner.rows.items.is_empty()
        );
    }
}
