//! A snapshot from its rows, as they arrive on the topic `.directory`.
//!
//! Guarantees that the last row of a key wins, whatever the order of keys, so that a compacted
//! topic and the whole history give the same snapshot. Whether a snapshot is whole is told, not
//! waited for.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use chatledger_schemas::CorpId;
use chatledger_schemas::directory::{
    Consent, Customer, Department, DirectoryRow, Follow, Member, Room, RoomMember, Snapshot,
};

use crate::rows::Row;

/// Rebuilds the snapshot of one corp from rows.
#[derive(Debug)]
pub struct Assembler {
    corp_id: CorpId,
    complete: Option<i64>,
    departments: Table<Department>,
    members: Table<Member>,
    customers: Table<Customer>,
    follows: Table<Follow>,
    rooms: Table<Room>,
    room_members: Table<RoomMember>,
    consents: Table<Consent>,
}

impl Assembler {
    /// Knows nobody yet.
    pub fn new(corp_id: CorpId) -> Self {
        Self::from_snapshot(Snapshot::empty(corp_id))
    }

    /// Knows what a snapshot holds; complete, unless it was never taken (`taken_at` is 0).
    pub fn from_snapshot(snapshot: Snapshot) -> Self {
        Self {
            corp_id: snapshot.corp_id,
            complete: (snapshot.taken_at != 0).then_some(snapshot.taken_at),
            departments: Table::of(snapshot.departments),
            members: Table::of(snapshot.members),
            customers: Table::of(snapshot.customers),
            follows: Table::of(snapshot.follows),
            rooms: Table::of(snapshot.rooms),
            room_members: Table::of(snapshot.room_members),
            consents: Table::of(snapshot.consents),
        }
    }

    /// Takes the next row; it replaces that of the same key.
    pub fn apply(&mut self, row: DirectoryRow) {
        match row {
            DirectoryRow::Departments(row) => self.departments.put(row),
            DirectoryRow::Members(row) => self.members.put(row),
            DirectoryRow::Customers(row) => self.customers.put(row),
            DirectoryRow::Follows(row) => self.follows.put(row),
            DirectoryRow::Rooms(row) => self.rooms.put(row),
            DirectoryRow::RoomMembers(row) => self.room_members.put(row),
            DirectoryRow::Consents(row) => self.consents.put(row),
            DirectoryRow::Complete { taken_at } => self.complete = Some(taken_at),
        }
    }

    /// `taken_at` of the last snapshot all of whose rows have been applied; `None` until there is
    /// one.
    pub fn complete(&self) -> Option<i64> {
        self.complete
    }

    /// What is known now, canonical; `taken_at` is [`complete`](Self::complete), or 0.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            corp_id: self.corp_id.clone(),
            taken_at: self.complete.unwrap_or(0),
            departments: self.departments.rows(),
            members: self.members.rows(),
            customers: self.customers.rows(),
            follows: self.follows.rows(),
            rooms: self.rooms.rows(),
            room_members: self.room_members.rows(),
            consents: self.consents.rows(),
        }
    }
}

/// Rows by key, without keeping the keys twice.
#[derive(Debug)]
struct Table<R: Row>(BTreeSet<ByKey<R>>);

impl<R: Row> Table<R> {
    fn of(rows: Vec<R>) -> Self {
        let mut table = Self(BTreeSet::new());
        for row in rows {
            table.put(row);
        }
        table
    }

    fn put(&mut self, row: R) {
        self.0.replace(ByKey(row));
    }

    fn rows(&self) -> Vec<R> {
        self.0.iter().map(|row| row.0.clone()).collect()
    }
}

/// A row that compares by its key alone.
#[derive(Debug)]
struct ByKey<R>(R);

impl<R: Row> PartialEq for ByKey<R> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<R: Row> Eq for ByKey<R> {}

impl<R: Row> PartialOrd for ByKey<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R: Row> Ord for ByKey<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key().cmp(&other.0.key())
    }
}
