//! Indexes a snapshot and joins messages with it.
//!
//! Guarantees that the result of a join depends only on the ids in the message and on the snapshot,
//! and that a second join with the same snapshot changes nothing. Ids that cannot be resolved are
//! counted and get no name.

use std::collections::HashMap;

use chatledger_schemas::directory::{Customer, Member, Room, RoomMember, Snapshot};
use chatledger_schemas::{Message, PartyKind, is_external_id, is_robot_id};
use hashbrown::HashSet;

use crate::departments::Departments;
use crate::ids::IdIndex;
use crate::rows;

/// An immutable index over one snapshot; share it with `Arc`.
#[derive(Debug)]
pub struct Directory {
    snapshot: Snapshot,
    departments: Departments,
    members: IdIndex,
    /// For each member, the index of its department set in `scopes`.
    scope_of: Vec<u32>,
    /// Distinct sets of departments with their ancestors; many members share one.
    scopes: Vec<Vec<u32>>,
    customers: IdIndex,
    rooms: IdIndex,
    /// Rows of `room_members` with the name of a party that has no name in `members` or
    /// `customers`.
    strangers: IdIndex,
}

/// Ids in a batch of messages that the directory could not resolve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unresolved {
    /// Messages whose sender has no name in the directory or in a room. Robots are not counted,
    /// because no directory API returns them.
    pub parties: u64,
    /// Messages in a room that no API returned.
    pub rooms: u64,
    /// Ids of rooms without any row in the snapshot, in order of appearance, without repetitions.
    pub room_ids: Vec<String>,
}

impl Directory {
    /// Indexes a snapshot. Of several rows with the same key, the last one is used.
    pub fn new(snapshot: Snapshot) -> Self {
        let departments = Departments::new(&snapshot.departments);
        let members = index(&snapshot.members, member_id);
        let customers = index(&snapshot.customers, customer_id);
        let rooms = index(&snapshot.rooms, room_id);
        let (scope_of, scopes) = scopes(&snapshot.members, &departments);
        let mut directory = Self {
            snapshot,
            departments,
            members,
            scope_of,
            scopes,
            customers,
            rooms,
            strangers: IdIndex::default(),
        };
        directory.strangers = directory.index_strangers();
        directory
    }

    /// Returns the snapshot's `taken_at` in milliseconds since the epoch, UTC; a newer directory
    /// has a larger value.
    pub fn version(&self) -> i64 {
        self.snapshot.taken_at
    }

    /// Returns the indexed snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Fills `from_kind`, `from_name`, `from_department_id`, `from_department_path` and
    /// `room_name` of messages of this corp.
    ///
    /// | `from_id` | `from_kind` |
    /// |---|---|
    /// | equals the id of a member, active or inactive; ASCII case is ignored | member |
    /// | equals the id of a customer, or has the form of an external contact ([`is_external_id`]) | customer |
    /// | has the form of a robot ([`is_robot_id`]) | robot |
    /// | anything else | unknown |
    ///
    /// The first match applies. The name is the member's, else the customer's, else the display
    /// name in a room. For a member without `main_department`, the first of its departments is
    /// used.
    pub fn join(&self, messages: &mut [Message]) -> Unresolved {
        let mut unresolved = Unresolved::default();
        let mut unknown_rooms = HashSet::new();
        for message in messages.iter_mut() {
            self.join_sender(message);
            if message.from_name.is_empty() && message.from_kind != PartyKind::Robot {
                unresolved.parties += 1;
            }

            message.room_name.clear();
            if message.room_id.is_empty() {
                continue;
            }
            let room = self.room(&message.room_id);
            if let Some(room) = room {
                message.room_name.push_str(&room.name);
            }
            if !room.is_some_and(rows::is_resolved) {
                unresolved.rooms += 1;
            }
            if room.is_none() && !unknown_rooms.contains(message.room_id.as_str()) {
                unknown_rooms.insert(message.room_id.clone());
                unresolved.room_ids.push(message.room_id.clone());
            }
        }
        unresolved
    }

    /// Returns the departments of a member with all their ancestors, sorted; empty if the member is
    /// unknown. Rules compare their scope with it.
    pub fn departments_above(&self, member_id: &str) -> &[u32] {
        let scope = self.member_row(member_id).and_then(|row| {
            let scope = *self.scope_of.get(row as usize)?;
            self.scopes.get(scope as usize)
        });
        scope.map_or(&[], Vec::as_slice)
    }

    fn join_sender(&self, message: &mut Message) {
        let id = message.from_id.as_str();
        message.from_name.clear();
        message.from_department_id = 0;
        message.from_department_path.clear();

        let member = self
            .member_row(id)
            .map(|row| &self.snapshot.members[row as usize]);
        let customer = match member {
            Some(_) => None,
            None => self.customer(id),
        };
        message.from_kind = if member.is_some() {
            PartyKind::Member
        } else if customer.is_some() || is_external_id(id) {
            PartyKind::Customer
        } else if is_robot_id(id) {
            PartyKind::Robot
        } else {
            PartyKind::Unknown
        };

        if let Some(member) = member {
            let department_id = match member.main_department_id {
                0 => member.department_ids.first().copied().unwrap_or(0),
                main => main,
            };
            message.from_department_id = department_id;
            let path = self.departments.path(department_id);
            message.from_department_path.push_str(path);
        }
        let names = [
            member.map(|member| member.name.as_str()),
            customer.map(|customer| customer.name.as_str()),
        ];
        let name = names.into_iter().flatten().find(|name| !name.is_empty());
        if let Some(name) = name.or_else(|| self.name_in_rooms(id)) {
            message.from_name.push_str(name);
        }
    }

    fn member_row(&self, id: &str) -> Option<u32> {
        let rows = &self.snapshot.members;
        self.members
            .any_case(id, |row| member_id(&rows[row as usize]))
    }

    fn customer(&self, id: &str) -> Option<&Customer> {
        let rows = &self.snapshot.customers;
        let row = self
            .customers
            .exact(id, |row| customer_id(&rows[row as usize]))?;
        Some(&rows[row as usize])
    }

    fn room(&self, id: &str) -> Option<&Room> {
        let rows = &self.snapshot.rooms;
        let row = self.rooms.exact(id, |row| room_id(&rows[row as usize]))?;
        Some(&rows[row as usize])
    }

    fn name_in_rooms(&self, id: &str) -> Option<&str> {
        let rows = &self.snapshot.room_members;
        let row = self
            .strangers
            .exact(id, |row| party_id(&rows[row as usize]))?;
        Some(&rows[row as usize].name)
    }

    /// A party may have a different name in each room. The index uses the name from the room that
    /// it joined last, and prefers rooms that it is still in.
    fn index_strangers(&self) -> IdIndex {
        let rows = &self.snapshot.room_members;
        let id_of = |row: u32| party_id(&rows[row as usize]);
        let mut strangers = IdIndex::default();
        for (row, party) in numbered(rows) {
            let id = party.party_id.as_str();
            let member = self
                .member_row(id)
                .map(|row| &self.snapshot.members[row as usize]);
            let named = member.is_some_and(|member| !member.name.is_empty())
                || self
                    .customer(id)
                    .is_some_and(|customer| !customer.name.is_empty());
            if named || party.name.is_empty() {
                continue;
            }
            if let Some(earlier) = strangers.insert(row, id_of) {
                let rank = |party: &RoomMember| (party.active, party.joined_at);
                if rank(party) > rank(&rows[earlier as usize]) {
                    strangers.replace(row, id_of);
                }
            }
        }
        strangers
    }
}

fn member_id(row: &Member) -> &str {
    &row.member_id
}

fn customer_id(row: &Customer) -> &str {
    &row.customer_id
}

fn room_id(row: &Room) -> &str {
    &row.room_id
}

fn party_id(row: &RoomMember) -> &str {
    &row.party_id
}

/// Returns the rows with their row numbers for [`IdIndex`].
fn numbered<R>(rows: &[R]) -> impl Iterator<Item = (u32, &R)> {
    (0..=u32::MAX).zip(rows)
}

fn index<R>(rows: &[R], id: impl Fn(&R) -> &str) -> IdIndex {
    let id_of = |row: u32| id(&rows[row as usize]);
    let mut ids = IdIndex::with_capacity(rows.len());
    for (row, _) in numbered(rows) {
        if ids.insert(row, id_of).is_some() {
            ids.replace(row, id_of);
        }
    }
    ids
}

/// Returns the distinct sets of departments, and for each member the index of its set.
fn scopes(members: &[Member], departments: &Departments) -> (Vec<u32>, Vec<Vec<u32>>) {
    let mut scopes = Vec::new();
    let mut numbers: HashMap<(&[u32], u32), u32> = HashMap::new();
    let scope_of = members.iter().map(|member| {
        let own = (member.department_ids.as_slice(), member.main_department_id);
        *numbers.entry(own).or_insert_with(|| {
            scopes.push(departments.with_ancestors(&[own.0, &[own.1]].concat()));
            scopes.len() as u32 - 1
        })
    });
    (scope_of.collect(), scopes)
}
