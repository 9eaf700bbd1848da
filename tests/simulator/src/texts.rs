//! The texts people write: dialogues, pools that fill the places in them, and lines that break rules.
//!
//! The built-in texts lie under `texts/`; dialogue files may be added to them. Guarantee: a scene's
//! text is a function of the scene's seed, so that a name stays the same throughout a scene.
//! Deliberately not here: who speaks to whom, and when.

mod load;

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::random::mix;

/// The voices of a dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Somebody outside.
    Customer,
    /// The member who serves them.
    Employee,
    /// The first colleague.
    First,
    /// The second colleague.
    Second,
    /// The third one.
    Third,
}

impl Role {
    /// Position in a cast.
    pub fn index(self) -> usize {
        match self {
            Self::Customer | Self::Second => 1,
            Self::Employee | Self::First => 0,
            Self::Third => 2,
        }
    }
}

/// One line of a dialogue.
#[derive(Clone, Debug)]
pub struct Line {
    /// Who says it.
    pub role: Role,
    /// What, with `{places}` to fill unless it comes from a dialogue file.
    pub text: String,
}

/// A conversation to be played.
#[derive(Clone, Debug)]
pub struct Dialogue {
    /// Industry it belongs to; empty for dialogue files.
    pub industry: String,
    /// Whether one of the voices is somebody outside.
    pub external: bool,
    /// Its lines, in order.
    pub lines: Vec<Line>,
    /// Whether its lines have places to fill.
    pub template: bool,
}

/// A line that breaks a rule, or nearly.
#[derive(Clone, Debug)]
pub struct Breach {
    /// Who would say it; anybody if `None`.
    pub role: Option<Role>,
    /// What.
    pub text: String,
}

/// All texts.
#[derive(Clone, Debug)]
pub struct Texts {
    dialogues: Vec<Dialogue>,
    /// Indices of the built-in dialogues by industry and audience.
    by_industry: HashMap<(String, bool), Vec<u32>>,
    /// Indices of the dialogues from files, internal and external.
    corpus: [Vec<u32>; 2],
    pools: HashMap<String, Vec<String>>,
    breaches: Vec<Breach>,
}

impl Texts {
    /// The built-in texts, and those of a folder of dialogue files if one is given.
    ///
    /// # Errors
    /// A file cannot be read or is not of its form.
    pub fn load(corpus: Option<&Path>) -> Result<Self> {
        let mut dialogues = load::dialogues(include_str!("../texts/dialogues.txt"))?;
        let built_in = dialogues.len();
        if let Some(folder) = corpus {
            dialogues.extend(
                load::corpus(folder)
                    .with_context(|| format!("read dialogue files in {}", folder.display()))?,
            );
        }
        let mut by_industry: HashMap<_, Vec<u32>> = HashMap::new();
        let mut from_files = [Vec::new(), Vec::new()];
        for (n, dialogue) in dialogues.iter().enumerate() {
            if n < built_in {
                by_industry
                    .entry((dialogue.industry.clone(), dialogue.external))
                    .or_default()
                    .push(n as u32);
            } else {
                from_files[usize::from(dialogue.external)].push(n as u32);
            }
        }
        Ok(Self {
            dialogues,
            by_industry,
            corpus: from_files,
            pools: load::pools(include_str!("../texts/pools.txt"))?,
            breaches: load::breaches(include_str!("../texts/breaches.txt"))?,
        })
    }

    /// Chooses a dialogue for an industry and an audience; `dice` decides.
    pub fn choose(&self, industry: &str, external: bool, dice: u64) -> u32 {
        let files = &self.corpus[usize::from(external)];
        if !files.is_empty() && !dice.is_multiple_of(4) {
            return files[(dice / 4) as usize % files.len()];
        }
        // Now and then people talk about another business than their own.
        let fallback = if external { "service" } else { "office" };
        let industry = if dice.is_multiple_of(5) {
            fallback
        } else {
            industry
        };
        [industry, fallback]
            .into_iter()
            .find_map(|industry| self.by_industry.get(&(industry.to_owned(), external)))
            .map_or(0, |list| list[(dice / 20) as usize % list.len()])
    }

    /// A dialogue by its number.
    pub fn dialogue(&self, number: u32) -> &Dialogue {
        &self.dialogues[number as usize]
    }

    /// The text of one line of a scene.
    pub fn line(&self, dialogue: u32, line: usize, scene_seed: u64) -> String {
        let dialogue = self.dialogue(dialogue);
        let text = &dialogue.lines[line % dialogue.lines.len()].text;
        if dialogue.template {
            self.fill(text, scene_seed)
        } else {
            text.clone()
        }
    }

    /// Fills the `{places}` of a text; `{name2}` is another entry of the pool `name` than `{name}`.
    pub fn fill(&self, text: &str, seed: u64) -> String {
        let mut filled = String::with_capacity(text.len() + 16);
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            let Some((place, tail)) = after.split_once('}') else {
                rest = after;
                break;
            };
            filled.push_str(&self.entry(place, seed));
            rest = tail;
        }
        filled.push_str(rest);
        filled
    }

    fn entry(&self, place: &str, seed: u64) -> String {
        let name = place.trim_end_matches(|c: char| c.is_ascii_digit());
        let Some(pool) = self.pools.get(name) else {
            return String::new();
        };
        let start = mix(name
            .bytes()
            .fold(seed, |hash, byte| mix(hash ^ u64::from(byte))));
        let shift: usize = place[name.len()..].parse().unwrap_or(1);
        let text = &pool[(start as usize % pool.len() + shift - 1) % pool.len()];
        if text.contains('{') {
            self.fill(text, mix(seed))
        } else {
            text.clone()
        }
    }

    /// One entry of a pool, its places filled.
    pub fn from_pool(&self, pool: &str, seed: u64) -> String {
        self.entry(pool, seed)
    }

    /// A line that breaks a rule, or nearly, fit for a voice.
    pub fn breach(&self, role: Role, dice: u64) -> &Breach {
        let fits = |breach: &Breach| {
            breach
                .role
                .is_none_or(|who| (who == Role::Customer) == (role == Role::Customer))
        };
        let start = dice as usize % self.breaches.len();
        (0..self.breaches.len())
            .map(|n| &self.breaches[(start + n) % self.breaches.len()])
            .find(|breach| fits(breach))
            .unwrap_or(&self.breaches[start])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn built_in_texts_name_only_pools_that_exist() {
        let texts = Texts::load(None).unwrap();
        let all = texts
            .dialogues
            .iter()
            .flat_map(|dialogue| dialogue.lines.iter().map(|line| &line.text))
            .chain(texts.breaches.iter().map(|breach| &breach.text))
            .chain(texts.pools.values().flatten());
        for text in all {
            for part in text.split('{').skip(1) {
                let place = part.split('}').next().unwrap();
                let pool = place.trim_end_matches(|c: char| c.is_ascii_digit());
                assert!(texts.pools.contains_key(pool), "{{{place}}} in: {text}");
            }
        }
        assert!(texts.dialogues.len() >= 60);
    }

    #[test]
    fn fill_keeps_a_name_within_a_scene_and_tells_numbered_places_apart() {
        let texts = Texts::load(None).unwrap();
        for seed in 0..50 {
            let filled = texts.fill("{city}/{city}/{city2}", seed);
            let parts: Vec<&str> = filled.split('/').collect();
            assert_eq!(parts[0], parts[1]);
            assert_ne!(parts[0], parts[2]);
        }
    }

    #[test]
    fn choose_finds_a_dialogue_for_every_industry_and_audience() {
        let texts = Texts::load(None).unwrap();
        for industry in [
            "wealth",
            "insurance",
            "health",
            "education",
            "bank",
            "service",
            "office",
        ] {
            for external in [false, true] {
                for dice in 0..200 {
                    assert_eq!(
                        texts
                            .dialogue(texts.choose(industry, external, dice))
                            .external,
                        external
                    );
                }
            }
        }
    }
}
