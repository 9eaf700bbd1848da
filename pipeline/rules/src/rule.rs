//! What a rule is once it has been read, when it is active, and what its version is a hash of.

use std::fmt;

use chatledger_schemas::Severity;
use xxhash_rust::xxh3::Xxh3;

use crate::fold::fold_words;
use crate::scope::Scope;

/// A rule of a compiled set.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rule {
    /// Its id, unique in the set.
    pub id: String,
    /// Its name, for people.
    pub name: String,
    /// What kind of rule it is; `sensitive_word` if the file does not say.
    pub category: String,
    /// How bad a violation of it is.
    pub severity: Severity,
    /// Hash over everything that decides what the rule finds and how it is reported, words files
    /// included: 16 hex digits. Neither the order of words and ids nor repetitions count, nor
    /// differences that folding takes away.
    pub version: String,
    /// Number of distinct words after folding.
    pub words: usize,
    /// Number of distinct allow phrases after folding.
    pub allow: usize,
    /// Whether it takes part in checks.
    pub state: State,
    pub(crate) scope: Scope,
}

/// Whether a rule takes part in checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has words and a scope.
    Active,
    /// It is kept and shown, and finds nothing.
    Inactive(Inactive),
}

/// What keeps a rule from being active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inactive {
    /// Nothing to look for.
    NoWords,
    /// Nobody to watch.
    NoScope,
    /// Neither words nor scope.
    NoWordsNoScope,
}

impl fmt::Display for Inactive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoWords => "it has no words",
            Self::NoScope => "it has no scope",
            Self::NoWordsNoScope => "it has neither words nor scope",
        })
    }
}

impl Rule {
    /// Whether it takes part in checks.
    pub fn is_active(&self) -> bool {
        self.state == State::Active
    }
}

/// A rule as its file says, before its words go into the automaton.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) severity: Severity,
    pub(crate) words: Vec<String>,
    pub(crate) allow: Vec<String>,
    pub(crate) scope: Scope,
}

/// The words and allow phrases of a rule, folded, sorted, each once, none blank.
#[derive(Debug)]
pub(crate) struct Phrases {
    pub(crate) words: Vec<String>,
    pub(crate) allow: Vec<String>,
}

impl Definition {
    /// Separates what the automaton needs from what stays.
    pub(crate) fn resolve(self) -> (Rule, Phrases) {
        let phrases = Phrases {
            words: fold_words(&self.words),
            allow: fold_words(&self.allow),
        };
        let state = match (phrases.words.is_empty(), self.scope.is_empty()) {
            (false, false) => State::Active,
            (true, false) => State::Inactive(Inactive::NoWords),
            (false, true) => State::Inactive(Inactive::NoScope),
            (true, true) => State::Inactive(Inactive::NoWordsNoScope),
        };
        let rule = Rule {
            version: self.version(&phrases),
            id: self.id,
            name: self.name,
            category: self.category,
            severity: self.severity,
            words: phrases.words.len(),
            allow: phrases.allow.len(),
            state,
            scope: self.scope,
        };
        (rule, phrases)
    }

    fn version(&self, phrases: &Phrases) -> String {
        let mut hash = Xxh3::new();
        put(&mut hash, b"chatledger-rule-1");
        for field in [&self.id, &self.name, &self.category] {
            put(&mut hash, field.as_bytes());
        }
        put(&mut hash, self.severity.as_str().as_bytes());
        for list in [&phrases.words, &phrases.allow] {
            hash.update(&(list.len() as u64).to_le_bytes());
            for phrase in list {
                put(&mut hash, phrase.as_bytes());
            }
        }
        self.scope.put(&mut hash);
        format!("{:016x}", hash.digest())
    }
}

/// Adds a field with its length, so that no two sequences of fields look alike.
pub(crate) fn put(hash: &mut Xxh3, field: &[u8]) {
    hash.update(&(field.len() as u64).to_le_bytes());
    hash.update(field);
}
