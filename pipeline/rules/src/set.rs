//! Compiles rules together and checks batches of messages.
//!
//! Compilation succeeds for all rules or fails. The result of a check depends only on the rules,
//! the messages and the departments that the caller supplies. A check uses one set of buffers for
//! the whole batch. A set is `Send + Sync`, so parts of a large batch can be checked in parallel.

use std::error::Error;
use std::fmt;

use chatledger_schemas::{Message, Violation};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::matcher::{MatchedSpan, Matcher, Scratch};
use crate::quote;
use crate::rule::hash_field;
use crate::{Rule, RuleError, RuleFile, source};

/// Maximum number of hits of a rule in one message that a violation lists. Further hits are left
/// out, because the size of a row is limited.
pub const MAX_HITS: usize = 1_000;

/// A compiled set of rules. The default is a set without rules.
#[derive(Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    matcher: Matcher,
}

/// A hit of a rule in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// Position of the rule in [`RuleSet::rules`].
    pub rule: usize,
    /// Range of Unicode scalar values in the text, end exclusive.
    pub span: (u32, u32),
}

/// Compiles the rules of all files into one set. The rules keep the order of the files.
///
/// `words_file` reads a words file. It is called once for each key `words_file`, with the name of
/// the rule file and the name of the words file as written there, and returns the text. Each line
/// of the text is a word and is used without trimming; blank lines and lines that start with `#`
/// are ignored, a byte order mark and CRLF line ends are removed.
///
/// # Errors
/// All errors in the files, in their order. [`RuleError::Automaton`] is reported only if there is
/// no other error.
pub fn compile<E>(
    files: &[RuleFile<'_>],
    words_file: impl FnMut(&str, &str) -> Result<String, E>,
) -> Result<RuleSet, Vec<RuleError>>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let definitions = source::read(files, words_file)?;
    let mut rules = Vec::with_capacity(definitions.len());
    let mut active = Vec::new();
    for definition in definitions {
        let (rule, criteria) = definition.resolve();
        if rule.is_active() {
            active.push((rules.len() as u32, criteria));
        }
        rules.push(rule);
    }
    let matcher = Matcher::build(active).map_err(|error| vec![error])?;
    Ok(RuleSet { rules, matcher })
}

impl RuleSet {
    /// Returns all rules, including inactive ones, in the order of their files.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether no rule is active.
    pub fn is_empty(&self) -> bool {
        !self.rules.iter().any(Rule::is_active)
    }

    /// Returns a hash over the ids and versions of all rules, independent of their order: 16
    /// hexadecimal digits.
    pub fn version(&self) -> String {
        let mut versions: Vec<_> = self.rules.iter().map(|r| (&r.id, &r.version)).collect();
        versions.sort_unstable();
        let mut hash = Xxh3::new();
        for (id, version) in versions {
            hash_field(&mut hash, id.as_bytes());
            hash_field(&mut hash, version.as_bytes());
        }
        format!("{:016x}", hash.digest())
    }

    /// Returns the size of the compiled words in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.matcher.heap_bytes()
    }

    /// Returns the violations of a batch: one for each rule that a message breaks, ordered by
    /// message and then by rule. A violation lists the first [`MAX_HITS`] hits.
    ///
    /// `departments_above` returns the departments of a userid with all their ancestors, and an
    /// empty slice for ids of other parties. It is called only for rules with departments: for
    /// messages in which such a rule has a hit, and for all messages if it has a condition besides
    /// words. Words that a reply only quotes are those of another message, and no violation of this one. `detected_at_ms`
    /// (milliseconds since the epoch, UTC) is copied into
    /// the violations.
    pub fn check<'d>(
        &self,
        messages: &[Message],
        departments_above: impl Fn(&str) -> &'d [u32],
        detected_at_ms: i64,
    ) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut scratch = Scratch::default();
        for message in messages {
            let covers = |rule: u32| {
                self.rules[rule as usize]
                    .scope
                    .covers(message, &departments_above)
            };
            let mut hits = self.matcher.scan(&message.content, &mut scratch, covers);
            let own: Vec<MatchedSpan>;
            if !hits.is_empty() && message.msgtype == "text" {
                let own_words = quote::own_words(&message.content);
                if own_words > 0 {
                    let is_own = |hit: &&MatchedSpan| hit.span.end.byte > own_words;
                    own = hits.iter().filter(is_own).cloned().collect();
                    hits = &own;
                }
            }
            violations.extend(
                hits.chunk_by(|a, b| a.rule == b.rule)
                    .map(|hits| self.violation(message, hits, detected_at_ms)),
            );
        }
        violations
    }

    /// Returns the hits of all active rules in a text regardless of their scope, ordered by rule
    /// and then by position.
    pub fn find(&self, content: &str) -> Vec<Hit> {
        let mut scratch = Scratch::default();
        self.matcher
            .scan(content, &mut scratch, |_| true)
            .iter()
            .map(|hit| Hit {
                rule: hit.rule as usize,
                span: span(hit),
            })
            .collect()
    }

    fn violation(&self, message: &Message, hits: &[MatchedSpan], detected_at: i64) -> Violation {
        let rule = &self.rules[hits[0].rule as usize];
        Violation {
            corp_id: message.corp_id.clone(),
            violation_id: violation_id(message, rule),
            msgid: message.msgid.clone(),
            seq: message.seq,
            msgtime: message.msgtime,
            conversation_id: message.conversation_id.clone(),
            from_id: message.from_id.clone(),
            rule_id: rule.id.clone(),
            rule_name: rule.name.clone(),
            rule_version: rule.version.clone(),
            category: rule.category.clone(),
            severity: rule.severity,
            matched: hits
                .iter()
                .take(MAX_HITS)
                .map(|hit| message.content[hit.span.start.byte..hit.span.end.byte].to_owned())
                .collect(),
            spans: hits.iter().take(MAX_HITS).map(span).collect(),
            detected_at,
        }
    }
}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuleSet")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

fn span(hit: &MatchedSpan) -> (u32, u32) {
    (hit.span.start.char, hit.span.end.char)
}

/// Derives the id of a violation from corp, message and rule alone. The same violation keeps its id
/// when it is detected again, even by another version of the rule.
fn violation_id(message: &Message, rule: &Rule) -> String {
    let parts = [message.corp_id.as_str(), &message.msgid, &rule.id];
    format!("{:032x}", xxh3_128(parts.join("\0").as_bytes()))
}
