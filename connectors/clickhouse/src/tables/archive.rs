//! Messages and violations.

use chatledger_schemas::{CorpId, Message, Violation};
use clickhouse::Row;
use serde::Serialize;

use super::{BatchTable, Bound, Table};

/// Times that bound a search: 1970 to 2100, milliseconds. ClickHouse functions do not distinguish
/// all times outside this range.
const PLAUSIBLE_TIMES: std::ops::Range<i64> = 0..4_102_444_800_000;

fn plausible(msgtime: i64) -> Option<i64> {
    Some(msgtime).filter(|time| PLAUSIBLE_TIMES.contains(time))
}

/// The table `messages`.
#[derive(Clone, Copy, Debug)]
pub struct Messages;

/// A row of `messages`.
#[derive(Row, Serialize)]
pub struct MessageRow<'a> {
    corp_id: &'a str,
    seq: u64,
    msgid: &'a str,
    action: &'a str,
    msgtype: &'a str,
    msgtime: i64,
    conversation_id: &'a str,
    conversation_kind: &'static str,
    room_id: &'a str,
    room_name: &'a str,
    from_id: &'a str,
    from_kind: &'static str,
    from_name: &'a str,
    from_department_id: u32,
    from_department_path: &'a str,
    to_ids: &'a [String],
    content: &'a str,
    payload: &'a str,
    key_version: u32,
}

impl Table for Messages {
    const NAME: &'static str = "messages";
    type Record<'r> = &'r Message;
    type Row = MessageRow<'static>;

    fn row(row: Self::Record<'_>) -> MessageRow<'_> {
        MessageRow {
            corp_id: row.corp_id.as_str(),
            seq: row.seq,
            msgid: &row.msgid,
            action: &row.action,
            msgtype: &row.msgtype,
            msgtime: row.msgtime,
            conversation_id: &row.conversation_id,
            conversation_kind: row.conversation_kind.as_str(),
            room_id: &row.room_id,
            room_name: &row.room_name,
            from_id: &row.from_id,
            from_kind: row.from_kind.as_str(),
            from_name: &row.from_name,
            from_department_id: row.from_department_id,
            from_department_path: &row.from_department_path,
            to_ids: &row.to_ids,
            content: &row.content,
            payload: &row.payload,
            key_version: row.key_version,
        }
    }
}

impl BatchTable for Messages {
    const KEY: &'static str = "msgid";
    const BOUND: Bound = Bound::MessageTime;

    fn corp(record: Self::Record<'_>) -> &CorpId {
        &record.corp_id
    }

    fn key(record: Self::Record<'_>) -> String {
        record.msgid.clone()
    }

    fn bound(record: Self::Record<'_>) -> Option<i64> {
        plausible(record.msgtime)
    }
}

/// The table `violations`.
#[derive(Clone, Copy, Debug)]
pub struct Violations;

/// A row of `violations`.
#[derive(Row, Serialize)]
pub struct ViolationRow<'a> {
    corp_id: &'a str,
    violation_id: &'a str,
    msgid: &'a str,
    seq: u64,
    msgtime: i64,
    conversation_id: &'a str,
    from_id: &'a str,
    rule_id: &'a str,
    rule_name: &'a str,
    rule_version: &'a str,
    category: &'a str,
    severity: &'static str,
    matched: &'a [String],
    spans: &'a [(u32, u32)],
    detected_at: i64,
}

impl Table for Violations {
    const NAME: &'static str = "violations";
    type Record<'r> = &'r Violation;
    type Row = ViolationRow<'static>;

    fn row(row: Self::Record<'_>) -> ViolationRow<'_> {
        ViolationRow {
            corp_id: row.corp_id.as_str(),
            violation_id: &row.violation_id,
            msgid: &row.msgid,
            seq: row.seq,
            msgtime: row.msgtime,
            conversation_id: &row.conversation_id,
            from_id: &row.from_id,
            rule_id: &row.rule_id,
            rule_name: &row.rule_name,
            rule_version: &row.rule_version,
            category: &row.category,
            severity: row.severity.as_str(),
            matched: &row.matched,
            spans: &row.spans,
            detected_at: row.detected_at,
        }
    }
}

impl BatchTable for Violations {
    const KEY: &'static str = "violation_id";
    const BOUND: Bound = Bound::MessageTime;

    fn corp(record: Self::Record<'_>) -> &CorpId {
        &record.corp_id
    }

    fn key(record: Self::Record<'_>) -> String {
        record.violation_id.clone()
    }

    fn bound(record: Self::Record<'_>) -> Option<i64> {
        plausible(record.msgtime)
    }
}
