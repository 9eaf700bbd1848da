//! Who is who: the directory tables.

use chatledger_schemas::CorpId;
use chatledger_schemas::directory::{
    Consent, Customer, Department, DirectoryRow, Follow, Member, Room, RoomMember,
};
use clickhouse::Row;
use serde::Serialize;

use super::Table;

/// What every directory row has besides its own fields.
#[derive(Clone, Copy, Debug)]
pub struct DirectorySync<'a> {
    pub(crate) corp_id: &'a CorpId,
    /// Milliseconds since the epoch, UTC; a row's version.
    pub(crate) at_ms: i64,
}

/// A table that one kind of directory row goes into.
pub(crate) trait DirectoryTable: Table {
    /// The record of a row, if the row goes into this table.
    fn record<'r>(sync: DirectorySync<'r>, row: &'r DirectoryRow) -> Option<Self::Record<'r>>;
}

/// Converts seconds since the epoch to what `DateTime` can hold.
fn date_time(seconds: i64) -> u32 {
    u32::try_from(seconds.max(0)).unwrap_or(u32::MAX)
}

/// The table `departments`.
#[derive(Clone, Copy, Debug)]
pub struct Departments;

/// A row of `departments`.
#[derive(Row, Serialize)]
pub struct DepartmentRow<'a> {
    corp_id: &'a str,
    department_id: u32,
    parent_id: u32,
    name: &'a str,
    active: bool,
    synced_at: i64,
}

impl Table for Departments {
    const NAME: &'static str = "departments";
    type Record<'r> = (DirectorySync<'r>, &'r Department);
    type Row = DepartmentRow<'static>;

    fn row((sync, row): Self::Record<'_>) -> DepartmentRow<'_> {
        DepartmentRow {
            corp_id: sync.corp_id.as_str(),
            department_id: row.department_id,
            parent_id: row.parent_id,
            name: &row.name,
            active: row.active,
            synced_at: sync.at_ms,
        }
    }
}

impl DirectoryTable for Departments {
    fn record<'r>(sync: DirectorySync<'r>, row: &'r DirectoryRow) -> Option<Self::Record<'r>> {
        match row {
            DirectoryRow::Departments(row) => Some((sync, row)),
            _ => None,
        }
    }
}

/// The table `members`.
#[derive(Clone, Copy, Debug)]
pub struct Members;

/// A row of `members`.
#[derive(Row, Serialize)]
pub struct MemberRow<'a> {
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

impl Table for Members {
    const NAME: &'static str = "members";
    type Record<'r> = (DirectorySync<'r>, &'r Member);
    type Row = MemberRow<'static>;

    fn row((sync, row): Self::Record<'_>) -> MemberRow<'_> {
        MemberRow {
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

impl DirectoryTable for Members {
    fn record<'r>(sync: DirectorySync<'r>, row: &'r DirectoryRow) -> Option<Self::Record<'r>> {
        match row {
            DirectoryRow::Members(row) => Some((sync, row)),
            _ => None,
        }
    }
}

/// The table `customers`.
#[derive(Clone, Copy, Debug)]
pub struct Customers;

/// A row of `customers`.
#[derive(Row, Serialize)]
pub struct CustomerRow<'a> {
    corp_id: &'a str,
    customer_id: &'a str,
    name: &'a str,
    customer_type: u32,
    corp_name: &'a str,
    position: &'a str,
    active: bool,
    synced_at: i64,
}

impl Table for Customers {
    const NAME: &'static str = "customers";
    type Record<'r> = (DirectorySync<'r>, &'r Customer);
    type Row = CustomerRow<'static>;

    fn row((sync, row): Self::Record<'_>) -> CustomerRow<'_> {
        CustomerRow {
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

impl DirectoryTable for Customers {
    fn record<'r>(sync: DirectorySync<'r>, row: &'r DirectoryRow) -> Option<Self::Record<'r>> {
        match row {
            DirectoryRow::Customers(row) => Some((sync, row)),
            _ => None,
        }
    }
}

/// The table `follows`.
#[derive(Clone, Copy, Debug)]
pub struct Follows;

/// A row of `follows`.
#[derive(Row, Serialize)]
pub struct FollowRow<'a> {
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

impl Table for Follows {
    const NAME: &'static str = "follows";
    type Record<'r> = (DirectorySync<'r>, &'r Follow);
    type Row = FollowRow<'static>;

    fn row((sync, row): Self::Record<'_>) -> FollowRow<'_> {
        FollowRow {
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

impl DirectoryTable for Follows {
    fn record<'r>(sync: DirectorySync<'r>, row: &'r DirectoryRow) -> Option<Self::Record<'r>> {
        match row {
            DirectoryRow::Follows(row) => Some((sync, row)),
            _ => None,
        }
    }
}

/// The table `rooms`.
#[derive(Clone, Copy, Debug)]
pub struct Rooms;

/// A row of `rooms`.
#[derive(Row, Serialize)]
pub struct RoomRow<'a> {
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

impl Table for Rooms {
    const NAME: &'static str = "rooms";
    type Record<'r> = (DirectorySync<'r>, &'r Room);
    type Row = RoomRow<'static>;

    fn row((sync, row): Self::Record<'_>) -> RoomRow<'_> {
        RoomRow {
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

impl DirectoryTable for Rooms {
    fn record<'r>(sync: DirectorySync<'r>, row: &'r DirectoryRow) -> Option<Self::Record<'r>> {
        match row {
            DirectoryRow::Rooms(row) => Some((sync, row)),
            _ => None,
        }
    }
}

/// The table `room_members`.
#[derive(Clone, Copy, Debug)]
pub struct RoomMembers;

/// A row of `room_members`.
#[derive(Row, Serialize)]
pub struct RoomMemberRow<'a> {
    corp_id: &'a str,
    room_id: &'a str,
    party_id: &'a str,
    name: &'a str,
    joined_at: u32,
    active: bool,
    synced_at: i64,
}

impl Table for RoomMembers {
    const NAME: &'static str = "room_members";
    type Record<'r> = (DirectorySync<'r>, &'r RoomMember);
    type Row = RoomMemberRow<'static>;

    fn row((sync, row): Self::Record<'_>) -> RoomMemberRow<'_> {
        RoomMemberRow {
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

impl DirectoryTable for RoomMembers {
    fn record<'r>(sync: DirectorySync<'r>, row: &'r DirectoryRow) -> Option<Self::Record<'r>> {
        match row {
            DirectoryRow::RoomMembers(row) => Some((sync, row)),
            _ => None,
        }
    }
}

/// The table `consents`.
#[derive(Clone, Copy, Debug)]
pub struct Consents;

/// A row of `consents`.
#[derive(Row, Serialize)]
pub struct ConsentRow<'a> {
    corp_id: &'a str,
    member_id: &'a str,
    room_id: &'a str,
    customer_id: &'a str,
    status: &'a str,
    changed_at: u32,
    synced_at: i64,
}

impl Table for Consents {
    const NAME: &'static str = "consents";
    type Record<'r> = (DirectorySync<'r>, &'r Consent);
    type Row = ConsentRow<'static>;

    fn row((sync, row): Self::Record<'_>) -> ConsentRow<'_> {
        ConsentRow {
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

impl DirectoryTable for Consents {
    fn record<'r>(sync: DirectorySync<'r>, row: &'r DirectoryRow) -> Option<Self::Record<'r>> {
        match row {
            DirectoryRow::Consents(row) => Some((sync, row)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_outside_the_columns_range_are_clamped() {
        let cases = [
            (i64::MIN, 0),
            (-1, 0),
            (0, 0),
            (1_709_222_400, 1_709_222_400),
            (i64::from(u32::MAX) + 1, u32::MAX),
            (i64::MAX, u32::MAX),
        ];
        for (seconds, clamped) in cases {
            assert_eq!(date_time(seconds), clamped, "{seconds}");
        }
    }
}
