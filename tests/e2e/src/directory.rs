//! Compares the directory tables with the simulator's `truth/directory.json`.
//!
//! Only columns that the simulator states are compared. Rooms have three sources: customer groups are
//! listed by an API, internal rooms are requested once a message names them, and of rooms of other
//! corps only the id is known.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::difference::same;
use crate::expected::Expected;
use crate::tenant::Tenant;

/// Compares the directory tables with the simulator's directory.
///
/// # Errors
/// A table differs.
pub async fn equals_truth(tenant: &Tenant, expected: &Expected) -> Result<()> {
    let text =
        std::fs::read(tenant.truth().join("directory.json")).context("read the directory")?;
    let truth: Value = serde_json::from_slice(&text).context("read the directory")?;
    let rows = |name: &str, row: &dyn Fn(&Value) -> Value| -> Result<Vec<Value>> {
        let list = truth[name]
            .as_array()
            .with_context(|| format!("no {name} in the directory"))?;
        Ok(list.iter().map(row).collect())
    };
    let departments = rows(
        "departments",
        &|d| json!({"department_id": d["id"], "parent_id": d["parent"], "name": d["name"]}),
    )?;
    compare(
        tenant,
        "departments",
        &["department_id"],
        "department_id, parent_id, name",
        departments,
    )
    .await?;
    let members = rows("members", &|m| {
        json!({"member_id": m["id"], "name": m["name"], "title": m["title"],
               "department_ids": m["departments"], "archived": m["archived"]})
    })?;
    let columns = "member_id, name, title, department_ids, archived";
    compare(tenant, "members", &["member_id"], columns, members).await?;

    let followed: BTreeSet<&str> = truth["follows"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|follow| follow["customer"].as_str())
        .collect();
    let mut customers = rows("customers", &|c| {
        json!({"customer_id": c["id"], "name": c["name"], "customer_type": c["kind"],
               "corp_name": c["company"], "position": c["position"]})
    })?;
    // No API returns a customer whom no member follows.
    customers.retain(|row| {
        row["customer_id"]
            .as_str()
            .is_some_and(|id| followed.contains(id))
    });
    let columns = "customer_id, name, customer_type, corp_name, position";
    compare(tenant, "customers", &["customer_id"], columns, customers).await?;

    let follows = rows("follows", &|f| {
        json!({"member_id": f["member"], "customer_id": f["customer"], "remark": f["remark"],
               "description": f["description"], "added_at": f["created_at"],
               "add_way": f["add_way"], "state": f["state"]})
    })?;
    let columns = "member_id, customer_id, remark, description, toUnixTimestamp(added_at) AS \
                   added_at, add_way, state";
    compare(
        tenant,
        "follows",
        &["member_id", "customer_id"],
        columns,
        follows,
    )
    .await?;
    rooms_equal_truth(tenant, &truth, expected).await
}

/// Compares the active rows of a table with the expected ones.
async fn compare(
    tenant: &Tenant,
    table: &str,
    key: &[&str],
    columns: &str,
    rows: Vec<Value>,
) -> Result<()> {
    let sql = format!("SELECT {columns} FROM {table} FINAL WHERE active");
    let found = tenant.clickhouse.rows(&sql).await?;
    let found: Vec<Value> = found.into_iter().map(Value::Object).collect();
    same(&format!("table {table}"), key, &rows, &found)
}

/// Compares rooms and their participants.
async fn rooms_equal_truth(tenant: &Tenant, truth: &Value, expected: &Expected) -> Result<()> {
    let mentioned_rooms: BTreeSet<&str> = expected
        .messages
        .iter()
        .filter_map(|row| row["room_id"].as_str())
        .collect();
    let is_mentioned = |room: &Value| {
        room["id"]
            .as_str()
            .is_some_and(|id| mentioned_rooms.contains(id))
    };
    let known_rooms: Vec<&Value> = truth["rooms"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|room| room["kind"] == "customer" || is_mentioned(room))
        .collect();
    let kind = |room: &Value| match room["kind"].as_str() {
        Some("foreign") => Value::from("unresolved"),
        _ => room["kind"].clone(),
    };
    let rooms = known_rooms
        .iter()
        .map(|room| json!({"room_id": room["id"], "name": room["name"], "kind": kind(room)}));
    compare(
        tenant,
        "rooms",
        &["room_id"],
        "room_id, name, kind",
        rooms.collect(),
    )
    .await?;
    // No API returns the participants of a room of another corp.
    let readable = known_rooms.iter().filter(|room| room["kind"] != "foreign");
    let parties = readable.flat_map(|room| {
        let parties = room["parties"].as_array().into_iter().flatten();
        parties.map(|party| json!({"room_id": room["id"], "party_id": party}))
    });
    compare(
        tenant,
        "room_members",
        &["room_id", "party_id"],
        "room_id, party_id",
        parties.collect(),
    )
    .await
}
