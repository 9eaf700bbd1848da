//! The text of rule files, read into definitions.
//!
//! Every error of every file is collected with the place it stands at; one error is enough to
//! refuse all. Nothing is repaired: a value is accepted as it stands or named in an error.
//!
//! Reading files is not done here: texts are handed in, words files come from a function.

use std::collections::HashMap;
use std::error::Error;

use chatledger_schemas::Severity;
use toml::de::{DeTable, DeValue};

use crate::rule::Definition;
use crate::scope::{Direction, Scope};
use crate::section::{Section, line};
use crate::{Place, RuleError};

/// The text of a rule file, and its name for error messages.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Name of the file, as people know it.
    pub file: &'a str,
    /// Its contents.
    pub text: &'a str,
}

const RULE_KEYS: &[&str] = &[
    "id",
    "name",
    "category",
    "severity",
    "words",
    "words_file",
    "allow",
    "scope",
];
const SCOPE_KEYS: &[&str] = &["all", "members", "departments", "direction"];

/// Characters of a word or an allowed phrase at most.
const MOST_CHARACTERS: usize = 1_000;
/// Words and allowed phrases of all rules together at most.
const MOST_WORDS: usize = 1_000_000;

const ID: &str = "1 to 64 characters, none of them white space or control";
const TEXT: &str = "a string that is not blank";
const WORDS: &str = "an array of strings of at most 1000 characters";
const SEVERITY: &str = "low, medium, high, critical";
const DIRECTION: &str = "either, sent, received";
const DEPARTMENTS: &str = "an array of department ids, 1 to 4294967295";

/// Reads all sources.
pub(crate) fn read<E>(
    sources: &[Source<'_>],
    mut words_file: impl FnMut(&str, &str) -> Result<String, E>,
) -> Result<Vec<Definition>, Vec<RuleError>>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let mut errors = Vec::new();
    let mut definitions = Vec::new();
    for &source in sources {
        let (root, refused) = DeTable::parse_recoverable(source.text);
        if refused.is_empty() {
            let root = Section::root(source, &root);
            root.refuse_unknown(&["rule"], &mut errors);
            for rule in root.tables("rule", "[[rule]] tables", &mut errors) {
                let mut read_words = |at: Place, name: &str| {
                    words_file(source.file, name).map_err(|error| RuleError::WordsFile {
                        at,
                        words_file: name.into(),
                        source: error.into(),
                    })
                };
                definitions.push((
                    rule.place_of("id"),
                    definition(&rule, &mut read_words, &mut errors),
                ));
            }
        } else {
            errors.extend(refused.into_iter().map(|error| RuleError::Syntax {
                file: source.file.into(),
                line: line(source.text, error.span().map_or(0, |span| span.start)),
                message: error.message().into(),
            }));
        }
    }
    refuse_repeated_ids(&definitions, &mut errors);
    let words = |rule: &Definition| rule.words.len() + rule.allow.len();
    let found = definitions.iter().map(|(_, rule)| words(rule)).sum();
    if found > MOST_WORDS {
        errors.push(RuleError::TooManyWords {
            found,
            most: MOST_WORDS,
        });
    }
    if errors.is_empty() {
        Ok(definitions.into_iter().map(|(_, rule)| rule).collect())
    } else {
        Err(errors)
    }
}

/// Reads a rule. What was refused is replaced by a default, so that the search for errors can go
/// on; the definition is then never used.
fn definition(
    rule: &Section<'_>,
    words_file: &mut impl FnMut(Place, &str) -> Result<String, RuleError>,
    errors: &mut Vec<RuleError>,
) -> Definition {
    rule.refuse_unknown(RULE_KEYS, errors);
    rule.require("id", ID, errors);
    rule.require("name", TEXT, errors);
    rule.require("severity", SEVERITY, errors);
    let mut words = rule.values("words", WORDS, word, errors);
    if let Some(name) = rule.value("words_file", TEXT, not_blank, errors) {
        match words_file(rule.place_of("words_file"), &name) {
            Ok(text) => {
                let long = |(_, line): &(usize, &str)| word_is_long(line);
                if let Some((line, _)) = text.lines().enumerate().find(long) {
                    errors.push(RuleError::LongWord {
                        at: rule.place_of("words_file"),
                        words_file: name,
                        line: line + 1,
                        most: MOST_CHARACTERS,
                    });
                } else {
                    words.extend(words_of_file(&text));
                }
            }
            Err(error) => errors.push(error),
        }
    }
    Definition {
        id: rule.value("id", ID, id, errors).unwrap_or_default(),
        name: rule
            .value("name", TEXT, not_blank, errors)
            .unwrap_or_default(),
        category: rule
            .value("category", TEXT, not_blank, errors)
            .unwrap_or_else(|| "sensitive_word".into()),
        severity: rule
            .value("severity", SEVERITY, severity, errors)
            .unwrap_or(Severity::Low),
        words,
        allow: rule.values("allow", WORDS, word, errors),
        scope: rule
            .table("scope", "a table", errors)
            .map(|section| scope(&section, errors))
            .unwrap_or_default(),
    }
}

fn scope(section: &Section<'_>, errors: &mut Vec<RuleError>) -> Scope {
    section.refuse_unknown(SCOPE_KEYS, errors);
    Scope::new(
        section
            .value("all", "true, false", DeValue::as_bool, errors)
            .unwrap_or_default(),
        section.values("members", "an array of userids", not_blank, errors),
        section.values("departments", DEPARTMENTS, department, errors),
        section
            .value("direction", DIRECTION, direction, errors)
            .unwrap_or_default(),
    )
}

/// Names each later rule whose id an earlier one has, in whatever file.
fn refuse_repeated_ids(definitions: &[(Place, Definition)], errors: &mut Vec<RuleError>) {
    let mut first = HashMap::new();
    for (at, Definition { id, .. }) in definitions {
        if id.is_empty() {
            continue;
        }
        if let Some(&earlier) = first.get(id) {
            errors.push(RuleError::DuplicateId {
                at: Place::clone(at),
                id: id.clone(),
                first: Box::new(Place::clone(earlier)),
            });
        } else {
            first.insert(id, at);
        }
    }
}

/// The words of a words file: its lines as they are, without blank ones and comments.
fn words_of_file(text: &str) -> impl Iterator<Item = String> {
    text.strip_prefix('\u{feff}')
        .unwrap_or(text)
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
}

fn word(value: &DeValue<'_>) -> Option<String> {
    text(value).filter(|word| !word_is_long(word))
}

fn word_is_long(word: &str) -> bool {
    word.len() > MOST_CHARACTERS && word.chars().count() > MOST_CHARACTERS
}

fn text(value: &DeValue<'_>) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn not_blank(value: &DeValue<'_>) -> Option<String> {
    text(value).filter(|text| !text.trim().is_empty())
}

fn id(value: &DeValue<'_>) -> Option<String> {
    text(value).filter(|id| {
        (1..=64).contains(&id.chars().count())
            && !id.chars().any(|c| c.is_whitespace() || c.is_control())
    })
}

fn severity(value: &DeValue<'_>) -> Option<Severity> {
    let name = value.as_str()?;
    Severity::ALL.into_iter().find(|s| s.as_str() == name)
}

fn direction(value: &DeValue<'_>) -> Option<Direction> {
    let name = value.as_str()?;
    [Direction::Either, Direction::Sent, Direction::Received]
        .into_iter()
        .find(|d| d.as_str() == name)
}

fn department(value: &DeValue<'_>) -> Option<u32> {
    let number = value.as_integer()?;
    u32::from_str_radix(number.as_str(), number.radix())
        .ok()
        .filter(|&id| id > 0)
}
