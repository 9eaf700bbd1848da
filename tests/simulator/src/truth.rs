//! Writes the truth about a tenant: the results that tests expect after a complete drain.
//!
//! `messages.jsonl`, `violations.jsonl`, `dead_letters.jsonl`, `summary.json`; results that are added
//! once the withheld key is known: `withheld_messages.jsonl`, `withheld_violations.jsonl`;
//! `directory.json`: the organisation.
//! Guarantee: lines are ordered by `seq` and contain every message once; before [`TruthWriter::write`]
//! returns, files are flushed and the summary is replaced atomically.

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

use crate::faults::Defect;
use crate::org::{Org, Party};
use crate::render::Plain;
use crate::rules::RuleHit;
use crate::scanner::{Span, slice};
use crate::tenant::Tenant;
use summary::count;
pub use summary::{TruthSummary, Withheld};

/// Which files of the truth are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Detail {
    /// Every message, violation and dead letter, and the summary.
    Full,
    /// The summary only, for very large tenants.
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

/// Lines of the files, in the order of [`NAMES`], and counts.
#[derive(Default)]
struct TruthPart {
    lines: [Vec<u8>; 5],
    summary: TruthSummary,
}

const NAMES: [&str; 5] = [
    "messages.jsonl",
    "violations.jsonl",
    "dead_letters.jsonl",
    "withheld_messages.jsonl",
    "withheld_violations.jsonl",
];

/// Number of messages that one core processes at a time.
const RUN: u64 = 1_024;

/// Writes the truth of a tenant as it grows.
#[derive(Debug)]
pub struct TruthWriter {
    folder: PathBuf,
    detail: Detail,
    files: Vec<BufWriter<File>>,
    summary: TruthSummary,
}

/// Returns id and kind of a conversation; they depend on the message only.
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

fn describe(
    tenant: &Tenant,
    corp_id: &str,
    messages: Range<u64>,
    detail: Detail,
) -> Result<TruthPart> {
    let mut part = TruthPart::default();
    for index in messages {
        let plain = tenant.message(index);
        let seq = tenant.seq(tenant.faults.record_of(index));
        let defect = tenant.defect(index);
        if let Some(defect) = defect {
            part.summary.dead_letters += 1;
            count(&mut part.summary.by_reason, defect.reason().to_owned());
            if detail == Detail::Full {
                let dead_letter = DeadLetterLine {
                    seq,
                    msgid: &plain.msgid,
                    reason: defect.reason(),
                };
                line(&mut part.lines[2], &dead_letter)?;
            }
            if defect != Defect::UnknownKey {
                continue;
            }
        }
        let message = Described {
            tenant,
            seq,
            plain: &plain,
            to: plain
                .to
                .iter()
                .map(|&party| tenant.org.party(party))
                .collect(),
            key_version: match defect {
                Some(_) => tenant.sealer.withheld_version(),
                None => tenant.key_version(index),
            },
            conversation: conversation(tenant, &plain),
        };
        let hits = tenant
            .matcher
            .check(&plain.content, message.sender(), &message.to);
        if defect.is_some() {
            part.summary.withheld.messages += 1;
            part.summary.withheld.violations += hits.len() as u64;
        } else {
            message.count(&hits, &mut part.summary);
        }
        if detail == Detail::Full {
            let [messages, violations, _, withheld, withheld_violations] = &mut part.lines;
            if defect.is_some() {
                message.write(corp_id, &hits, withheld, withheld_violations)?;
            } else {
                message.write(corp_id, &hits, messages, violations)?;
            }
        }
    }
    Ok(part)
}

/// A message with everything that the truth states about it.
struct Described<'a> {
    tenant: &'a Tenant,
    seq: u64,
    plain: &'a Plain,
    to: Vec<&'a Party>,
    key_version: u32,
    /// Id and kind.
    conversation: (String, &'static str),
}

impl Described<'_> {
    fn sender(&self) -> &Party {
        self.tenant.org.party(self.plain.from)
    }

    /// Adds the message and its violations to the counts.
    fn count(&self, hits: &[RuleHit<'_>], summary: &mut TruthSummary) {
        let plain = self.plain;
        summary.messages += 1;
        summary.violations += hits.len() as u64;
        count(&mut summary.by_msgtype, plain.msgtype.to_owned());
        count(
            &mut summary.by_conversation_kind,
            self.conversation.1.to_owned(),
        );
        count(
            &mut summary.by_from_kind,
            self.sender().kind.as_str().to_owned(),
        );
        count(&mut summary.by_key_version, self.key_version);
        for RuleHit { rule, .. } in hits {
            count(&mut summary.by_rule, rule.id.to_owned());
            count(&mut summary.by_severity, rule.severity.to_owned());
        }
        if summary.msgtime.0 == 0 {
            summary.msgtime.0 = plain.msgtime;
        }
        summary.msgtime.1 = plain.msgtime;
    }

    /// Adds the lines of the message and its violations.
    fn write(
        &self,
        corp_id: &str,
        hits: &[RuleHit<'_>],
        messages: &mut Vec<u8>,
        violations: &mut Vec<u8>,
    ) -> Result<()> {
        let (plain, from) = (self.plain, self.sender());
        let message = MessageLine {
            corp_id,
            seq: self.seq,
            msgid: &plain.msgid,
            action: plain.action,
            msgtype: plain.msgtype,
            msgtime: plain.msgtime,
            conversation_id: &self.conversation.0,
            conversation_kind: self.conversation.1,
            room_id: &plain.room_id,
            from_id: &from.id,
            from_kind: from.kind.as_str(),
            from_name: &from.name,
            from_department_id: from.department,
            to_ids: self.to.iter().map(|party| party.id.as_str()).collect(),
            content: &plain.content,
            key_version: self.key_version,
            payload_bytes: plain.payload.len(),
            payload_sha256: hex(&Sha256::digest(&plain.payload)),
        };
        line(messages, &message)?;
        for RuleHit { rule, spans } in hits {
            let violation = ViolationLine {
                msgid: &plain.msgid,
                seq: self.seq,
                rule_id: rule.id,
                severity: rule.severity,
                matched: spans
                    .iter()
                    .map(|&span| slice(&plain.content, span))
                    .collect(),
                spans,
            };
            line(violations, &violation)?;
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

impl TruthWriter {
    /// Creates the files of the truth in a folder and replaces those of an earlier run.
    ///
    /// # Errors
    /// The folder or a file cannot be created.
    pub fn create(folder: &Path, detail: Detail) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let mut files = Vec::new();
        for name in NAMES {
            let path = folder.join(name);
            if detail == Detail::Full {
                let file =
                    File::create(&path).with_context(|| format!("create {}", path.display()))?;
                files.push(BufWriter::new(file));
            } else if path.exists() {
                fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            detail,
            files,
            summary: TruthSummary::default(),
        })
    }

    /// Writes the organisation to `directory.json`, with ids instead of the simulator's indices.
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

    /// Adds the messages of a range; ranges must be added in order.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&mut self, tenant: &Tenant, messages: Range<u64>) -> Result<&TruthSummary> {
        let corp_id = tenant.options.corp_id();
        let mut start = messages.start;
        while start < messages.end {
            let end = (start + RUN * rayon::current_num_threads() as u64 * 2).min(messages.end);
            let parts: Vec<TruthPart> = (start..end)
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
        summary.duplicates = tenant.faults.duplicates();
        summary.records = messages.end + tenant.faults.duplicates();
        if summary.records > 0 {
            summary.first_seq = tenant.seq(0);
            summary.last_seq = tenant.seq(summary.records - 1);
        }
        let text = serde_json::to_string_pretty(summary)?;
        crate::layout::replace(&self.folder.join("summary.json"), &text)?;
        Ok(&self.summary)
    }
}
