//! Word lists for the matcher: read from a file or generated.
//!
//! A generated list is derived from the texts and reproducible. Its characters have the same
//! distribution as the texts, so that the automaton is traversed as deeply as with a real list; words of
//! random characters would fail to match at the first character.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use chatledger_schemas::Message;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// Number of generated words, as in a real list.
const COUNT: usize = 65_141;
/// One of this many words is copied from a text.
const COPIED_IN: u32 = 400;
/// Lengths in characters, distributed as in a real list.
const LENGTHS: [usize; 12] = [2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 7];

/// Reads the words of a file, one per line.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let words = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    Ok(words.map(str::to_owned).collect())
}

/// Generates distinct words for these messages.
///
/// # Errors
/// The messages have too few different characters.
pub fn generate(messages: &[Message]) -> Result<Vec<String>> {
    let han = |c: &char| ('\u{4e00}'..='\u{9fff}').contains(c);
    let texts: Vec<Vec<char>> = messages
        .iter()
        .map(|message| message.content.chars().filter(han).collect::<Vec<char>>())
        .filter(|text| text.len() >= 10)
        .collect();
    let different: BTreeSet<char> = texts.iter().flatten().copied().collect();
    ensure!(
        different.len() >= 200,
        "{} different characters are not enough for a word list",
        different.len()
    );

    let mut dice = ChaCha8Rng::seed_from_u64(1);
    let mut words = BTreeSet::new();
    while words.len() < COUNT {
        let length = LENGTHS[dice.random_range(0..LENGTHS.len())];
        if dice.random_range(0..COPIED_IN) == 0 {
            let text = &texts[dice.random_range(0..texts.len())];
            let start = dice.random_range(0..=text.len() - length);
            words.insert(text[start..start + length].iter().collect::<String>());
        } else {
            let one = |_| {
                let text = &texts[dice.random_range(0..texts.len())];
                text[dice.random_range(0..text.len())]
            };
            words.insert((0..length).map(one).collect());
        }
    }
    Ok(words.into_iter().collect())
}

/// Returns about `count` of the words, evenly distributed over the list.
pub fn sample(words: &[String], count: usize) -> Vec<&str> {
    let step = (words.len() / count).max(1);
    words
        .iter()
        .step_by(step)
        .take(count)
        .map(String::as_str)
        .collect()
}
