//! The contact APIs: departments and members.

use axum::body::Bytes;
use axum::extract::Query;
use serde::Deserialize;
use serde_json::{Value, json};

use super::SharedState;
use super::reply::{ApiError, ApiResult, NO_DEPARTMENT, NO_MEMBER, ok, page, request};
use super::tokens::{Access, Right};
use crate::org::{Department, Member, Org};

const RIGHTS: &[Right] = &[Right::Contact];

#[derive(Deserialize)]
pub(crate) struct DepartmentQuery {
    id: Option<u32>,
    department_id: Option<u32>,
    fetch_child: Option<u8>,
}

fn below(org: &Org, id: Option<u32>) -> Result<Vec<&Department>, ApiError> {
    let found = org.department_with_children(id.unwrap_or(1));
    if found.is_empty() {
        Err(NO_DEPARTMENT)
    } else {
        Ok(found)
    }
}

fn leaders(org: &Org, department: u32) -> Vec<&str> {
    org.members
        .iter()
        .filter(|member| member.leader && member.departments[0] == department)
        .map(|member| member.id.as_str())
        .collect()
}

pub(crate) async fn department_list(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    Query(wanted): Query<DepartmentQuery>,
) -> ApiResult {
    state.enter("department/list", &access, RIGHTS)?;
    let org = &state.tenant.org;
    let list: Vec<Value> = below(org, wanted.id)?
        .into_iter()
        .map(|department| {
            json!({
                "id": department.id,
                "name": department.name,
                "parentid": department.parent,
                "order": 100_000 - department.id,
                "department_leader": leaders(org, department.id),
            })
        })
        .collect();
    Ok(ok(json!({"department": list})))
}

pub(crate) async fn department_simplelist(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    Query(wanted): Query<DepartmentQuery>,
) -> ApiResult {
    state.enter("department/simplelist", &access, RIGHTS)?;
    let list: Vec<Value> = below(&state.tenant.org, wanted.id)?
        .into_iter()
        .map(|d| json!({"id": d.id, "parentid": d.parent, "order": 100_000 - d.id}))
        .collect();
    Ok(ok(json!({"department_id": list})))
}

fn user(member: &Member) -> Value {
    let orders = vec![0; member.departments.len()];
    let leads: Vec<u8> = member
        .departments
        .iter()
        .enumerate()
        .map(|(n, _)| u8::from(n == 0 && member.leader))
        .collect();
    json!({
        "userid": member.id,
        "name": member.name,
        "department": member.departments,
        "order": orders,
        "position": member.title,
        "is_leader_in_dept": leads,
        "direct_leader": [],
        "telephone": "",
        "alias": "",
        "status": member.status,
        "main_department": member.departments[0],
        "extattr": {"attrs": []},
        "external_position": "",
        "hide_mobile": 0,
        "english_name": "",
    })
}

pub(crate) async fn user_list(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    Query(wanted): Query<DepartmentQuery>,
) -> ApiResult {
    state.enter("user/list", &access, RIGHTS)?;
    let org = &state.tenant.org;
    let id = wanted.department_id.ok_or(NO_DEPARTMENT)?;
    let mut inside: Vec<u32> = below(org, Some(id))?.iter().map(|d| d.id).collect();
    if wanted.fetch_child != Some(1) {
        inside.truncate(1);
    }
    let list: Vec<Value> = org
        .members
        .iter()
        .filter(|member| member.departments.iter().any(|d| inside.contains(d)))
        .map(user)
        .collect();
    Ok(ok(json!({"userlist": list})))
}

#[derive(Deserialize)]
struct MemberIdsRequest {
    #[serde(default)]
    cursor: String,
    limit: Option<usize>,
}

pub(crate) async fn user_list_id(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    body: Bytes,
) -> ApiResult {
    state.enter("user/list_id", &access, RIGHTS)?;
    let wanted: MemberIdsRequest = request(&body)?;
    let all: Vec<Value> = state
        .tenant
        .org
        .members
        .iter()
        .flat_map(|member| {
            member
                .departments
                .iter()
                .map(|d| json!({"userid": member.id, "department": d}))
        })
        .collect();
    let limit = wanted.limit.unwrap_or(10_000).clamp(1, 10_000);
    let (list, next) = page(&all, &wanted.cursor, limit)?;
    Ok(ok(json!({"dept_user": list, "next_cursor": next})))
}

#[derive(Deserialize)]
pub(crate) struct MemberQuery {
    #[serde(default)]
    userid: String,
}

pub(crate) async fn user_get(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    Query(wanted): Query<MemberQuery>,
) -> ApiResult {
    state.enter("user/get", &access, RIGHTS)?;
    let members = &state.tenant.org.members;
    let found = members
        .iter()
        .find(|member| member.id.eq_ignore_ascii_case(&wanted.userid));
    Ok(ok(user(found.ok_or(NO_MEMBER)?)))
}
