//! The external contact APIs: customers, their followers, and customer groups.

use axum::body::Bytes;
use axum::extract::Query;
use serde::Deserialize;
use serde_json::{Value, json};

use super::SharedState;
use super::reply::{
    ApiError, ApiResult, BAD_CUSTOMER, BAD_PARAMETER, NO_MEMBER, NOT_CUSTOMER_ROOM, NOT_FOLLOWED,
    ok, page, request,
};
use super::tokens::{Access, Right};
use crate::org::{Customer, Follow, Org, PartyKind, Room, RoomKind};

const RIGHTS: &[Right] = &[Right::Contact];
/// Maximum members in one request for their customers.
const MAX_MEMBERS: usize = 100;

fn contact(customer: &Customer) -> Value {
    let mut contact = json!({
        "external_userid": customer.id,
        "name": customer.name,
        "avatar": "",
        "type": customer.kind,
        "gender": 0,
    });
    if customer.kind == 2 {
        contact["corp_name"] = customer.company.as_str().into();
        contact["corp_full_name"] = customer.company.as_str().into();
        contact["position"] = customer.position.as_str().into();
    }
    contact
}

fn follow_info(org: &Org, follow: &Follow) -> Value {
    let mut info = json!({
        "userid": org.members[follow.member as usize].id,
        "remark": follow.remark,
        "description": follow.description,
        "createtime": follow.created_at,
        "remark_corp_name": "",
        "remark_mobiles": [],
        "oper_userid": org.members[follow.member as usize].id,
        "add_way": follow.add_way,
    });
    if !follow.state.is_empty() {
        info["state"] = follow.state.as_str().into();
    }
    info
}

fn member(org: &Org, userid: &str) -> Result<u32, ApiError> {
    org.members
        .iter()
        .position(|member| member.id.eq_ignore_ascii_case(userid))
        .map(|n| n as u32)
        .ok_or(NO_MEMBER)
}

pub(crate) async fn get_follow_user_list(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
) -> ApiResult {
    state.enter("externalcontact/get_follow_user_list", &access, RIGHTS)?;
    let org = &state.tenant.org;
    let mut followers: Vec<u32> = org.follows.iter().map(|follow| follow.member).collect();
    followers.dedup();
    let list: Vec<&str> = followers
        .iter()
        .map(|&n| org.members[n as usize].id.as_str())
        .collect();
    Ok(ok(json!({"follow_user": list})))
}

#[derive(Deserialize)]
pub(crate) struct CustomerQuery {
    #[serde(default)]
    userid: String,
    #[serde(default)]
    external_userid: String,
}

pub(crate) async fn list(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    Query(of): Query<CustomerQuery>,
) -> ApiResult {
    state.enter("externalcontact/list", &access, RIGHTS)?;
    let org = &state.tenant.org;
    let member = member(org, &of.userid)?;
    let list: Vec<&str> = org
        .follows
        .iter()
        .filter(|follow| follow.member == member)
        .map(|follow| org.customers[follow.customer as usize].id.as_str())
        .collect();
    if list.is_empty() {
        return Err(NOT_FOLLOWED);
    }
    Ok(ok(json!({"external_userid": list})))
}

pub(crate) async fn get(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    Query(of): Query<CustomerQuery>,
) -> ApiResult {
    state.enter("externalcontact/get", &access, RIGHTS)?;
    if !of.external_userid.starts_with("wm") && !of.external_userid.starts_with("wo") {
        return Err(BAD_CUSTOMER);
    }
    let org = &state.tenant.org;
    let number = org
        .customers
        .iter()
        .position(|c| c.id == of.external_userid);
    let followers: Vec<Value> = org
        .follows
        .iter()
        .filter(|follow| Some(follow.customer as usize) == number)
        .map(|follow| {
            let mut info = follow_info(org, follow);
            info["tags"] = follow
                .tags
                .iter()
                .map(|(id, name)| {
                    json!({"group_name": "客户标签", "tag_name": name, "tag_id": id, "type": 1})
                })
                .collect();
            info
        })
        .collect();
    match number {
        Some(number) if !followers.is_empty() => Ok(ok(json!({
            "external_contact": contact(&org.customers[number]),
            "follow_user": followers,
        }))),
        _ => Err(NOT_FOLLOWED),
    }
}

#[derive(Deserialize)]
struct FollowsRequest {
    userid_list: Vec<String>,
    #[serde(default)]
    cursor: String,
    limit: Option<usize>,
}

pub(crate) async fn get_by_user(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    body: Bytes,
) -> ApiResult {
    state.enter("externalcontact/batch/get_by_user", &access, RIGHTS)?;
    let wanted: FollowsRequest = request(&body)?;
    if wanted.userid_list.is_empty() || wanted.userid_list.len() > MAX_MEMBERS {
        return Err(BAD_PARAMETER);
    }
    let org = &state.tenant.org;
    let members: Vec<u32> = wanted
        .userid_list
        .iter()
        .map(|id| member(org, id))
        .collect::<Result<_, _>>()?;
    let follows: Vec<&Follow> = org
        .follows
        .iter()
        .filter(|follow| members.contains(&follow.member))
        .collect();
    if follows.is_empty() {
        return Err(NOT_FOLLOWED);
    }
    let limit = wanted.limit.unwrap_or(50);
    if !(1..=100).contains(&limit) {
        return Err(BAD_PARAMETER);
    }
    let (follows, next) = page(&follows, &wanted.cursor, limit)?;
    let list: Vec<Value> = follows
        .iter()
        .map(|follow| {
            let mut info = follow_info(org, follow);
            info["tag_id"] = follow.tags.iter().map(|(id, _)| id.as_str()).collect();
            json!({
                "external_contact": contact(&org.customers[follow.customer as usize]),
                "follow_info": info,
            })
        })
        .collect();
    Ok(ok(
        json!({"external_contact_list": list, "next_cursor": next}),
    ))
}

#[derive(Default, Deserialize)]
struct OwnerFilter {
    #[serde(default)]
    userid_list: Vec<String>,
}

#[derive(Deserialize)]
struct RoomsRequest {
    #[serde(default)]
    status_filter: u32,
    #[serde(default)]
    owner_filter: OwnerFilter,
    #[serde(default)]
    cursor: String,
    limit: Option<usize>,
}

pub(crate) async fn groupchat_list(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    body: Bytes,
) -> ApiResult {
    state.enter("externalcontact/groupchat/list", &access, RIGHTS)?;
    let wanted: RoomsRequest = request(&body)?;
    let owners = &wanted.owner_filter.userid_list;
    let limit = wanted.limit.unwrap_or(0);
    if !(1..=1_000).contains(&limit) || owners.len() > 100 || wanted.status_filter > 3 {
        return Err(BAD_PARAMETER);
    }
    let org = &state.tenant.org;
    let rooms: Vec<Value> = org
        .rooms
        .iter()
        .filter(|room| room.kind == RoomKind::Customer && wanted.status_filter == 0)
        .filter(|room| owners.is_empty() || owners.contains(&org.party(room.parties[0]).id))
        .map(|room| json!({"chat_id": room.id, "status": 0}))
        .collect();
    let (list, next) = page(&rooms, &wanted.cursor, limit)?;
    Ok(ok(json!({"group_chat_list": list, "next_cursor": next})))
}

#[derive(Deserialize)]
struct RoomRequest {
    chat_id: String,
    #[serde(default)]
    need_name: u8,
}

fn member_list(org: &Org, room: &Room, names: bool) -> Vec<Value> {
    room.parties
        .iter()
        .map(|&party| {
            let party = org.party(party);
            let staff = party.kind == PartyKind::Member;
            let mut entry = json!({
                "userid": party.id,
                "type": if staff { 1 } else { 2 },
                "join_time": room.created_at + 60,
                "join_scene": if staff { 1 } else { 3 },
                "group_nickname": "",
            });
            if !staff {
                entry["invitor"] = json!({"userid": org.party(room.parties[0]).id});
            }
            if names {
                entry["name"] = party.name.as_str().into();
            }
            entry
        })
        .collect()
}

pub(crate) async fn groupchat_get(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    body: Bytes,
) -> ApiResult {
    state.enter("externalcontact/groupchat/get", &access, RIGHTS)?;
    let wanted: RoomRequest = request(&body)?;
    let org = &state.tenant.org;
    let room = org
        .rooms
        .iter()
        .find(|room| room.id == wanted.chat_id && room.kind == RoomKind::Customer)
        .ok_or(NOT_CUSTOMER_ROOM)?;
    let owner = org.party(room.parties[0]).id.as_str();
    Ok(ok(json!({"group_chat": {
        "chat_id": room.id,
        "name": room.name,
        "owner": owner,
        "create_time": room.created_at,
        "notice": room.notice,
        "member_list": member_list(org, room, wanted.need_name == 1),
        "admin_list": [{"userid": owner}],
        "member_version": "1",
    }})))
}
