//! The kinds of conditions that a rule can have besides words, as one list.
//!
//! A rule has a hit wherever one of its words or conditions has one. To add a kind, write a file in
//! this folder that defines a [`RuleKind`], and add it to [`KINDS`] and to the examples in the tests
//! below. The accepted keys, the version of a rule, its state and its hits follow from the list.
//!
//! Words are not in the list: the words of all rules are found in one pass (see `matcher`), whereas
//! each condition is a pass of its own.

mod numbers;

use std::fmt;
use std::ops::Range;

use xxhash_rust::xxh3::Xxh3;

use crate::RuleError;
use crate::rule::hash_field;
use crate::section::Section;

/// All kinds, in the order in which errors list their keys.
pub(crate) const KINDS: &[RuleKind] = &[numbers::KIND];

/// A kind of condition.
pub(crate) struct RuleKind {
    /// Key of the condition in a `[[rule]]` table. A kind with several settings takes a table.
    pub(crate) key: &'static str,
    /// Description of the accepted values, for errors.
    pub(crate) accepted: &'static str,
    /// Reads the condition of a rule.
    pub(crate) read: ReadCondition,
}

/// Reads a condition from a `[[rule]]` table. Returns `None` if the key is missing or its value finds
/// nothing, for example an empty array. Records an error for each value that is not accepted.
type ReadCondition = fn(&Section<'_>, &mut Vec<RuleError>) -> Option<Box<dyn Condition>>;

/// A condition of one rule. It never panics, and its result depends only on the text.
pub(crate) trait Condition: fmt::Debug + Send + Sync {
    /// Appends the hits in a text in any order. A hit is a byte range of the text, not empty, with
    /// both ends between two characters. Hits may overlap and repeat; their number and the time are
    /// linear in the length of the text.
    ///
    /// The text is folded as words are (see `fold`): half width, lower case.
    fn find(&self, text: &str, hits: &mut Vec<Range<usize>>);

    /// Adds everything that affects the hits to the hash of the rule's definition. Settings that
    /// find the same, such as another order of an array, add the same.
    fn hash_into(&self, hash: &mut Xxh3);
}

/// The conditions of one rule, each with the key of its kind.
#[derive(Debug, Default)]
pub(crate) struct Conditions(Vec<(&'static str, Box<dyn Condition>)>);

impl Conditions {
    /// Reads the conditions of all kinds from a `[[rule]]` table.
    pub(crate) fn read(rule: &Section<'_>, errors: &mut Vec<RuleError>) -> Self {
        let read = |kind: &RuleKind| Some((kind.key, (kind.read)(rule, errors)?));
        Self(KINDS.iter().filter_map(read).collect())
    }

    /// Whether the rule has no condition.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the hits of all conditions in a folded text.
    pub(crate) fn find(&self, text: &str, hits: &mut Vec<Range<usize>>) {
        for (_, condition) in &self.0 {
            condition.find(text, hits);
        }
    }

    /// Adds the conditions to the hash of the rule's definition. Without conditions the hash stays
    /// as it is.
    pub(crate) fn hash_into(&self, hash: &mut Xxh3) {
        for (key, condition) in &self.0 {
            hash_field(hash, key.as_bytes());
            condition.hash_into(hash);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;
    use crate::matcher::{Matcher, Scratch};
    use crate::rule::Criteria;
    use crate::{RuleFile, RuleSet, compile};

    /// For each kind its key, values that find different things, and a value that finds nothing.
    const EXAMPLES: &[(&str, &[&str], &str)] = &[(
        "numbers",
        &["['mobile', 'id_card', 'bank_card']", "['mobile']"],
        "[]",
    )];

    fn try_rule_with(conditions: &str) -> Result<RuleSet, Vec<RuleError>> {
        let text = format!(
            "[[rule]]\nid = 'r'\nname = 'n'\nseverity = 'low'\n{conditions}\nscope.all = true\n"
        );
        let source = RuleFile {
            name: "rules.toml",
            text: &text,
        };
        compile(&[source], |_, _| Err::<String, _>("no words file"))
    }

    fn rule_with(conditions: &str) -> RuleSet {
        try_rule_with(conditions).unwrap()
    }

    /// Returns a rule with the first example of every kind.
    fn rule_with_every_kind() -> RuleSet {
        let lines: Vec<_> = EXAMPLES
            .iter()
            .map(|(key, values, _)| format!("{key} = {}", values[0]))
            .collect();
        rule_with(&lines.join("\n"))
    }

    #[test]
    fn every_kind_has_an_example() {
        let keys: Vec<_> = KINDS.iter().map(|kind| kind.key).collect();
        let examples: Vec<_> = EXAMPLES.iter().map(|&(key, ..)| key).collect();
        assert_eq!(examples, keys);
    }

    #[test]
    fn error_for_an_unknown_key_lists_the_keys_of_all_kinds() {
        let errors = try_rule_with("word = ['x']").unwrap_err();
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let kinds: Vec<_> = EXAMPLES.iter().map(|&(key, ..)| key).collect();
        let expected = format!(
            "rules.toml:5: rule[0].word: unknown key; accepted: id, name, category, severity, \
             words, words_file, allow, scope, {}",
            kinds.join(", ")
        );
        assert_eq!(errors, [expected]);
    }

    #[test]
    fn condition_of_every_kind_makes_a_rule_active_and_changes_its_version() {
        for (key, values, nothing) in EXAMPLES {
            let rule = |value: &str| rule_with(&format!("{key} = {value}"));
            let without = rule_with("");
            assert!(without.is_empty());
            assert!(rule(nothing).is_empty(), "{key} = {nothing}");
            assert_eq!(rule(nothing).version(), without.version(), "{key}");
            let mut versions = vec![without.version()];
            for value in *values {
                assert!(!rule(value).is_empty(), "{key} = {value}");
                let version = rule(value).version();
                assert!(!versions.contains(&version), "{key} = {value}");
                versions.push(version);
            }
        }
    }

    /// Finds the whole text and counts its calls.
    #[derive(Debug, Default)]
    struct WholeText(Arc<AtomicUsize>);

    impl Condition for WholeText {
        fn find(&self, text: &str, hits: &mut Vec<Range<usize>>) {
            self.0.fetch_add(1, Ordering::Relaxed);
            hits.extend([0..text.len(), 0..text.len()]);
        }

        fn hash_into(&self, _: &mut Xxh3) {}
    }

    #[test]
    fn condition_runs_only_in_texts_that_the_scope_covers() {
        let calls = Arc::new(AtomicUsize::new(0));
        let criteria = |words: &[&str]| Criteria {
            words: words.iter().map(ToString::to_string).collect(),
            allow: Vec::new(),
            conditions: Conditions(vec![("whole", Box::new(WholeText(Arc::clone(&calls))))]),
        };
        let matcher = Matcher::build(vec![(0, criteria(&[])), (1, criteria(&["b"]))]).unwrap();
        let mut scratch = Scratch::default();
        for (covered, expected) in [(vec![], vec![]), (vec![0], vec![0]), (vec![1], vec![1])] {
            calls.store(0, Ordering::Relaxed);
            let mut questions = Vec::new();
            let hits = matcher.scan("abc", &mut scratch, |rule| {
                questions.push(rule);
                covered.contains(&rule)
            });
            let found: Vec<_> = hits.iter().map(|hit| hit.rule).collect();
            assert_eq!(found, expected);
            assert_eq!(questions, [0, 1], "each rule is asked for once");
            assert_eq!(calls.load(Ordering::Relaxed), covered.len());
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_ordered_spans_within_the_text(
            text in "(\\PC|[0-9０-９①⑬½xX +\\-\u{301}㎏]){0,60}",
        ) {
            let length = text.chars().count() as u32;
            let mut last = (0, 0);
            for hit in rule_with_every_kind().find(&text) {
                let (start, end) = hit.span;
                prop_assert!(start < end && end <= length);
                prop_assert!(start >= last.0 && end > last.1);
                last = hit.span;
            }
        }
    }
}
