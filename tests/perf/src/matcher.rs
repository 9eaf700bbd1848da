//! Measures the matcher with lists of a thousand and of tens of thousands of words.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use chatledger_rules::{RuleFile, RuleSet, compile};
use chatledger_schemas::Message;
use serde::Serialize;

use crate::usage::Cpu;

/// Messages per call, as in a page of the archive.
const PAGE: usize = 1_000;
/// Minimum CPU time for each list.
const BUDGET: Duration = Duration::from_secs(2);

const RULE: &str = r#"
[[rule]]
id = "words"
name = "words"
severity = "low"
words_file = "words"
scope.all = true
"#;

/// The figures of one list.
#[derive(Debug, Serialize)]
pub struct MatcherFigures {
    matcher: &'static str,
    /// Words of the list.
    pub words: usize,
    /// On one core; all messages are in the rule's scope.
    pub messages_per_second: f64,
    /// Millions of bytes of content.
    mb_per_second: f64,
    heap_bytes: usize,
    /// Number of messages, all of them with content.
    messages: usize,
    characters_per_message: f64,
    /// Messages that contain a word.
    hits: usize,
}

/// Measures checking messages against a list of words.
///
/// # Errors
/// The list is rejected, or no message has content.
pub fn measure(words: &[&str], messages: &[Message]) -> Result<MatcherFigures> {
    let rules = rules(words)?;
    let messages: Vec<Message> = messages
        .iter()
        .filter(|message| !message.content.is_empty())
        .cloned()
        .collect();
    ensure!(!messages.is_empty(), "no message has content");
    let pass = || {
        messages
            .chunks(PAGE)
            .map(|page| rules.check(page, |_| &[], 0).len())
            .sum()
    };
    // The first pass fills the caches.
    let hits: usize = pass();
    let (before, mut passes, mut spent) = (Cpu::of_thread()?, 0_u32, Duration::ZERO);
    while spent < BUDGET {
        ensure!(pass() == hits, "the matcher is not deterministic");
        passes += 1;
        spent = (Cpu::of_thread()? - before).total();
    }
    let seconds = spent.as_secs_f64() / f64::from(passes);
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    let characters: usize = messages
        .iter()
        .map(|message| message.content.chars().count())
        .sum();
    Ok(MatcherFigures {
        matcher: "words",
        words: words.len(),
        messages_per_second: messages.len() as f64 / seconds,
        mb_per_second: bytes as f64 / seconds / 1e6,
        heap_bytes: rules.heap_bytes(),
        messages: messages.len(),
        characters_per_message: characters as f64 / messages.len() as f64,
        hits,
    })
}

fn rules(words: &[&str]) -> Result<RuleSet> {
    let source = RuleFile {
        name: "perf",
        text: RULE,
    };
    compile(&[source], |_, _| Ok::<_, String>(words.join("\n"))).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow!(errors.join("; "))
    })
}
