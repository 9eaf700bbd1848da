//! A simple reference matcher that fast matchers are compared with.
//!
//! Contract: case and width are folded. Every occurrence of every word is a hit, including overlapping
//! ones, unless it is entirely inside an occurrence of an allowed phrase of the same rule. Of the
//! remaining hits, those entirely inside another hit are dropped. Spans are character offsets into
//! the original text, end exclusive, ascending.
//! Not here: any optimisation.

/// Half-open range of character offsets into the text.
pub type Span = (u32, u32);

/// The folded words and allowed phrases of one rule.
#[derive(Clone, Debug)]
pub struct Scanner {
    words: Vec<Vec<char>>,
    allow: Vec<Vec<char>>,
}

/// A folded text, with the offset of every character in the original text.
#[derive(Clone, Debug)]
pub struct FoldedText {
    chars: Vec<char>,
    offsets: Vec<u32>,
}

/// Returns the half-width form of a full-width character.
fn narrow(c: char) -> char {
    match c {
        '\u{3000}' => ' ',
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        c => c,
    }
}

impl FoldedText {
    /// Folds a text.
    pub fn new(text: &str) -> Self {
        let mut folded = Self {
            chars: Vec::with_capacity(text.len() / 2),
            offsets: Vec::with_capacity(text.len() / 2),
        };
        for (offset, c) in (0..).zip(text.chars()) {
            for small in narrow(c).to_lowercase() {
                folded.chars.push(small);
                folded.offsets.push(offset);
            }
        }
        folded
    }

    fn occurrences(&self, word: &[char], found: &mut Vec<Span>) {
        for start in 0..=self.chars.len().saturating_sub(word.len()) {
            if self.chars[start..].starts_with(word) {
                found.push((
                    self.offsets[start],
                    self.offsets[start + word.len() - 1] + 1,
                ));
            }
        }
    }
}

fn inside(inner: Span, outer: Span) -> bool {
    outer.0 <= inner.0 && inner.1 <= outer.1
}

impl Scanner {
    /// Creates a scanner for the words and allowed phrases of one rule.
    pub fn new<'a>(
        words: impl IntoIterator<Item = &'a str>,
        allow: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        fn fold<'a>(list: impl IntoIterator<Item = &'a str>) -> Vec<Vec<char>> {
            list.into_iter()
                .filter(|word| !word.trim().is_empty())
                .map(|word| FoldedText::new(word).chars)
                .collect()
        }
        Self {
            words: fold(words),
            allow: fold(allow),
        }
    }

    /// Returns the hits of the rule in a text.
    pub fn find(&self, text: &FoldedText) -> Vec<Span> {
        let mut hits = Vec::new();
        for word in &self.words {
            text.occurrences(word, &mut hits);
        }
        if hits.is_empty() {
            return hits;
        }
        let mut allowed = Vec::new();
        for phrase in &self.allow {
            text.occurrences(phrase, &mut allowed);
        }
        hits.retain(|&hit| !allowed.iter().any(|&phrase| inside(hit, phrase)));
        hits.sort_unstable();
        hits.dedup();
        let all = hits.clone();
        hits.retain(|&hit| !all.iter().any(|&other| other != hit && inside(hit, other)));
        hits
    }
}

/// Returns the characters of a span.
pub fn slice(text: &str, span: Span) -> String {
    text.chars()
        .skip(span.0 as usize)
        .take((span.1 - span.0) as usize)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[&str], allow: &[&str], text: &str, expected: &[&str]) {
        let scanner = Scanner::new(words.iter().copied(), allow.iter().copied());
        let found: Vec<String> = scanner
            .find(&FoldedText::new(text))
            .into_iter()
            .map(|span| slice(text, span))
            .collect();
        assert_eq!(found, expected, "{words:?} without {allow:?} in {text}");
    }

    #[test]
    fn words_are_found_at_every_position() {
        check(
            &["加我微信"],
            &[],
            "加我微信吧，加我微信",
            &["加我微信", "加我微信"],
        );
        check(&["加我微信"], &[], "加我 微信", &[]);
        check(&["a"], &[], "", &[]);
        check(&["", " "], &[], "a b", &[]);
    }

    #[test]
    fn case_and_width_are_folded_and_the_original_text_is_returned() {
        check(
            &["wechat"],
            &[],
            "加ＷeＣHAt，WeChat",
            &["ＷeＣHAt", "WeChat"],
        );
        check(&["ＱＱ群"], &[], "进qq群", &["qq群"]);
        check(&["vx:"], &[], "ＶＸ：123", &["ＶＸ："]);
        check(&["a b"], &[], "A\u{3000}B", &["A\u{3000}B"]);
        check(&["i\u{307}x"], &[], "İX", &["İX"]);
    }

    #[test]
    fn overlapping_hits_are_reported_and_contained_ones_dropped() {
        check(
            &["私下转账", "转账到个人"],
            &[],
            "私下转账到个人卡",
            &["私下转账", "转账到个人"],
        );
        check(
            &["回扣", "给回扣"],
            &[],
            "给回扣，回扣",
            &["给回扣", "回扣"],
        );
        check(&["哈哈"], &[], "哈哈哈", &["哈哈", "哈哈"]);
        check(&["abc", "b"], &[], "xabcx", &["abc"]);
    }

    #[test]
    fn allowed_phrases_suppress_the_words_inside_them() {
        check(
            &["加我微信"],
            &["不要加我微信"],
            "不要加我微信！加我微信",
            &["加我微信"],
        );
        check(&["加我微信"], &["加我微信"], "加我微信", &[]);
        check(&["零风险"], &["没有零风"], "没有零风险", &["零风险"]);
        check(
            &["保本", "保本保收益"],
            &["不保本"],
            "不保本保收益",
            &["保本保收益"],
        );
    }
}
