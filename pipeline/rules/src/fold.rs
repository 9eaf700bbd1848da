//! Folds words and messages into the form in which they are compared, and maps positions in the
//! folded text back to the original.
//!
//! Folding removes compatibility differences (full and half width, ligatures, squared units: NFKC
//! of Unicode UAX #15) and case (the lower-case mapping of each character). It works segment by
//! segment. A segment starts at a character that no preceding character can change (a normalization
//! boundary), so each folded character belongs to a known segment of the original.
//!
//! Almost every segment is one character that folds to one character. Such segments are copied in
//! runs; only the others are recorded. A message without a hit therefore costs little more than a
//! copy.
//!
//! Not handled: deliberate evasion (zero-width characters, inserted symbols, look-alikes).

use std::ops::Range;
use std::sync::LazyLock;

use unicode_normalization::char::{canonical_combining_class, decompose_compatible};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// A folded text with the mapping to its original. Its buffers are reused for the next text.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    text: String,
    /// The segments that are not one character in both texts, ascending.
    uneven: Vec<Segment>,
    /// Position at which the next lookup in the original continues.
    cursor: FoldCursor,
}

/// Byte ranges of a segment in both texts.
#[derive(Debug)]
struct Segment {
    folded: Range<usize>,
    original: Range<usize>,
}

/// A boundary between two characters of the original text: byte and character offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) byte: usize,
    pub(crate) char: u32,
}

/// A boundary between two segments, in both texts.
#[derive(Clone, Copy, Debug, Default)]
struct FoldCursor {
    folded: usize,
    origin: Origin,
    /// Number of uneven segments before this boundary.
    passed: usize,
}

impl Folded {
    /// Returns the folded text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Folds `original`; the previous text is discarded.
    pub(crate) fn fold(&mut self, original: &str) {
        self.text.clear();
        self.uneven.clear();
        self.cursor = FoldCursor::default();
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

    /// Folds the segment of the character `c` at byte `at` and returns the end of the segment in
    /// bytes. Everything before `at` must already be folded.
    fn fold_uneven(&mut self, original: &str, at: usize, c: char) -> usize {
        let mut start = at;
        if !is_boundary(c)
            && let Some(before) = original[..at].chars().next_back()
        {
            // `c` belongs to the preceding segment. That segment is even, otherwise `c` would
            // already be part of it.
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

    /// Maps a byte range of the folded text to `original`, which must be the text last folded. A
    /// range that starts or ends inside a segment is extended to the whole segment.
    ///
    /// Calls with ascending range starts scan both texts only once.
    pub(crate) fn locate(&mut self, original: &str, range: &Range<usize>) -> Range<Origin> {
        if range.start < self.cursor.folded {
            self.cursor = FoldCursor::default();
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

    /// Returns the boundary at byte `to` of the folded text, which must not be before `from`. If
    /// `to` is inside a segment, returns the start of the segment.
    fn advance(&self, original: &str, from: FoldCursor, to: usize) -> FoldCursor {
        let mut cursor = from;
        while let Some(segment) = self.uneven.get(cursor.passed) {
            if segment.folded.end > to {
                break;
            }
            let even = char_count(&self.text[cursor.folded..segment.folded.start]);
            let uneven = char_count(&original[segment.original.clone()]);
            cursor = FoldCursor {
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
        FoldCursor {
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

/// Folds words. The result is sorted, without repetitions and without blank words.
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

/// Returns the folded character if `c` always forms a segment of its own and folds to one
/// character. `None` means only that the general algorithm is needed.
///
/// The ranges cover most characters of conversations. They must agree with [`EVEN`]; a test checks
/// every character.
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

/// The result of [`one_to_one`] for each character of the basic multilingual plane, 0 for `None`.
/// The table has 128 KiB; a conversation touches only a few cache lines of it.
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

/// Whether a segment starts at `c`, because no preceding character can combine with it.
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

/// Folds a complete segment.
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

    /// Reference implementation without shortcuts.
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
    fn folding_removes_width_case_and_compatibility_differences() {
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
    fn shortcuts_agree_with_the_reference_for_every_character() {
        for c in '\0'..=char::MAX {
            if let Some(even) = one_to_one(c) {
                assert!(
                    is_boundary(c),
                    "{c:?} can combine with the preceding character"
                );
                assert_eq!(Some(even), only(&folded_slowly(&c.to_string())), "{c:?}");
            }
            let text = format!("が{c}x");
            assert_eq!(folded(&text), folded_slowly(&text), "{c:?}");
        }
    }

    #[test]
    fn range_inside_a_segment_is_extended_to_the_whole_segment() {
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
        fn shortcuts_agree_with_the_reference_for_any_text(
            text in "([a-cＡ-Ｃ微信ｱ-ｶﾞﾟか\u{3099}\u{300}-\u{303}ﬁ㎏…한\u{1161}\u{11ab}😀]|\\PC){0,24}"
        ) {
            prop_assert_eq!(folded(&text), folded_slowly(&text));
        }

        #[test]
        fn every_folded_character_maps_back_to_its_original_segment(
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
