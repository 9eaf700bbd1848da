//! The archive's directory APIs: covered members, internal rooms, consents, robots.

use axum::body::Bytes;
use axum::extract::Query;
use serde::Deserialize;
use serde_json::{Value, json};

use super::SharedState;
use super::reply::{ApiResult, BAD_PARAMETER, NOT_INTERNAL_ROOM, TOO_MANY_ITEMS, ok, request};
use super::tokens::{Access, Right};
use crate::org::{Customer, Org, RoomKind};

/// WeCom requires the archive's secret; many gateways use one secret for all APIs.
const RIGHTS: &[Right] = &[Right::Archive];

pub(crate) async fn get_permit_user_list(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
) -> ApiResult {
    state.enter("msgaudit/get_permit_user_list", &access, RIGHTS)?;
    let members = state.tenant.org.members.iter();
    let ids: Vec<&str> = members
        .filter(|member| member.archived)
        .map(|member| member.id.as_str())
        .collect();
    Ok(ok(json!({"ids": ids})))
}

#[derive(Deserialize)]
struct RoomQuery {
    roomid: String,
}

pub(crate) async fn groupchat_get(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    body: Bytes,
) -> ApiResult {
    state.enter("msgaudit/groupchat/get", &access, RIGHTS)?;
    let wanted: RoomQuery = request(&body)?;
    let org = &state.tenant.org;
    let room = org
        .rooms
        .iter()
        .find(|room| room.id == wanted.roomid && room.kind == RoomKind::Internal)
        .ok_or(NOT_INTERNAL_ROOM)?;
    let members: Vec<Value> = room
        .parties
        .iter()
        .map(|&party| json!({"memberid": org.party(party).id, "jointime": room.created_at + 60}))
        .collect();
    Ok(ok(json!({
        "roomname": room.name,
        "creator": org.party(room.parties[0]).id,
        "room_create_time": room.created_at,
        "notice": room.notice,
        "members": members,
    })))
}

#[derive(Deserialize)]
struct ConsentRequest {
    info: Vec<ConsentPair>,
}

#[derive(Deserialize)]
struct ConsentPair {
    userid: String,
    // WeCom misspells this name.
    exteranalopenid: String,
}

fn customer<'a>(org: &'a Org, id: &str) -> Option<&'a Customer> {
    org.customers.iter().find(|customer| customer.id == id)
}

pub(crate) async fn check_single_agree(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    body: Bytes,
) -> ApiResult {
    state.enter("msgaudit/check_single_agree", &access, RIGHTS)?;
    let wanted: ConsentRequest = request(&body)?;
    if wanted.info.len() > 100 {
        return Err(TOO_MANY_ITEMS);
    }
    let org = &state.tenant.org;
    let list: Vec<Value> = wanted
        .info
        .iter()
        .filter_map(|pair| {
            let customer = customer(org, &pair.exteranalopenid)?;
            Some(json!({
                "status_change_time": customer.agreed_at,
                "userid": pair.userid,
                "exteranalopenid": customer.id,
                "agree_status": customer.agree_status,
            }))
        })
        .collect();
    Ok(ok(json!({"agreeinfo": list})))
}

pub(crate) async fn check_room_agree(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    body: Bytes,
) -> ApiResult {
    state.enter("msgaudit/check_room_agree", &access, RIGHTS)?;
    let wanted: RoomQuery = request(&body)?;
    let org = &state.tenant.org;
    let room = org
        .rooms
        .iter()
        .find(|room| room.id == wanted.roomid && room.kind == RoomKind::Customer)
        .ok_or(BAD_PARAMETER)?;
    let list: Vec<Value> = room
        .parties
        .iter()
        .filter_map(|&party| customer(org, &org.party(party).id))
        .map(|customer| {
            json!({
                "status_change_time": customer.agreed_at,
                "exteranalopenid": customer.id,
                "agree_status": customer.agree_status,
            })
        })
        .collect();
    Ok(ok(json!({"agreeinfo": list})))
}

#[derive(Deserialize)]
pub(crate) struct RobotQuery {
    #[serde(default)]
    robot_id: String,
}

pub(crate) async fn get_robot_info(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    Query(wanted): Query<RobotQuery>,
) -> ApiResult {
    state.enter("msgaudit/get_robot_info", &access, RIGHTS)?;
    let org = &state.tenant.org;
    let robot = org
        .robots
        .iter()
        .find(|robot| robot.id == wanted.robot_id)
        .ok_or(BAD_PARAMETER)?;
    Ok(ok(json!({"data": {
        "robot_id": robot.id,
        "name": robot.name,
        "creator_userid": org.members[robot.creator as usize].id,
    }})))
}
