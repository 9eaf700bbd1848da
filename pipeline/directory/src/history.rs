//! Merges a new snapshot into the previous one, and lists the changes between two snapshots.
//!
//! Guarantees that no row is lost, and that sending the changes is sufficient: if `new` was made
//! from `old` by [`merge`], an [`Assembler`](crate::Assembler) with the rows of `old` has the rows
//! of `new` after it applied the [`changes`]. Rows are compared as a whole, not column by column.

use std::cmp::Ordering;
use std::collections::HashSet;

use chatledger_schemas::directory::{DirectoryRow, Member, Snapshot, SnapshotPart};

use crate::departments;
use crate::rows::{TableRow, canonical};

/// Returns the rows of `fresh` together with the rows that only `previous` has.
///
/// - A row of `fresh` replaces the row with the same key.
/// - A row that only `previous` has is kept with `active = false`. Consents, rooms that no API
///   returned (`Wanted`, `Unresolved`), rows of an [incomplete](Snapshot::incomplete) part, and the members of a room that
///   was not read are kept unchanged.
/// - A room that an API returned before and that is `Wanted` or `Unresolved` in `fresh` keeps its
///   kind, name and owner, with `active = false`.
///
/// Corp and `taken_at` are those of `fresh`, but `taken_at` is always later than that of `previous`: it is the version of the
/// rows in tables that keep the highest one, so a clock that was ahead once must not freeze them. The result is canonical. A `previous` of another corp
/// is ignored.
pub fn merge(previous: &Snapshot, fresh: Snapshot) -> Snapshot {
    let empty;
    let previous = if previous.corp_id == fresh.corp_id {
        previous
    } else {
        empty = Snapshot::empty(fresh.corp_id.clone());
        &empty
    };
    // 0: there was no snapshot.
    let earliest = match previous.taken_at {
        0 => i64::MIN,
        taken_at => taken_at.saturating_add(1),
    };
    let is_complete = |part| !fresh.incomplete.contains(&part);
    let departments = is_complete(SnapshotPart::Departments);
    let members = is_complete(SnapshotPart::Members);
    let customers = is_complete(SnapshotPart::Customers);
    let mut fresh_members = fresh.members;
    if !is_complete(SnapshotPart::Archived) {
        keep_archived(&previous.members, &mut fresh_members);
    }
    let rooms = merged(&previous.rooms, fresh.rooms, |_| true);
    // A room that was read has members. One that was not keeps those it had, unless it is gone itself.
    let read: HashSet<String> = fresh
        .room_members
        .iter()
        .map(|row| row.room_id.clone())
        .collect();
    let kept: HashSet<&str> = rooms
        .iter()
        .filter(|room| room.active && !read.contains(&room.room_id))
        .map(|room| room.room_id.as_str())
        .collect();
    let room_members = merged(&previous.room_members, fresh.room_members, |row| {
        !kept.contains(row.room_id.as_str())
    });
    Snapshot {
        departments: merged(&previous.departments, fresh.departments, |_| departments),
        members: merged(&previous.members, fresh_members, |_| members),
        customers: merged(&previous.customers, fresh.customers, |_| customers),
        follows: merged(&previous.follows, fresh.follows, |_| customers),
        rooms,
        room_members,
        consents: merged(&previous.consents, fresh.consents, |_| true),
        corp_id: fresh.corp_id,
        taken_at: fresh.taken_at.max(earliest),
        incomplete: fresh.incomplete,
    }
}

/// Copies to members whether they were archived before.
fn keep_archived(previous: &[Member], fresh: &mut [Member]) {
    let archived: HashSet<&str> = previous
        .iter()
        .filter(|member| member.archived)
        .map(|member| member.member_id.as_str())
        .collect();
    for member in fresh {
        member.archived |= archived.contains(member.member_id.as_str());
    }
}

/// Merges the rows of one table. A row that `fresh` lacks is gone if `is_gone` says so, and is kept as it was otherwise.
fn merged<R: TableRow>(previous: &[R], fresh: Vec<R>, is_gone: impl Fn(&R) -> bool) -> Vec<R> {
    let missing = |row: &R| {
        if is_gone(row) {
            row.deactivated()
        } else {
            row.clone()
        }
    };
    let previous = canonical(previous.to_vec());
    let mut all = Vec::with_capacity(previous.len().max(fresh.len()));
    let mut previous = previous.iter().peekable();
    for row in canonical(fresh) {
        while let Some(gone) = previous.next_if(|known| known.key() < row.key()) {
            all.push(missing(gone));
        }
        match previous.next_if(|known| known.key() == row.key()) {
            Some(known) => all.push(known.updated(row)),
            None => all.push(row),
        }
    }
    all.extend(previous.map(missing));
    all
}

/// Returns the rows of `new` that `old` does not have or that differ from it.
///
/// Every row comes after the rows it refers to: departments before their sub-departments and
/// members, members and customers before follow relations, rooms before their members. The result
/// does not end with [`DirectoryRow::Complete`]; the sender adds it. Rows that only `old` has are
/// not reported: after a [`merge`] there are none.
pub fn changes(old: &Snapshot, new: &Snapshot) -> Vec<DirectoryRow> {
    let departments = changed(&old.departments, &new.departments);
    let departments = departments::parents_first(departments, &new.departments);
    let mut rows: Vec<DirectoryRow> = Vec::new();
    rows.extend(departments.into_iter().map(DirectoryRow::Departments));
    let members = changed(&old.members, &new.members);
    rows.extend(members.into_iter().map(DirectoryRow::Members));
    let customers = changed(&old.customers, &new.customers);
    rows.extend(customers.into_iter().map(DirectoryRow::Customers));
    let follows = changed(&old.follows, &new.follows);
    rows.extend(follows.into_iter().map(DirectoryRow::Follows));
    let rooms = changed(&old.rooms, &new.rooms);
    rows.extend(rooms.into_iter().map(DirectoryRow::Rooms));
    let room_members = changed(&old.room_members, &new.room_members);
    rows.extend(room_members.into_iter().map(DirectoryRow::RoomMembers));
    let consents = changed(&old.consents, &new.consents);
    rows.extend(consents.into_iter().map(DirectoryRow::Consents));
    rows
}

fn changed<R: TableRow>(old: &[R], new: &[R]) -> Vec<R> {
    let by_key = |rows: &'_ [R]| -> Vec<usize> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        // A stable sort, so that of several rows with the same key the last one stays last.
        order.sort_by(|&a, &b| rows[a].key().cmp(&rows[b].key()));
        order.dedup_by(|later, kept| {
            let same = rows[*later].key() == rows[*kept].key();
            if same {
                *kept = *later;
            }
            same
        });
        order
    };
    let mut known = by_key(old).into_iter().map(|at| &old[at]).peekable();
    let rows = by_key(new).into_iter().map(|at| &new[at]);
    rows.filter(|row| {
        while known.next_if(|known| known.key() < row.key()).is_some() {}
        match known.peek() {
            Some(known) if known.key().cmp(&row.key()) == Ordering::Equal => *known != *row,
            _ => true,
        }
    })
    .cloned()
    .collect()
}
