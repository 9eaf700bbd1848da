//! Answers that are odd, refused, empty or without end: each costs itself, and what was not read is not taken for gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::BTreeSet;

use chatledger_schemas::directory::{Snapshot, SnapshotPart};
use chatledger_wecom::{Api, Error};
use serde_json::{Value, json};
use support::{ReceivedCall, Server, ServerReply, directory, errcode};

const NOW: i64 = 1_800_000_000_000;

/// A tenant with two departments, two members, a customer, a customer group and an internal group.
fn tenant(call: &ReceivedCall) -> Value {
    let text = |key: &str| call.body[key].as_str().unwrap_or_default();
    match call.api.as_str() {
        "gettoken" => json!({}),
        "department/list" => json!({"errcode": 0, "department": [
            {"id": 1, "name": "总部", "parentid": 0}, {"id": 2, "name": "销售", "parentid": 1}]}),
        "user/list" => json!({"errcode": 0, "userlist": [
            {"userid": "zhangsan", "name": "张三", "department": [2]},
            {"userid": "lisi", "name": "李四", "department": [1]}]}),
        "msgaudit/get_permit_user_list" => json!({"errcode": 0, "ids": ["zhangsan"]}),
        "externalcontact/get_follow_user_list" => {
            json!({"errcode": 0, "follow_user": ["zhangsan"]})
        }
        "externalcontact/batch/get_by_user" => json!({"errcode": 0, "external_contact_list": [
            {"external_contact": {"external_userid": "wm1", "name": "王"},
             "follow_info": {"userid": "zhangsan"}}]}),
        "externalcontact/groupchat/list" => {
            json!({"errcode": 0, "group_chat_list": [{"chat_id": "wrC"}]})
        }
        "externalcontact/groupchat/get" if text("chat_id") != "wrC" => json!({"errcode": 90501}),
        "externalcontact/groupchat/get" => json!({"errcode": 0, "group_chat": {"chat_id": "wrC",
            "name": "客户群", "member_list": [{"userid": "zhangsan"}, {"userid": "wm1"}]}}),
        "msgaudit/groupchat/get" if text("roomid") == "wrI" => json!({"errcode": 0,
            "roomname": "内部群", "members": [{"memberid": "lisi"}]}),
        "msgaudit/groupchat/get" => json!({"errcode": 301_059}),
        "msgaudit/check_single_agree" => json!({"errcode": 0, "agreeinfo": [
            {"userid": "zhangsan", "exteranalopenid": "wm1", "agree_status": "Agree"}]}),
        "msgaudit/check_room_agree" => json!({"errcode": 0, "agreeinfo": []}),
        other => panic!("unexpected call of {other}"),
    }
}

async fn synced(
    change: impl Fn(&ReceivedCall, Value) -> ServerReply + Send + Sync + 'static,
) -> (Server, Result<Snapshot, Error>) {
    let server = Server::start(move |call: &ReceivedCall| change(call, tenant(call))).await;
    let (client, _) = directory(&server.base_url);
    let wanted = ["wrI".to_owned()];
    let snapshot = client.sync(&wanted, &[], NOW).await;
    (server, snapshot)
}

fn sizes(snapshot: &Snapshot) -> [usize; 7] {
    [
        snapshot.departments.len(),
        snapshot.members.len(),
        snapshot.customers.len(),
        snapshot.follows.len(),
        snapshot.rooms.len(),
        snapshot.room_members.len(),
        snapshot.consents.len(),
    ]
}

const WHOLE: [usize; 7] = [2, 2, 1, 1, 2, 3, 1];

#[tokio::test]
async fn each_secret_is_used_for_the_apis_it_may_call() {
    let (_server, snapshot) = synced(|_, reply| ServerReply::Json(reply)).await;
    let snapshot = snapshot.unwrap();
    assert_eq!(sizes(&snapshot), WHOLE);
    assert!(snapshot.members.iter().any(|member| member.archived));
    assert!(snapshot.incomplete.is_empty());
}

#[tokio::test]
async fn refused_secret_of_the_archive_costs_only_what_it_may_read() {
    let (_server, snapshot) = synced(|call, reply| {
        let secret = call.query.get("corpsecret").map(String::as_str);
        if call.api == "gettoken" && secret == Some(support::ARCHIVE_SECRET) {
            return errcode(40001);
        }
        ServerReply::Json(reply)
    })
    .await;
    let snapshot = snapshot.unwrap();
    let [departments, members, customers, follows, ..] = sizes(&snapshot);
    assert_eq!([departments, members, customers, follows], [2, 2, 1, 1]);
    assert!(snapshot.rooms.iter().any(|room| room.room_id == "wrC"));
    assert!(snapshot.incomplete.contains(&SnapshotPart::Archived));

    // Without the secret of the application nothing can be read.
    let (_server, snapshot) = synced(|call, reply| {
        let secret = call.query.get("corpsecret").map(String::as_str);
        if call.api == "gettoken" && secret != Some(support::ARCHIVE_SECRET) {
            return errcode(40001);
        }
        ServerReply::Json(reply)
    })
    .await;
    assert!(snapshot.is_err());
}

#[tokio::test]
async fn odd_item_of_any_list_costs_itself_and_its_part_counts_as_incomplete() {
    use SnapshotPart::{Archived, Customers, Departments, Members};
    let lists: [(&str, &str, Option<SnapshotPart>); 8] = [
        ("department/list", "/department", Some(Departments)),
        ("user/list", "/userlist", Some(Members)),
        ("msgaudit/get_permit_user_list", "/ids", Some(Archived)),
        (
            "externalcontact/get_follow_user_list",
            "/follow_user",
            Some(Customers),
        ),
        (
            "externalcontact/batch/get_by_user",
            "/external_contact_list",
            Some(Customers),
        ),
        ("externalcontact/groupchat/list", "/group_chat_list", None),
        (
            "externalcontact/groupchat/get",
            "/group_chat/member_list",
            None,
        ),
        ("msgaudit/check_single_agree", "/agreeinfo", None),
    ];
    for (api, list, part) in lists {
        for odd in [json!(null), json!([]), json!({"userid": {}}), json!(true)] {
            let (list, shown) = (list.to_owned(), odd.clone());
            let (_server, snapshot) = synced(move |call, mut reply| {
                if call.api == api {
                    // An answer that refuses an item has no list.
                    let items = reply.pointer_mut(&list).and_then(Value::as_array_mut);
                    if let Some(items) = items {
                        items.push(odd.clone());
                    }
                }
                ServerReply::Json(reply)
            })
            .await;
            let snapshot = snapshot.unwrap_or_else(|error| panic!("{api} {shown}: {error}"));
            assert_eq!(sizes(&snapshot), WHOLE, "{api} {shown}");
            let mut expected: BTreeSet<SnapshotPart> = part.into_iter().collect();
            if part == Some(Departments) {
                // The members of an unknown department were not asked for.
                expected.insert(Members);
            }
            assert_eq!(snapshot.incomplete, expected, "{api} {shown}");
        }
    }
}

#[tokio::test]
async fn list_or_object_of_the_wrong_type_costs_itself() {
    for (api, field) in [
        ("externalcontact/batch/get_by_user", "external_contact_list"),
        ("externalcontact/groupchat/get", "group_chat"),
        ("msgaudit/groupchat/get", "members"),
        ("msgaudit/check_room_agree", "agreeinfo"),
    ] {
        for odd in [json!(null), json!(""), json!({}), json!("x"), json!(7)] {
            let shown = odd.clone();
            let (_server, snapshot) = synced(move |call, mut reply| {
                if call.api == api && reply["errcode"] == json!(0) {
                    reply[field] = odd.clone();
                }
                ServerReply::Json(reply)
            })
            .await;
            let snapshot = snapshot.unwrap_or_else(|error| panic!("{api} {shown}: {error}"));
            assert_eq!(snapshot.members.len(), 2, "{api} {shown}");
        }
    }
}

#[tokio::test]
async fn refused_or_empty_parts_are_not_taken_for_gone() {
    use SnapshotPart::{Archived, Customers, Departments, Members};
    type Reply = fn() -> ServerReply;
    let parts: [(&str, Reply, &[SnapshotPart]); 6] = [
        (
            "externalcontact/get_follow_user_list",
            || errcode(48002),
            &[Customers],
        ),
        (
            "externalcontact/batch/get_by_user",
            || errcode(48002),
            &[Customers],
        ),
        (
            "msgaudit/get_permit_user_list",
            || errcode(48002),
            &[Archived],
        ),
        (
            "department/list",
            || ServerReply::Json(json!({"errcode": 0, "department": []})),
            &[Departments, Members],
        ),
        (
            "user/list",
            || ServerReply::Json(json!({"errcode": 0, "userlist": []})),
            &[Members],
        ),
        (
            "externalcontact/get_follow_user_list",
            || ServerReply::Json(json!({"errcode": 0, "follow_user": []})),
            &[Customers],
        ),
    ];
    for (api, refused, incomplete) in parts {
        let (_server, snapshot) = synced(move |call, reply| {
            if call.api == api {
                refused()
            } else {
                ServerReply::Json(reply)
            }
        })
        .await;
        let expected: BTreeSet<SnapshotPart> = incomplete.iter().copied().collect();
        assert_eq!(snapshot.unwrap().incomplete, expected, "{api}");
    }
}

#[tokio::test]
async fn list_that_goes_in_circles_ends_with_an_error() {
    let circles: [fn(&str, usize) -> String; 3] = [
        |cursor, _| {
            if cursor == "b" {
                "a".into()
            } else {
                "b".into()
            }
        },
        |_, call| format!("cursor {call}"),
        |_, _| "same".into(),
    ];
    for next in circles {
        let (server, snapshot) = synced(move |call, mut reply| {
            if call.api == "externalcontact/batch/get_by_user" {
                let cursor = call.body["cursor"].as_str().unwrap_or_default();
                reply["next_cursor"] = json!(next(cursor, call.earlier));
            }
            ServerReply::Json(reply)
        })
        .await;
        let error = snapshot.unwrap_err();
        assert!(
            matches!(
                error,
                Error::EndlessList {
                    api: Api::Customers
                }
            ),
            "{error}"
        );
        assert!(server.calls("externalcontact/batch/get_by_user").len() < 200);
    }
}

#[tokio::test]
async fn members_of_sub_departments_are_read_although_the_server_ignores_fetch_child() {
    let (server, snapshot) = synced(|call, mut reply| {
        if call.api == "user/list" {
            let department: u32 = call.query["department_id"].parse().unwrap();
            let members = reply["userlist"].as_array_mut().unwrap();
            // Somebody in both departments proves nothing about those below.
            members.push(json!({"userid": "both", "name": "两处", "department": [1, 2]}));
            members.retain(|member| {
                let departments = member["department"].as_array().unwrap();
                departments.contains(&json!(department))
            });
        }
        ServerReply::Json(reply)
    })
    .await;
    let snapshot = snapshot.unwrap();
    let members: Vec<&str> = snapshot
        .members
        .iter()
        .map(|m| m.member_id.as_str())
        .collect();
    assert_eq!(members, ["both", "lisi", "zhangsan"]);
    assert!(snapshot.incomplete.is_empty());
    assert_eq!(server.calls("user/list").len(), 2);
}

#[tokio::test]
async fn answer_of_a_gateway_is_not_an_empty_list() {
    for api in [
        "department/list",
        "user/list",
        "externalcontact/get_follow_user_list",
    ] {
        let (_server, snapshot) = synced(move |call, reply| {
            if call.api == api {
                return ServerReply::Json(json!({"code": 500, "message": "upstream unavailable"}));
            }
            ServerReply::Json(reply)
        })
        .await;
        let error = snapshot.unwrap_err();
        assert!(matches!(error, Error::NotAnAnswer { .. }), "{error}");
    }
}

#[tokio::test]
async fn probe_asks_with_each_secret() {
    for (api, whose) in [
        ("department/list", Api::Departments),
        ("msgaudit/get_permit_user_list", Api::PermitUsers),
    ] {
        let server = Server::start(move |call: &ReceivedCall| {
            if call.api == api {
                errcode(48002)
            } else {
                ServerReply::Json(tenant(call))
            }
        })
        .await;
        let error = directory(&server.base_url).0.probe().await.unwrap_err();
        assert!(error.to_string().starts_with(whose.as_str()), "{error}");
    }
}
