//! Prints dead letters and the results of commands on them.

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

/// Prints the counts by reason, then the dead letters one by one.
pub(super) fn list(
    dead_letters: &DeadLetterIndex<Shown>,
    which: &DeadLetterFilter,
    limit: usize,
    as_json: bool,
) -> Result<(), Failure> {
    let selected = dead_letters.select(None, which, usize::MAX);
    let open: Vec<(&DeadLetterKey, &DeadLetterStatus<Shown>)> = selected
        .iter()
        .filter_map(|key| dead_letters.open().get_key_value(key))
        .collect();
    let mut groups: BTreeMap<(&str, Reason, u32), GroupCounts> = BTreeMap::new();
    for (key, status) in &open {
        let name = (key.corp_id.as_str(), status.reason, status.key_version);
        groups.entry(name).or_default().add(key, status);
    }
    let shown = &open[..open.len().min(limit)];
    if as_json {
        let groups = groups.iter().map(|((corp, reason, version), group)| {
            json!({ "corp_id": corp, "reason": reason, "key_version": version,
                    "letters": group.dead_letters, "attempts": group.attempts,
                    "first_seq": group.seqs.0, "last_seq": group.seqs.1,
                    "first_seen": moment(group.first_seen) })
        });
        let dead_letters = shown.iter().map(|(_, status)| about(status));
        let all = json!({ "open": open.len(), "reasons": groups.collect::<Vec<_>>(),
                          "letters": dead_letters.collect::<Vec<_>>() });
        return line(&all.to_string());
    }
    if open.is_empty() {
        return line("no open dead letters");
    }
    let mut table = framed(&[
        "corp",
        "reason",
        "key version",
        "count",
        "seq",
        "attempts at most",
        "first seen",
    ]);
    for ((corp, reason, version), group) in &groups {
        let seqs = format!("{}–{}", group.seqs.0, group.seqs.1);
        table.add_row(vec![
            Cell::new(corp),
            Cell::new(reason),
            number(version),
            number(group.dead_letters),
            Cell::new(seqs),
            number(group.attempts),
            Cell::new(moment(group.first_seen)),
        ]);
    }
    line(&table.to_string())?;
    if !shown.is_empty() {
        let mut table = framed(&[
            "corp",
            "seq",
            "msgid",
            "reason",
            "key version",
            "attempts",
            "first seen",
            "error",
        ]);
        for (key, status) in shown {
            let dead_letter = &status.retained.0;
            let retrying = if status.retrying.is_some() {
                " …"
            } else {
                ""
            };
            table.add_row(vec![
                Cell::new(key.corp_id.as_str()),
                number(key.seq),
                Cell::new(printable(&dead_letter.msgid)),
                Cell::new(status.reason),
                number(status.key_version),
                Cell::new(format!("{}{retrying}", status.attempts)),
                Cell::new(moment(status.first_seen)),
                Cell::new(printable(&dead_letter.error)),
            ]);
        }
        line(&table.to_string())?;
    }
    let more = open.len() - shown.len();
    if more > 0 {
        line(&format!("… and {more} more; use --limit to see them"))?;
    }
    line(&format!("{} open dead letters", open.len()))
}

#[derive(Default)]
struct GroupCounts {
    dead_letters: u64,
    attempts: u32,
    seqs: (u64, u64),
    first_seen: i64,
}

impl GroupCounts {
    fn add(&mut self, key: &DeadLetterKey, status: &DeadLetterStatus<Shown>) {
        if self.dead_letters == 0 {
            (self.seqs, self.first_seen) = ((key.seq, key.seq), status.first_seen);
        }
        self.dead_letters += 1;
        self.attempts = self.attempts.max(status.attempts);
        self.seqs = (self.seqs.0.min(key.seq), self.seqs.1.max(key.seq));
        self.first_seen = self.first_seen.min(status.first_seen);
    }
}

/// Prints the dead letters selected, each with its sealed record.
pub(super) fn show(
    dead_letters: &DeadLetterIndex<Shown>,
    which: &DeadLetterFilter,
    as_json: bool,
) -> Result<(), Failure> {
    let selected = dead_letters.select(None, which, usize::MAX);
    if selected.is_empty() {
        return Err(Failure::refused(
            "no open dead letter at this seq; it may have been settled already",
        ));
    }
    for status in selected
        .iter()
        .filter_map(|key| dead_letters.open().get(key))
    {
        let mut about = about(status);
        about["sealed"] = Value::String(status.retained.0.sealed.clone());
        if as_json {
            line(&about.to_string())?;
            continue;
        }
        let names = [
            ("corp", "corp_id"),
            ("seq", "seq"),
            ("msgid", "msgid"),
            ("reason", "reason"),
            ("error", "error"),
            ("key version", "key_version"),
            ("first seen", "first_seen"),
            ("attempts", "attempts"),
            ("retrying", "retrying"),
        ];
        let mut table = framed(&[]);
        for (title, name) in names {
            let value = match &about[name] {
                Value::String(text) => printable(text),
                other => other.to_string(),
            };
            table.add_row(vec![Cell::new(title), Cell::new(value)]);
        }
        line(&table.to_string())?;
        line("sealed record:")?;
        line(&printable(&status.retained.0.sealed))?;
    }
    Ok(())
}

fn about(status: &DeadLetterStatus<Shown>) -> Value {
    let dead_letter = &status.retained.0;
    json!({ "corp_id": dead_letter.corp_id, "seq": dead_letter.seq, "msgid": dead_letter.msgid,
            "reason": status.reason, "error": dead_letter.error,
            "key_version": status.key_version, "first_seen": moment(status.first_seen),
            "attempts": status.attempts, "retrying": status.retrying.is_some() })
}

/// Prints what a command did to dead letters, or would do.
pub(super) fn print_counts(
    outcome: ReplayCounts,
    dry_run: bool,
    as_json: bool,
) -> Result<(), Failure> {
    if as_json {
        let mut counts = serde_json::to_value(outcome).map_err(Failure::other)?;
        counts["dry_run"] = dry_run.into();
        return line(&counts.to_string());
    }
    if dry_run {
        line("dry run: nothing was changed")?;
    }
    let lines = [
        (outcome.replayed, "opened and delivered"),
        (
            outcome.duplicates,
            "settled; the message was delivered before",
        ),
        (outcome.failed, "could not be opened; kept"),
        (outcome.dropped, "discarded"),
        (
            outcome.waiting,
            "in progress; run `chatledger dlq list` later",
        ),
    ];
    for (count, what) in lines.iter().filter(|(count, _)| *count > 0) {
        line(&format!("{count} {what}"))?;
    }
    if lines.iter().all(|(count, _)| *count == 0) {
        line("no dead letter matches")?;
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

/// Text from outside, without characters that control a terminal.
fn printable(text: &str) -> String {
    let plain = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().map(plain).collect()
}

fn moment(millis: i64) -> String {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    let at = UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}
