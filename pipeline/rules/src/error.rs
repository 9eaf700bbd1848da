//! Why rules were refused. Each error names the place an author has to go to; none of them stops
//! the search for further ones.

use std::fmt;

/// A key of a rule file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the file, as given in [`Source`](crate::Source).
    pub file: String,
    /// Line in the file, from 1.
    pub line: usize,
    /// Path of the key, array positions from 0: `rule[2].scope.direction`.
    pub key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.key)
    }
}

/// One thing wrong with a set of rule files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The text is not TOML.
    #[error("{file}:{line}: not TOML: {message}")]
    Syntax {
        /// Name of the file.
        file: String,
        /// Line in the file, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key holds something that is not accepted there.
    #[error("{at}: found {found}, accepted: {accepted}")]
    Value {
        /// The key.
        at: Place,
        /// What stands there, shortened.
        found: String,
        /// What may stand there.
        accepted: &'static str,
    },
    /// A required key is not there.
    #[error("{at}: is missing, accepted: {accepted}")]
    Missing {
        /// The missing key; the line is that of the table it belongs in.
        at: Place,
        /// What may stand there.
        accepted: &'static str,
    },
    /// A key that means nothing.
    #[error("{at}: unknown key, accepted here: {}", accepted.join(", "))]
    UnknownKey {
        /// The key.
        at: Place,
        /// The keys this table may have.
        accepted: &'static [&'static str],
    },
    /// Two rules have the same id.
    #[error("{at}: the id {id:?} is taken by {first}")]
    DuplicateId {
        /// The later rule.
        at: Place,
        /// The id of both.
        id: String,
        /// The earlier rule.
        first: Box<Place>,
    },
    /// A words file could not be read.
    #[error("{at}: cannot read the words file {words_file:?}")]
    WordsFile {
        /// The key that names it.
        at: Place,
        /// Its name as written.
        words_file: String,
        /// What the caller's reader says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A line of a words file is too long for a word.
    #[error("{at}: {words_file:?}, line {line}: a word has at most {most} characters")]
    LongWord {
        /// The key that names the file.
        at: Place,
        /// Its name as written.
        words_file: String,
        /// Line in it, from 1.
        line: usize,
        /// Characters a word may have.
        most: usize,
    },
    /// There are too many words.
    #[error("{found} words and allowed phrases in all rules together, accepted: at most {most}")]
    TooManyWords {
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// The words together are more than one automaton can hold.
    #[error("cannot build an automaton of {patterns} words and allow phrases: {message}")]
    Automaton {
        /// Distinct words and allow phrases after folding.
        patterns: usize,
        /// What the builder says.
        message: String,
    },
}
