//! A list of words to look for: of a file, or made up.
//!
//! What is made up follows from the texts and is the same each time. Its characters are those of
//! the texts, as often as there, so that the automaton is walked as deep as by a real list: words
//! of random characters would be given up at their first one.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use chatledger_schemas::Message;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

/// Words of a made-up list; as many as in lists that are in use.
const COUNT: usize = 65_141;
/// One word in so many stands in a text as it is; the others are there by chance if at all.
const REAL: u32 = 400;
/// Lengths in characters, as frequent as in a real list.
const LENGTHS: [usize; 12] = [2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 7];

/// The words of a file, one a line.
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

/// Made-up words for these messages, each once.
///
/// # Errors
/// The messages have too few different characters.
pub fn make(messages: &[Message]) -> Result<Vec<String>> {
    let han = |c: &char| ('\u{4e00}'..='\u{9fff}').contains(c);
    let texts: Vec<Vec<char>> = messages
        .iter()
        .map(|message| message.content.chars().filter(han).collect::<Vec<char>>())
        .filter(|text| text.len() >= 10)
        .collect();
    let different: BTreeSet<char> = texts.iter().flatten().copied().collect();
    ensure!(
        different.len() >= 200,
        "{} characters make no list of words",
        different.len()
    );

    let mut dice = ChaCha8Rng::seed_from_u64(1);
    let mut words = BTreeSet::new();
    while words.len() < COUNT {
        let length = LENGTHS[dice.random_range(0..LENGTHS.len())];
        if dice.random_range(0..REAL) == 0 {
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

/// About `count` of the words, taken from everywhere in the list.
pub fn sample(words: &[String], count: usize) -> Vec<&str> {
    let step = (words.len() / count).max(1);
    words
        .iter()
        .step_by(step)
        .take(count)
        .map(String::as_str)
        .collect()
}
