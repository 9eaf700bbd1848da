//! Joining the sender and the room of a message with the directory.
#![allow(clippy::unwrap_used)]

mod tenant;

use chatledger_directory::{Directory, Unresolved};
use chatledger_schemas::directory::{RoomKind, Snapshot};
use tenant::{customer, department, empty, member, message, room, room_member};

fn company() -> Snapshot {
    let mut snapshot = empty();
    snapshot.taken_at = 1_760_000_000_000;
    snapshot.departments = vec![
        department(3, 2, "上海"),
        department(1, 0, "总公司"),
        department(2, 1, "华东"),
        department(4, 1, "合规"),
    ];
    let mut left = member("zhaomin", "赵敏", &[4]);
    left.active = false;
    let mut without_main = member("sunli", "孙丽", &[4, 3]);
    without_main.main_department_id = 0;
    let mut main_elsewhere = member("qianyi", "钱一", &[4]);
    main_elsewhere.main_department_id = 3;
    snapshot.members = vec![
        member("LiWei", "李伟", &[3, 4]),
        left,
        without_main,
        main_elsewhere,
        member("unplaced", "未分", &[]),
        member("nameless", "", &[99]),
    ];
    snapshot.customers = vec![
        customer("wmWang", "王女士"),
        customer("wmNamelessAbCdEfGhIjKlMnOpQrSt01", ""),
        customer("oldid", "老客户"),
    ];
    snapshot.rooms = vec![
        room("wr1", "客户群", RoomKind::Customer),
        room("wr2", "", RoomKind::Internal),
        room("wr3", "", RoomKind::Wanted),
        room("wr4", "", RoomKind::Unresolved),
    ];
    let mut gone = room_member("wr1", "wmStrangerAbCdEfGhIjKlMnOpQrSt01", "以前的名字", 9);
    gone.active = false;
    snapshot.room_members = vec![
        gone,
        room_member("wr1", "wmStrangerAbCdEfGhIjKlMnOpQrSt01", "", 8),
        room_member("wr2", "wmStrangerAbCdEfGhIjKlMnOpQrSt01", "先前", 3),
        room_member("wr3", "wmStrangerAbCdEfGhIjKlMnOpQrSt01", "现在", 5),
        room_member("wr4", "wmStrangerAbCdEfGhIjKlMnOpQrSt01", "更早", 4),
        room_member("wr1", "wmNamelessAbCdEfGhIjKlMnOpQrSt01", "群里的名字", 1),
        room_member("wr1", "wmWang", "群里叫小王", 1),
        room_member("wr1", "nameless", "群里的同事", 1),
        room_member("wr1", "wbRobotAbCdEfGhIjKlMnOpQrStUvW01", "小助手", 1),
    ];
    snapshot
}

#[test]
fn senders_get_kind_name_and_department() {
    let directory = Directory::new(company());
    assert_eq!(directory.version(), 1_760_000_000_000);
    assert_eq!(directory.snapshot(), &company());
    for (from, kind, name, department_id, path) in [
        ("LiWei", "member", "李伟", 3, "总公司/华东/上海"),
        ("liwei", "member", "李伟", 3, "总公司/华东/上海"),
        ("zhaomin", "member", "赵敏", 4, "总公司/合规"),
        ("sunli", "member", "孙丽", 4, "总公司/合规"),
        ("qianyi", "member", "钱一", 3, "总公司/华东/上海"),
        ("unplaced", "member", "未分", 0, ""),
        ("nameless", "member", "群里的同事", 99, ""),
        ("wmWang", "customer", "王女士", 0, ""),
        ("wmwang", "unknown", "", 0, ""),
        ("wmAbCdEfGhIjKlMnOpQrStUvWxYz0001", "customer", "", 0, ""),
        (
            "wmNamelessAbCdEfGhIjKlMnOpQrSt01",
            "customer",
            "群里的名字",
            0,
            "",
        ),
        (
            "wmStrangerAbCdEfGhIjKlMnOpQrSt01",
            "customer",
            "现在",
            0,
            "",
        ),
        ("woAbCdEfGhIjKlMnOpQrStUvWxYz0001", "customer", "", 0, ""),
        ("oldid", "customer", "老客户", 0, ""),
        ("wbRobotAbCdEfGhIjKlMnOpQrStUvW01", "robot", "小助手", 0, ""),
        ("wbOtherAbCdEfGhIjKlMnOpQrStUvW01", "robot", "", 0, ""),
        ("nobody", "unknown", "", 0, ""),
        ("", "unknown", "", 0, ""),
    ] {
        let mut batch = [message(from, "")];
        let unresolved = directory.join(&mut batch);
        let [got] = &batch;
        assert_eq!(got.from_kind.as_str(), kind, "{from}");
        assert_eq!(got.from_name, name, "{from}");
        assert_eq!(got.from_department_id, department_id, "{from}");
        assert_eq!(got.from_department_path, path, "{from}");
        assert_eq!(got.from_id, from);
        let counted = name.is_empty() && kind != "robot";
        assert_eq!(unresolved.parties, u64::from(counted), "{from}");
        assert_eq!((unresolved.rooms, unresolved.room_ids.len()), (0, 0));

        let before = batch.clone();
        directory.join(&mut batch);
        assert_eq!(batch, before, "a second join changed the message");
    }
}

#[test]
fn rooms_get_a_name_or_are_counted_as_unresolved() {
    let directory = Directory::new(company());
    let rooms = ["wr1", "wr2", "wr3", "wr4", "wrX", "wrY", "wrX", ""];
    let mut batch = rooms.map(|room| message("liwei", room));
    let unresolved = directory.join(&mut batch);
    let expected = Unresolved {
        parties: 0,
        rooms: 5,
        room_ids: vec!["wrX".to_owned(), "wrY".to_owned()],
    };
    assert_eq!(unresolved, expected);
    let names = batch.map(|message| message.room_name);
    assert_eq!(names, ["客户群", "", "", "", "", "", "", ""]);
}

#[test]
fn joining_with_a_newer_directory_replaces_earlier_results() {
    let mut batch = [message("LiWei", "wr1")];
    Directory::new(company()).join(&mut batch);
    assert_eq!(batch[0].room_name, "客户群");
    let unresolved = Directory::new(empty()).join(&mut batch);
    assert_eq!(batch, [message("LiWei", "wr1")]);
    assert_eq!((unresolved.parties, unresolved.rooms), (1, 1));
}

#[test]
fn departments_above_a_member_include_all_ancestors() {
    let directory = Directory::new(company());
    for (id, expected) in [
        ("LiWei", &[1, 2, 3, 4][..]),
        ("LIWEI", &[1, 2, 3, 4]),
        ("zhaomin", &[1, 4]),
        ("qianyi", &[1, 2, 3, 4]),
        ("nameless", &[99]),
        ("unplaced", &[]),
        ("wmWang", &[]),
        ("nobody", &[]),
    ] {
        assert_eq!(directory.departments_above(id), expected, "{id}");
    }
}

#[test]
fn last_of_several_rows_with_the_same_key_is_used() {
    let mut snapshot = company();
    snapshot.members.push(member("LiWei", "李伟（新）", &[4]));
    snapshot
        .rooms
        .push(room("wr1", "新群名", RoomKind::Customer));
    let directory = Directory::new(snapshot);
    let mut batch = [message("LiWei", "wr1")];
    directory.join(&mut batch);
    assert_eq!(batch[0].from_name, "李伟（新）");
    assert_eq!(batch[0].room_name, "新群名");
    assert_eq!(directory.departments_above("LiWei"), [1, 4]);
}
