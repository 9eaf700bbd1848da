//! The form in which words and messages are compared, and the way back to the original.
//!
//! Folding takes away compatibility differences (full and half width, ligatures, squared units:
//! NFKC of Unicode UAX #15) and case (the lower-case mapping of each character). It works segment
//! by segment: a segment begins at a character that nothing before it can change (a normalization
//! boundary), so each folded character comes from a known segment of the original.
//!
//! Almost every segment is one character that folds to one character. Those are copied in runs
//! and leave no trace; only the others are written down, so a message without a hit pays for
//! nothing but the copy.
//!
//! Not here: what hides words on purpose (zero-width characters, inserted symbols, look-alikes).

use std::ops::Range;
use std::sync::LazyLock;

use unicode_normalization::char::{canonical_combining_class, decompose_compatible};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// A folded text that remembers where it came from; its buffers are used again and again.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    text: String,
    /// The segments that are not one character on both sides, ascending, byte ranges.
    uneven: Vec<Segment>,
    /// Where the search for a place in the original goes on.
    cursor: Cursor,
}

#[derive(Debug)]
struct Segment {
    folded: Range<usize>,
    original: Range<usize>,
}

/// A boundary between two characters of the original text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) byte: usize,
    pub(crate) char: u32,
}

/// A boundary between two segments, in both texts.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    folded: usize,
    origin: Origin,
    /// How many of the uneven segments lie before it.
    passed: usize,
}

impl Folded {
    /// The folded text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Folds `original`, forgetting what was folded before.
    pub(crate) fn fold(&mut self, original: &str) {
        self.text.clear();
        self.uneven.clear();
        self.cursor = Cursor::default();
        // Characters from `run` on fold to themselves and have not been copied yet.
        let (mut run, mut at) = (0, 0);
        while let Some(&byte) = original.as_bytes().get(at) {
            match byte {
                b'A'..=b'Z' => {}
                0..0x80 => {
                    at += 1;
                    continue;
                }
                // The first of three bytes of U+4000 to U+9FFF: ideographs and hexagrams.
                0xe4..=0xe9 => {
                    at += 3;
                    continue;
                }
                _ => {}
            }
            let Some(c) = original[at..].chars().next() else {
                break;
            };
            let after = at + c.len_utf8();
            match one_to_one(c) {
                Some(same) if same == c => at = after,
                Some(other) => {
                    self.text.push_str(&original[run..at]);
                    self.text.push(other);
                    (run, at) = (after, after);
                }
                None => {
                    self.text.push_str(&original[run..at]);
                    at = self.fold_uneven(original, at, c);
                    run = at;
                }
            }
        }
        self.text.push_str(&original[run..]);
    }

    /// Folds the segment that the character `c` at byte `at` belongs to, everything before it
    /// being folded; returns where it ends.
    fn fold_uneven(&mut self, original: &str, at: usize, c: char) -> usize {
        let mut start = at;
        if !is_boundary(c)
            && let Some(before) = original[..at].chars().next_back()
        {
            // It joins the segment before. That one is even, else it would have taken `c` along.
            start -= before.len_utf8();
            self.text.pop();
        }
        let after = at + c.len_utf8();
        let end = original[after..]
            .char_indices()
            .find(|&(_, next)| one_to_one(next).is_some() || is_boundary(next))
            .map_or(original.len(), |(more, _)| after + more);
        let folded_start = self.text.len();
        fold_segment(original[start..end].chars(), |c| self.text.push(c));
        self.uneven.push(Segment {
            folded: folded_start..self.text.len(),
            original: start..end,
        });
        end
    }

    /// Where a range of bytes of the folded text lies in `original`, which must be the text last
    /// folded. A range that begins or ends inside a segment takes in the whole segment.
    ///
    /// Asked about ranges that begin ever later, it goes over the texts once.
    pub(crate) fn locate(&mut self, original: &str, range: &Range<usize>) -> Range<Origin> {
        if range.start < self.cursor.folded {
            self.cursor = Cursor::default();
        }
        self.cursor = self.advance(original, self.cursor, range.start);
        let mut end = range.end;
        let after = self.uneven.partition_point(|s| s.folded.end <= end);
        if let Some(segment) = self.uneven.get(after)
            && segment.folded.start < end
        {
            end = segment.folded.end;
        }
        self.cursor.origin..self.advance(original, self.cursor, end).origin
    }

    /// The boundary at byte `to` of the folded text, not before `from`; if that is inside a
    /// segment, the boundary before it.
    fn advance(&self, original: &str, from: Cursor, to: usize) -> Cursor {
        let mut cursor = from;
        while let Some(segment) = self.uneven.get(cursor.passed) {
            if segment.folded.end > to {
                break;
            }
            let even = char_count(&self.text[cursor.folded..segment.folded.start]);
            let uneven = char_count(&original[segment.original.clone()]);
            cursor = Cursor {
                folded: segment.folded.end,
                origin: Origin {
                    byte: segment.original.end,
                    char: cursor.origin.char + even + uneven,
                },
                passed: cursor.passed + 1,
            };
        }
        let to = match self.uneven.get(cursor.passed) {
            Some(segment) => to.min(segment.folded.start),
            None => to,
        };
        let even = char_count(&self.text[cursor.folded..to]);
        let rest = &original[cursor.origin.byte..];
        let bytes = rest
            .char_indices()
            .nth(even as usize)
            .map_or(rest.len(), |(byte, _)| byte);
        Cursor {
            folded: to,
            origin: Origin {
                byte: cursor.origin.byte + bytes,
                char: cursor.origin.char + even,
            },
            passed: cursor.passed,
        }
    }
}

fn char_count(text: &str) -> u32 {
    text.chars().count() as u32
}

/// Folds words: sorted, each once, without those of white space alone.
pub(crate) fn fold_words(words: &[String]) -> Vec<String> {
    let mut folded = Folded::default();
    let mut words: Vec<String> = words
        .iter()
        .map(|word| {
            folded.fold(word);
            folded.text().to_owned()
        })
        .filter(|word| !word.trim().is_empty())
        .collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// What a character folds to if it is a segment of its own whatever comes before it, and folds to
/// one character; none says only that the long way has to be taken.
///
/// The ranges are those that conversations are made of; they must agree with [`EVEN`], which a
/// test checks for every character there is.
#[inline]
fn one_to_one(c: char) -> Option<char> {
    match c {
        '\0'..='\x7f' => Some(c.to_ascii_lowercase()),
        // Ideographs; symbols and pictographs from the cyclone to the end of extended-A.
        '\u{4000}'..='\u{9fff}' | '\u{1f300}'..='\u{1faff}' => Some(c),
        // Full-width forms of the printable ASCII characters.
        '\u{ff01}'..='\u{ff5e}' => {
            Some(char::from((u32::from(c) - 0xfee0) as u8).to_ascii_lowercase())
        }
        '\0'..='\u{ffff}' => match EVEN[c as usize] {
            0 => None,
            folded => char::from_u32(folded.into()),
        },
        _ => None,
    }
}

/// For each character of the basic plane what [`one_to_one`] says, 0 for none: 128 KiB, of which
/// a conversation touches a few lines.
static EVEN: LazyLock<Box<[u16]>> = LazyLock::new(|| {
    (0..=0xffff_u32)
        .map(|code| {
            let c = char::from_u32(code).filter(|&c| is_boundary(c))?;
            let mut folded = None;
            let mut count = 0;
            fold_segment([c].into_iter(), |c| {
                folded = Some(c);
                count += 1;
            });
            folded.filter(|_| count == 1)
        })
        .map(|folded| folded.and_then(|c| u16::try_from(c).ok()).unwrap_or(0))
        .collect()
});

/// Whether no character before `c` can combine with it, so that a segment begins at it.
fn is_boundary(c: char) -> bool {
    let mut first = None;
    decompose_compatible(c, |part| {
        first.get_or_insert(part);
    });
    first.is_some_and(|first| {
        canonical_combining_class(first) == 0
            && is_nfc_quick(std::iter::once(first)) != IsNormalized::Maybe
    })
}

/// Folds a whole segment.
fn fold_segment(segment: impl Iterator<Item = char>, put: impl FnMut(char)) {
    segment
        .nfkc()
        .flat_map(char::to_lowercase)
        .nfkc()
        .for_each(put);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn folded(original: &str) -> String {
        let mut folded = Folded::default();
        folded.fold(original);
        folded.text
    }

    /// The definition without shortcuts: every segment the long way.
    fn folded_slowly(original: &str) -> String {
        let mut segments: Vec<String> = Vec::new();
        for c in original.chars() {
            match segments.last_mut() {
                Some(segment) if !is_boundary(c) => segment.push(c),
                _ => segments.push(c.into()),
            }
        }
        let mut out = String::new();
        for segment in segments {
            fold_segment(segment.chars(), |c| out.push(c));
        }
        out
    }

    fn only(text: &str) -> Option<char> {
        let mut chars = text.chars();
        chars.next().filter(|_| chars.next().is_none())
    }

    #[test]
    fn width_case_and_compatibility_are_taken_away() {
        for (original, expected) in [
            ("", ""),
            ("加我微信", "加我微信"),
            ("ＡｂＣ１２３！", "abc123!"),
            ("全\u{3000}角", "全 角"),
            ("ﬁnance ㎏ ℡ …", "finance kg tel ..."),
            ("①Ⅻ㈱", "1xii(株)"),
            ("ｶﾞｷﾞｸﾞ", "ガギグ"),
            ("か\u{3099}", "が"),
            ("e\u{301}É", "éé"),
            ("\u{301}x", "\u{301}x"),
            ("İ", "i\u{307}"),
            ("ПРИВЕТ ΣΑΣ", "привет σασ"),
            ("한글 ᄒ\u{1161}\u{11ab}", "한글 한"),
            ("👍🏽𝐀𝟙", "👍🏽a1"),
        ] {
            assert_eq!(folded(original), expected, "{original:?}");
        }
    }

    #[test]
    fn shortcuts_agree_with_the_definition_for_every_character() {
        for c in '\0'..=char::MAX {
            if let Some(even) = one_to_one(c) {
                assert!(is_boundary(c), "{c:?} joins what comes before it");
                assert_eq!(Some(even), only(&folded_slowly(&c.to_string())), "{c:?}");
            }
            let text = format!("が{c}x");
            assert_eq!(folded(&text), folded_slowly(&text), "{c:?}");
        }
    }

    #[test]
    fn a_range_inside_a_segment_takes_in_the_whole_segment() {
        let original = "重５㎏ｶﾞー";
        let mut folded = Folded::default();
        folded.fold(original);
        assert_eq!(folded.text(), "重5kgガー");
        for (part, whole) in [
            ("重", "重"),
            ("5", "５"),
            ("5k", "５㎏"),
            ("k", "㎏"),
            ("g", "㎏"),
            ("gガ", "㎏ｶﾞ"),
            ("ガー", "ｶﾞー"),
            ("重5kgガー", original),
        ] {
            let start = folded.text().find(part).unwrap();
            let found = folded.locate(original, &(start..start + part.len()));
            assert_eq!(&original[found.start.byte..found.end.byte], whole);
            let chars = |byte: usize| original[..byte].chars().count() as u32;
            assert_eq!(found.start.char, chars(found.start.byte));
            assert_eq!(found.end.char, chars(found.end.byte));
        }
    }

    proptest! {
        #[test]
        fn shortcuts_agree_with_the_definition_for_texts(
            text in "([a-cＡ-Ｃ微信ｱ-ｶﾞﾟか\u{3099}\u{300}-\u{303}ﬁ㎏…한\u{1161}\u{11ab}😀]|\\PC){0,24}"
        ) {
            prop_assert_eq!(folded(&text), folded_slowly(&text));
        }

        #[test]
        fn every_folded_character_leads_back_to_what_folds_to_it(
            text in "([a-cＡ-Ｃ微信ｱ-ｶﾞﾟか\u{3099}\u{300}-\u{303}ﬁ㎏…한\u{1161}\u{11ab}😀]|\\PC){0,24}"
        ) {
            let mut fold = Folded::default();
            fold.fold(&text);
            let ranges: Vec<_> = fold
                .text
                .char_indices()
                .map(|(at, c)| (c, at..at + c.len_utf8()))
                .collect();
            for (c, range) in ranges {
                let found = fold.locate(&text, &range);
                let original = &text[found.start.byte..found.end.byte];
                prop_assert_eq!(
                    found.end.char - found.start.char,
                    original.chars().count() as u32
                );
                prop_assert!(folded_slowly(original).contains(c));
            }
        }
    }
}
