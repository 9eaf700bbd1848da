//! Parses the text of rule files into definitions.
//!
//! All errors of all files are collected with their locations; a single error refuses the whole
//! set. Invalid values are reported, never repaired.
//!
//! This module reads no files: the caller passes the texts and a function that reads words files.

use std::collections::HashMap;
use std::error::Error;
use std::sync::LazyLock;

use chatledger_schemas::Severity;
use toml::de::{DeTable, DeValue};

use crate::kind::{Conditions, KINDS};
use crate::rule::RuleDefinition;
use crate::scope::{Direction, RuleScope};
use crate::section::{Section, line};
use crate::{RuleError, SourceLocation};

/// The text of a rule file and its name for error messages.
#[derive(Clone, Copy, Debug)]
pub struct RuleFile<'a> {
    /// Name of the file in error messages.
    pub name: &'a str,
    /// Content of the file.
    pub text: &'a str,
}

/// Keys of a `[[rule]]` table besides those of the kinds of conditions.
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
/// All keys of a `[[rule]]` table.
static ACCEPTED_KEYS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let kinds = KINDS.iter().map(|kind| kind.key);
    RULE_KEYS.iter().copied().chain(kinds).collect()
});
const SCOPE_KEYS: &[&str] = &["all", "members", "departments", "direction"];

/// Maximum number of characters of a word or an allow phrase.
const MAX_CHARACTERS: usize = 1_000;
/// Maximum number of words and allow phrases of all rules together.
const MAX_WORDS: usize = 1_000_000;

const ID: &str = "1 to 64 characters without white space or control characters";
const TEXT: &str = "a string that is not blank";
const WORDS: &str = "an array of strings of at most 1000 characters";
const SEVERITY: &str = "low, medium, high, critical";
const DIRECTION: &str = "either, sent, received";
const DEPARTMENTS: &str = "an array of department ids, 1 to 4294967295";

/// Parses all files.
pub(crate) fn read<E>(
    files: &[RuleFile<'_>],
    mut words_file: impl FnMut(&str, &str) -> Result<String, E>,
) -> Result<Vec<RuleDefinition>, Vec<RuleError>>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let mut errors = Vec::new();
    let mut definitions = Vec::new();
    for &source in files {
        let (root, syntax_errors) = DeTable::parse_recoverable(source.text);
        if syntax_errors.is_empty() {
            let root = Section::root(source, &root);
            root.refuse_unknown(&["rule"], &mut errors);
            for rule in root.tables("rule", "[[rule]] tables", &mut errors) {
                let mut read_words = |at: SourceLocation, name: &str| {
                    words_file(source.name, name).map_err(|error| RuleError::WordsFile {
                        at,
                        words_file: name.into(),
                        source: error.into(),
                    })
                };
                definitions.push((
                    rule.location_of("id"),
                    definition(&rule, &mut read_words, &mut errors),
                ));
            }
        } else {
            errors.extend(syntax_errors.into_iter().map(|error| RuleError::Syntax {
                file: source.name.into(),
                line: line(source.text, error.span().map_or(0, |span| span.start)),
                message: error.message().into(),
            }));
        }
    }
    refuse_duplicate_ids(&definitions, &mut errors);
    let words = |rule: &RuleDefinition| rule.words.len() + rule.allow.len();
    let found = definitions.iter().map(|(_, rule)| words(rule)).sum();
    if found > MAX_WORDS {
        errors.push(RuleError::TooManyWords {
            found,
            max: MAX_WORDS,
        });
    }
    if errors.is_empty() {
        Ok(definitions.into_iter().map(|(_, rule)| rule).collect())
    } else {
        Err(errors)
    }
}

/// Reads a rule. A refused value is replaced by a default so that further errors can be found; the
/// definition is not used in that case.
fn definition(
    rule: &Section<'_>,
    words_file: &mut impl FnMut(SourceLocation, &str) -> Result<String, RuleError>,
    errors: &mut Vec<RuleError>,
) -> RuleDefinition {
    rule.refuse_unknown(&ACCEPTED_KEYS, errors);
    rule.require("id", ID, errors);
    rule.require("name", TEXT, errors);
    rule.require("severity", SEVERITY, errors);
    let mut words = rule.values("words", WORDS, word, errors);
    if let Some(name) = rule.value("words_file", TEXT, not_blank, errors) {
        match words_file(rule.location_of("words_file"), &name) {
            Ok(text) => {
                let at = rule.location_of("words_file");
                let long = |(_, line): &(usize, &str)| word_is_long(line);
                if let Some((line, _)) = lines_of_file(&text).find(long) {
                    errors.push(RuleError::LongWord {
                        at,
                        words_file: name,
                        line,
                        max: MAX_CHARACTERS,
                    });
                } else if let Some((line, _)) =
                    lines_of_file(&text).find(|(_, line)| has_columns(line))
                {
                    errors.push(RuleError::Columns {
                        at,
                        words_file: name,
                        line,
                    });
                } else {
                    words.extend(words_of_file(&text));
                }
            }
            Err(error) => errors.push(error),
        }
    }
    RuleDefinition {
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
        conditions: Conditions::read(rule, errors),
        scope: rule
            .table("scope", "a table", errors)
            .map(|section| scope(&section, errors))
            .unwrap_or_default(),
    }
}

fn scope(section: &Section<'_>, errors: &mut Vec<RuleError>) -> RuleScope {
    section.refuse_unknown(SCOPE_KEYS, errors);
    RuleScope::new(
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

/// Records an error for each rule whose id an earlier rule of any file already has.
fn refuse_duplicate_ids(
    definitions: &[(SourceLocation, RuleDefinition)],
    errors: &mut Vec<RuleError>,
) {
    let mut first = HashMap::new();
    for (at, RuleDefinition { id, .. }) in definitions {
        if id.is_empty() {
            continue;
        }
        if let Some(&earlier) = first.get(id) {
            errors.push(RuleError::DuplicateId {
                at: SourceLocation::clone(at),
                id: id.clone(),
                first: Box::new(SourceLocation::clone(earlier)),
            });
        } else {
            first.insert(id, at);
        }
    }
}

/// Returns the words of a words file: its lines without the blanks around them, except blank lines and comments. A word in
/// quotation marks, as a spreadsheet writes it, is what is between them; empty columns after it are ignored.
fn words_of_file(text: &str) -> impl Iterator<Item = String> {
    lines_of_file(text)
        .map(|(_, line)| unquoted(line))
        .filter(|word| !word.is_empty())
}

/// Returns the lines that hold words, with their numbers from 1.
fn lines_of_file(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Line ends of Windows, Unix and old spreadsheets.
    let lines = text
        .split('\n')
        .flat_map(|line| line.strip_suffix('\r').unwrap_or(line).split('\r'));
    lines
        .map(|line| line.trim_matches(is_blank))
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// White space, and characters without a width that editors leave.
fn is_blank(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{feff}' | '\u{200b}'..='\u{200f}')
}

/// Whether a line has a second column: then it is a table, and which column holds the word is unknown.
fn has_columns(line: &str) -> bool {
    without_empty_columns(line).contains('\t')
}

fn without_empty_columns(line: &str) -> &str {
    line.trim_end_matches([',', '\t', ' '])
}

fn unquoted(line: &str) -> String {
    let whole = without_empty_columns(line);
    let inner = whole
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    match inner {
        // `""` stands for a quotation mark; a single one would end the column.
        Some(inner) if !inner.replace("\"\"", "").contains('"') => inner
            .replace("\"\"", "\"")
            .trim_matches(is_blank)
            .to_owned(),
        _ => whole.trim_end_matches(is_blank).to_owned(),
    }
}

fn word(value: &DeValue<'_>) -> Option<String> {
    text(value).filter(|word| !word_is_long(word))
}

fn word_is_long(word: &str) -> bool {
    word.len() > MAX_CHARACTERS && word.chars().count() > MAX_CHARACTERS
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
