//! One automaton for the words and allow phrases of all active rules, and the reduction of its
//! matches and those of the other conditions to hits.
//!
//! The automaton finds every occurrence of a word, including overlapping ones; other conditions add
//! theirs. An occurrence inside an occurrence of one of the rule's allow phrases is ignored. Of the
//! remaining ones, an occurrence inside another is ignored. Rules do not influence each other.
//!
//! Matching works on folded text; [`Folded`] maps positions back to the original. Scopes are
//! not handled here; the caller's `covers` is called for a rule before its other conditions run, and
//! for a rule with words only after the automaton has found one.

use std::cmp::Reverse;
use std::ops::Range;
use std::str::Chars;

use daachorse::errors::DaachorseError;
use daachorse::{CharwiseDoubleArrayAhoCorasick, CharwiseDoubleArrayAhoCorasickBuilder};

use crate::RuleError;
use crate::fold::{Folded, Origin};
use crate::kind::Conditions;
use crate::prefilter::Prefilter;
use crate::rule::Criteria;

/// Maximum number of occurrences that are evaluated in one text. It exceeds the number of Chinese
/// characters in a text of the maximum size. The rest of a text with more occurrences is not
/// searched.
const MAX_OCCURRENCES: usize = 4 << 20;

/// The compiled words and the other conditions of all active rules.
#[derive(Default)]
pub(crate) struct Matcher {
    /// `None` if no active rule has words or allow phrases.
    automaton: Option<CharwiseDoubleArrayAhoCorasick<u32>>,
    prefilter: Prefilter,
    /// The owners of pattern `p` are `owners[starts[p]..starts[p + 1]]`.
    starts: Vec<u32>,
    owners: Vec<Owner>,
    /// The rules with conditions besides words, ascending.
    conditions: Vec<(u32, Conditions)>,
}

/// A rule that uses a pattern as a word or as an allow phrase.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    rule: u32,
    allow: bool,
}

/// An occurrence of a rule's word, other condition or allow phrase, as a byte range of the folded
/// text.
struct Occurrence {
    rule: u32,
    allow: bool,
    start: u32,
    end: u32,
}

/// A hit of a rule, as a range of the original text.
#[derive(Clone, Debug)]
pub(crate) struct MatchedSpan {
    /// Position of the rule in the set.
    pub(crate) rule: u32,
    pub(crate) span: Range<Origin>,
}

/// Buffers of a scan, reused from one message to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    folded: Folded,
    occurrences: Vec<Occurrence>,
    /// The rules with conditions besides words, ascending, and whether they cover the message.
    scopes: Vec<(u32, bool)>,
    condition_hits: Vec<Range<usize>>,
    found: Vec<MatchedSpan>,
}

impl Matcher {
    /// Compiles the criteria of the active rules; each rule comes with its position in the set,
    /// ascending.
    pub(crate) fn build(rules: Vec<(u32, Criteria)>) -> Result<Self, RuleError> {
        let mut matcher = Self::with_phrases(&rules)?;
        let conditions = rules.into_iter().map(|(rule, of)| (rule, of.conditions));
        matcher.conditions = conditions.filter(|(_, of)| !of.is_empty()).collect();
        Ok(matcher)
    }

    /// Builds the automaton from the words and allow phrases.
    fn with_phrases(rules: &[(u32, Criteria)]) -> Result<Self, RuleError> {
        let mut phrases: Vec<(&str, Owner)> = Vec::new();
        for &(rule, ref of) in rules {
            for (list, allow) in [(&of.words, false), (&of.allow, true)] {
                let owner = Owner { rule, allow };
                phrases.extend(list.iter().map(|phrase| (phrase.as_str(), owner)));
            }
        }
        if phrases.is_empty() {
            return Ok(Self::default());
        }
        phrases.sort_unstable();
        let mut starts = Vec::new();
        let mut patterns = Vec::new();
        for (at, &(phrase, _)) in phrases.iter().enumerate() {
            if patterns.last() != Some(&phrase) {
                patterns.push(phrase);
                starts.push(at as u32);
            }
        }
        starts.push(phrases.len() as u32);
        let refusal = |error: DaachorseError| RuleError::Automaton {
            patterns: patterns.len(),
            message: error.to_string(),
        };
        let mut automaton = CharwiseDoubleArrayAhoCorasickBuilder::new()
            .use_prefilter(false)
            .build(&patterns)
            .map_err(refusal)?;
        automaton.cache_depths().map_err(refusal)?;
        Ok(Self {
            automaton: Some(automaton),
            prefilter: Prefilter::new(&patterns),
            starts,
            owners: phrases.into_iter().map(|(_, owner)| owner).collect(),
            conditions: Vec::new(),
        })
    }

    /// Returns the size of the automaton and its tables in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.automaton
            .as_ref()
            .map_or(0, CharwiseDoubleArrayAhoCorasick::heap_bytes)
            + self.prefilter.heap_bytes()
            + size_of_val(self.starts.as_slice())
            + size_of_val(self.owners.as_slice())
    }

    /// Returns the hits in `content` of the rules for which `covers` returns true, ordered by rule
    /// and then by position. `covers` is called once for each rule that has a hit or a condition
    /// besides words.
    pub(crate) fn scan<'s>(
        &self,
        content: &str,
        scratch: &'s mut Scratch,
        mut covers: impl FnMut(u32) -> bool,
    ) -> &'s [MatchedSpan] {
        scratch.found.clear();
        if self.automaton.is_none() && self.conditions.is_empty() {
            return &[];
        }
        scratch.folded.fold(content);
        scratch.occurrences.clear();
        scratch.scopes.clear();
        for (rule, conditions) in &self.conditions {
            let covered = covers(*rule);
            scratch.scopes.push((*rule, covered));
            if covered {
                scratch.find_condition_hits(*rule, conditions);
            }
        }
        if let Some(automaton) = &self.automaton {
            self.find_occurrences(automaton, scratch.folded.text(), &mut scratch.occurrences);
        }
        if !scratch.occurrences.is_empty() {
            scratch.reduce(content, covers);
        }
        &scratch.found
    }

    /// Appends the occurrences of all patterns; an occurrence may be appended twice.
    ///
    /// The automaton runs only from positions where the prefilter says that a pattern may start. A
    /// run stops as soon as the automaton follows fewer than three characters, and the search
    /// continues at the first of these. Each run consumes at least three characters and returns at
    /// most two of them, so the search is linear.
    fn find_occurrences(
        &self,
        automaton: &CharwiseDoubleArrayAhoCorasick<u32>,
        text: &str,
        occurrences: &mut Vec<Occurrence>,
    ) {
        let mut at = 0;
        let mut rest = text.chars();
        let mut window = next_three(&mut rest);
        while at < text.len() {
            if self.prefilter.may_start(window) {
                at = self.run(automaton, text, at, occurrences);
                rest = text[at..].chars();
                window = next_three(&mut rest);
            } else {
                at += window[0].len_utf8();
                window = [window[1], window[2], rest.next().unwrap_or('\0')];
            }
        }
    }

    /// Runs the automaton from byte `from` of the text. Returns the byte at which the search
    /// continues: no occurrence that started earlier can extend beyond it. After
    /// [`MAX_OCCURRENCES`] occurrences that is the end of the text.
    // Inlined, it takes registers from the loop over the characters in `find_occurrences`.
    #[inline(never)]
    fn run(
        &self,
        automaton: &CharwiseDoubleArrayAhoCorasick<u32>,
        text: &str,
        from: usize,
        occurrences: &mut Vec<Occurrence>,
    ) -> usize {
        let mut stepper = automaton.find_overlapping_stepper();
        // Byte offsets of the last two characters.
        let mut last = [from; 2];
        for (taken, (offset, c)) in text[from..].char_indices().enumerate() {
            stepper.consume(c);
            for hit in stepper.matches() {
                let pattern = hit.value() as usize;
                let owners = self.starts[pattern] as usize..self.starts[pattern + 1] as usize;
                for &Owner { rule, allow } in &self.owners[owners] {
                    occurrences.push(Occurrence {
                        rule,
                        allow,
                        start: (from + hit.start()) as u32,
                        end: (from + hit.end()) as u32,
                    });
                }
            }
            if occurrences.len() >= MAX_OCCURRENCES {
                return text.len();
            }
            last = [last[1], from + offset];
            if taken >= 2 {
                match stepper.depth() {
                    Some(0) => return from + offset + c.len_utf8(),
                    Some(1) => return last[1],
                    Some(2) => return last[0],
                    _ => {}
                }
            }
        }
        text.len()
    }
}

impl Scratch {
    /// Appends the hits of a rule's conditions to the occurrences.
    fn find_condition_hits(&mut self, rule: u32, conditions: &Conditions) {
        self.condition_hits.clear();
        conditions.find(self.folded.text(), &mut self.condition_hits);
        let room = MAX_OCCURRENCES.saturating_sub(self.occurrences.len());
        let hits = self.condition_hits.iter().take(room);
        self.occurrences.extend(hits.map(|hit| Occurrence {
            rule,
            allow: false,
            start: hit.start as u32,
            end: hit.end as u32,
        }));
    }

    /// Returns whether a rule covers the message, if that is already known.
    fn known_scope(&self, rule: u32) -> Option<bool> {
        let at = self.scopes.binary_search_by_key(&rule, |&(rule, _)| rule);
        at.ok().map(|at| self.scopes[at].1)
    }

    fn reduce(&mut self, content: &str, mut covers: impl FnMut(u32) -> bool) {
        self.occurrences
            .sort_unstable_by_key(|o| (o.rule, o.start, Reverse(o.end), !o.allow));
        for of_rule in self.occurrences.chunk_by(|a, b| a.rule == b.rule) {
            let rule = of_rule[0].rule;
            let mut covered = self.known_scope(rule);
            let first = self.found.len();
            // Occurrences are sorted by start, so one that ends at or before these ends is inside
            // an earlier allow phrase or hit.
            let (mut allowed_end, mut hit_end) = (0, 0);
            for occurrence in of_rule {
                if occurrence.allow {
                    allowed_end = allowed_end.max(occurrence.end);
                    continue;
                }
                if occurrence.end <= allowed_end || occurrence.end <= hit_end {
                    continue;
                }
                if !*covered.get_or_insert_with(|| covers(rule)) {
                    break;
                }
                hit_end = occurrence.end;
                let range = occurrence.start as usize..occurrence.end as usize;
                let span = self.folded.locate(content, &range);
                push_unless_inside(&mut self.found, first, MatchedSpan { rule, span });
            }
        }
    }
}

/// Returns the next three characters, `\0` after the end of the text.
#[inline]
fn next_three(rest: &mut Chars<'_>) -> [char; 3] {
    let mut next = || rest.next().unwrap_or('\0');
    [next(), next(), next()]
}

/// Appends a hit to the hits of its rule, which start at index `first`, and keeps no hit inside
/// another. In the folded text both ends of the hits ascend. In the original, two hits can still
/// share an end, because a segment that folds to several characters is included as a whole.
fn push_unless_inside(found: &mut Vec<MatchedSpan>, first: usize, hit: MatchedSpan) {
    if let Some(last) = found[first..].last() {
        if last.span.end.byte == hit.span.end.byte {
            return;
        }
        if last.span.start.byte == hit.span.start.byte {
            found.pop();
        }
    }
    found.push(hit);
}
