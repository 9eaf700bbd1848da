//! Compares the matcher with a naive implementation. Texts and words use a small alphabet, so that
//! overlaps are frequent, with characters that fold to one character, to several, or together.
#![allow(clippy::unwrap_used, reason = "a failed expectation is a failed test")]

mod support;

use proptest::prelude::*;
use support::{list, message, no_departments, rules};

/// Returns the segments of a text over the alphabet: the folded text and the number of characters
/// of each. A segment is a character with the voiced marks after it.
fn fold(text: &str) -> Vec<(String, usize)> {
    let mut chars = text.chars().peekable();
    let mut segments = Vec::new();
    while let Some(base) = chars.next() {
        let mut marks = 0;
        while chars.next_if_eq(&'ﾞ').is_some() {
            marks += 1;
        }
        let mut folded = match base {
            'A' | 'ａ' | 'Ａ' => "a".into(),
            'B' | 'ｂ' | 'Ｂ' => "b".into(),
            'ﬁ' => "fi".into(),
            '㎏' => "kg".into(),
            'ﾞ' => "\u{3099}".into(),
            'ｶ' | 'カ' if marks > 0 => "ガ".into(),
            'ｶ' => "カ".into(),
            other => other.to_string(),
        };
        let composed = usize::from(folded == "ガ" && base != 'ガ');
        folded += &"\u{3099}".repeat(marks - composed);
        segments.push((folded, marks + 1));
    }
    segments
}

fn folded(text: &str) -> Vec<char> {
    fold(text)
        .iter()
        .flat_map(|(folded, _)| folded.chars())
        .collect()
}

/// Returns every occurrence of the phrases, in characters of the folded text.
fn occurrences(text: &[char], phrases: &[String]) -> Vec<(usize, usize)> {
    let phrases: Vec<Vec<char>> = phrases.iter().map(|phrase| folded(phrase)).collect();
    let mut found = Vec::new();
    for start in 0..text.len() {
        for phrase in &phrases {
            if !phrase.is_empty() && text[start..].starts_with(phrase) {
                found.push((start, start + phrase.len()));
            }
        }
    }
    found
}

fn inside(hit: (usize, usize), other: (usize, usize)) -> bool {
    other.0 <= hit.0 && hit.1 <= other.1
}

/// Returns the spans of a rule in a text, in characters of the text.
fn naive(text: &str, words: &[String], allow: &[String]) -> Vec<(u32, u32)> {
    let segments = fold(text);
    let plain = folded(text);
    // For each folded character: start and end of its segment in the original.
    let mut origin = Vec::new();
    let mut at = 0;
    for (folded, taken) in &segments {
        origin.extend(folded.chars().map(|_| (at, at + taken)));
        at += taken;
    }
    let allowed = occurrences(&plain, allow);
    let mut hits: Vec<(usize, usize)> = occurrences(&plain, words)
        .into_iter()
        .filter(|&hit| !allowed.iter().any(|&phrase| inside(hit, phrase)))
        .map(|(start, end)| (origin[start].0, origin[end - 1].1))
        .collect();
    hits.sort_unstable();
    hits.dedup();
    let all = hits.clone();
    hits.retain(|&hit| !all.iter().any(|&other| other != hit && inside(hit, other)));
    hits.iter()
        .map(|&(start, end)| (u32::try_from(start).unwrap(), u32::try_from(end).unwrap()))
        .collect()
}

fn phrases(most: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[abAＢfikg微カガ]{1,5}", 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn matcher_finds_the_same_as_a_naive_search(
        sets in prop::collection::vec((phrases(8), phrases(4)), 1..4),
        texts in prop::collection::vec("[abABａＢfiﬁkg㎏微ｶカガﾞ😀]{0,24}", 1..4),
    ) {
        let rule = |(id, (words, allow)): (usize, &(Vec<String>, Vec<String>))| {
            format!(
                "[[rule]]\nid = '{id}'\nname = 'n'\nseverity = 'low'\nscope.all = true\n\
                 words = {}\nallow = {}\n",
                list(words),
                list(allow)
            )
        };
        let file: String = sets.iter().enumerate().map(rule).collect();
        let set = rules(&file);
        let messages: Vec<_> = texts.iter().map(|text| message(text)).collect();
        let mut violations = set.check(&messages, no_departments, 0).into_iter();
        for text in &texts {
            let chars: Vec<char> = text.chars().collect();
            for (id, (words, allow)) in sets.iter().enumerate() {
                let spans = naive(text, words, allow);
                let found: Vec<_> = set
                    .find(text)
                    .into_iter()
                    .filter(|hit| hit.rule == id)
                    .map(|hit| hit.span)
                    .collect();
                prop_assert_eq!(&found, &spans, "rule {} in {:?}", id, text);
                if spans.is_empty() {
                    continue;
                }
                let violation = violations.next().unwrap();
                prop_assert_eq!(violation.rule_id, id.to_string());
                let slices: Vec<String> = spans
                    .iter()
                    .map(|&(start, end)| chars[start as usize..end as usize].iter().collect())
                    .collect();
                prop_assert_eq!(violation.matched, slices);
                prop_assert_eq!(violation.spans, spans);
            }
        }
        prop_assert_eq!(violations.next(), None);
    }

    #[test]
    fn any_text_and_any_words_give_ordered_spans_within_the_text(
        words in prop::collection::vec("\\PC{0,4}|[\u{300}-\u{310}ﾞﾟ\u{1161}\u{11a8}]{1,3}", 0..6),
        text in "(\\PC|[\u{300}-\u{310}ﾞﾟ\u{1161}\u{11a8}a-c]){0,40}",
    ) {
        let file = format!(
            "[[rule]]\nid = 'r'\nname = 'n'\nseverity = 'low'\nscope.all = true\nwords = {}\n",
            list(&words)
        );
        let length = u32::try_from(text.chars().count()).unwrap();
        let mut last = (0, 0);
        for hit in rules(&file).find(&text) {
            let (start, end) = hit.span;
            prop_assert!(start < end && end <= length);
            prop_assert!(start >= last.0 && end > last.1);
            last = hit.span;
        }
    }
}
