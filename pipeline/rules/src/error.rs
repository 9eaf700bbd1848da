//! Errors in rule files. Each error names the location to fix; all errors are collected.

use std::fmt;

/// A location in a rule file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLocation {
    /// Name of the file, as in [`RuleFile::name`](crate::RuleFile::name).
    pub file: String,
    /// Line in the file, starting at 1.
    pub line: usize,
    /// Path of the key, with array indexes starting at 0: `rule[2].scope.direction`.
    pub key: String,
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.key)
    }
}

/// An error in a set of rule files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The text is not valid TOML.
    #[error("{file}:{line}: not valid TOML: {message}")]
    Syntax {
        /// Name of the file.
        file: String,
        /// Line in the file, starting at 1.
        line: usize,
        /// Message of the parser.
        message: String,
    },
    /// The value of a key is not accepted.
    #[error("{at}: found {found}; accepted: {accepted}")]
    Value {
        /// Location of the key.
        at: SourceLocation,
        /// The value, shortened.
        found: String,
        /// Description of the accepted values.
        accepted: &'static str,
    },
    /// A required key is missing.
    #[error("{at}: missing; accepted: {accepted}")]
    Missing {
        /// The missing key, with the line of its table.
        at: SourceLocation,
        /// Description of the accepted values.
        accepted: &'static str,
    },
    /// An unknown key.
    #[error("{at}: unknown key; accepted: {}", accepted.join(", "))]
    UnknownKey {
        /// Location of the key.
        at: SourceLocation,
        /// Accepted keys of the table.
        accepted: &'static [&'static str],
    },
    /// Two rules have the same id.
    #[error("{at}: the id {id:?} is already used by {first}")]
    DuplicateId {
        /// Location of the later rule's id.
        at: SourceLocation,
        /// The id.
        id: String,
        /// Location of the earlier rule's id.
        first: Box<SourceLocation>,
    },
    /// A words file could not be read.
    #[error("{at}: cannot read the words file {words_file:?}")]
    WordsFile {
        /// Location of the key `words_file`.
        at: SourceLocation,
        /// Name of the words file, as written.
        words_file: String,
        /// Error of the function that reads words files.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A line of a words file exceeds the maximum length of a word.
    #[error("{at}: {words_file:?}, line {line}: longer than {max} characters")]
    LongWord {
        /// Location of the key `words_file`.
        at: SourceLocation,
        /// Name of the words file, as written.
        words_file: String,
        /// Line in the words file, starting at 1.
        line: usize,
        /// Maximum number of characters of a word.
        max: usize,
    },
    /// A line of a words file has several columns.
    #[error(
        "{at}: {words_file:?}, line {line}: found a tab between columns; accepted: one word a line"
    )]
    Columns {
        /// Location of the key `words_file`.
        at: SourceLocation,
        /// Name of the words file, as written.
        words_file: String,
        /// Line in the words file, starting at 1.
        line: usize,
    },
    /// The rules have too many words.
    #[error("found {found} words and allow phrases in all rules; accepted: at most {max}")]
    TooManyWords {
        /// Number of words and allow phrases in all rules.
        found: usize,
        /// Maximum number.
        max: usize,
    },
    /// The words do not fit into one automaton.
    #[error("cannot build an automaton of {patterns} words and allow phrases: {message}")]
    Automaton {
        /// Number of distinct words and allow phrases after folding.
        patterns: usize,
        /// Message of the automaton builder.
        message: String,
    },
}
