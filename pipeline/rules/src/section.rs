//! Reads a table of a rule file key by key. Each read returns a validated value or records an error
//! with its location.
//!
//! This module knows TOML and locations; it does not know what a rule is.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{RuleError, RuleFile, SourceLocation};

/// Maximum number of characters of a refused value that an error shows.
const MAX_SHOWN: usize = 40;

/// A TOML table with its location.
pub(crate) struct Section<'t> {
    source: RuleFile<'t>,
    table: &'t DeTable<'t>,
    /// Path of the table; empty for the root.
    path: String,
    /// Byte offset of the table in the text.
    start: usize,
}

impl<'t> Section<'t> {
    /// Returns the root table of a file.
    pub(crate) fn root(source: RuleFile<'t>, table: &'t Spanned<DeTable<'t>>) -> Self {
        Self {
            source,
            table: table.get_ref(),
            path: String::new(),
            start: table.span().start,
        }
    }

    /// Records an error for each key that is not in `accepted`.
    pub(crate) fn refuse_unknown(
        &self,
        accepted: &'static [&'static str],
        errors: &mut Vec<RuleError>,
    ) {
        for key in self.table.keys() {
            if !accepted.contains(&key.get_ref().as_ref()) {
                let at = self.location(self.path_of(key.get_ref()), key.span().start);
                errors.push(RuleError::UnknownKey { at, accepted });
            }
        }
    }

    /// Returns the location of a key's value; if the key is missing, the location of the table.
    pub(crate) fn location_of(&self, key: &str) -> SourceLocation {
        let at = self.table.get(key).map_or(self.start, |v| v.span().start);
        self.location(self.path_of(key), at)
    }

    /// Records an error if a required key is missing.
    pub(crate) fn require(&self, key: &str, accepted: &'static str, errors: &mut Vec<RuleError>) {
        if !self.table.contains_key(key) {
            let at = self.location_of(key);
            errors.push(RuleError::Missing { at, accepted });
        }
    }

    /// Returns the value of a key, parsed by `parse`; `None` if the key is missing or, with a
    /// recorded error, if the value is not accepted.
    pub(crate) fn value<T>(
        &self,
        key: &str,
        accepted: &'static str,
        parse: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
        errors: &mut Vec<RuleError>,
    ) -> Option<T> {
        let value = self.table.get(key)?;
        self.parsed(&self.path_of(key), value, accepted, parse, errors)
    }

    /// Returns the accepted elements of an array; empty if the key is missing. Records an error for
    /// each element that is not accepted.
    pub(crate) fn values<T>(
        &self,
        key: &str,
        accepted: &'static str,
        parse: impl Fn(&'t DeValue<'t>) -> Option<T>,
        errors: &mut Vec<RuleError>,
    ) -> Vec<T> {
        let Some(elements) = self.value(key, accepted, DeValue::as_array, errors) else {
            return Vec::new();
        };
        let path = self.path_of(key);
        let element = |(position, value)| {
            let path = format!("{path}[{position}]");
            self.parsed(&path, value, accepted, &parse, errors)
        };
        elements.iter().enumerate().filter_map(element).collect()
    }

    /// Returns the table of a key; `None` if the key is missing or, with a recorded error, if the
    /// value is not a table.
    pub(crate) fn table(
        &self,
        key: &str,
        accepted: &'static str,
        errors: &mut Vec<RuleError>,
    ) -> Option<Self> {
        let table = self.value(key, accepted, DeValue::as_table, errors)?;
        Some(self.subsection(self.path_of(key), table, self.table.get(key)?))
    }

    /// Returns the tables of an array; empty if the key is missing. Records an error for each
    /// element that is not a table.
    pub(crate) fn tables(
        &self,
        key: &str,
        accepted: &'static str,
        errors: &mut Vec<RuleError>,
    ) -> Vec<Self> {
        let Some(elements) = self.value(key, accepted, DeValue::as_array, errors) else {
            return Vec::new();
        };
        let path = self.path_of(key);
        let mut tables = Vec::with_capacity(elements.len());
        for (position, value) in elements.iter().enumerate() {
            let path = format!("{path}[{position}]");
            if let Some(table) = self.parsed(&path, value, accepted, DeValue::as_table, errors) {
                tables.push(self.subsection(path, table, value));
            }
        }
        tables
    }

    fn parsed<T>(
        &self,
        path: &str,
        value: &'t Spanned<DeValue<'t>>,
        accepted: &'static str,
        parse: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
        errors: &mut Vec<RuleError>,
    ) -> Option<T> {
        let parsed = parse(value.get_ref());
        if parsed.is_none() {
            errors.push(RuleError::Value {
                at: self.location(path.to_owned(), value.span().start),
                found: shown(value.get_ref()),
                accepted,
            });
        }
        parsed
    }

    fn subsection(
        &self,
        path: String,
        table: &'t DeTable<'t>,
        value: &Spanned<DeValue<'t>>,
    ) -> Self {
        Self {
            source: self.source,
            table,
            path,
            start: value.span().start,
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn location(&self, key: String, at: usize) -> SourceLocation {
        SourceLocation {
            file: self.source.name.to_owned(),
            line: line(self.source.text, at),
            key,
        }
    }
}

/// Returns the line number of a byte offset, starting at 1.
pub(crate) fn line(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    before.split(|&byte| byte == b'\n').count()
}

/// Formats a refused value for an error, shortened.
fn shown(value: &DeValue<'_>) -> String {
    let short = |text: &str| match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    };
    match value {
        DeValue::String(text) => format!("{:?}", short(text)),
        DeValue::Integer(number) => short(&number.to_string()),
        DeValue::Float(number) => short(&number.to_string()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            let article = if value.is_array() { "an" } else { "a" };
            format!("{article} {}", value.type_str())
        }
    }
}
