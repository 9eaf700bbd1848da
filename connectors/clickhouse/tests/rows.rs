//! Rows are read as they were inserted, for every table and for values at the limits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use chatledger_clickhouse::tables::{DeadLetters, Messages, Violations};
use chatledger_schemas::directory::{
    Consent, Customer, Department, DirectoryRow, Follow, Member, Room, RoomKind, RoomMember,
};
use chatledger_schemas::{ConversationKind, CorpId, DeadLetter, Message, PartyKind, Reason};
use clickhouse::Row;
use serde::Deserialize;
use support::{NOON, database, message, messages, number, violation};

#[derive(Debug, Row, Deserialize)]
struct Read {
    corp_id: String,
    seq: u64,
    msgid: String,
    action: String,
    msgtype: String,
    msgtime: i64,
    conversation_id: String,
    conversation_kind: String,
    room_id: String,
    room_name: String,
    from_id: String,
    from_kind: String,
    from_name: String,
    from_department_id: u32,
    from_department_path: String,
    to_ids: Vec<String>,
    content: String,
    payload: String,
    key_version: u32,
}

#[derive(Debug, PartialEq, Row, Deserialize)]
struct ReadViolation {
    corp_id: String,
    violation_id: String,
    msgid: String,
    seq: u64,
    msgtime: i64,
    conversation_id: String,
    from_id: String,
    rule_id: String,
    rule_name: String,
    rule_version: String,
    category: String,
    severity: String,
    matched: Vec<String>,
    spans: Vec<(u32, u32)>,
    detected_at: i64,
}

#[derive(Debug, PartialEq, Row, Deserialize)]
struct ReadFollow {
    remark: String,
    added_at: u32,
    tag_ids: Vec<String>,
}

fn assert_same(read: &Read, written: &Message) {
    assert_eq!(read.corp_id, written.corp_id.as_str());
    assert_eq!(read.seq, written.seq);
    assert_eq!(read.msgid, written.msgid);
    assert_eq!(read.action, written.action);
    assert_eq!(read.msgtype, written.msgtype);
    assert_eq!(read.msgtime, written.msgtime);
    assert_eq!(read.conversation_id, written.conversation_id);
    assert_eq!(read.conversation_kind, written.conversation_kind.as_str());
    assert_eq!(read.room_id, written.room_id);
    assert_eq!(read.room_name, written.room_name);
    assert_eq!(read.from_id, written.from_id);
    assert_eq!(read.from_kind, written.from_kind.as_str());
    assert_eq!(read.from_name, written.from_name);
    assert_eq!(read.from_department_id, written.from_department_id);
    assert_eq!(read.from_department_path, written.from_department_path);
    assert_eq!(read.to_ids, written.to_ids);
    assert_eq!(read.content, written.content);
    assert_eq!(read.payload, written.payload);
    assert_eq!(read.key_version, written.key_version);
}

#[tokio::test]
async fn messages_are_read_as_they_were_written() {
    let clickhouse = database().await;
    let empty = Message {
        corp_id: CorpId::from(""),
        seq: 0,
        msgid: String::new(),
        action: String::new(),
        msgtype: String::new(),
        msgtime: 0,
        conversation_id: String::new(),
        conversation_kind: ConversationKind::GroupInternal,
        room_id: String::new(),
        room_name: String::new(),
        from_id: String::new(),
        from_kind: PartyKind::Unknown,
        from_name: String::new(),
        from_department_id: 0,
        from_department_path: String::new(),
        to_ids: Vec::new(),
        content: String::new(),
        payload: String::new(),
        key_version: 0,
    };
    let full = Message {
        corp_id: CorpId::from("ww'\\\t?"),
        seq: u64::MAX,
        msgtime: 10_413_791_999_999, // the last instant of DateTime64(3), in 2299
        conversation_kind: ConversationKind::GroupExternal,
        from_kind: PartyKind::Robot,
        from_department_id: u32::MAX,
        to_ids: vec![String::new(), "a\0b".into(), "👩‍👩‍👧".into()],
        content: "换行\n制表\t零\0引号'\"\\ ?".into(),
        payload: "x".repeat(3 << 20),
        key_version: u32::MAX,
        ..message(7, NOON)
    };
    let written = [empty, message(1, NOON), full];
    clickhouse
        .insert(Messages, "token", &written)
        .await
        .unwrap();
    let read: Vec<Read> = clickhouse
        .client()
        .query("SELECT ?fields FROM messages FINAL ORDER BY seq")
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(read.len(), written.len());
    for (read, written) in read.iter().zip(&written) {
        assert_same(read, written);
    }
}

#[tokio::test]
async fn violations_and_dead_letters_are_read_as_they_were_written() {
    let clickhouse = database().await;
    let violation = violation(&message(9, NOON));
    clickhouse
        .insert(Violations, "token", std::slice::from_ref(&violation))
        .await
        .unwrap();
    let read: ReadViolation = clickhouse
        .client()
        .query("SELECT ?fields FROM violations FINAL")
        .fetch_one()
        .await
        .unwrap();
    let expected = ReadViolation {
        corp_id: violation.corp_id.to_string(),
        violation_id: violation.violation_id,
        msgid: violation.msgid,
        seq: violation.seq,
        msgtime: violation.msgtime,
        conversation_id: violation.conversation_id,
        from_id: violation.from_id,
        rule_id: violation.rule_id,
        rule_name: violation.rule_name,
        rule_version: violation.rule_version,
        category: violation.category,
        severity: violation.severity.as_str().to_owned(),
        matched: violation.matched,
        spans: violation.spans,
        detected_at: violation.detected_at,
    };
    assert_eq!(read, expected);

    let dead_letters: Vec<DeadLetter> = (1..)
        .zip(Reason::ALL)
        .map(|(seq, reason)| DeadLetter {
            corp_id: CorpId::from("ww1"),
            seq,
            msgid: format!("m{seq}"),
            reason,
            error: "what went wrong".into(),
            key_version: 2,
            sealed: r#"{"seq":1}"#.into(),
            first_seen: NOON,
            attempts: 0,
        })
        .collect();
    clickhouse
        .insert(DeadLetters, "token", &dead_letters)
        .await
        .unwrap();
    let read: Vec<(u64, String, String)> = clickhouse
        .client()
        .query("SELECT seq, reason, sealed FROM dead_letters FINAL ORDER BY seq")
        .fetch_all()
        .await
        .unwrap();
    let expected: Vec<_> = dead_letters
        .iter()
        .map(|l| (l.seq, l.reason.as_str().to_owned(), l.sealed.clone()))
        .collect();
    assert_eq!(read, expected);
}

fn directory(name: &str, active: bool) -> Vec<DirectoryRow> {
    vec![
        DirectoryRow::Departments(Department {
            department_id: 1,
            parent_id: 0,
            name: name.into(),
            active,
        }),
        DirectoryRow::Members(Member {
            member_id: "zhangsan".into(),
            name: name.into(),
            title: "经理".into(),
            department_ids: vec![1, 12],
            main_department_id: 12,
            status: 1,
            archived: true,
            active,
        }),
        DirectoryRow::Customers(Customer {
            customer_id: "wm1".into(),
            name: name.into(),
            customer_type: 1,
            corp_name: String::new(),
            position: String::new(),
            active,
        }),
        DirectoryRow::Follows(Follow {
            member_id: "zhangsan".into(),
            customer_id: "wm1".into(),
            remark: name.into(),
            description: String::new(),
            added_at: NOON / 1000,
            add_way: 1,
            state: String::new(),
            tag_ids: vec!["t1".into()],
            active,
        }),
        DirectoryRow::Rooms(Room {
            room_id: "wr1".into(),
            name: name.into(),
            owner_id: "zhangsan".into(),
            kind: RoomKind::Unresolved,
            created_at: -1,
            notice: String::new(),
            active,
        }),
        DirectoryRow::RoomMembers(RoomMember {
            room_id: "wr1".into(),
            party_id: "wm1".into(),
            name: name.into(),
            joined_at: i64::MAX,
            active,
        }),
        DirectoryRow::Consents(Consent {
            member_id: "zhangsan".into(),
            room_id: String::new(),
            customer_id: "wm1".into(),
            status: if active { "Agree" } else { "Disagree" }.into(),
            changed_at: NOON / 1000,
        }),
        DirectoryRow::Complete { taken_at: NOON },
    ]
}

#[tokio::test]
async fn newest_sync_of_a_directory_row_is_the_one_read() {
    let clickhouse = database().await;
    let corp = CorpId::from("ww1");
    let (old, new) = (directory("旧", true), directory("新", false));
    clickhouse
        .insert_directory(&corp, NOON, &old)
        .await
        .unwrap();
    clickhouse
        .insert_directory(&corp, NOON + 1, &new)
        .await
        .unwrap();
    // An old sync that arrives late changes nothing.
    clickhouse
        .insert_directory(&corp, NOON, &old)
        .await
        .unwrap();
    for table in [
        "departments",
        "members",
        "customers",
        "rooms",
        "room_members",
    ] {
        let read: (String, bool, i64) = clickhouse
            .client()
            .query_raw(&format!(
                "SELECT name, active, synced_at FROM {table} FINAL"
            ))
            .fetch_one()
            .await
            .unwrap_or_else(|error| panic!("{table}: {error}"));
        assert_eq!(read, ("新".to_owned(), false, NOON + 1), "{table}");
        let sql = format!("SELECT count() FROM {table} FINAL");
        assert_eq!(number(&clickhouse, &sql).await, 1, "{table}");
    }
    let follow: ReadFollow = clickhouse
        .client()
        .query("SELECT ?fields FROM follows FINAL")
        .fetch_one()
        .await
        .unwrap();
    let expected = ReadFollow {
        remark: "新".into(),
        added_at: (NOON / 1000) as u32,
        tag_ids: vec!["t1".into()],
    };
    assert_eq!(follow, expected);
    let consent: String = clickhouse
        .client()
        .query("SELECT status FROM consents FINAL")
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(consent, "Disagree");
    let member: Vec<u32> = clickhouse
        .client()
        .query("SELECT department_ids FROM members FINAL")
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(member, [1, 12]);
    let clamped: (u32, u32) = clickhouse
        .client()
        .query("SELECT r.created_at, m.joined_at FROM rooms AS r FINAL, room_members AS m FINAL")
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(clamped, (0, u32::MAX));
}

#[tokio::test]
async fn extreme_timestamps_do_not_stop_an_insert() {
    let clickhouse = database().await;
    let mut rows: Vec<Message> = messages(130, 130);
    for (row, msgtime) in rows
        .iter_mut()
        .zip([i64::MIN, -1, i64::MAX, i64::MAX / 1000])
    {
        row.msgtime = msgtime;
    }
    clickhouse.insert(Messages, "token", &rows).await.unwrap();
    clickhouse.insert(Messages, "token", &rows).await.unwrap();
    assert_eq!(
        number(&clickhouse, "SELECT count() FROM messages").await,
        130
    );
    let months = "SELECT uniqExact(toYYYYMM(msgtime)) FROM messages";
    assert!(
        number(&clickhouse, months).await > 100,
        "a profile allows 100"
    );
}
