//! The rows as they go over the wire: borrowed from the records, one field a column.
//!
//! Field names are column names. Times in milliseconds go into `DateTime64(3)` as they are,
//! times in seconds into `DateTime`, which reaches from 1970 to 2106, cut off at its ends.

use chatledger_schemas::directory::{
    Consent, Customer, Department, Follow, Member, Room, RoomMember,
};
use chatledger_schemas::{CorpId, DeadLetter, DeadLetterEvent, Message, Violation};
use clickhouse::Row;
use serde::Serialize;

#[derive(Row, Serialize)]
pub(crate) struct MessageRow<'a> {
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

impl<'a> From<&'a Message> for MessageRow<'a> {
    fn from(row: &'a Message) -> Self {
        Self {
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

#[derive(Row, Serialize)]
pub(crate) struct ViolationRow<'a> {
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

impl<'a> From<&'a Violation> for ViolationRow<'a> {
    fn from(row: &'a Violation) -> Self {
        Self {
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

/// Added to the version of a row that settles a letter: more than any number of attempts.
const SETTLED: u64 = 1 << 32;

#[derive(Row, Serialize)]
pub(crate) struct DeadLetterRow<'a> {
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

impl<'a> From<&'a DeadLetter> for DeadLetterRow<'a> {
    fn from(row: &'a DeadLetter) -> Self {
        Self {
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

impl<'a> DeadLetterRow<'a> {
    /// The row that hides a letter which an event has settled.
    pub(crate) fn settled(event: &'a DeadLetterEvent) -> Self {
        Self {
            corp_id: event.corp_id.as_str(),
            seq: event.seq,
            msgid: &event.msgid,
            reason: event.reason.as_str(),
            error: &event.error,
            key_version: event.key_version,
            sealed: "",
            first_seen: event.first_seen,
            attempts: event.attempt,
            version: SETTLED + u64::from(event.attempt),
            is_deleted: 1,
        }
    }
}

#[derive(Row, Serialize)]
pub(crate) struct DeadLetterEventRow<'a> {
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

impl<'a> From<&'a DeadLetterEvent> for DeadLetterEventRow<'a> {
    fn from(row: &'a DeadLetterEvent) -> Self {
        Self {
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

/// What every directory row has besides its own fields.
#[derive(Clone, Copy)]
pub(crate) struct Sync<'a> {
    pub(crate) corp_id: &'a CorpId,
    /// Milliseconds since the epoch; a row's version.
    pub(crate) at_ms: i64,
}

/// A directory row with its table.
pub(crate) trait DirectoryRow<'a>: Row + Serialize {
    type Source;

    const TABLE: &'static str;

    fn new(sync: Sync<'a>, row: &'a Self::Source) -> Self;
}

/// Seconds since the epoch as `DateTime` holds them.
fn date_time(seconds: i64) -> u32 {
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

#[derive(Row, Serialize)]
pub(crate) struct DepartmentRow<'a> {
    corp_id: &'a str,
    department_id: u32,
    parent_id: u32,
    name: &'a str,
    active: bool,
    synced_at: i64,
}

impl<'a> DirectoryRow<'a> for DepartmentRow<'a> {
    type Source = Department;

    const TABLE: &'static str = "departments";

    fn new(sync: Sync<'a>, row: &'a Department) -> Self {
        Self {
            corp_id: sync.corp_id.as_str(),
            department_id: row.department_id,
            parent_id: row.parent_id,
            name: &row.name,
            active: row.active,
            synced_at: sync.at_ms,
        }
    }
}

#[derive(Row, Serialize)]
pub(crate) struct MemberRow<'a> {
    corp_id: &'a str,
    member_id: &'a str,
    name: &'a str,
    title: &'a str,
    department_ids: &'a [u32],
    main_department_id: u32,
    status: u32,
    archived: bool,
    active: bool,
    synced_at: i64,
}

impl<'a> DirectoryRow<'a> for MemberRow<'a> {
    type Source = Member;

    const TABLE: &'static str = "members";

    fn new(sync: Sync<'a>, row: &'a Member) -> Self {
        Self {
            corp_id: sync.corp_id.as_str(),
            member_id: &row.member_id,
            name: &row.name,
            title: &row.title,
            department_ids: &row.department_ids,
            main_department_id: row.main_department_id,
            status: row.status,
            archived: row.archived,
            active: row.active,
            synced_at: sync.at_ms,
        }
    }
}

#[derive(Row, Serialize)]
pub(crate) struct CustomerRow<'a> {
    corp_id: &'a str,
    customer_id: &'a str,
    name: &'a str,
    customer_type: u32,
    corp_name: &'a str,
    position: &'a str,
    active: bool,
    synced_at: i64,
}

impl<'a> DirectoryRow<'a> for CustomerRow<'a> {
    type Source = Customer;

    const TABLE: &'static str = "customers";

    fn new(sync: Sync<'a>, row: &'a Customer) -> Self {
        Self {
            corp_id: sync.corp_id.as_str(),
            customer_id: &row.customer_id,
            name: &row.name,
            customer_type: row.customer_type,
            corp_name: &row.corp_name,
            position: &row.position,
            active: row.active,
            synced_at: sync.at_ms,
        }
    }
}

#[derive(Row, Serialize)]
pub(crate) struct FollowRow<'a> {
    corp_id: &'a str,
    member_id: &'a str,
    customer_id: &'a str,
    remark: &'a str,
    description: &'a str,
    added_at: u32,
    add_way: u32,
    state: &'a str,
    tag_ids: &'a [String],
    active: bool,
    synced_at: i64,
}

impl<'a> DirectoryRow<'a> for FollowRow<'a> {
    type Source = Follow;

    const TABLE: &'static str = "follows";

    fn new(sync: Sync<'a>, row: &'a Follow) -> Self {
        Self {
            corp_id: sync.corp_id.as_str(),
            member_id: &row.member_id,
            customer_id: &row.customer_id,
            remark: &row.remark,
            description: &row.description,
            added_at: date_time(row.added_at),
            add_way: row.add_way,
            state: &row.state,
            tag_ids: &row.tag_ids,
            active: row.active,
            synced_at: sync.at_ms,
        }
    }
}

#[derive(Row, Serialize)]
pub(crate) struct RoomRow<'a> {
    corp_id: &'a str,
    room_id: &'a str,
    name: &'a str,
    owner_id: &'a str,
    kind: &'static str,
    created_at: u32,
    notice: &'a str,
    active: bool,
    synced_at: i64,
}

impl<'a> DirectoryRow<'a> for RoomRow<'a> {
    type Source = Room;

    const TABLE: &'static str = "rooms";

    fn new(sync: Sync<'a>, row: &'a Room) -> Self {
        Self {
            corp_id: sync.corp_id.as_str(),
            room_id: &row.room_id,
            name: &row.name,
            owner_id: &row.owner_id,
            kind: row.kind.as_str(),
            created_at: date_time(row.created_at),
            notice: &row.notice,
            active: row.active,
            synced_at: sync.at_ms,
        }
    }
}

#[derive(Row, Serialize)]
pub(crate) struct RoomMemberRow<'a> {
    corp_id: &'a str,
    room_id: &'a str,
    party_id: &'a str,
    name: &'a str,
    joined_at: u32,
    active: bool,
    synced_at: i64,
}

impl<'a> DirectoryRow<'a> for RoomMemberRow<'a> {
    type Source = RoomMember;

    const TABLE: &'static str = "room_members";

    fn new(sync: Sync<'a>, row: &'a RoomMember) -> Self {
        Self {
            corp_id: sync.corp_id.as_str(),
            room_id: &row.room_id,
            party_id: &row.party_id,
            name: &row.name,
            joined_at: date_time(row.joined_at),
            active: row.active,
            synced_at: sync.at_ms,
        }
    }
}

#[derive(Row, Serialize)]
pub(crate) struct ConsentRow<'a> {
    corp_id: &'a str,
    member_id: &'a str,
    room_id: &'a str,
    customer_id: &'a str,
    status: &'a str,
    changed_at: u32,
    synced_at: i64,
}

impl<'a> DirectoryRow<'a> for ConsentRow<'a> {
    type Source = Consent;

    const TABLE: &'static str = "consents";

    fn new(sync: Sync<'a>, row: &'a Consent) -> Self {
        Self {
            corp_id: sync.corp_id.as_str(),
            member_id: &row.member_id,
            room_id: &row.room_id,
            customer_id: &row.customer_id,
            status: &row.status,
            changed_at: date_time(row.changed_at),
            synced_at: sync.at_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_outside_of_the_column_are_cut_off() {
        let cases = [
            (i64::MIN, 0),
            (-1, 0),
            (0, 0),
            (1_709_222_400, 1_709_222_400),
            (i64::from(u32::MAX) + 1, u32::MAX),
            (i64::MAX, u32::MAX),
        ];
        for (seconds, held) in cases {
            assert_eq!(date_time(seconds), held, "{seconds}");
        }
    }
}
