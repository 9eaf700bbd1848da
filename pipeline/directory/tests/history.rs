//! Merging snapshots loses no row, and the changes are sufficient to rebuild a snapshot.
#![allow(clippy::unwrap_used)]

mod tenant;

use std::collections::BTreeSet;

use chatledger_directory::{Assembler, changes, merge};
use chatledger_schemas::CorpId;
use chatledger_schemas::directory::{DirectoryRow, RoomKind, Snapshot, SnapshotPart};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tenant::{consent, customer, department, empty, follow, member, room, room_member};

#[test]
fn rows_missing_from_a_sync_become_inactive() {
    let mut before = empty();
    before.taken_at = 1;
    before.departments = vec![department(2, 1, "华东"), department(1, 0, "总公司")];
    before.members = vec![member("b", "乙", &[2]), member("a", "甲", &[1])];
    before.customers = vec![customer("wm1", "王")];
    before.follows = vec![follow("a", "wm1", "老王"), follow("b", "wm1", "")];
    before.room_members = vec![room_member("wr1", "a", "", 1)];
    before.consents = vec![consent("a", "", "wm1", "Agree")];

    let mut fresh = empty();
    fresh.taken_at = 2;
    fresh.departments = vec![department(1, 0, "集团")];
    fresh.members = vec![member("c", "丙", &[1]), member("a", "甲", &[1])];
    fresh.customers = vec![customer("wm1", "王")];
    fresh.follows = vec![follow("a", "wm1", "老王")];

    let merged = merge(&before, fresh);
    assert_eq!(merged.taken_at, 2);
    let departments: Vec<_> = merged
        .departments
        .iter()
        .map(|row| (row.name.as_str(), row.active))
        .collect();
    assert_eq!(departments, [("集团", true), ("华东", false)]);
    let members: Vec<_> = merged
        .members
        .iter()
        .map(|row| (row.member_id.as_str(), row.active))
        .collect();
    assert_eq!(members, [("a", true), ("b", false), ("c", true)]);
    assert!(merged.customers[0].active && merged.follows[0].active && !merged.follows[1].active);
    assert!(!merged.room_members[0].active);
    assert_eq!(merged.consents, before.consents);
}

#[test]
fn rooms_keep_known_data_when_no_api_returns_them() {
    use RoomKind::{Customer, Internal, Unresolved, Wanted};
    let mut before = empty();
    before.rooms = vec![
        room("answered", "群", Customer),
        room("no longer", "旧群", Internal),
        room("gone", "散了", Customer),
        room("still wanted", "", Wanted),
        room("still unresolved", "", Unresolved),
        room("wanted", "", Wanted),
        room("wanted in vain", "", Wanted),
    ];
    let mut fresh = empty();
    fresh.rooms = vec![
        room("answered", "改名", Customer),
        room("no longer", "", Unresolved),
        room("wanted", "找到了", Internal),
        room("wanted in vain", "", Unresolved),
        room("new", "新", Customer),
    ];
    let merged = merge(&before, fresh);
    let got: Vec<_> = merged
        .rooms
        .iter()
        .map(|room| {
            (
                room.room_id.as_str(),
                room.name.as_str(),
                room.kind,
                room.active,
            )
        })
        .collect();
    assert_eq!(
        got,
        [
            ("answered", "改名", Customer, true),
            ("gone", "散了", Customer, false),
            ("new", "新", Customer, true),
            ("no longer", "旧群", Internal, false),
            ("still unresolved", "", Unresolved, true),
            ("still wanted", "", Wanted, true),
            ("wanted", "找到了", Internal, true),
            ("wanted in vain", "", Unresolved, true),
        ]
    );
}

#[test]
fn snapshot_is_newer_than_the_one_before_also_if_the_clock_was_ahead_then() {
    let at = |taken_at| Snapshot {
        taken_at,
        ..empty()
    };
    assert_eq!(merge(&at(0), at(5)).taken_at, 5);
    assert_eq!(merge(&at(4), at(5)).taken_at, 5);
    assert_eq!(merge(&at(500), at(5)).taken_at, 501);
    assert_eq!(merge(&at(501), at(501)).taken_at, 502);
}

#[test]
fn what_was_not_read_is_not_gone() {
    let mut before = empty();
    before.taken_at = 1;
    before.departments = vec![department(1, 0, "总部")];
    before.members = vec![member("zhang", "张", &[1])];
    before.customers = vec![customer("wm1", "王")];
    before.rooms = vec![room("wr1", "群", RoomKind::Internal)];
    before.room_members = vec![room_member("wr1", "zhang", "", 3)];
    let mut fresh = empty();
    fresh.rooms = before.rooms.clone();
    fresh.incomplete = BTreeSet::from([
        SnapshotPart::Departments,
        SnapshotPart::Members,
        SnapshotPart::Customers,
    ]);
    let merged = merge(&before, fresh.clone());
    assert_eq!(merged.departments, before.departments);
    assert_eq!(merged.members, before.members);
    assert_eq!(merged.customers, before.customers);
    // The room is known, but its members were not read.
    assert_eq!(merged.room_members, before.room_members);

    fresh.incomplete.clear();
    fresh.rooms.clear();
    let merged = merge(&before, fresh);
    assert!(!merged.departments[0].active && !merged.members[0].active);
    assert!(!merged.customers[0].active && !merged.room_members[0].active);
}

#[test]
fn members_stay_archived_while_the_list_of_them_cannot_be_read() {
    let mut before = empty();
    before.members = vec![member("zhang", "张", &[1])];
    assert!(before.members[0].archived);
    let mut fresh = empty();
    fresh.members = before.members.clone();
    fresh.members[0].archived = false;
    assert!(!merge(&before, fresh.clone()).members[0].archived);
    fresh.incomplete.insert(SnapshotPart::Archived);
    assert!(merge(&before, fresh).members[0].archived);
}

#[test]
fn snapshot_of_another_corp_is_not_merged() {
    let mut other = Snapshot::empty(CorpId::from("wwother"));
    other.members = vec![member("a", "甲", &[])];
    assert_eq!(merge(&other, empty()), empty());
}

#[test]
fn changes_list_rows_before_the_rows_that_refer_to_them() {
    let mut old = empty();
    old.members = vec![member("a", "甲", &[]), member("b", "乙", &[])];
    old.departments = vec![department(9, 0, "总公司")];
    let mut new = old.clone();
    new.members = vec![
        member("c", "丙", &[]),
        member("b", "乙二", &[]),
        member("a", "甲", &[]),
    ];
    new.departments = vec![
        department(1, 5, "组"),
        department(5, 9, "部"),
        department(9, 0, "总公司"),
    ];
    new.follows = vec![follow("a", "wm1", "")];
    new.rooms = vec![room("wr1", "", RoomKind::Customer)];
    let keys: Vec<String> = changes(&old, &new).iter().map(DirectoryRow::key).collect();
    let expected = [
        "departments/5",
        "departments/1",
        "members/b",
        "members/c",
        "follows/a/wm1",
        "rooms/wr1",
    ];
    assert_eq!(keys, expected);
    assert_eq!(changes(&new, &new), []);
}

#[test]
fn assembler_is_complete_after_the_end_marker_and_the_last_row_of_a_key_wins() {
    let mut assembler = Assembler::new(CorpId::from("wwcorp"));
    assert_eq!(assembler.complete(), None);
    assembler.apply(DirectoryRow::Members(member("b", "乙", &[])));
    assembler.apply(DirectoryRow::Members(member("a", "甲", &[])));
    assert_eq!(assembler.complete(), None);
    assembler.apply(DirectoryRow::Complete { taken_at: 5 });
    assembler.apply(DirectoryRow::Members(member("b", "乙二", &[])));
    assert_eq!(assembler.complete(), Some(5));

    let mut expected = empty();
    expected.taken_at = 5;
    expected.members = vec![member("a", "甲", &[]), member("b", "乙二", &[])];
    assert_eq!(assembler.snapshot(), expected);
    let again = Assembler::from_snapshot(expected.clone());
    assert_eq!((again.complete(), again.snapshot()), (Some(5), expected));
    assert_eq!(Assembler::from_snapshot(empty()).complete(), None);
}

/// Generates snapshots with few different ids and values, so that keys collide and repeat.
fn snapshot() -> impl Strategy<Value = Snapshot> {
    let id = || select(&["a", "b", "B", "wm1", "wr1", ""][..]);
    let name = || select(&["", "甲", "乙"][..]);
    let kind = select(
        &[
            RoomKind::Customer,
            RoomKind::Internal,
            RoomKind::Wanted,
            RoomKind::Unresolved,
        ][..],
    );
    (
        1_i64..100,
        vec(
            (0_u32..5, 0_u32..5, name())
                .prop_map(|(id, parent, name)| department(id, parent, name)),
            0..6,
        ),
        vec(
            (id(), name(), vec(0_u32..5, 0..3)).prop_map(|(id, name, of)| member(id, name, &of)),
            0..6,
        ),
        vec(
            (id(), name()).prop_map(|(id, name)| customer(id, name)),
            0..6,
        ),
        vec(
            (id(), id(), name()).prop_map(|(a, b, name)| follow(a, b, name)),
            0..6,
        ),
        vec(
            (id(), name(), kind).prop_map(|(id, name, kind)| room(id, name, kind)),
            0..6,
        ),
        vec(
            (id(), id(), name(), 0_i64..3).prop_map(|(a, b, name, at)| room_member(a, b, name, at)),
            0..6,
        ),
        vec(
            (id(), id(), id(), name()).prop_map(|(a, b, c, name)| consent(a, b, c, name)),
            0..6,
        ),
    )
        .prop_map(
            |(
                taken_at,
                departments,
                members,
                customers,
                follows,
                rooms,
                room_members,
                consents,
            )| Snapshot {
                corp_id: CorpId::from("wwcorp"),
                taken_at,
                departments,
                members,
                customers,
                follows,
                rooms,
                room_members,
                consents,
                incomplete: BTreeSet::new(),
            },
        )
}

fn keys(snapshot: &Snapshot) -> Vec<String> {
    let mut keys: Vec<String> = changes(&empty(), snapshot)
        .iter()
        .map(DirectoryRow::key)
        .collect();
    keys.sort();
    keys
}

proptest! {
    #[test]
    fn applying_the_changes_to_the_old_snapshot_gives_the_new_one(first in snapshot(), second in snapshot(), third in snapshot()) {
        let old = merge(&merge(&empty(), first), second);
        let new = merge(&old, third);
        let mut assembler = Assembler::from_snapshot(old.clone());
        for row in changes(&old, &new) {
            assembler.apply(row);
        }
        assembler.apply(DirectoryRow::Complete { taken_at: new.taken_at });
        prop_assert_eq!(assembler.snapshot(), new);
    }

    #[test]
    fn compacted_topic_gives_the_same_snapshot_as_the_full_history(snapshots in vec(snapshot(), 1..4)) {
        let mut current = empty();
        let mut history = Vec::new();
        for fresh in snapshots {
            let next = merge(&current, fresh);
            history.extend(changes(&current, &next));
            history.push(DirectoryRow::Complete { taken_at: next.taken_at });
            current = next;
        }
        let last = |row: &DirectoryRow| history.iter().rposition(|other| other.key() == row.key()).unwrap();
        let mut compacted = Assembler::new(CorpId::from("wwcorp"));
        for (at, row) in history.iter().enumerate() {
            if at == last(row) {
                compacted.apply(row.clone());
            }
        }
        prop_assert_eq!(compacted.snapshot(), current);
    }

    #[test]
    fn merging_loses_no_row_and_is_idempotent(old in snapshot(), fresh in snapshot()) {
        let merged = merge(&old, fresh.clone());
        let mut expected = keys(&old);
        expected.extend(keys(&fresh));
        expected.sort();
        expected.dedup();
        prop_assert_eq!(keys(&merged), expected);
        // Only the version advances.
        let taken_at = merged.taken_at;
        let again = Snapshot { taken_at, ..merge(&merged, fresh) };
        prop_assert_eq!(&again, &merged);
        prop_assert_eq!(merge(&empty(), merged.clone()), merged);
    }
}
