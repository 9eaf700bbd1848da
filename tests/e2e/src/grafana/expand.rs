//! Expands macros and variables in a panel's SQL like Grafana and its ClickHouse plugin.
//!
//! There are two steps, as in Grafana: the browser replaces `${variable:format}`, then the plugin's
//! backend replaces `$__macro(…)`. An unknown macro is an error, because Grafana would send it to
//! ClickHouse unchanged.
//!
//! Sources: the plugin's documentation, "ClickHouse query editor", section Macros, and its
//! `pkg/macros`; Grafana's documentation, "Variable syntax", section Advanced variable format
//! options. Not here: `$__conditionalAll`, the date macros (they compare UTC dates, which is wrong
//! for days in Shanghai) and the statement macros; no panel needs them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// The time range and variables that a user has selected.
#[derive(Clone, Debug)]
pub struct DashboardView {
    /// Start of the time range, milliseconds since the epoch, inclusive.
    pub from_ms: i64,
    /// End of the time range, milliseconds since the epoch, inclusive.
    pub to_ms: i64,
    /// Width of a time bucket; Grafana derives it from the range and the width of the panel.
    pub interval: Duration,
    /// The dashboard's time zone, an IANA name.
    pub timezone: String,
    variables: BTreeMap<String, VariableValue>,
}

/// A variable's value: one text, or a list for multi-value variables.
#[derive(Clone, Debug)]
enum VariableValue {
    One(String),
    Many(Vec<String>),
}

impl DashboardView {
    /// Creates a view of a range with buckets of an hour and the time zone of Shanghai. Text boxes and
    /// lists are empty, as in Grafana on an empty database.
    pub fn new(from_ms: i64, to_ms: i64) -> Self {
        let text = |name: &str| (name.to_owned(), VariableValue::One(String::new()));
        let list = |name: &str| (name.to_owned(), VariableValue::Many(Vec::new()));
        Self {
            from_ms,
            to_ms,
            interval: Duration::from_secs(3600),
            timezone: "Asia/Shanghai".to_owned(),
            variables: ["keyword", "party", "conversation"]
                .map(text)
                .into_iter()
                .chain(["corp", "msgtype", "severity", "rule"].map(list))
                .collect(),
        }
    }

    /// Sets the value of a text box.
    #[must_use]
    pub fn typed(mut self, name: &str, value: &str) -> Self {
        self.variables
            .insert(name.to_owned(), VariableValue::One(value.to_owned()));
        self
    }

    /// Selects values of a list; Grafana's "All" selects all values.
    #[must_use]
    pub fn chosen<S: Into<String>>(
        mut self,
        name: &str,
        values: impl IntoIterator<Item = S>,
    ) -> Self {
        let values = values.into_iter().map(Into::into).collect();
        self.variables
            .insert(name.to_owned(), VariableValue::Many(values));
        self
    }
}

/// Returns the SQL that Grafana sends to ClickHouse for `raw` under `view`.
///
/// # Errors
/// A variable, format or macro is unknown, a macro lacks its argument, or a parenthesis is not closed.
pub fn expand(raw: &str, view: &DashboardView) -> Result<String> {
    macros(&variables(raw, view)?, view)
}

/// Replaces `${name}` and `${name:format}`.
fn variables(raw: &str, view: &DashboardView) -> Result<String> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(start) = rest.find("${") {
        out.push_str(&rest[..start]);
        let inner = &rest[start + 2..];
        let end = inner
            .find('}')
            .with_context(|| format!("unclosed ${{ in {raw}"))?;
        let (name, format) = inner[..end].split_once(':').unwrap_or((&inner[..end], ""));
        match (name, format) {
            ("__timezone", "") => out.push_str(&view.timezone),
            (_, "percentencode") => {
                let choice = view
                    .variables
                    .get(name)
                    .with_context(|| format!("variable {name} is not defined"))?;
                out.push_str(&percent_encode(&match choice {
                    VariableValue::One(value) => value.clone(),
                    VariableValue::Many(values) => format!("{{{}}}", values.join(",")),
                }));
            }
            // The format sqlstring doubles quotes but keeps backslashes. ClickHouse unescapes them, so
            // a value that ends with one breaks out of its literal. The other formats are not safe
            // either.
            _ => bail!("${{{name}:{format}}}: only percentencode is safe inside ClickHouse's SQL"),
        }
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Encodes like Grafana's `percentencode` (`encodeURIComponentStrict`): everything except
/// `A–Z a–z 0–9 - _ . ~`, so that no value can break out of its literal.
fn percent_encode(value: &str) -> String {
    value
        .bytes()
        .fold(String::with_capacity(value.len()), |mut out, byte| {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                out.push(char::from(byte));
            } else {
                let _ = write!(out, "%{byte:02X}");
            }
            out
        })
}

/// Replaces `$__name` and `$__name(argument)`; arguments can contain balanced parentheses.
fn macros(sql: &str, view: &DashboardView) -> Result<String> {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(start) = rest.find('$') {
        out.push_str(&rest[..start]);
        let after = rest[start..]
            .strip_prefix("$__")
            .with_context(|| format!("a $ without a macro: {}", line_of(&rest[start..])))?;
        let length = after
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(after.len());
        let (name, tail) = after.split_at(length);
        let (argument, tail) = match tail.strip_prefix('(') {
            Some(inner) => {
                let end = closing(inner).with_context(|| format!("unclosed $__{name}("))?;
                (Some(&inner[..end]), &inner[end + 1..])
            }
            None => (None, tail),
        };
        out.push_str(&one_macro(name, argument, view)?);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

fn line_of(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Returns the position of the parenthesis that closes the one before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_u32;
    for (position, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' if depth == 0 => return Some(position),
            ')' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn one_macro(name: &str, argument: Option<&str>, view: &DashboardView) -> Result<String> {
    let column = || {
        let column = argument.map(str::trim).unwrap_or_default();
        ensure!(!column.is_empty(), "$__{name} needs a column");
        Ok(column)
    };
    let seconds = |ms: i64| format!("toDateTime({})", ms.div_euclid(1000));
    let millis = |ms: i64| format!("fromUnixTimestamp64Milli({ms})");
    let between =
        |column: &str, from: String, to: String| format!("{column} >= {from} AND {column} <= {to}");
    Ok(match name {
        "fromTime" => seconds(view.from_ms),
        "toTime" => seconds(view.to_ms),
        "fromTime_ms" => millis(view.from_ms),
        "toTime_ms" => millis(view.to_ms),
        "timeFilter" => between(column()?, seconds(view.from_ms), seconds(view.to_ms)),
        "timeFilter_ms" => between(column()?, millis(view.from_ms), millis(view.to_ms)),
        "timeInterval" => format!(
            "toStartOfInterval(toDateTime({}), INTERVAL {} second)",
            column()?,
            view.interval.as_secs().max(1)
        ),
        "timeInterval_ms" => format!(
            "toStartOfInterval(toDateTime64({}, 3), INTERVAL {} millisecond)",
            column()?,
            view.interval.as_millis().max(1)
        ),
        "interval_s" => view.interval.as_secs().max(1).to_string(),
        _ => bail!("macro $__{name} is unknown or not supported here"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests panic on failure")]
    use super::*;

    fn check(raw: &str, expected: &str) {
        let view = DashboardView::new(1_415_792_726_123, 1_447_328_726_456)
            .typed("keyword", "转账'); \\ DROP")
            .chosen("corp", ["ww1", "ww2"]);
        assert_eq!(expand(raw, &view).unwrap(), expected);
    }

    /// Uses the examples of the plugin's documentation.
    #[test]
    fn macros_expand_as_the_plugin_documents_them() {
        check(
            "WHERE $__timeFilter(time) ORDER",
            "WHERE time >= toDateTime(1415792726) AND time <= toDateTime(1447328726) ORDER",
        );
        check(
            "$__timeFilter_ms(time)",
            "time >= fromUnixTimestamp64Milli(1415792726123) AND time <= fromUnixTimestamp64Milli(1447328726456)",
        );
        check(
            "$__fromTime, $__toTime_ms)",
            "toDateTime(1415792726), fromUnixTimestamp64Milli(1447328726456))",
        );
        check(
            "$__timeInterval(f(a, b)) AS time",
            "toStartOfInterval(toDateTime(f(a, b)), INTERVAL 3600 second) AS time",
        );
        check("$__interval_s", "3600");
    }

    #[test]
    fn values_cannot_break_out_of_their_literal() {
        check("'${corp:percentencode}'", "'%7Bww1%2Cww2%7D'");
        check("'${rule:percentencode}'", "'%7B%7D'");
        check(
            "'${keyword:percentencode}'",
            "'%E8%BD%AC%E8%B4%A6%27%29%3B%20%5C%20DROP'",
        );
        check("'${__timezone}'", "'Asia/Shanghai'");
    }

    #[test]
    fn unsupported_expansions_are_errors() {
        let view = DashboardView::new(0, 1);
        for raw in [
            "$corp",
            "${corp}",
            "${corp:sqlstring}",
            "${nobody:percentencode}",
            "$__timeFilter()",
            "$__timeFilter(a",
            "$__unknown(a)",
            "${corp",
        ] {
            assert!(expand(raw, &view).is_err(), "{raw}");
        }
    }
}
