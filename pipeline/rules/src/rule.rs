//! A rule after parsing: when it is active, and how its version is computed.

use std::fmt;

use chatledger_schemas::Severity;
use xxhash_rust::xxh3::Xxh3;

use crate::fold::fold_words;
use crate::kind::Conditions;
use crate::scope::RuleScope;

/// A rule of a compiled set.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rule {
    /// Id, unique in the set.
    pub id: String,
    /// Name, shown to users.
    pub name: String,
    /// Category; `sensitive_word` if the file sets none.
    pub category: String,
    /// Severity of its violations.
    pub severity: Severity,
    /// Hash over everything that affects what the rule finds and how it is reported, including
    /// words files: 16 hexadecimal digits. The order and repetition of words and ids do not affect
    /// it, and neither do differences that folding removes.
    pub version: String,
    /// Number of distinct words after folding.
    pub words: usize,
    /// Number of distinct allow phrases after folding.
    pub allow: usize,
    /// Whether the rule is active.
    pub state: RuleState,
    pub(crate) scope: RuleScope,
}

/// Whether a rule is active, that is, takes part in checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleState {
    /// The rule has words or another condition, and a scope.
    Active,
    /// The rule is listed but finds nothing.
    Inactive(InactiveReason),
}

/// Why a rule is not active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InactiveReason {
    /// The rule has no words and no other condition.
    NoCondition,
    /// The rule has no scope.
    NoScope,
    /// The rule has no words, no other condition and no scope.
    NoConditionNoScope,
}

impl fmt::Display for InactiveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoCondition => "it has no words and no other condition",
            Self::NoScope => "it has no scope",
            Self::NoConditionNoScope => "it has no words, no other condition and no scope",
        })
    }
}

impl Rule {
    /// Whether the rule is active.
    pub fn is_active(&self) -> bool {
        self.state == RuleState::Active
    }
}

/// A rule as defined in its file, before compilation.
#[derive(Debug)]
pub(crate) struct RuleDefinition {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) category: String,
    pub(crate) severity: Severity,
    pub(crate) words: Vec<String>,
    pub(crate) allow: Vec<String>,
    pub(crate) conditions: Conditions,
    pub(crate) scope: RuleScope,
}

/// What a rule searches for. Words and allow phrases are folded, sorted, without repetitions and
/// blank entries.
#[derive(Debug)]
pub(crate) struct Criteria {
    pub(crate) words: Vec<String>,
    pub(crate) allow: Vec<String>,
    pub(crate) conditions: Conditions,
}

impl RuleDefinition {
    /// Splits the definition into the rule and its criteria for the matcher.
    pub(crate) fn resolve(mut self) -> (Rule, Criteria) {
        let criteria = Criteria {
            words: fold_words(&self.words),
            allow: fold_words(&self.allow),
            conditions: std::mem::take(&mut self.conditions),
        };
        let finds_nothing = criteria.words.is_empty() && criteria.conditions.is_empty();
        let state = match (finds_nothing, self.scope.is_empty()) {
            (false, false) => RuleState::Active,
            (true, false) => RuleState::Inactive(InactiveReason::NoCondition),
            (false, true) => RuleState::Inactive(InactiveReason::NoScope),
            (true, true) => RuleState::Inactive(InactiveReason::NoConditionNoScope),
        };
        let rule = Rule {
            version: self.version(&criteria),
            id: self.id,
            name: self.name,
            category: self.category,
            severity: self.severity,
            words: criteria.words.len(),
            allow: criteria.allow.len(),
            state,
            scope: self.scope,
        };
        (rule, criteria)
    }

    fn version(&self, criteria: &Criteria) -> String {
        let mut hash = Xxh3::new();
        hash_field(&mut hash, b"chatledger-rule-1");
        for field in [&self.id, &self.name, &self.category] {
            hash_field(&mut hash, field.as_bytes());
        }
        hash_field(&mut hash, self.severity.as_str().as_bytes());
        for list in [&criteria.words, &criteria.allow] {
            hash.update(&(list.len() as u64).to_le_bytes());
            for phrase in list {
                hash_field(&mut hash, phrase.as_bytes());
            }
        }
        self.scope.hash_into(&mut hash);
        criteria.conditions.hash_into(&mut hash);
        format!("{:016x}", hash.digest())
    }
}

/// Hashes a field with its length, so that different sequences of fields have different hashes.
pub(crate) fn hash_field(hash: &mut Xxh3, field: &[u8]) {
    hash.update(&(field.len() as u64).to_le_bytes());
    hash.update(field);
}
