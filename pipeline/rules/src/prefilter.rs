//! Decides from three characters whether a pattern may start at a position of a text.
//!
//! With tens of thousands of words, almost every character of ordinary text is the first character
//! of some word, so almost every step of the automaton would cause a cache miss for nothing. Three
//! characters rarely start a word; two small bit tables check them first. The check has false
//! positives but no false negatives.

/// The first characters of a set of patterns.
#[derive(Default)]
pub(crate) struct Prefilter {
    /// Patterns of one character, sorted.
    singles: Vec<char>,
    /// The first two characters of all longer patterns.
    pairs: HashFilter,
    /// The patterns of two characters, and the first three characters of longer patterns.
    triples: HashFilter,
}

/// A set of hashes with false positives and without false negatives.
#[derive(Default)]
struct HashFilter {
    words: Vec<u64>,
}

impl Prefilter {
    pub(crate) fn new(patterns: &[&str]) -> Self {
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
            pairs: HashFilter::from_hashes(pairs),
            triples: HashFilter::from_hashes(triples),
        }
    }

    /// Whether a pattern may start with these characters; positions after the end of the text are
    /// `\0`.
    #[inline]
    pub(crate) fn may_start(&self, [a, b, c]: [char; 3]) -> bool {
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

impl HashFilter {
    /// Uses 8 to 16 bits per distinct hash. About one in ten other hashes is a false positive, and
    /// the pairs of a large word list fit into the L1 cache.
    fn from_hashes(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        let words = (hashes.len() / 8).next_power_of_two();
        let mut bits = Self {
            words: vec![0; words],
        };
        for hash in hashes {
            let (word, bit) = bits.index(hash);
            bits.words[word] |= bit;
        }
        bits
    }

    #[inline]
    fn contains(&self, hash: u64) -> bool {
        let (word, bit) = self.index(hash);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Returns the word and the bit of a hash. It uses the upper bits, which are mixed best by the
    /// multiplication.
    #[inline]
    fn index(&self, hash: u64) -> (usize, u64) {
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
    // A character has 21 bits, so three of them fit into 64 bits without overlap.
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
    fn every_pattern_start_is_accepted_and_few_others_are() {
        let words: Vec<String> = (0..20_000_u32)
            .map(|n| {
                let of = |n: u32| char::from_u32(0x4e00 + n * 7919 % 20_000).unwrap();
                [of(n), of(n / 3), of(n + 11), of(n / 7)].iter().collect()
            })
            .collect();
        let patterns: Vec<&str> = words.iter().map(String::as_str).collect();
        let prefilter = Prefilter::new(&patterns);
        let start = |word: &str| -> [char; 3] {
            let chars: Vec<char> = word.chars().take(3).collect();
            chars.try_into().unwrap()
        };
        assert!(patterns.iter().all(|word| prefilter.may_start(start(word))));
        let false_positives = patterns
            .iter()
            .map(|word| start(word))
            .filter(|&[a, b, c]| prefilter.may_start([a, c, b]))
            .count();
        assert!(false_positives < patterns.len() / 20, "{false_positives}");
    }

    #[test]
    fn short_patterns_are_accepted_with_any_following_character() {
        let prefilter = Prefilter::new(&["a", "bc"]);
        for (start, expected) in [
            (['a', 'x', 'y'], true),
            (['a', '\0', '\0'], true),
            (['b', 'c', 'x'], true),
            (['b', 'c', '\0'], true),
            (['c', 'b', 'a'], false),
        ] {
            assert_eq!(prefilter.may_start(start), expected, "{start:?}");
        }
        assert!(!Prefilter::default().may_start(['a', 'b', 'c']));
    }
}
