//! Compares two sets of rows regardless of order and describes the differences briefly.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail};
use serde_json::Value;

/// Maximum rows shown for each kind of difference.
const SHOWN: usize = 3;

/// Compares rows by the columns `key`; each key occurs once in `expected`.
///
/// # Errors
/// A row is missing, unexpected, duplicated or different.
pub fn same(what: &str, key: &[&str], expected: &[Value], found: &[Value]) -> Result<()> {
    let name = |row: &Value| {
        key.iter()
            .map(|column| row[*column].to_string())
            .collect::<Vec<_>>()
    };
    let mut rest: BTreeMap<Vec<String>, &Value> = BTreeMap::new();
    for row in expected {
        if rest.insert(name(row), row).is_some() {
            bail!("{what}: the truth contains {key:?} {:?} twice", name(row));
        }
    }
    let mut seen: BTreeMap<Vec<String>, &Value> = BTreeMap::new();
    let (mut twice, mut unexpected, mut unequal) = (Vec::new(), Vec::new(), Vec::new());
    for row in found {
        let name = name(row);
        if seen.insert(name.clone(), row).is_some() {
            twice.push(row);
            continue;
        }
        match rest.remove(&name) {
            None => unexpected.push(row),
            Some(want) if want != row => unequal.push((name, want, row)),
            Some(_) => {}
        }
    }
    if twice.is_empty() && unexpected.is_empty() && unequal.is_empty() && rest.is_empty() {
        return Ok(());
    }
    let mut text = format!("{what}: {} rows, {} expected", found.len(), expected.len());
    let mut list = |kind: &str, rows: &[&Value]| {
        if !rows.is_empty() {
            let _ = write!(text, "\n  {}: {kind}", rows.len());
            for row in rows.iter().take(SHOWN) {
                let _ = write!(text, "\n    {row}");
            }
        }
    };
    list("missing", &rest.into_values().collect::<Vec<_>>());
    list("unexpected", &unexpected);
    list("duplicated", &twice);
    if !unequal.is_empty() {
        let _ = write!(text, "\n  {}: different", unequal.len());
        for (name, want, row) in unequal.iter().take(SHOWN) {
            let _ = write!(text, "\n    {}", name.join(" "));
            for column in columns(want, row) {
                let (want, row) = (&want[column], &row[column]);
                let _ = write!(text, "\n      {column}: {row}, expected {want}");
            }
        }
    }
    bail!(text)
}

/// Returns the columns in which two rows differ.
fn columns<'a>(one: &'a Value, other: &'a Value) -> Vec<&'a str> {
    let names = |row: &'a Value| row.as_object().into_iter().flat_map(|row| row.keys());
    let mut columns: Vec<&str> = names(one)
        .chain(names(other))
        .map(String::as_str)
        .filter(|c| one[*c] != other[*c])
        .collect();
    columns.sort_unstable();
    columns.dedup();
    columns
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_in_another_order_are_equal() {
        let rows = [json!({"id": 1, "x": "a"}), json!({"id": 2, "x": "b"})];
        let other = [rows[1].clone(), rows[0].clone()];
        same("rows", &["id"], &rows, &other).unwrap();
    }

    #[test]
    fn every_kind_of_difference_is_reported() {
        let expected = [json!({"id": 1, "x": "a"}), json!({"id": 2, "x": "b"})];
        let found = [
            json!({"id": 1, "x": "z"}),
            json!({"id": 3, "x": "c"}),
            json!({"id": 3, "x": "c"}),
        ];
        let error = same("rows", &["id"], &expected, &found)
            .unwrap_err()
            .to_string();
        for part in [
            "3 rows, 2 expected",
            "1: missing",
            "1: unexpected",
            "1: duplicated",
            "x: \"z\", expected \"a\"",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}
