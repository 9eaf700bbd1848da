//! Rebuilds a snapshot from the rows on the topic `.directory`.
//!
//! Guarantees that the last row of a key wins, in any order of keys, so a compacted topic and its
//! full history give the same snapshot. The assembler reports whether a snapshot is complete; it
//! does not wait for it.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use chatledger_schemas::CorpId;
use chatledger_schemas::directory::{
    Consent, Customer, Department, DirectoryRow, Follow, Member, Room, RoomMember, Snapshot,
};

use crate::rows::TableRow;

/// Rebuilds the snapshot of one corp from rows.
#[derive(Debug)]
pub struct Assembler {
    corp_id: CorpId,
    complete: Option<i64>,
    departments: RowsByKey<Department>,
    members: RowsByKey<Member>,
    customers: RowsByKey<Customer>,
    follows: RowsByKey<Follow>,
    rooms: RowsByKey<Room>,
    room_members: RowsByKey<RoomMember>,
    consents: RowsByKey<Consent>,
}

impl Assembler {
    /// Creates an assembler without rows.
    pub fn new(corp_id: CorpId) -> Self {
        Self::from_snapshot(Snapshot::empty(corp_id))
    }

    /// Creates an assembler with the rows of a snapshot. It is complete unless `taken_at` is 0.
    pub fn from_snapshot(snapshot: Snapshot) -> Self {
        Self {
            corp_id: snapshot.corp_id,
            complete: (snapshot.taken_at != 0).then_some(snapshot.taken_at),
            departments: RowsByKey::from_rows(snapshot.departments),
            members: RowsByKey::from_rows(snapshot.members),
            customers: RowsByKey::from_rows(snapshot.customers),
            follows: RowsByKey::from_rows(snapshot.follows),
            rooms: RowsByKey::from_rows(snapshot.rooms),
            room_members: RowsByKey::from_rows(snapshot.room_members),
            consents: RowsByKey::from_rows(snapshot.consents),
        }
    }

    /// Applies the next row. It replaces the row with the same key.
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

    /// Returns `taken_at` of the last snapshot whose rows have all been applied; `None` before the
    /// first.
    pub fn complete(&self) -> Option<i64> {
        self.complete
    }

    /// Returns the current rows as a canonical snapshot; `taken_at` is
    /// [`complete`](Self::complete), or 0 if that is `None`.
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
            incomplete: BTreeSet::new(),
        }
    }
}

/// Rows ordered by key, without storing the keys twice.
#[derive(Debug)]
struct RowsByKey<R: TableRow>(BTreeSet<ByKey<R>>);

impl<R: TableRow> RowsByKey<R> {
    fn from_rows(rows: Vec<R>) -> Self {
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

/// A row that is compared by its key alone.
#[derive(Debug)]
struct ByKey<R>(R);

impl<R: TableRow> PartialEq for ByKey<R> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<R: TableRow> Eq for ByKey<R> {}

impl<R: TableRow> PartialOrd for ByKey<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R: TableRow> Ord for ByKey<R> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key().cmp(&other.0.key())
    }
}
