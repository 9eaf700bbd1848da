//! The texts of messages: dialogues, pools of values for their placeholders, and lines that break
//! rules.
//!
//! The built-in texts are in `texts/`; dialogue files can be added. Guarantee: a scene's texts depend
//! only on its seed, so that a name stays the same throughout a scene.
//! Not here: senders and times.

mod load;

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::random::mix;

/// The roles in a dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DialogueRole {
    /// An external contact.
    Customer,
    /// The member who serves the customer.
    Employee,
    /// The first colleague.
    First,
    /// The second colleague.
    Second,
    /// The third colleague.
    Third,
}

impl DialogueRole {
    /// Returns the index of the role in a cast.
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
pub struct DialogueLine {
    /// Role of the speaker.
    pub role: DialogueRole,
    /// Its text, with `{placeholders}` unless it comes from a dialogue file.
    pub text: String,
}

/// A scripted conversation.
#[derive(Clone, Debug)]
pub struct Dialogue {
    /// Industry it belongs to; empty for dialogue files.
    pub industry: String,
    /// Whether one of the roles is an external contact.
    pub external: bool,
    /// Its lines, in order.
    pub lines: Vec<DialogueLine>,
    /// Whether its lines have placeholders.
    pub template: bool,
}

/// A line that breaks a rule or comes close to it.
#[derive(Clone, Debug)]
pub struct Breach {
    /// Role of the speaker; any role if `None`.
    pub role: Option<DialogueRole>,
    /// Its text.
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
    /// Loads the built-in texts and, if given, a folder of dialogue files.
    ///
    /// # Errors
    /// A file cannot be read or has an invalid format.
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

    /// Chooses a dialogue for an industry and an audience; `dice` selects it.
    pub fn choose(&self, industry: &str, external: bool, dice: u64) -> u32 {
        let files = &self.corpus[usize::from(external)];
        if !files.is_empty() && !dice.is_multiple_of(4) {
            return files[(dice / 4) as usize % files.len()];
        }
        // One of five dialogues is about another industry.
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

    /// Returns a dialogue by its number.
    pub fn dialogue(&self, number: u32) -> &Dialogue {
        &self.dialogues[number as usize]
    }

    /// Returns the text of one line of a scene.
    pub fn line(&self, dialogue: u32, line: usize, scene_seed: u64) -> String {
        let dialogue = self.dialogue(dialogue);
        let text = &dialogue.lines[line % dialogue.lines.len()].text;
        if dialogue.template {
            self.fill(text, scene_seed)
        } else {
            text.clone()
        }
    }

    /// Fills the `{placeholders}` of a text; `{name}` and `{name2}` are different entries of one pool.
    pub fn fill(&self, text: &str, seed: u64) -> String {
        let mut filled = String::with_capacity(text.len() + 16);
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            filled.push_str(before);
            let Some((placeholder, tail)) = after.split_once('}') else {
                rest = after;
                break;
            };
            filled.push_str(&self.entry(placeholder, seed));
            rest = tail;
        }
        filled.push_str(rest);
        filled
    }

    fn entry(&self, placeholder: &str, seed: u64) -> String {
        let name = placeholder.trim_end_matches(|c: char| c.is_ascii_digit());
        let Some(pool) = self.pools.get(name) else {
            return String::new();
        };
        let start = mix(name
            .bytes()
            .fold(seed, |hash, byte| mix(hash ^ u64::from(byte))));
        let shift: usize = placeholder[name.len()..].parse().unwrap_or(1);
        let text = &pool[(start as usize % pool.len() + shift - 1) % pool.len()];
        if text.contains('{') {
            self.fill(text, mix(seed))
        } else {
            text.clone()
        }
    }

    /// Returns one entry of a pool, with its placeholders filled.
    pub fn from_pool(&self, pool: &str, seed: u64) -> String {
        self.entry(pool, seed)
    }

    /// Returns a line that breaks a rule or comes close to it, suitable for a role.
    pub fn breach(&self, role: DialogueRole, dice: u64) -> &Breach {
        let fits = |breach: &Breach| {
            breach.role.is_none_or(|who| {
                (who == DialogueRole::Customer) == (role == DialogueRole::Customer)
            })
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
                let placeholder = part.split('}').next().unwrap();
                let pool = placeholder.trim_end_matches(|c: char| c.is_ascii_digit());
                assert!(
                    texts.pools.contains_key(pool),
                    "{{{placeholder}}} in: {text}"
                );
            }
        }
        assert!(texts.dialogues.len() >= 60);
    }

    #[test]
    fn fill_keeps_a_name_within_a_scene_and_distinguishes_numbered_placeholders() {
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
