//! Parses the built-in texts and dialogue files.
//!
//! Guarantee: the result contains no empty dialogue and no private-use characters, which rendering uses
//! as placeholders.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::read::GzDecoder;
use serde::Deserialize;

use super::{Breach, Dialogue, DialogueLine, DialogueRole};

fn content_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && (!line.starts_with('#') || line.starts_with("## ")))
}

fn role(name: &str) -> Option<DialogueRole> {
    Some(match name {
        "C" | "customer" => DialogueRole::Customer,
        "E" | "employee" => DialogueRole::Employee,
        "A" | "a" => DialogueRole::First,
        "B" | "b" => DialogueRole::Second,
        "D" => DialogueRole::Third,
        _ => return None,
    })
}

/// Parses `## industry external|internal` headers, each followed by `ROLE: text` lines.
pub(super) fn dialogues(text: &str) -> Result<Vec<Dialogue>> {
    let mut dialogues: Vec<Dialogue> = Vec::new();
    for line in content_lines(text) {
        if let Some(header) = line.strip_prefix("## ") {
            let (industry, audience) = header
                .split_once(' ')
                .with_context(|| format!("header without audience: {line}"))?;
            dialogues.push(Dialogue {
                industry: industry.to_owned(),
                external: audience == "external",
                lines: Vec::new(),
                template: true,
            });
            continue;
        }
        let (who, said) = line
            .split_once(": ")
            .with_context(|| format!("line without a role: {line}"))?;
        let role = role(who).with_context(|| format!("unknown role: {line}"))?;
        let Some(dialogue) = dialogues.last_mut() else {
            bail!("line before the first header: {line}");
        };
        dialogue.lines.push(DialogueLine {
            role,
            text: said.to_owned(),
        });
    }
    dialogues.retain(|dialogue| !dialogue.lines.is_empty());
    Ok(dialogues)
}

/// Parses `[pool]` headers, each followed by one entry per line; `\n` in an entry is a line break.
pub(super) fn pools(text: &str) -> Result<HashMap<String, Vec<String>>> {
    let mut pools: HashMap<String, Vec<String>> = HashMap::new();
    let mut current: Option<&str> = None;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        // A comment is `# …`; entries such as Markdown headings (`### …`) are not.
        if line.starts_with("# ") {
            continue;
        }
        let name = line
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        match (name, current) {
            // Built-in emoji look like headers; only a name in ASCII lowercase is a header.
            (Some(name), _) if name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') => {
                current = Some(name);
            }
            (_, Some(pool)) => pools
                .entry(pool.to_owned())
                .or_default()
                .push(line.replace("\\n", "\n")),
            (_, None) => bail!("entry before the first pool: {line}"),
        }
    }
    Ok(pools)
}

/// Parses `[rule-id]` headers, each followed by `ROLE text` lines.
pub(super) fn breaches(text: &str) -> Result<Vec<Breach>> {
    content_lines(text)
        .filter(|line| !line.starts_with('['))
        .map(|line| {
            let (who, said) = line
                .split_once(' ')
                .with_context(|| format!("line without a role: {line}"))?;
            Ok(Breach {
                role: role(who),
                text: said.to_owned(),
            })
        })
        .collect()
}

#[derive(Deserialize)]
struct RecordedDialogue {
    kind: String,
    turns: Vec<RecordedTurn>,
}

#[derive(Deserialize)]
struct RecordedTurn {
    role: String,
    text: String,
}

/// Reads every `*.jsonl.gz` of a folder, ordered by name.
pub(super) fn corpus(folder: &Path) -> Result<Vec<Dialogue>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.to_string_lossy().ends_with(".jsonl.gz"));
    files.sort();
    if files.is_empty() {
        bail!("the folder has no *.jsonl.gz file");
    }
    let mut dialogues = Vec::new();
    for path in files {
        let reader = BufReader::new(GzDecoder::new(File::open(&path)?));
        for (number, line) in reader.lines().enumerate() {
            let context = || format!("{} line {}", path.display(), number + 1);
            let recorded: RecordedDialogue =
                serde_json::from_str(&line.with_context(context)?).with_context(context)?;
            let lines: Vec<DialogueLine> = recorded
                .turns
                .into_iter()
                .filter_map(|turn| {
                    let text: String = turn
                        .text
                        .chars()
                        .filter(|c| !('\u{e000}'..='\u{f8ff}').contains(c))
                        .collect();
                    Some(DialogueLine {
                        role: role(&turn.role)?,
                        text,
                    })
                })
                .filter(|line| !line.text.trim().is_empty())
                .collect();
            if !lines.is_empty() {
                dialogues.push(Dialogue {
                    industry: String::new(),
                    external: recorded.kind == "customer_service",
                    lines,
                    template: false,
                });
            }
        }
    }
    Ok(dialogues)
}
