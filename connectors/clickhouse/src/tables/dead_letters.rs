//! Dead letters and what was done about them.

use chatledger_schemas::{CorpId, DeadLetter, DeadLetterEvent};
use clickhouse::Row;
use serde::Serialize;

use super::{BatchTable, Bound, Table};

/// Added to the version of a row that settles a dead letter: more than any number of attempts.
const SETTLED_VERSION: u64 = 1 << 32;

const DEAD_LETTER_KEY: &str = "concat(toString(seq), '/', msgid)";

fn dead_letter_key(seq: u64, msgid: &str) -> String {
    format!("{seq}/{msgid}")
}

/// The table `dead_letters`.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetters;

/// A row of `dead_letters`. With `FINAL` the row of the highest version counts.
#[derive(Row, Serialize)]
pub struct DeadLetterRow<'a> {
    corp_id: &'a str,
    seq: u64,
    msgid: &'a str,
    reason: &'static str,
    error: &'a str,
    key_version: u32,
    sealed: &'a str,
    first_seen: i64,
    attempts: u32,
    version: u64,
    is_deleted: u8,
}

impl Table for DeadLetters {
    const NAME: &'static str = "dead_letters";
    type Record<'r> = &'r DeadLetter;
    type Row = DeadLetterRow<'static>;

    fn row(row: Self::Record<'_>) -> DeadLetterRow<'_> {
        DeadLetterRow {
            corp_id: row.corp_id.as_str(),
            seq: row.seq,
            msgid: &row.msgid,
            reason: row.reason.as_str(),
            error: &row.error,
            key_version: row.key_version,
            sealed: &row.sealed,
            first_seen: row.first_seen,
            attempts: row.attempts,
            version: row.attempts.into(),
            is_deleted: 0,
        }
    }
}

impl BatchTable for DeadLetters {
    const KEY: &'static str = DEAD_LETTER_KEY;
    const BOUND: Bound = Bound::Seq;

    fn corp(record: Self::Record<'_>) -> &CorpId {
        &record.corp_id
    }

    fn key(record: Self::Record<'_>) -> String {
        dead_letter_key(record.seq, &record.msgid)
    }

    fn bound(record: Self::Record<'_>) -> Option<i64> {
        i64::try_from(record.seq).ok()
    }
}

/// Rows of the table `dead_letters` that hide dead letters which events have settled. With `FINAL`
/// those stay hidden, whatever is inserted about them afterwards.
#[derive(Clone, Copy, Debug)]
pub struct SettledDeadLetters;

impl Table for SettledDeadLetters {
    const NAME: &'static str = DeadLetters::NAME;
    type Record<'r> = &'r DeadLetterEvent;
    type Row = DeadLetterRow<'static>;

    fn row(event: Self::Record<'_>) -> DeadLetterRow<'_> {
        DeadLetterRow {
            corp_id: event.corp_id.as_str(),
            seq: event.seq,
            msgid: &event.msgid,
            reason: event.reason.as_str(),
            error: &event.error,
            key_version: event.key_version,
            sealed: "",
            first_seen: event.first_seen,
            attempts: event.attempt,
            version: SETTLED_VERSION + u64::from(event.attempt),
            is_deleted: 1,
        }
    }
}

impl BatchTable for SettledDeadLetters {
    const TOKEN_SUFFIX: &'static str = "-settled";
    const CONDITION: Option<&'static str> = Some("is_deleted = 1");
    const KEY: &'static str = DEAD_LETTER_KEY;
    const BOUND: Bound = Bound::Seq;

    fn corp(event: Self::Record<'_>) -> &CorpId {
        &event.corp_id
    }

    fn key(event: Self::Record<'_>) -> String {
        dead_letter_key(event.seq, &event.msgid)
    }

    fn bound(event: Self::Record<'_>) -> Option<i64> {
        i64::try_from(event.seq).ok()
    }
}

/// The table `dead_letter_events`.
#[derive(Clone, Copy, Debug)]
pub struct DeadLetterEvents;

/// A row of `dead_letter_events`.
#[derive(Row, Serialize)]
pub struct DeadLetterEventRow<'a> {
    corp_id: &'a str,
    seq: u64,
    msgid: &'a str,
    event: &'static str,
    attempt: u32,
    at: i64,
    actor: &'a str,
    because: &'a str,
    reason: &'static str,
    error: &'a str,
    key_version: u32,
    first_seen: i64,
}

impl Table for DeadLetterEvents {
    const NAME: &'static str = "dead_letter_events";
    type Record<'r> = &'r DeadLetterEvent;
    type Row = DeadLetterEventRow<'static>;

    fn row(row: Self::Record<'_>) -> DeadLetterEventRow<'_> {
        DeadLetterEventRow {
            corp_id: row.corp_id.as_str(),
            seq: row.seq,
            msgid: &row.msgid,
            event: row.event.as_str(),
            attempt: row.attempt,
            at: row.at,
            actor: &row.actor,
            because: &row.because,
            reason: row.reason.as_str(),
            error: &row.error,
            key_version: row.key_version,
            first_seen: row.first_seen,
        }
    }
}

impl BatchTable for DeadLetterEvents {
    const KEY: &'static str =
        "concat(toString(seq), '/', msgid, '/', toString(attempt), '/', event)";
    const BOUND: Bound = Bound::Seq;

    fn corp(event: Self::Record<'_>) -> &CorpId {
        &event.corp_id
    }

    fn key(event: Self::Record<'_>) -> String {
        let (key, attempt) = (dead_letter_key(event.seq, &event.msgid), event.attempt);
        format!("{key}/{attempt}/{}", event.event.as_str())
    }

    fn bound(event: Self::Record<'_>) -> Option<i64> {
        i64::try_from(event.seq).ok()
    }
}
