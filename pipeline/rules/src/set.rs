//! Rules compiled together, and the check of a batch of messages.
//!
//! Compiling is all or nothing. A check is a function of the rules, the messages and the answers
//! about departments; it holds one set of buffers for the whole batch. A set is `Send + Sync`, so
//! a large batch can be cut into parts that are checked side by side.

use std::error::Error;
use std::fmt;

use chatledger_schemas::{Message, Violation};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::matcher::{Found, Matcher, Scratch};
use crate::rule::put;
use crate::{Rule, RuleError, Source, source};

/// Hits of a rule in one message that a violation shows: the first ones. Whoever wrote so many has
/// been found out, and a row has its bounds.
pub const MOST_HITS: usize = 1_000;

/// Every rule there is, with the automaton of the active ones.
///
/// The default is a set without rules.
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
    /// Range of Unicode scalar values of the text, end exclusive.
    pub span: (u32, u32),
}

/// Compiles the rules of all sources into one set.
///
/// `words_file` reads a words file: it gets the name of the rule file and the name of the words
/// file as written there, and answers with the text. It is asked once for each `words_file` key.
/// In the text each line is a word as it stands, except blank lines and lines that begin with `#`;
/// a byte order mark and CRLF line ends are no part of it.
///
/// Rules stand in the set in the order of the sources.
///
/// # Errors
/// Everything that is wrong with the sources, in their order. The one error that shows only when
/// all else is well is [`RuleError::Automaton`].
pub fn compile<E>(
    sources: &[Source<'_>],
    words_file: impl FnMut(&str, &str) -> Result<String, E>,
) -> Result<RuleSet, Vec<RuleError>>
where
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let definitions = source::read(sources, words_file)?;
    let mut rules = Vec::with_capacity(definitions.len());
    let mut active = Vec::new();
    for definition in definitions {
        let (rule, phrases) = definition.resolve();
        if rule.is_active() {
            active.push((rules.len() as u32, phrases));
        }
        rules.push(rule);
    }
    let matcher = Matcher::build(&active).map_err(|error| vec![error])?;
    Ok(RuleSet { rules, matcher })
}

impl RuleSet {
    /// The rules, inactive ones too, in the order of their sources.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether no rule is active, so that nothing can be found.
    pub fn is_empty(&self) -> bool {
        !self.rules.iter().any(Rule::is_active)
    }

    /// Hash over the ids and versions of all rules, whatever their order: 16 hex digits.
    pub fn version(&self) -> String {
        let mut versions: Vec<_> = self.rules.iter().map(|r| (&r.id, &r.version)).collect();
        versions.sort_unstable();
        let mut hash = Xxh3::new();
        for (id, version) in versions {
            put(&mut hash, id.as_bytes());
            put(&mut hash, version.as_bytes());
        }
        format!("{:016x}", hash.digest())
    }

    /// Bytes the compiled words take.
    pub fn heap_bytes(&self) -> usize {
        self.matcher.heap_bytes()
    }

    /// The violations of a batch: in the order of the messages, those of one message in the order
    /// of the rules, one for each rule a message breaks, with its spans, the first
    /// [`MOST_HITS`].
    ///
    /// `departments_above` says to which departments a userid belongs, with all their ancestors;
    /// nothing for ids that are no members. It is asked only about parties of messages that a rule
    /// with departments has a hit in. `detected_at_ms` (since the epoch, UTC) goes into the rows
    /// as it is.
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
            let found = self.matcher.scan(&message.content, &mut scratch, covers);
            violations.extend(
                found
                    .chunk_by(|a, b| a.rule == b.rule)
                    .map(|hits| self.violation(message, hits, detected_at_ms)),
            );
        }
        violations
    }

    /// The hits of all active rules in a text, whatever their scope, by rule and then by position.
    pub fn find(&self, content: &str) -> Vec<Hit> {
        let mut scratch = Scratch::default();
        self.matcher
            .scan(content, &mut scratch, |_| true)
            .iter()
            .map(|found| Hit {
                rule: found.rule as usize,
                span: span(found),
            })
            .collect()
    }

    fn violation(&self, message: &Message, hits: &[Found], detected_at: i64) -> Violation {
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
                .take(MOST_HITS)
                .map(|hit| message.content[hit.span.start.byte..hit.span.end.byte].to_owned())
                .collect(),
            spans: hits.iter().take(MOST_HITS).map(span).collect(),
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

fn span(found: &Found) -> (u32, u32) {
    (found.span.start.char, found.span.end.char)
}

/// A function of corp, message and rule alone, so that finding a violation again gives its row
/// again, whatever wording of the rule found it.
fn violation_id(message: &Message, rule: &Rule) -> String {
    let parts = [message.corp_id.as_str(), &message.msgid, &rule.id];
    format!("{:032x}", xxh3_128(parts.join("\0").as_bytes()))
}
