//! Tests the directory client against a small tenant, complete and with missing or failing parts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;

use chatledger_schemas::directory::{Room, RoomKind, Snapshot};
use chatledger_schemas::{Classified as _, FaultClass};
use chatledger_wecom::{Api, Error, SkippedApi};
use serde_json::{Value, json};
use support::{ReceivedCall, Server, ServerReply, directory, errcode};

const NOW: i64 = 1_800_000_000_000;
const DAY_MS: i64 = 86_400_000;

fn text<'a>(call: &'a ReceivedCall, key: &str) -> &'a str {
    call.body[key].as_str().unwrap_or_default()
}

fn names(list: &Value) -> Vec<String> {
    serde_json::from_value(list.clone()).unwrap_or_default()
}

/// The tenant: two departments; members zhang (archived) and li; zhang follows wm1 and wm2, li follows
/// wm2; customer group wrC, internal group wrI, and wrX, a group of another corp.
fn tenant(call: &ReceivedCall) -> ServerReply {
    ServerReply::Json(match call.api.as_str() {
        "gettoken" => json!({}),
        "department/list" => json!({"errcode": 0, "department": [
            {"id": 12, "name": "销售", "parentid": "1"}, {"id": 1, "name": "总部", "parentid": 0}]}),
        "user/list" => match (&*call.query["department_id"], &*call.query["fetch_child"]) {
            ("1", "1") => json!({"userlist": [
                {"userid": "zhang", "name": "张三", "position": "经理", "department": [12, 1],
                 "main_department": 12, "status": 1},
                {"userid": "li", "name": "李四", "department": [1], "status": 2}]}),
            ("12", "0") => json!({"userlist": [
                {"userid": "zhang", "name": "张三", "position": "经理", "department": [12, 1],
                 "main_department": 12, "status": 1}]}),
            _ => return errcode(60011),
        },
        "msgaudit/get_permit_user_list" => json!({"ids": ["zhang", "not-visible"]}),
        "externalcontact/get_follow_user_list" => json!({"follow_user": ["li", "zhang"]}),
        "externalcontact/batch/get_by_user" => {
            let row = |member: &str, customer: &str| {
                json!({"external_contact": {"external_userid": customer, "name": "客户",
                            "type": 1, "corp_name": "某公司", "position": "总监"},
                       "follow_info": {"userid": member, "remark": "r", "description": "d",
                            "createtime": 1_700_000_000, "add_way": 3, "state": "s",
                            "tag_id": ["et1"]}})
            };
            if names(&call.body["userid_list"]).contains(&"bad".to_owned()) {
                return errcode(40003);
            }
            let mut rows = Vec::new();
            for member in names(&call.body["userid_list"]) {
                match member.as_str() {
                    "zhang" => rows.extend([row("zhang", "wm1"), row("zhang", "wm2")]),
                    "li" => rows.push(row("li", "wm2")),
                    _ => {}
                }
            }
            // Two rows in a page; the cursor is the number of earlier rows.
            let from: usize = text(call, "cursor").parse().unwrap_or(0);
            let to = rows.len().min(from + 2);
            let next = if to < rows.len() {
                to.to_string()
            } else {
                String::new()
            };
            json!({"external_contact_list": rows[from.min(to)..to], "next_cursor": next})
        }
        "externalcontact/groupchat/list" => json!({"group_chat_list": [{"chat_id": "wrC"}]}),
        "externalcontact/groupchat/get" => match text(call, "chat_id") {
            "wrC" => json!({"group_chat": {"chat_id": "wrC", "name": "客户群", "owner": "zhang",
                "create_time": 5, "notice": "n", "member_list": [
                    {"userid": "zhang", "type": 1, "join_time": 6, "name": "张三"},
                    {"userid": "wm9", "type": 2, "join_time": 7, "group_nickname": "路人"}]}}),
            "wrX" => return errcode(92002),
            _ => return errcode(90501),
        },
        "msgaudit/groupchat/get" => match text(call, "roomid") {
            "wrI" => json!({"roomname": "内部群", "creator": "li", "room_create_time": 8,
                "notice": "", "members": [{"memberid": "li", "jointime": 9}]}),
            _ => return errcode(301_059),
        },
        "msgaudit/check_single_agree" => {
            let rows: Vec<Value> = call.body["info"]
                .as_array()
                .unwrap()
                .iter()
                .map(|pair| {
                    json!({"userid": pair["userid"], "exteranalopenid": pair["exteranalopenid"],
                       "agree_status": "Agree", "status_change_time": 10})
                })
                .collect();
            json!({"agreeinfo": rows})
        }
        "msgaudit/check_room_agree" => json!({"agreeinfo": [
            {"exteranalopenid": "wm9", "agree_status": "Disagree", "status_change_time": 11}]}),
        other => panic!("unexpected call of {other}"),
    })
}

async fn sync(
    server: &Server,
    wanted: &[&str],
    known: &[Room],
) -> (Result<Snapshot, Error>, Vec<SkippedApi>) {
    let (client, _) = directory(&server.base_url);
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let result = client.sync(&wanted, known, NOW).await;
    (result, client.skipped())
}

fn kinds(snapshot: &Snapshot) -> Vec<(&str, RoomKind)> {
    snapshot
        .rooms
        .iter()
        .map(|room| (room.room_id.as_str(), room.kind))
        .collect()
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one snapshot, compared row by row")]
async fn sync_returns_everything_sorted_and_active() {
    let server = Server::start(tenant).await;
    let (snapshot, skipped) = sync(&server, &["wrX", "wrI", "wrC"], &[]).await;
    let snapshot = snapshot.unwrap();
    assert!(skipped.is_empty());
    assert_eq!((snapshot.corp_id.as_str(), snapshot.taken_at), ("ww1", NOW));

    let departments: Vec<_> = snapshot
        .departments
        .iter()
        .map(|d| (d.department_id, d.parent_id, d.name.as_str(), d.active))
        .collect();
    assert_eq!(departments, [(1, 0, "总部", true), (12, 1, "销售", true)]);

    let zhang = &snapshot.members[1];
    assert_eq!(
        (
            zhang.member_id.as_str(),
            zhang.name.as_str(),
            zhang.title.as_str()
        ),
        ("zhang", "张三", "经理")
    );
    assert_eq!(
        (
            zhang.department_ids.as_slice(),
            zhang.main_department_id,
            zhang.status
        ),
        ([12, 1].as_slice(), 12, 1)
    );
    let archived: Vec<_> = snapshot
        .members
        .iter()
        .map(|m| (m.member_id.as_str(), m.archived))
        .collect();
    assert_eq!(archived, [("li", false), ("zhang", true)]);

    let customers: Vec<_> = snapshot
        .customers
        .iter()
        .map(|c| c.customer_id.as_str())
        .collect();
    assert_eq!(customers, ["wm1", "wm2"]);
    let follows: Vec<_> = snapshot
        .follows
        .iter()
        .map(|f| (f.member_id.as_str(), f.customer_id.as_str()))
        .collect();
    assert_eq!(follows, [("li", "wm2"), ("zhang", "wm1"), ("zhang", "wm2")]);
    assert_eq!(
        (
            snapshot.follows[0].add_way,
            snapshot.follows[0].tag_ids.as_slice()
        ),
        (3, ["et1".to_owned()].as_slice())
    );

    assert_eq!(
        kinds(&snapshot),
        [
            ("wrC", RoomKind::Customer),
            ("wrI", RoomKind::Internal),
            ("wrX", RoomKind::Unresolved)
        ]
    );
    let parties: Vec<_> = snapshot
        .room_members
        .iter()
        .map(|m| {
            (
                m.room_id.as_str(),
                m.party_id.as_str(),
                m.name.as_str(),
                m.joined_at,
            )
        })
        .collect();
    assert_eq!(
        parties,
        [
            ("wrC", "wm9", "路人", 7),
            ("wrC", "zhang", "张三", 6),
            ("wrI", "li", "李四", 9)
        ]
    );

    let consents: Vec<_> = snapshot
        .consents
        .iter()
        .map(|c| {
            (
                c.member_id.as_str(),
                c.room_id.as_str(),
                c.customer_id.as_str(),
                c.status.as_str(),
                c.changed_at,
            )
        })
        .collect();
    assert_eq!(
        consents,
        [
            ("", "wrC", "wm9", "Disagree", 11),
            ("li", "", "wm2", "Agree", 10),
            ("zhang", "", "wm1", "Agree", 10),
            ("zhang", "", "wm2", "Agree", 10),
        ]
    );
}

#[tokio::test]
async fn optional_api_without_permission_is_skipped_and_the_sync_continues() {
    let optional = [
        Api::PermitUsers,
        Api::FollowUsers,
        Api::Customers,
        Api::CustomerRooms,
        Api::CustomerRoom,
        Api::InternalRoom,
        Api::SingleConsent,
        Api::RoomConsent,
    ];
    for denied in optional {
        for code in [48002, 301_042, 301_053] {
            let server = Server::start(move |call| {
                if call.api == denied.as_str() {
                    errcode(code)
                } else {
                    tenant(call)
                }
            })
            .await;
            let (client, call_log) = directory(&server.base_url);
            let snapshot = client.sync(&["wrI".into()], &[], NOW).await.unwrap();
            assert_eq!(
                client.skipped(),
                [SkippedApi {
                    api: denied,
                    errcode: code
                }]
            );
            // Once, or as many times as calls were running when the first response arrived.
            let calls = server.calls(denied.as_str()).len();
            assert!((1..=4).contains(&calls), "{calls} calls of {denied}");
            assert_eq!(snapshot.members.len(), 2);
            assert_eq!(
                snapshot.customers.is_empty(),
                matches!(denied, Api::FollowUsers | Api::Customers)
            );
            assert_eq!(snapshot.members[1].archived, denied != Api::PermitUsers);
            let call_log = call_log.lock().unwrap();
            let stops: BTreeSet<_> = call_log
                .iter()
                .filter(|(_, result)| *result == "stop")
                .map(|(api, _)| *api)
                .collect();
            assert_eq!(stops, BTreeSet::from([denied.as_str()]));
        }
    }
}

#[tokio::test]
async fn unreadable_departments_or_members_fail_the_sync() {
    for needed in ["department/list", "user/list"] {
        for code in [48002, 60011, 60020] {
            let server = Server::start(move |call| {
                if call.api == needed {
                    errcode(code)
                } else {
                    tenant(call)
                }
            })
            .await;
            let error = sync(&server, &[], &[]).await.0.unwrap_err();
            assert_eq!(error.class(), FaultClass::Stop, "{needed} {code}");
            assert_eq!(error.errcode(), Some(code));
        }
    }
}

#[tokio::test]
async fn members_are_read_by_department_if_reading_all_is_denied() {
    let server = Server::start(|call| match call.api.as_str() {
        "user/list" if &*call.query["fetch_child"] == "1" => errcode(60011),
        "user/list" if &*call.query["department_id"] == "1" => errcode(60011),
        "user/list" => ServerReply::Json(json!({"userlist": [{"userid": "zhang"}]})),
        _ => tenant(call),
    })
    .await;
    let (snapshot, skipped) = sync(&server, &[], &[]).await;
    assert_eq!(snapshot.unwrap().members.len(), 1);
    assert_eq!(
        skipped,
        [SkippedApi {
            api: Api::Members,
            errcode: 60011
        }]
    );
}

#[tokio::test]
async fn transient_faults_are_retried_and_do_not_change_the_snapshot() {
    let server = Server::start(tenant).await;
    let expected = sync(&server, &["wrI", "wrX"], &[]).await.0.unwrap();
    // The first call of every API fails, each in a different way.
    let faulty = Server::start(|call| match (call.api.as_str(), call.earlier) {
        ("department/list" | "msgaudit/check_room_agree", 0) => errcode(-1),
        ("user/list", 0) => errcode(42001),
        ("externalcontact/get_follow_user_list", 0) => ServerReply::Raw(502, String::new()),
        ("externalcontact/batch/get_by_user", 0) => ServerReply::Truncated(900, "{".into()),
        ("externalcontact/groupchat/list", 0) => ServerReply::Raw(200, "{\"group".into()),
        ("externalcontact/groupchat/get", 0) => errcode(45033),
        ("msgaudit/groupchat/get", 0) => errcode(6000),
        ("msgaudit/check_single_agree", 0) => ServerReply::Truncated(900, String::new()),
        _ => tenant(call),
    })
    .await;
    let (snapshot, skipped) = sync(&faulty, &["wrI", "wrX"], &[]).await;
    assert_eq!(snapshot.unwrap(), expected);
    assert!(skipped.is_empty());
}

#[tokio::test]
async fn persistent_fault_fails_the_sync_instead_of_omitting_rows() {
    let server = Server::start(|call| match call.api.as_str() {
        "externalcontact/batch/get_by_user" => ServerReply::Raw(503, String::new()),
        _ => tenant(call),
    })
    .await;
    let error = sync(&server, &[], &[]).await.0.unwrap_err();
    assert_eq!(error.class(), FaultClass::Retry);
    assert_eq!(server.calls("externalcontact/batch/get_by_user").len(), 4);
}

#[tokio::test]
async fn invalid_member_in_a_batch_does_not_affect_the_others() {
    for bad_at in [0, 70, 149] {
        let server = Server::start(move |call| {
            if call.api != "externalcontact/get_follow_user_list" {
                return tenant(call);
            }
            let mut users: Vec<String> = (0..150).map(|n| format!("u{n}")).collect();
            users[10] = "zhang".into();
            users[120] = "li".into();
            users[bad_at] = "bad".into();
            ServerReply::Json(json!({ "follow_user": users }))
        })
        .await;
        let (snapshot, skipped) = sync(&server, &[], &[]).await;
        assert_eq!(snapshot.unwrap().follows.len(), 3);
        assert!(skipped.is_empty());
    }
}

#[tokio::test]
async fn rooms_are_listed_by_owner_if_there_are_too_many_owners() {
    let server = Server::start(|call| match call.api.as_str() {
        "externalcontact/groupchat/list" if call.body["owner_filter"].is_null() => errcode(81017),
        "externalcontact/groupchat/list"
            if names(&call.body["owner_filter"]["userid_list"]).contains(&"li".to_owned()) =>
        {
            errcode(40003)
        }
        _ => tenant(call),
    })
    .await;
    let (snapshot, skipped) = sync(&server, &[], &[]).await;
    assert_eq!(kinds(&snapshot.unwrap()), [("wrC", RoomKind::Customer)]);
    assert!(skipped.is_empty());
}

#[tokio::test]
async fn unresolved_room_is_not_queried_again_on_the_same_day() {
    let server = Server::start(tenant).await;
    let (client, _) = directory(&server.base_url);
    let wanted = ["wrX".to_owned()];
    let first = client.sync(&wanted, &[], NOW).await.unwrap();
    let queries = || {
        server
            .calls("externalcontact/groupchat/get")
            .iter()
            .filter(|c| text(c, "chat_id") == "wrX")
            .count()
    };
    assert_eq!(queries(), 1);
    let second = client
        .sync(&wanted, &first.rooms, NOW + DAY_MS - 1)
        .await
        .unwrap();
    assert_eq!(queries(), 1);
    assert_eq!(second.rooms, first.rooms);
    client
        .sync(&wanted, &second.rooms, NOW + DAY_MS)
        .await
        .unwrap();
    assert_eq!(queries(), 2);
}

#[tokio::test]
async fn known_internal_room_is_refreshed_by_its_own_api_only() {
    let server = Server::start(tenant).await;
    let known = sync(&server, &["wrI"], &[]).await.0.unwrap().rooms;
    let before = server.calls("externalcontact/groupchat/get").len();
    let again = sync(&server, &[], &known).await.0.unwrap();
    assert_eq!(again.rooms, known);
    assert_eq!(
        server.calls("externalcontact/groupchat/get").len(),
        before + 1
    );
}

#[tokio::test]
async fn list_continues_after_empty_pages() {
    let server = Server::start(|call| match (call.api.as_str(), call.earlier) {
        ("externalcontact/groupchat/list", n @ 0..3) => {
            ServerReply::Json(json!({"group_chat_list": [], "next_cursor": n.to_string()}))
        }
        _ => tenant(call),
    })
    .await;
    let snapshot = sync(&server, &[], &[]).await.0.unwrap();
    assert_eq!(kinds(&snapshot), [("wrC", RoomKind::Customer)]);
}

#[tokio::test]
async fn endless_list_fails_the_sync() {
    let server = Server::start(|call| match call.api.as_str() {
        "externalcontact/groupchat/list" => ServerReply::Json(json!({
            "group_chat_list": [{"chat_id": "wrC"}], "next_cursor": "same"})),
        _ => tenant(call),
    })
    .await;
    let error = sync(&server, &[], &[]).await.0.unwrap_err();
    assert!(matches!(
        error,
        Error::EndlessList {
            api: Api::CustomerRooms
        }
    ));
    assert_eq!(error.class(), FaultClass::Retry);
}

#[tokio::test]
async fn list_too_large_for_one_response_is_read_in_smaller_pages() {
    let server = Server::start(|call| match call.api.as_str() {
        "externalcontact/batch/get_by_user" if call.body["limit"].as_u64().unwrap() > 30 => {
            errcode(45029)
        }
        _ => tenant(call),
    })
    .await;
    assert_eq!(sync(&server, &[], &[]).await.0.unwrap().follows.len(), 3);
}

#[test]
fn clients_are_sync_and_their_futures_are_send() {
    fn shared<T: Send + Sync>() {}
    fn movable<T: Send>(_: T) {}
    shared::<chatledger_wecom::Archive>();
    shared::<chatledger_wecom::DirectoryClient>();
    let (client, _) = directory("http://127.0.0.1:1");
    movable(client.sync(&[], &[], NOW));
    let (archive, _) = support::archive("http://127.0.0.1:1", 1, std::time::Duration::from_secs(1));
    movable(archive.page(0));
}
