//! Where in a text a pattern may begin, told from the three characters there.
//!
//! In an automaton of tens of thousands of words nearly every character of ordinary text begins
//! one, so that nearly every step probes a far place in memory, almost always in vain. Two small
//! bit tables turn that down first: hardly any three characters begin a word. They never miss a
//! place where a pattern begins; they name some where none does.

/// The beginnings of a set of patterns.
#[derive(Default)]
pub(crate) struct Openings {
    /// Patterns of one character, sorted.
    singles: Vec<char>,
    /// The first two characters of longer patterns.
    pairs: Bits,
    /// Of those the whole ones of two characters, and the first three of longer ones.
    triples: Bits,
}

/// A set of hashes. It may contain more than was put in, never less.
#[derive(Default)]
struct Bits {
    words: Vec<u64>,
}

impl Openings {
    pub(crate) fn of(patterns: &[&str]) -> Self {
        let mut singles = Vec::new();
        let mut pairs = Vec::new();
        let mut triples = Vec::new();
        for pattern in patterns {
            let mut chars = pattern.chars();
            match (chars.next(), chars.next(), chars.next()) {
                (Some(a), None, _) => singles.push(a),
                (Some(a), Some(b), c) => {
                    pairs.push(pair(a, b));
                    triples.push(c.map_or(pair(a, b), |c| triple(a, b, c)));
                }
                (None, ..) => {}
            }
        }
        singles.sort_unstable();
        Self {
            singles,
            pairs: Bits::of(pairs),
            triples: Bits::of(triples),
        }
    }

    /// Whether a pattern may begin with these characters; behind the end of a text stands `\0`.
    #[inline]
    pub(crate) fn may_begin(&self, [a, b, c]: [char; 3]) -> bool {
        let pair = pair(a, b);
        (self.pairs.contains(pair)
            && (self.triples.contains(pair) || self.triples.contains(triple(a, b, c))))
            || (!self.singles.is_empty() && self.singles.binary_search(&a).is_ok())
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(self.singles.as_slice())
            + size_of_val(self.pairs.words.as_slice())
            + size_of_val(self.triples.words.as_slice())
    }
}

impl Bits {
    /// Takes eight to sixteen bits for each different hash: of strangers one in ten gets through,
    /// and the pairs of a big lexicon stay in the nearest cache.
    fn of(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        let words = (hashes.len() / 8).next_power_of_two();
        let mut bits = Self {
            words: vec![0; words],
        };
        for hash in hashes {
            let (word, bit) = bits.place(hash);
            bits.words[word] |= bit;
        }
        bits
    }

    #[inline]
    fn contains(&self, hash: u64) -> bool {
        let (word, bit) = self.place(hash);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The upper bits of a product are the well mixed ones.
    #[inline]
    fn place(&self, hash: u64) -> (usize, u64) {
        let word = (hash >> 32) as usize & self.words.len().wrapping_sub(1);
        (word, 1 << (hash >> 58))
    }
}

/// Fibonacci hashing: an odd number near 2^64 divided by the golden ratio.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline]
fn pair(a: char, b: char) -> u64 {
    (u64::from(u32::from(a)) << 21 | u64::from(u32::from(b))).wrapping_mul(MIX)
}

#[inline]
fn triple(a: char, b: char, c: char) -> u64 {
    // A character has 21 bits, so the three fit without touching.
    let all = u64::from(u32::from(a)) << 42 | u64::from(u32::from(b)) << 21;
    (all | u64::from(u32::from(c)))
        .wrapping_mul(MIX)
        .rotate_left(17)
        .wrapping_mul(MIX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_beginning_is_known_and_hardly_any_other() {
        let words: Vec<String> = (0..20_000_u32)
            .map(|n| {
                let of = |n: u32| char::from_u32(0x4e00 + n * 7919 % 20_000).unwrap();
                [of(n), of(n / 3), of(n + 11), of(n / 7)].iter().collect()
            })
            .collect();
        let patterns: Vec<&str> = words.iter().map(String::as_str).collect();
        let openings = Openings::of(&patterns);
        let opening = |word: &str| -> [char; 3] {
            let chars: Vec<char> = word.chars().take(3).collect();
            chars.try_into().unwrap()
        };
        assert!(
            patterns
                .iter()
                .all(|word| openings.may_begin(opening(word)))
        );
        let strangers = patterns
            .iter()
            .map(|word| opening(word))
            .filter(|&[a, b, c]| openings.may_begin([a, c, b]))
            .count();
        assert!(strangers < patterns.len() / 20, "{strangers}");
    }

    #[test]
    fn short_patterns_begin_whatever_follows() {
        let openings = Openings::of(&["a", "bc"]);
        for (opening, expected) in [
            (['a', 'x', 'y'], true),
            (['a', '\0', '\0'], true),
            (['b', 'c', 'x'], true),
            (['b', 'c', '\0'], true),
            (['c', 'b', 'a'], false),
        ] {
            assert_eq!(openings.may_begin(opening), expected, "{opening:?}");
        }
        assert!(!Openings::default().may_begin(['a', 'b', 'c']));
    }
}
