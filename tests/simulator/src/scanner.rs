//! Finds what breaks a rule, slowly and plainly: the measure against which a fast matcher is checked.
//!
//! The contract: case and width are folded; every occurrence of every word counts, overlapping ones
//! too, except one that lies wholly inside an occurrence of an allowed phrase of the same rule; of
//! what is left, an occurrence wholly inside another one is dropped. Spans are offsets in characters
//! of the text as written, end exclusive, ascending.
//! Deliberately not here: any cleverness.

/// Half-open range of characters of the text.
pub type Span = (u32, u32);

/// Words as compared: folded.
#[derive(Clone, Debug)]
pub struct Scanner {
    words: Vec<Vec<char>>,
    allow: Vec<Vec<char>>,
}

/// A text as compared, with the place of every character in the text as written.
#[derive(Clone, Debug)]
pub struct Folded {
    chars: Vec<char>,
    places: Vec<u32>,
}

/// Narrow form of a wide letter, digit, sign or space.
fn narrow(c: char) -> char {
    match c {
        '\u{3000}' => ' ',
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c),
        c => c,
    }
}

impl Folded {
    /// Folds a text.
    pub fn new(text: &str) -> Self {
        let mut folded = Self {
            chars: Vec::with_capacity(text.len() / 2),
            places: Vec::with_capacity(text.len() / 2),
        };
        for (place, c) in (0..).zip(text.chars()) {
            for small in narrow(c).to_lowercase() {
                folded.chars.push(small);
                folded.places.push(place);
            }
        }
        folded
    }

    fn occurrences(&self, word: &[char], found: &mut Vec<Span>) {
        for start in 0..=self.chars.len().saturating_sub(word.len()) {
            if self.chars[start..].starts_with(word) {
                found.push((self.places[start], self.places[start + word.len() - 1] + 1));
            }
        }
    }
}

fn inside(inner: Span, outer: Span) -> bool {
    outer.0 <= inner.0 && inner.1 <= outer.1
}

impl Scanner {
    /// A scanner for the words and allowed phrases of one rule.
    pub fn new<'a>(
        words: impl IntoIterator<Item = &'a str>,
        allow: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        fn fold<'a>(list: impl IntoIterator<Item = &'a str>) -> Vec<Vec<char>> {
            list.into_iter()
                .filter(|word| !word.trim().is_empty())
                .map(|word| Folded::new(word).chars)
                .collect()
        }
        Self {
            words: fold(words),
            allow: fold(allow),
        }
    }

    /// Where the rule is broken.
    pub fn find(&self, text: &Folded) -> Vec<Span> {
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

/// The characters of a span.
pub fn cut(text: &str, span: Span) -> String {
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
            .find(&Folded::new(text))
            .into_iter()
            .map(|span| cut(text, span))
            .collect();
        assert_eq!(found, expected, "{words:?} without {allow:?} in {text}");
    }

    #[test]
    fn words_are_found_wherever_they_stand() {
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
    fn case_and_width_are_folded_and_the_text_as_written_is_shown() {
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
    fn overlapping_words_are_all_reported_and_contained_ones_dropped() {
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
    fn allowed_phrases_win_over_the_words_inside_them() {
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
