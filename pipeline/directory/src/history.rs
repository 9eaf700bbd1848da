//! Two snapshots side by side: what the newer one makes of the older one, and what it changes.
//!
//! Guarantees that no row is ever lost, and that sending the changes is enough: for every `old` and
//! every `new` made from it by [`merge`], an [`Assembler`](crate::Assembler) that holds `old` holds
//! `new` after them. Rows are compared whole; which column changed is nobody's question here.

use std::cmp::Ordering;

use chatledger_schemas::directory::{DirectoryRow, Snapshot};

use crate::departments;
use crate::rows::{Row, canonical};

/// What `fresh` found, with what `previous` knew besides.
///
/// - A row of `fresh` replaces that of the same key.
/// - A row that only `previous` has is kept with `active = false`; consents and rooms no API has
///   answered for (`Wanted`, `Unresolved`) are kept as they are.
/// - A room that an API answered for before and that is `Wanted` or `Unresolved` in `fresh` keeps
///   its kind, name and owner, with `active = false`.
///
/// Corp and `taken_at` are those of `fresh`. The result is canonical. A `previous` of another corp
/// is ignored: its rows are nothing to this one.
pub fn merge(previous: &Snapshot, fresh: Snapshot) -> Snapshot {
    let empty;
    let previous = if previous.corp_id == fresh.corp_id {
        previous
    } else {
        empty = Snapshot::empty(fresh.corp_id.clone());
        &empty
    };
    Snapshot {
        departments: merged(&previous.departments, fresh.departments),
        members: merged(&previous.members, fresh.members),
        customers: merged(&previous.customers, fresh.customers),
        follows: merged(&previous.follows, fresh.follows),
        rooms: merged(&previous.rooms, fresh.rooms),
        room_members: merged(&previous.room_members, fresh.room_members),
        consents: merged(&previous.consents, fresh.consents),
        corp_id: fresh.corp_id,
        taken_at: fresh.taken_at,
    }
}

fn merged<R: Row>(previous: &[R], fresh: Vec<R>) -> Vec<R> {
    let previous = canonical(previous.to_vec());
    let mut all = Vec::with_capacity(previous.len().max(fresh.len()));
    let mut previous = previous.iter().peekable();
    for row in canonical(fresh) {
        while let Some(gone) = previous.next_if(|known| known.key() < row.key()) {
            all.push(gone.gone());
        }
        match previous.next_if(|known| known.key() == row.key()) {
            Some(known) => all.push(known.renewed(row)),
            None => all.push(row),
        }
    }
    all.extend(previous.map(Row::gone));
    all
}

/// The rows of `new` that `old` has not, or has otherwise.
///
/// In an order in which every row comes after those it refers to: departments before their
/// sub-departments and members, members and customers before follow relations, rooms before who is
/// in them. Does not end with [`DirectoryRow::Complete`]; that is for whoever sends them. Rows that
/// only `old` has are not told: after a [`merge`] there are none.
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

fn changed<R: Row>(old: &[R], new: &[R]) -> Vec<R> {
    let by_key = |rows: &'_ [R]| -> Vec<usize> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        // Stable, so of several rows with one key the last is the last here too.
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
