//! The file against the JSON Schema of its shape.

use chatledger_schemas::config::Config;
use jsonschema::JsonType;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use serde_json::Value;

use super::Problem;

/// Reads the text; every deviation from the schema is a problem.
pub fn read(text: &str) -> Result<Config, Vec<Problem>> {
    let one = |what: String| {
        vec![Problem {
            at: String::new(),
            what,
        }]
    };
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let line = error
            .span()
            .map_or(1, |span| text[..span.start].matches('\n').count() + 1);
        one(format!("line {line}: not TOML: {}", error.message()))
    })?;
    let value = serde_json::to_value(table).map_err(|error| one(error.to_string()))?;
    let schema = schemars::schema_for!(Config).to_value();
    let validator = jsonschema::validator_for(&schema).map_err(|error| one(error.to_string()))?;
    let mut problems: Vec<Problem> = Vec::new();
    for error in validator.iter_errors(&value) {
        describe(&error, &schema, &value, &mut problems);
    }
    if problems.is_empty() {
        return serde_json::from_value(value).map_err(|error| one(error.to_string()));
    }
    problems.sort_by(|a, b| a.at.cmp(&b.at));
    problems.dedup();
    Err(problems)
}

fn describe(
    error: &jsonschema::ValidationError<'_>,
    schema: &Value,
    file: &Value,
    problems: &mut Vec<Problem>,
) {
    let pointer = error.instance_path().as_str();
    let at = path(pointer);
    let found = || {
        // A property of librdkafka may be a password.
        let shown = !pointer.starts_with("/kafka/properties/");
        file.pointer(pointer)
            .filter(|_| shown)
            .map_or_else(String::new, |value| format!("found {value}; "))
    };
    let mut add = |at: String, what: String| problems.push(Problem { at, what });
    match error.kind() {
        Kind::AdditionalProperties { unexpected } => {
            let accepted = accepted_keys(schema, error.schema_path().as_str());
            for key in unexpected {
                let accepted = accepted.join(", ");
                add(join(&at, key), format!("unknown key; accepted: {accepted}"));
            }
        }
        Kind::Required { property } => {
            let key = property.as_str().unwrap_or_default();
            add(join(&at, key), "missing".into());
        }
        Kind::Enum { options } => add(at, format!("{}accepted: {}", found(), list(options))),
        Kind::Constant { expected_value } => {
            add(at, format!("{}accepted: {expected_value}", found()));
        }
        Kind::OneOfNotValid { .. } | Kind::AnyOf { .. } => {
            let options = constants(schema, error.schema_path().as_str());
            match (options, error.kind()) {
                (Some(options), _) => add(at, format!("{}accepted: {options}", found())),
                // An optional section: what is wrong with it counts, not that it might be absent.
                (None, Kind::AnyOf { context } | Kind::OneOfNotValid { context }) => {
                    let branch = context
                        .iter()
                        .find(|errors| !errors.iter().any(|error| is_null_type(error.kind())));
                    for error in branch.into_iter().flatten() {
                        describe(error, schema, file, problems);
                    }
                }
                (None, _) => add(at, found()),
            }
        }
        Kind::Type { kind } => add(at, format!("{}accepted: {}", found(), types(kind))),
        Kind::Pattern { pattern } => add(at, format!("{}accepted: {}", found(), words(pattern))),
        Kind::Minimum { limit } => add(at, format!("{}accepted: at least {limit}", found())),
        Kind::Maximum { limit } => add(at, format!("{}accepted: at most {limit}", found())),
        Kind::MinItems { limit } => add(at, format!("accepted: at least {limit}")),
        Kind::MinLength { .. } => add(at, format!("{}accepted: a text that is not empty", found())),
        Kind::Format { format } => add(at, format!("{}accepted: {format}", found())),
        other => add(
            at,
            format!("{}against the rule «{}»", found(), other.keyword()),
        ),
    }
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
        if part.chars().all(|c| c.is_ascii_digit()) {
            text = format!("{text}[{part}]");
        } else {
            text = join(&text, &part.replace("~1", "/").replace("~0", "~"));
        }
    }
    text
}

fn types(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(one) => one.to_string(),
        TypeKind::Multiple(set) => {
            let names: Vec<String> = set
                .iter()
                .filter(|one| *one != JsonType::Null)
                .map(|one| one.to_string())
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

/// What a pattern of the schema means, in words.
fn words(pattern: &str) -> String {
    match pattern {
        r"^[0-9]+(ms|s|m|h|d)$" => "a duration: a whole number and ms, s, m, h or d".into(),
        r"^https?://.+" => "an address beginning with http:// or https://".into(),
        r"^(file:|s3://).+" => "file:PATH or s3://BUCKET/PREFIX".into(),
        other => format!("a text of the form {other}"),
    }
}

/// The schema that a path inside the schema leads to, with references followed.
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
