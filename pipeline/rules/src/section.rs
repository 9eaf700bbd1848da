//! A table of a rule file, read key by key: each question gets a checked value or leaves an error
//! with its place.
//!
//! It knows TOML and places; it does not know what a rule is.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{Place, RuleError, Source};

/// Longest part of a refused value that an error shows, in characters.
const SHOWN: usize = 40;

/// A table, and where it stands.
pub(crate) struct Section<'t> {
    source: Source<'t>,
    table: &'t DeTable<'t>,
    /// Path of the table; empty for the root.
    path: String,
    /// Where it begins, in bytes of the text.
    start: usize,
}

impl<'t> Section<'t> {
    /// The whole file.
    pub(crate) fn root(source: Source<'t>, table: &'t Spanned<DeTable<'t>>) -> Self {
        Self {
            source,
            table: table.get_ref(),
            path: String::new(),
            start: table.span().start,
        }
    }

    /// Refuses keys other than those named.
    pub(crate) fn refuse_unknown(
        &self,
        accepted: &'static [&'static str],
        errors: &mut Vec<RuleError>,
    ) {
        for key in self.table.keys() {
            if !accepted.contains(&key.get_ref().as_ref()) {
                let at = self.place(self.path_of(key.get_ref()), key.span().start);
                errors.push(RuleError::UnknownKey { at, accepted });
            }
        }
    }

    /// Where the value of a key stands; the table's own place if it is not there.
    pub(crate) fn place_of(&self, key: &str) -> Place {
        let at = self.table.get(key).map_or(self.start, |v| v.span().start);
        self.place(self.path_of(key), at)
    }

    /// Says that a required key must be there.
    pub(crate) fn require(&self, key: &str, accepted: &'static str, errors: &mut Vec<RuleError>) {
        if !self.table.contains_key(key) {
            let at = self.place_of(key);
            errors.push(RuleError::Missing { at, accepted });
        }
    }

    /// The value of a key, made by `parse`; none if it is not there or not accepted.
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

    /// The accepted elements of an array; none if the key is not there.
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

    /// The table of a key; none if it is not there or no table.
    pub(crate) fn table(
        &self,
        key: &str,
        accepted: &'static str,
        errors: &mut Vec<RuleError>,
    ) -> Option<Self> {
        let table = self.value(key, accepted, DeValue::as_table, errors)?;
        Some(self.below(self.path_of(key), table, self.table.get(key)?))
    }

    /// The tables of an array; none if the key is not there.
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
                tables.push(self.below(path, table, value));
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
                at: self.place(path.to_owned(), value.span().start),
                found: shown(value.get_ref()),
                accepted,
            });
        }
        parsed
    }

    fn below(&self, path: String, table: &'t DeTable<'t>, value: &Spanned<DeValue<'t>>) -> Self {
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

    fn place(&self, key: String, at: usize) -> Place {
        Place {
            file: self.source.file.to_owned(),
            line: line(self.source.text, at),
            key,
        }
    }
}

/// The line a byte of a text stands in, from 1.
pub(crate) fn line(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    before.split(|&byte| byte == b'\n').count()
}

/// A refused value as an error names it.
fn shown(value: &DeValue<'_>) -> String {
    let short = |text: &str| match text.char_indices().nth(SHOWN) {
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
