//! Deviations from the schema in words: what was found, and what is accepted.

use std::collections::BTreeSet;

use jsonschema::JsonType;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use serde_json::Value;

use super::super::Problem;
use super::rest::{follow, required};

/// Values of librdkafka's properties may be passwords.
const NEVER_SHOWN: &str = "/kafka/properties";

/// The deviations of one file, as they are collected.
pub(super) struct Deviations<'a> {
    schema: &'a Value,
    file: &'a toml::Value,
    /// What to report.
    pub problems: Vec<Problem>,
    /// JSON pointers of the values that have to be taken out.
    pub unusable: Vec<String>,
    /// Key paths of values that are wrong or missing.
    pub invalid: BTreeSet<String>,
}

impl<'a> Deviations<'a> {
    pub fn new(schema: &'a Value, file: &'a toml::Value) -> Self {
        Self {
            schema,
            file,
            problems: Vec::new(),
            unusable: Vec::new(),
            invalid: BTreeSet::new(),
        }
    }

    /// Adds one error of the validator; an error inside an optional section becomes several.
    pub fn add(&mut self, error: &jsonschema::ValidationError<'_>) {
        let pointer = error.instance_path().as_str();
        let schema_path = error.schema_path().as_str();
        let schema = self.schema;
        let at = path(pointer);
        match error.kind() {
            Kind::AdditionalProperties { unexpected } => {
                let accepted = accepted_keys(schema, schema_path).join(", ");
                for key in unexpected {
                    let name = key.replace('~', "~0").replace('/', "~1");
                    self.unusable.push(format!("{pointer}/{name}"));
                    self.report(join(&at, key), format!("unknown key; accepted: {accepted}"));
                }
            }
            Kind::Required { property } => {
                let key = property.as_str().unwrap_or_default();
                let at = join(&at, key);
                let node = resolve(schema, parent(schema_path))
                    .and_then(|table| table.get("properties")?.get(key));
                let what = match node.and_then(|node| expected(node, schema, &at)) {
                    Some(accepted) => format!("missing; accepted: {accepted}"),
                    None => "missing".to_owned(),
                };
                self.invalid.insert(at.clone());
                self.report(at, what);
            }
            Kind::OneOfNotValid { context } | Kind::AnyOf { context } => {
                if let Some(options) = constants(schema, schema_path) {
                    self.wrong(pointer, &format!("accepted: {options}"), false);
                    return;
                }
                // An optional section: report what is wrong with it, not that it could be absent.
                let branch = context
                    .iter()
                    .find(|errors| !errors.iter().any(|error| is_null_type(error.kind())));
                for error in branch.into_iter().flatten() {
                    self.add(error);
                }
            }
            other => {
                let accepted = accepted(other, &at, resolve(schema, parent(schema_path)), schema);
                self.wrong(pointer, &accepted, matches!(other, Kind::Type { .. }));
            }
        }
    }

    /// Reports a value that is not accepted. A value is reported once: with its type if that is
    /// wrong.
    fn wrong(&mut self, pointer: &str, accepted: &str, wrong_type: bool) {
        let at = path(pointer);
        let what = format!("{}{accepted}", found(self.file, pointer));
        if self.invalid.insert(at.clone()) {
            self.unusable.push(pointer.to_owned());
            self.report(at, what);
        } else if wrong_type {
            let mut reported = self.problems.iter_mut();
            if let Some(problem) = reported.find(|problem| problem.at == at) {
                problem.what = what;
            }
        }
    }

    fn report(&mut self, at: String, what: String) {
        self.problems.push(Problem { at, what });
    }
}

/// What a rule of the schema accepts. `node` is the schema that holds the rule.
fn accepted(kind: &Kind, at: &str, node: Option<&Value>, schema: &Value) -> String {
    match kind {
        Kind::Enum { options } => format!("accepted: {}", list(options)),
        Kind::Constant { expected_value } => format!("accepted: {expected_value}"),
        Kind::Type { kind } => format!("accepted: {}", types(kind)),
        Kind::Pattern { pattern } => format!("accepted: {}", words(pattern)),
        Kind::Minimum { limit } => format!("accepted: at least {limit}"),
        Kind::Maximum { limit } => format!("accepted: at most {limit}"),
        Kind::MinItems { limit } => {
            let tables = node.and_then(|node| expected(node, schema, at));
            let tables = tables.unwrap_or_else(|| format!("at least {limit} elements"));
            format!("accepted: {tables}")
        }
        Kind::MinLength { .. } => "accepted: a text that is not empty".to_owned(),
        Kind::Format { format } => format!("accepted: {format}"),
        other => format!("violates the schema rule \"{}\"", other.keyword()),
    }
}

/// What a key takes that is missing or empty.
fn expected(node: &Value, schema: &Value, at: &str) -> Option<String> {
    let pattern = node.get("pattern").and_then(Value::as_str);
    if let Some(pattern) = pattern {
        return Some(words(pattern));
    }
    let node = follow(node, schema);
    let name = without_indices(at);
    match node.get("type")?.as_str()? {
        "object" => Some(format!("a [{name}] table")),
        "array" => {
            let item = follow(node.get("items")?, schema);
            let keys: Vec<&str> = required(item).collect();
            let keys = keys.join(" and ");
            Some(format!("at least one [[{name}]] table with {keys}"))
        }
        other => Some(other.to_owned()),
    }
}

/// The value at a pointer, with the words that lead to what is accepted. Tables and arrays are only
/// named, because a secret may be inside.
fn found(file: &toml::Value, pointer: &str) -> String {
    const MAX_CHARS: usize = 100;
    if pointer.starts_with(NEVER_SHOWN) {
        return String::new();
    }
    let value = pointer.split('/').skip(1).try_fold(file, |value, part| {
        let part = part.replace("~1", "/").replace("~0", "~");
        match value {
            toml::Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            other => other.get(&part),
        }
    });
    let shown = match value {
        None => return String::new(),
        Some(toml::Value::Table(_)) => "a table".to_owned(),
        Some(toml::Value::Array(items)) if items.is_empty() => "an empty array".to_owned(),
        Some(toml::Value::Array(_)) => "an array".to_owned(),
        Some(toml::Value::String(text)) if text.chars().count() > MAX_CHARS => {
            format!("a text of more than {MAX_CHARS} characters")
        }
        Some(toml::Value::String(text)) => Value::from(redacted(text)).to_string(),
        Some(other) => other.to_string(),
    };
    format!("found {shown}; ")
}

/// A text as it may be shown: without the user name and password of an address.
pub fn redacted(text: &str) -> String {
    let user = text.split_once("://").and_then(|(scheme, rest)| {
        let (_, host) = rest.rsplit_once('@')?;
        Some(format!("{scheme}://***@{host}"))
    });
    user.unwrap_or_else(|| text.to_owned())
}

fn is_null_type(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Type {
            kind: TypeKind::Single(JsonType::Null)
        }
    )
}

fn join(at: &str, key: &str) -> String {
    if at.is_empty() {
        key.to_owned()
    } else {
        format!("{at}.{key}")
    }
}

/// `/corp/0/archive` as `corp[0].archive`.
fn path(pointer: &str) -> String {
    let mut text = String::new();
    for part in pointer.split('/').skip(1) {
        if !text.is_empty() && part.chars().all(|c| c.is_ascii_digit()) {
            text = format!("{text}[{part}]");
        } else {
            text = join(&text, &part.replace("~1", "/").replace("~0", "~"));
        }
    }
    text
}

/// `corp[0].archive` as `corp.archive`, the name of the table in TOML.
fn without_indices(at: &str) -> String {
    let parts = at.split('[').enumerate().map(|(index, part)| {
        let rest = part.split_once(']').filter(|_| index > 0);
        rest.map_or(part, |(_, rest)| rest)
    });
    parts.collect()
}

fn types(kind: &TypeKind) -> String {
    let name = |kind: JsonType| match kind {
        JsonType::Object => "table".to_owned(),
        other => other.to_string(),
    };
    match kind {
        TypeKind::Single(one) => name(*one),
        TypeKind::Multiple(set) => {
            let names: Vec<String> = set
                .iter()
                .filter(|one| *one != JsonType::Null)
                .map(name)
                .collect();
            names.join(" or ")
        }
    }
}

fn list(options: &Value) -> String {
    let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
    options
        .iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// A pattern of the schema in words.
fn words(pattern: &str) -> String {
    match pattern {
        r"^[0-9]+(ms|s|m|h|d)$" => "a duration: a whole number and ms, s, m, h or d".into(),
        r"^https?://.+" => "an address beginning with http:// or https://".into(),
        r"^(file:|s3://).+" => "file:PATH or s3://BUCKET/PREFIX".into(),
        r"^[A-Za-z0-9_-]{1,64}$" => "1 to 64 letters, digits, '_' or '-'".into(),
        r"^[A-Za-z0-9._-]{1,100}$" => "1 to 100 letters, digits, '.', '_' or '-'".into(),
        r"^[A-Za-z_][A-Za-z0-9_]{0,63}$" => {
            "1 to 64 letters, digits or '_', not beginning with a digit".into()
        }
        other => format!("a text that matches {other}"),
    }
}

/// The schema at a path inside the schema, with references followed.
fn resolve<'a>(schema: &'a Value, path: &str) -> Option<&'a Value> {
    let mut here = schema;
    for part in path.split('/').skip(1) {
        if part == "$ref" {
            let target = here.get("$ref")?.as_str()?.strip_prefix('#')?;
            here = schema.pointer(target)?;
        } else {
            let part = part.replace("~1", "/").replace("~0", "~");
            here = match here {
                Value::Array(list) => list.get(part.parse::<usize>().ok()?)?,
                other => other.get(&part)?,
            };
        }
    }
    Some(here)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn accepted_keys(schema: &Value, at: &str) -> Vec<String> {
    let object = resolve(schema, parent(at)).and_then(|schema| schema.get("properties"));
    let keys = object.and_then(Value::as_object);
    keys.map(|keys| keys.keys().cloned().collect())
        .unwrap_or_default()
}

/// The values of a choice whose options each carry a description.
fn constants(schema: &Value, at: &str) -> Option<String> {
    let options = resolve(schema, at)?.as_array()?;
    let values: Option<Vec<String>> = options
        .iter()
        .map(|option| option.get("const").map(Value::to_string))
        .collect();
    values.map(|values| values.join(", "))
}
