//! One automaton for the words and allow phrases of all active rules, and the reduction of what
//! it finds to the hits that count.
//!
//! Of a rule's words every occurrence is found, overlapping ones too. A hit that lies wholly
//! inside an occurrence of one of the rule's allow phrases does not count; of those left, one that
//! lies wholly inside another is dropped. Rules do not influence each other.
//!
//! It works on folded text throughout and leaves to [`Folded`] where that text came from. It does
//! not know scopes.

use std::cmp::Reverse;
use std::ops::Range;

use daachorse::errors::DaachorseError;
use daachorse::{CharwiseDoubleArrayAhoCorasick, CharwiseDoubleArrayAhoCorasickBuilder};

use crate::RuleError;
use crate::fold::{Folded, Origin};
use crate::openings::Openings;
use crate::rule::Phrases;

/// Occurrences looked at in one text at most: more than a text of the largest size has of one word
/// of one Chinese character. What stands behind them in a text of nothing but words is not searched.
const MOST_OCCURRENCES: usize = 4 << 20;

/// The compiled words of all active rules.
#[derive(Default)]
pub(crate) struct Matcher {
    /// None if there is nothing to look for.
    automaton: Option<CharwiseDoubleArrayAhoCorasick<u32>>,
    openings: Openings,
    /// The owners of pattern `p` are `owners[starts[p]..starts[p + 1]]`.
    starts: Vec<u32>,
    owners: Vec<Owner>,
}

/// A rule that has a pattern, as a word or as an allow phrase.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Owner {
    rule: u32,
    allow: bool,
}

/// An occurrence of a rule's word or allow phrase, in bytes of the folded text.
struct Occurrence {
    rule: u32,
    allow: bool,
    start: u32,
    end: u32,
}

/// A hit that counts, in the original text.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Position of the rule in the set.
    pub(crate) rule: u32,
    pub(crate) span: Range<Origin>,
}

/// What a scan needs, kept from one message to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    folded: Folded,
    occurrences: Vec<Occurrence>,
    found: Vec<Found>,
}

impl Matcher {
    /// Builds the automaton from the phrases of active rules with their positions in the set.
    pub(crate) fn build(rules: &[(u32, Phrases)]) -> Result<Self, RuleError> {
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
            openings: Openings::of(&patterns),
            starts,
            owners: phrases.into_iter().map(|(_, owner)| owner).collect(),
        })
    }

    /// Bytes the automaton and its tables take.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.automaton
            .as_ref()
            .map_or(0, CharwiseDoubleArrayAhoCorasick::heap_bytes)
            + self.openings.heap_bytes()
            + size_of_val(self.starts.as_slice())
            + size_of_val(self.owners.as_slice())
    }

    /// The hits in `content` of the rules that `covers` lets through, by rule and then by
    /// position. `covers` is asked once for each rule that has a hit.
    pub(crate) fn scan<'s>(
        &self,
        content: &str,
        scratch: &'s mut Scratch,
        covers: impl FnMut(u32) -> bool,
    ) -> &'s [Found] {
        scratch.found.clear();
        let Some(automaton) = &self.automaton else {
            return &[];
        };
        scratch.folded.fold(content);
        scratch.occurrences.clear();
        self.find_occurrences(automaton, scratch.folded.text(), &mut scratch.occurrences);
        if !scratch.occurrences.is_empty() {
            scratch.reduce(content, covers);
        }
        &scratch.found
    }

    /// Appends the occurrences of all patterns; one may come twice.
    ///
    /// Where no pattern may begin the automaton rests. It is set going where one may, and stopped
    /// as soon as it follows fewer characters than an opening has; the search goes on at the first
    /// of those. Each run takes at least an opening's three characters and gives back at most two,
    /// so the whole stays linear.
    fn find_occurrences(
        &self,
        automaton: &CharwiseDoubleArrayAhoCorasick<u32>,
        text: &str,
        occurrences: &mut Vec<Occurrence>,
    ) {
        let mut at = 0;
        let mut rest = text.chars();
        let mut opening = [(); 3].map(|()| rest.next().unwrap_or('\0'));
        while at < text.len() && occurrences.len() < MOST_OCCURRENCES {
            if self.openings.may_begin(opening) {
                at = self.run(automaton, text, at, occurrences);
                rest = text[at..].chars();
                opening = [(); 3].map(|()| rest.next().unwrap_or('\0'));
            } else {
                at += opening[0].len_utf8();
                opening = [opening[1], opening[2], rest.next().unwrap_or('\0')];
            }
        }
    }

    /// Runs the automaton from byte `from` of the text; returns where no occurrence that began
    /// earlier can still be under way.
    fn run(
        &self,
        automaton: &CharwiseDoubleArrayAhoCorasick<u32>,
        text: &str,
        from: usize,
        occurrences: &mut Vec<Occurrence>,
    ) -> usize {
        let mut stepper = automaton.find_overlapping_stepper();
        // Where the last two characters begin.
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
            if occurrences.len() >= MOST_OCCURRENCES {
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
    fn reduce(&mut self, content: &str, mut covers: impl FnMut(u32) -> bool) {
        self.occurrences
            .sort_unstable_by_key(|o| (o.rule, o.start, Reverse(o.end), !o.allow));
        for of_rule in self.occurrences.chunk_by(|a, b| a.rule == b.rule) {
            let rule = of_rule[0].rule;
            let mut covered = None;
            let first = self.found.len();
            // Whatever begins later and ends no later than one of these lies inside it.
            let (mut allowed_to, mut hit_to) = (0, 0);
            for occurrence in of_rule {
                if occurrence.allow {
                    allowed_to = allowed_to.max(occurrence.end);
                    continue;
                }
                if occurrence.end <= allowed_to || occurrence.end <= hit_to {
                    continue;
                }
                if !*covered.get_or_insert_with(|| covers(rule)) {
                    break;
                }
                hit_to = occurrence.end;
                let range = occurrence.start as usize..occurrence.end as usize;
                let span = self.folded.locate(content, &range);
                push_unless_inside(&mut self.found, first, Found { rule, span });
            }
        }
    }
}

/// Appends a hit to those of its rule, which begin at `first`, keeping none that lies inside
/// another. Both ends ascend in the folded text; in the original two hits can still share an end,
/// because a segment that folds to several characters is taken in whole.
fn push_unless_inside(found: &mut Vec<Found>, first: usize, hit: Found) {
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
