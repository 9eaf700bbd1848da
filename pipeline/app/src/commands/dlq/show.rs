//! What people are shown of dead letters.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use chatledger_engine::dead_letter_index::{
    DeadLetterFilter, DeadLetterIndex, DeadLetterKey, DeadLetterStatus,
};
use chatledger_engine::dead_letter_requests::ReplayCounts;
use chatledger_schemas::Reason;
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde_json::{Value, json};

use super::Shown;
use crate::commands::say as line;
use crate::exit::Failure;

/// The counts by reason, then the letters one by one.
pub(super) fn list(
    letters: &DeadLetterIndex<Shown>,
    which: &DeadLetterFilter,
    limit: usize,
    as_json: bool,
) -> Result<(), Failure> {
    let chosen = letters.select(None, which, usize::MAX);
    let open: Vec<(&DeadLetterKey, &DeadLetterStatus<Shown>)> = chosen
        .iter()
        .filter_map(|key| letters.open().get_key_value(key))
        .collect();
    let mut groups: BTreeMap<(&str, Reason, u32), Group> = BTreeMap::new();
    for (key, standing) in &open {
        let name = (key.corp_id.as_str(), standing.reason, standing.key_version);
        groups.entry(name).or_default().add(key, standing);
    }
    let shown = &open[..open.len().min(limit)];
    if as_json {
        let groups = groups.iter().map(|((corp, reason, version), group)| {
            json!({ "corp_id": corp, "reason": reason, "key_version": version,
                    "letters": group.letters, "attempts": group.attempts,
                    "first_seq": group.seqs.0, "last_seq": group.seqs.1,
                    "first_seen": moment(group.first_seen) })
        });
        let letters = shown.iter().map(|(_, standing)| about(standing));
        let all = json!({ "open": open.len(), "reasons": groups.collect::<Vec<_>>(),
                          "letters": letters.collect::<Vec<_>>() });
        return line(&all.to_string());
    }
    if open.is_empty() {
        return line("没有未处理的死信 (no open dead letters)");
    }
    let mut table = framed(&[
        "企业",
        "原因",
        "代码",
        "密钥版本",
        "条数",
        "seq",
        "最多重试",
        "最早",
    ]);
    for ((corp, reason, version), group) in &groups {
        let seqs = format!("{}–{}", group.seqs.0, group.seqs.1);
        table.add_row(vec![
            Cell::new(corp),
            Cell::new(in_chinese(*reason)),
            Cell::new(reason),
            number(version),
            number(group.letters),
            Cell::new(seqs),
            number(group.attempts),
            Cell::new(moment(group.first_seen)),
        ]);
    }
    line(&table.to_string())?;
    if !shown.is_empty() {
        let mut table = framed(&[
            "企业",
            "seq",
            "msgid",
            "原因",
            "密钥版本",
            "重试",
            "首次",
            "错误",
        ]);
        for (key, standing) in shown {
            let letter = &standing.retained.0;
            let retrying = if standing.retrying.is_some() {
                " …"
            } else {
                ""
            };
            table.add_row(vec![
                Cell::new(key.corp_id.as_str()),
                number(key.seq),
                Cell::new(printable(&letter.msgid)),
                Cell::new(in_chinese(standing.reason)),
                number(standing.key_version),
                Cell::new(format!("{}{retrying}", standing.attempts)),
                Cell::new(moment(standing.first_seen)),
                Cell::new(printable(&letter.error)),
            ]);
        }
        line(&table.to_string())?;
    }
    let more = open.len() - shown.len();
    if more > 0 {
        line(&format!("… 另有 {more} 条 (and {more} more: --limit)"))?;
    }
    line(&format!(
        "共 {} 条未处理的死信 ({} open)",
        open.len(),
        open.len()
    ))
}

#[derive(Default)]
struct Group {
    letters: u64,
    attempts: u32,
    seqs: (u64, u64),
    first_seen: i64,
}

impl Group {
    fn add(&mut self, key: &DeadLetterKey, standing: &DeadLetterStatus<Shown>) {
        if self.letters == 0 {
            (self.seqs, self.first_seen) = ((key.seq, key.seq), standing.first_seen);
        }
        self.letters += 1;
        self.attempts = self.attempts.max(standing.attempts);
        self.seqs = (self.seqs.0.min(key.seq), self.seqs.1.max(key.seq));
        self.first_seen = self.first_seen.min(standing.first_seen);
    }
}

/// One letter, with its record as it came: sealed.
pub(super) fn show(
    letters: &DeadLetterIndex<Shown>,
    which: &DeadLetterFilter,
    as_json: bool,
) -> Result<(), Failure> {
    let chosen = letters.select(None, which, usize::MAX);
    if chosen.is_empty() {
        return Err(Failure::refused(
            "没有这样的未处理死信 (no open dead letter is at this seq; it may have been settled)",
        ));
    }
    for standing in chosen.iter().filter_map(|key| letters.open().get(key)) {
        let mut about = about(standing);
        about["sealed"] = Value::String(standing.retained.0.sealed.clone());
        if as_json {
            line(&about.to_string())?;
            continue;
        }
        let names = [
            ("企业", "corp_id"),
            ("seq", "seq"),
            ("msgid", "msgid"),
            ("原因", "reason"),
            ("错误", "error"),
            ("密钥版本", "key_version"),
            ("首次存放", "first_seen"),
            ("重试次数", "attempts"),
            ("正在重试", "retrying"),
        ];
        let mut table = framed(&[]);
        for (title, name) in names {
            let value = match &about[name] {
                Value::String(text) if name == "reason" => {
                    format!("{} ({text})", in_chinese(standing.reason))
                }
                Value::String(text) => printable(text),
                other => other.to_string(),
            };
            table.add_row(vec![Cell::new(title), Cell::new(value)]);
        }
        line(&table.to_string())?;
        line("密封的原文（未解密）:")?;
        line(&printable(&standing.retained.0.sealed))?;
    }
    Ok(())
}

fn about(standing: &DeadLetterStatus<Shown>) -> Value {
    let letter = &standing.retained.0;
    json!({ "corp_id": letter.corp_id, "seq": letter.seq, "msgid": letter.msgid,
            "reason": standing.reason, "error": letter.error,
            "key_version": standing.key_version, "first_seen": moment(standing.first_seen),
            "attempts": standing.attempts, "retrying": standing.retrying.is_some() })
}

/// What became of letters, or would.
pub(super) fn tell(outcome: ReplayCounts, dry_run: bool, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let mut told = serde_json::to_value(outcome).map_err(Failure::other)?;
        told["dry_run"] = dry_run.into();
        return line(&told.to_string());
    }
    if dry_run {
        line("试运行，没有改动任何内容 (dry run: nothing is changed)")?;
    }
    let lines = [
        (outcome.replayed, "条已解开并投递", "opened and delivered"),
        (
            outcome.duplicates,
            "条的消息此前已投递，已结清",
            "settled: delivered before",
        ),
        (
            outcome.failed,
            "条仍无法解开，继续保留",
            "still closed, kept",
        ),
        (outcome.dropped, "条已放弃", "dropped"),
        (
            outcome.waiting,
            "条正在处理中",
            "under way: look again later",
        ),
    ];
    for (count, chinese, english) in lines.iter().filter(|(count, ..)| *count > 0) {
        line(&format!("{count} {chinese} ({english})"))?;
    }
    if lines.iter().all(|(count, ..)| *count == 0) {
        line("没有符合条件的死信 (no dead letter is meant)")?;
    }
    Ok(())
}

fn framed(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    if !titles.is_empty() {
        table.set_header(titles.to_vec());
    }
    table
}

fn number(value: impl ToString) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

/// Text of others, without what would steer a terminal.
fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(plain).collect()
}

fn moment(millis: i64) -> String {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    let at = UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}

fn in_chinese(reason: Reason) -> &'static str {
    match reason {
        Reason::BadEnvelope => "外层格式错误",
        Reason::UnknownKeyVersion => "缺少该版本私钥",
        Reason::WrongKey => "私钥不匹配",
        Reason::BadBase64 => "不是合法 base64",
        Reason::TruncatedCiphertext => "密文被截断",
        Reason::BadPadding => "填充错误",
        Reason::BadUtf8 => "不是 UTF-8",
        Reason::BadJson => "不是 JSON",
        Reason::BadMessage => "不是消息",
        Reason::TooLarge => "过大",
    }
}
