//! The truth about a tenant, written down for tests: what an archive must hold once it has drained it.
//!
//! `messages.jsonl`, `violations.jsonl`, `dead_letters.jsonl`, `summary.json`; and what becomes
//! readable once the withheld key is known: `withheld_messages.jsonl`, `withheld_violations.jsonl`.
//! `directory.json`: who is who.
//! Guarantee: lines are in the order of `seq`, every message once; files are flushed and the summary
//! is replaced whole before [`Truth::write`] returns.

mod summary;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::ValueEnum;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::faults::Broken;
use crate::org::Org;
use crate::render::Plain;
use crate::rules::Broke;
use crate::scanner::{Span, cut};
use crate::tenant::Tenant;
use summary::count;
pub use summary::{Summary, Withheld};

/// How much of the truth is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Detail {
    /// Every message, violation and dead letter, and the summary.
    Full,
    /// The summary alone, for tenants too large to write down.
    Summary,
}

#[derive(Serialize)]
struct MessageLine<'a> {
    corp_id: &'a str,
    seq: u64,
    msgid: &'a str,
    action: &'a str,
    msgtype: &'a str,
    msgtime: i64,
    conversation_id: &'a str,
    conversation_kind: &'a str,
    room_id: &'a str,
    from_id: &'a str,
    from_kind: &'a str,
    from_name: &'a str,
    from_department_id: u32,
    to_ids: Vec<&'a str>,
    content: &'a str,
    key_version: u32,
    payload_bytes: usize,
    payload_sha256: String,
}

#[derive(Serialize)]
struct ViolationLine<'a> {
    msgid: &'a str,
    seq: u64,
    rule_id: &'a str,
    severity: &'a str,
    matched: Vec<String>,
    spans: &'a [Span],
}

#[derive(Serialize)]
struct DeadLetterLine<'a> {
    seq: u64,
    msgid: &'a str,
    reason: &'a str,
}

/// Lines of the files, in their order in [`NAMES`], and counts.
#[derive(Default)]
struct Part {
    lines: [Vec<u8>; 5],
    summary: Summary,
}

const NAMES: [&str; 5] = [
    "messages.jsonl",
    "violations.jsonl",
    "dead_letters.jsonl",
    "withheld_messages.jsonl",
    "withheld_violations.jsonl",
];

/// Messages turned to lines at a time by one core.
const RUN: u64 = 1_024;

/// Writes the truth of a tenant as it grows.
#[derive(Debug)]
pub struct Truth {
    folder: PathBuf,
    detail: Detail,
    files: Vec<BufWriter<File>>,
    summary: Summary,
}

/// Kind and id of a conversation, from the message alone.
pub fn conversation(tenant: &Tenant, plain: &Plain) -> (String, &'static str) {
    let id = |party| tenant.org.party(party).id.as_str();
    let from = id(plain.from);
    let outside = |id: &str| id.starts_with("wm") || id.starts_with("wo");
    let external = outside(from)
        || plain.to.iter().any(|&to| outside(id(to)))
        || plain.msgid.ends_with("_external");
    if !plain.room_id.is_empty() {
        let kind = if external {
            "group_external"
        } else {
            "group_internal"
        };
        return (plain.room_id.clone(), kind);
    }
    let kind = if external {
        "single_external"
    } else {
        "single_internal"
    };
    let Some(&to) = plain.to.first() else {
        return (from.to_owned(), kind);
    };
    let mut both = [from, id(to)];
    both.sort_unstable();
    (both.join("|"), kind)
}

fn line(lines: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *lines, value)?;
    lines.push(b'\n');
    Ok(())
}

fn describe(tenant: &Tenant, corp_id: &str, messages: Range<u64>, detail: Detail) -> Result<Part> {
    let mut part = Part::default();
    for index in messages {
        let plain = tenant.message(index);
        let seq = tenant.seq(tenant.faults.record_of(index));
        let broken = tenant.broken(index);
        if let Some(broken) = broken {
            part.summary.dead_letters += 1;
            count(&mut part.summary.by_reason, broken.reason().to_owned());
            if detail == Detail::Full {
                let letter = DeadLetterLine {
                    seq,
                    msgid: &plain.msgid,
                    reason: broken.reason(),
                };
                line(&mut part.lines[2], &letter)?;
            }
            if broken != Broken::UnknownKey {
                continue;
            }
        }
        let from = tenant.org.party(plain.from);
        let to: Vec<_> = plain
            .to
            .iter()
            .map(|&party| tenant.org.party(party))
            .collect();
        let broke = tenant.watch.check(&plain.content, from, &to);
        let version = match broken {
            Some(_) => tenant.sealer.withheld_version(),
            None => tenant.key_version(index),
        };
        let (conversation_id, conversation_kind) = conversation(tenant, &plain);
        let [
            messages,
            violations,
            _,
            withheld_messages,
            withheld_violations,
        ] = &mut part.lines;
        let (messages, violations) = if broken.is_some() {
            part.summary.withheld.messages += 1;
            part.summary.withheld.violations += broke.len() as u64;
            (withheld_messages, withheld_violations)
        } else {
            let summary = &mut part.summary;
            summary.messages += 1;
            summary.violations += broke.len() as u64;
            count(&mut summary.by_msgtype, plain.msgtype.to_owned());
            count(
                &mut summary.by_conversation_kind,
                conversation_kind.to_owned(),
            );
            count(&mut summary.by_from_kind, from.kind.as_str().to_owned());
            count(&mut summary.by_key_version, version);
            for Broke { rule, .. } in &broke {
                count(&mut summary.by_rule, rule.id.to_owned());
                count(&mut summary.by_severity, rule.severity.to_owned());
            }
            if summary.msgtime.0 == 0 {
                summary.msgtime.0 = plain.msgtime;
            }
            summary.msgtime.1 = plain.msgtime;
            (messages, violations)
        };
        if detail == Detail::Summary {
            continue;
        }
        let message = MessageLine {
            corp_id,
            seq,
            msgid: &plain.msgid,
            action: plain.action,
            msgtype: plain.msgtype,
            msgtime: plain.msgtime,
            conversation_id: &conversation_id,
            conversation_kind,
            room_id: &plain.room_id,
            from_id: &from.id,
            from_kind: from.kind.as_str(),
            from_name: &from.name,
            from_department_id: from.department,
            to_ids: to.iter().map(|party| party.id.as_str()).collect(),
            content: &plain.content,
            key_version: version,
            payload_bytes: plain.payload.len(),
            payload_sha256: hex(&Sha256::digest(&plain.payload)),
        };
        line(messages, &message)?;
        for Broke { rule, spans } in &broke {
            let violation = ViolationLine {
                msgid: &plain.msgid,
                seq,
                rule_id: rule.id,
                severity: rule.severity,
                matched: spans
                    .iter()
                    .map(|&span| cut(&plain.content, span))
                    .collect(),
                spans,
            };
            line(violations, &violation)?;
        }
    }
    Ok(part)
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

impl Truth {
    /// Starts the truth's files in a folder, replacing those of an earlier run.
    ///
    /// # Errors
    /// The folder or a file cannot be made.
    pub fn create(folder: &Path, detail: Detail) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let mut files = Vec::new();
        for name in NAMES {
            let path = folder.join(name);
            if detail == Detail::Full {
                let file =
                    File::create(&path).with_context(|| format!("make {}", path.display()))?;
                files.push(BufWriter::new(file));
            } else if path.exists() {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            detail,
            files,
            summary: Summary::default(),
        })
    }

    /// Writes who is who to `directory.json`: ids in place of the simulator's numbers.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_directory(&self, org: &Org) -> Result<()> {
        let member = |n: u32| org.members[n as usize].id.as_str();
        let follows: Vec<Value> = org
            .follows
            .iter()
            .map(|follow| {
                let mut row = serde_json::to_value(follow)?;
                row["member"] = member(follow.member).into();
                row["customer"] = org.customers[follow.customer as usize].id.as_str().into();
                Ok(row)
            })
            .collect::<Result<_>>()?;
        let rooms: Vec<Value> = org
            .rooms
            .iter()
            .map(|room| {
                let mut row = serde_json::to_value(room)?;
                row["parties"] = room
                    .parties
                    .iter()
                    .map(|&p| org.party(p).id.as_str())
                    .collect();
                Ok(row)
            })
            .collect::<Result<_>>()?;
        let text = serde_json::to_string_pretty(&json!({
            "departments": org.departments,
            "members": org.members,
            "customers": org.customers,
            "follows": follows,
            "rooms": rooms,
            "robots": org.robots,
        }))?;
        crate::layout::replace(&self.folder.join("directory.json"), &text)
    }

    /// Adds the messages of a range; ranges come in order.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&mut self, tenant: &Tenant, messages: Range<u64>) -> Result<&Summary> {
        let corp_id = tenant.options.corp_id();
        let mut start = messages.start;
        while start < messages.end {
            let end = (start + RUN * rayon::current_num_threads() as u64 * 2).min(messages.end);
            let parts: Vec<Part> = (start..end)
                .step_by(RUN as usize)
                .collect::<Vec<_>>()
                .into_par_iter()
                .map(|from| describe(tenant, &corp_id, from..(from + RUN).min(end), self.detail))
                .collect::<Result<_>>()?;
            for part in parts {
                self.summary.add(part.summary);
                for (file, lines) in self.files.iter_mut().zip(&part.lines) {
                    file.write_all(lines).context("write the truth")?;
                }
            }
            start = end;
        }
        for file in &mut self.files {
            file.flush().context("write the truth")?;
        }
        let summary = &mut self.summary;
        summary.corp_id = corp_id;
        summary.duplicates = tenant.faults.repeats();
        summary.records = messages.end + tenant.faults.repeats();
        if summary.records > 0 {
            summary.first_seq = tenant.seq(0);
            summary.last_seq = tenant.seq(summary.records - 1);
        }
        let text = serde_json::to_string_pretty(summary)?;
        crate::layout::replace(&self.folder.join("summary.json"), &text)?;
        Ok(&self.summary)
    }
}
