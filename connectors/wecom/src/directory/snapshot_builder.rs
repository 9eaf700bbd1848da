//! Builds a snapshot from the APIs' responses. Pure.
//!
//! Guarantees: rows are unique and sorted by key; a row without an id is omitted. All rows are
//! active: rows deleted since the last sync are detected elsewhere, by comparing snapshots.

use std::collections::{BTreeMap, BTreeSet};

use chatledger_schemas::CorpId;
use chatledger_schemas::directory::{
    Consent, Customer, Department, Follow, Member, Room, RoomKind, RoomMember, Snapshot,
    SnapshotPart,
};

use super::wire;
use crate::lenient::Items;

#[derive(Default)]
pub(super) struct SnapshotBuilder {
    departments: BTreeMap<u32, Department>,
    members: BTreeMap<String, Member>,
    customers: BTreeMap<String, Customer>,
    follows: BTreeMap<(String, String), Follow>,
    rooms: BTreeMap<String, Room>,
    room_members: BTreeMap<(String, String), RoomMember>,
    consents: BTreeMap<(String, String, String), Consent>,
    incomplete: BTreeSet<SnapshotPart>,
    /// Items that could not be read.
    odd: usize,
}

impl SnapshotBuilder {
    /// Notes that rows of a part may be missing.
    pub(super) fn incomplete(&mut self, part: SnapshotPart) {
        self.incomplete.insert(part);
    }

    /// Returns the readable items of a list. If there are others, rows of the part are missing.
    fn readable<T>(
        &mut self,
        rows: Items<T>,
        part: Option<SnapshotPart>,
        has_id: impl Fn(&T) -> bool,
    ) -> Vec<T> {
        let Items { mut items, odd } = rows;
        let read = items.len();
        items.retain(has_id);
        let odd = odd + read - items.len();
        if odd > 0 {
            self.odd += odd;
            self.incomplete.extend(part);
        }
        items
    }

    /// Number of items that could not be read.
    pub(super) fn odd(&self) -> usize {
        self.odd
    }

    /// Number of departments and of members.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.departments.len(), self.members.len())
    }

    pub(super) fn departments(&mut self, rows: Items<wire::Department>) {
        let part = Some(SnapshotPart::Departments);
        let rows = self.readable(rows, part, |row| row.id != 0);
        if self.incomplete.contains(&SnapshotPart::Departments) {
            // Nobody asks for the members of a department that is not known.
            self.incomplete.insert(SnapshotPart::Members);
        }
        for row in rows {
            self.departments.insert(
                row.id,
                Department {
                    department_id: row.id,
                    parent_id: row.parentid,
                    name: row.name,
                    active: true,
                },
            );
        }
    }

    /// Returns the roots of the visible department tree: departments whose parent is not in the list.
    /// If the parents form a cycle, returns every department.
    pub(super) fn roots(&self) -> Vec<u32> {
        let tops: Vec<u32> = self
            .departments
            .values()
            .filter(|row| !self.departments.contains_key(&row.parent_id))
            .map(|row| row.department_id)
            .collect();
        let reachable: usize = tops.iter().map(|top| self.subtree(*top).len()).sum();
        if reachable == self.departments.len() {
            tops
        } else {
            self.departments.keys().copied().collect()
        }
    }

    /// Returns a department and all its descendants, ascending.
    pub(super) fn subtree(&self, root: u32) -> BTreeSet<u32> {
        let mut below: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for row in self.departments.values() {
            below
                .entry(row.parent_id)
                .or_default()
                .push(row.department_id);
        }
        let mut visited = BTreeSet::new();
        let mut pending = vec![root];
        while let Some(id) = pending.pop() {
            if visited.insert(id) {
                pending.extend(below.get(&id).into_iter().flatten());
            }
        }
        visited
    }

    pub(super) fn members(&mut self, rows: Items<wire::Member>) {
        let part = Some(SnapshotPart::Members);
        for row in self.readable(rows, part, |row| !row.userid.is_empty()) {
            self.members.insert(
                row.userid.clone(),
                Member {
                    member_id: row.userid,
                    name: row.name,
                    title: row.position,
                    department_ids: row.department,
                    main_department_id: row.main_department,
                    status: row.status,
                    archived: false,
                    active: true,
                },
            );
        }
    }

    /// Marks the members whose conversations are archived.
    pub(super) fn archived(&mut self, ids: Items<String>) {
        for id in self.readable(ids, Some(SnapshotPart::Archived), |_| true) {
            if let Some(member) = self.members.get_mut(&id) {
                member.archived = true;
            }
        }
    }

    pub(super) fn customers(&mut self, rows: Items<wire::CustomerWithFollow>) {
        let part = Some(SnapshotPart::Customers);
        let has_id =
            |row: &wire::CustomerWithFollow| !row.external_contact.external_userid.is_empty();
        for wire::CustomerWithFollow {
            external_contact: contact,
            follow_info: follow,
        } in self.readable(rows, part, has_id)
        {
            let follow = follow.filter(|follow| !follow.userid.is_empty());
            if follow.is_none() {
                self.odd += 1;
                self.incomplete.insert(SnapshotPart::Customers);
            }
            if let Some(follow) = follow {
                self.follows.insert(
                    (follow.userid.clone(), contact.external_userid.clone()),
                    Follow {
                        member_id: follow.userid,
                        customer_id: contact.external_userid.clone(),
                        remark: follow.remark,
                        description: follow.description,
                        added_at: follow.createtime,
                        add_way: follow.add_way,
                        state: follow.state,
                        tag_ids: follow.tag_id,
                        active: true,
                    },
                );
            }
            self.customers.insert(
                contact.external_userid.clone(),
                Customer {
                    customer_id: contact.external_userid,
                    name: contact.name,
                    customer_type: contact.kind,
                    corp_name: contact.corp_name,
                    position: contact.position,
                    active: true,
                },
            );
        }
    }

    /// Returns the (member, customer) pair of every follow relation.
    pub(super) fn follow_pairs(&self) -> Vec<(String, String)> {
        self.follows.keys().cloned().collect()
    }

    pub(super) fn customer_room(&mut self, room_id: &str, room: wire::CustomerRoom) {
        for row in self.readable(room.member_list, None, |row| !row.userid.is_empty()) {
            let name = if row.name.is_empty() {
                row.group_nickname
            } else {
                row.name
            };
            self.room_member(room_id, row.userid, name, row.join_time);
        }
        self.room(Room {
            room_id: room_id.to_owned(),
            name: room.name,
            owner_id: room.owner,
            kind: RoomKind::Customer,
            created_at: room.create_time,
            notice: room.notice,
            active: true,
        });
    }

    pub(super) fn internal_room(&mut self, room_id: &str, room: wire::InternalRoom) {
        for row in self.readable(room.members, None, |row| !row.memberid.is_empty()) {
            self.room_member(room_id, row.memberid, String::new(), row.jointime);
        }
        self.room(Room {
            room_id: room_id.to_owned(),
            name: room.roomname,
            owner_id: room.creator,
            kind: RoomKind::Internal,
            created_at: room.room_create_time,
            notice: room.notice,
            active: true,
        });
    }

    fn room_member(&mut self, room_id: &str, party_id: String, name: String, joined_at: i64) {
        if party_id.is_empty() {
            return;
        }
        self.room_members.insert(
            (room_id.to_owned(), party_id.clone()),
            RoomMember {
                room_id: room_id.to_owned(),
                party_id,
                name,
                joined_at,
                active: true,
            },
        );
    }

    /// Adds a room unchanged.
    pub(super) fn room(&mut self, room: Room) {
        self.rooms.insert(room.room_id.clone(), room);
    }

    /// Returns the ids of the customer groups added so far.
    pub(super) fn customer_room_ids(&self) -> Vec<String> {
        self.rooms
            .values()
            .filter(|room| room.kind == RoomKind::Customer)
            .map(|room| room.room_id.clone())
            .collect()
    }

    /// Adds the consents of single chats, or of `room_id`.
    pub(super) fn consents(&mut self, room_id: Option<&str>, rows: Items<wire::Consent>) {
        for row in self.readable(rows, None, |_| true) {
            let (member_id, room_id) = match room_id {
                Some(room_id) => (String::new(), room_id.to_owned()),
                None if row.userid.is_empty() => continue,
                None => (row.userid, String::new()),
            };
            if row.exteranalopenid.is_empty() || row.agree_status.is_empty() {
                continue;
            }
            self.consents.insert(
                (
                    member_id.clone(),
                    room_id.clone(),
                    row.exteranalopenid.clone(),
                ),
                Consent {
                    member_id,
                    room_id,
                    customer_id: row.exteranalopenid,
                    status: row.agree_status,
                    changed_at: row.status_change_time,
                },
            );
        }
    }

    /// Returns the snapshot taken at `now_ms`. The API for internal rooms returns no names, so their
    /// members get the names of the directory.
    pub(super) fn finish(mut self, corp_id: CorpId, now_ms: i64) -> Snapshot {
        for row in self.room_members.values_mut() {
            if row.name.is_empty()
                && let Some(member) = self.members.get(&row.party_id)
            {
                row.name.clone_from(&member.name);
            }
        }
        Snapshot {
            corp_id,
            taken_at: now_ms,
            departments: self.departments.into_values().collect(),
            members: self.members.into_values().collect(),
            customers: self.customers.into_values().collect(),
            follows: self.follows.into_values().collect(),
            rooms: self.rooms.into_values().collect(),
            room_members: self.room_members.into_values().collect(),
            consents: self.consents.into_values().collect(),
            incomplete: self.incomplete,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn tree(rows: &[(u32, u32)]) -> SnapshotBuilder {
        let mut builder = SnapshotBuilder::default();
        let items = rows.iter().map(|(id, parentid)| wire::Department {
            id: *id,
            name: String::new(),
            parentid: *parentid,
        });
        builder.departments(Items {
            items: items.collect(),
            odd: 0,
        });
        builder
    }

    #[test]
    fn roots_are_the_topmost_visible_departments_even_in_a_cycle() {
        let builder = tree(&[(1, 0), (2, 1), (3, 2)]);
        assert_eq!(builder.roots(), [1]);
        assert_eq!(builder.subtree(2), BTreeSet::from([2, 3]));
        assert_eq!(tree(&[(7, 3), (8, 7), (9, 4)]).roots(), [7, 9]);
        assert_eq!(tree(&[(1, 2), (2, 1)]).roots(), [1, 2]);
        assert_eq!(tree(&[(1, 0), (2, 3), (3, 2)]).roots(), [1, 2, 3]);
        assert!(tree(&[]).roots().is_empty());
    }

    #[test]
    fn snapshot_does_not_depend_on_the_order_of_the_responses() {
        let followed = |member: &str, customer: &str| -> wire::CustomerWithFollow {
            serde_json::from_value(json!({
                "external_contact": {"external_userid": customer, "name": "王", "type": "1"},
                "follow_info": {"userid": member, "createtime": 5, "tag_id": ["et1"]},
            }))
            .unwrap()
        };
        let build = |reverse: bool| {
            let mut pairs = [("b", "wm2"), ("a", "wm2"), ("a", "wm1"), ("a", "")];
            if reverse {
                pairs.reverse();
            }
            let mut builder = SnapshotBuilder::default();
            builder.customers(Items {
                items: pairs.iter().map(|(m, c)| followed(m, c)).collect(),
                odd: 0,
            });
            builder.finish("ww1".into(), 9)
        };
        let snapshot = build(false);
        assert_eq!(snapshot, build(true));
        let ids: Vec<_> = snapshot
            .follows
            .iter()
            .map(|f| (f.member_id.as_str(), f.customer_id.as_str()))
            .collect();
        assert_eq!(ids, [("a", "wm1"), ("a", "wm2"), ("b", "wm2")]);
        assert_eq!(snapshot.customers.len(), 2);
        assert_eq!(snapshot.customers[0].customer_type, 1);
        assert_eq!(snapshot.taken_at, 9);
    }

    #[test]
    fn members_of_an_internal_room_get_the_names_of_the_directory() {
        let mut builder = SnapshotBuilder::default();
        builder.members(serde_json::from_value(json!([{"userid": "a", "name": "张三"}])).unwrap());
        builder.internal_room(
            "wr1",
            serde_json::from_value(json!({"roomname": "x", "members": [
                {"memberid": "a", "jointime": 3}, {"memberid": "gone"}, {"memberid": ""}]}))
            .unwrap(),
        );
        let snapshot = builder.finish("ww1".into(), 0);
        let names: Vec<_> = snapshot
            .room_members
            .iter()
            .map(|row| (row.party_id.as_str(), row.name.as_str(), row.joined_at))
            .collect();
        assert_eq!(names, [("a", "张三", 3), ("gone", "", 0)]);
    }
}
