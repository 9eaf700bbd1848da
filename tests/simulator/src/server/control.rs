//! The control API for tests: counts of calls, and sending more messages.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::Query;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::SharedState;

/// Maximum messages sent by one request.
const MAX_MESSAGES: u64 = 1_000_000;

/// Number of calls of one API.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct CallCounts {
    ok: u64,
    refused: u64,
}

/// Numbers of calls by API.
#[derive(Debug, Default)]
pub(crate) struct Calls(Mutex<BTreeMap<&'static str, CallCounts>>);

impl Calls {
    pub(crate) fn count(&self, api: &'static str, ok: bool) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.entry(api).or_default();
        if ok {
            count.ok += 1;
        } else {
            count.refused += 1;
        }
    }

    fn all(&self) -> BTreeMap<&'static str, CallCounts> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn highest_seq(state: &super::ServerState) -> u64 {
    state
        .visible()
        .checked_sub(1)
        .map_or(0, |last| state.tenant.seq(last))
}

/// Returns the counts; `done` means that a reader has requested records after the last one.
pub(crate) async fn stats(axum::extract::State(state): SharedState) -> Json<Value> {
    let highest = highest_seq(&state);
    let asked = state.asked_beyond.load(Ordering::Acquire);
    Json(json!({
        "calls": state.calls.all(),
        "records": state.visible(),
        "highest_seq": highest,
        "asked_beyond_seq": asked,
        "done": asked >= highest,
    }))
}

#[derive(Deserialize)]
pub(crate) struct AppendQuery {
    count: u64,
}

/// Sends messages now; they are readable and in the truth before it responds.
pub(crate) async fn append(
    axum::extract::State(state): SharedState,
    Query(more): Query<AppendQuery>,
) -> Result<Json<Value>, (StatusCode, String)> {
    if more.count > MAX_MESSAGES {
        return Err((
            StatusCode::BAD_REQUEST,
            format!("count is at most {MAX_MESSAGES}"),
        ));
    }
    let sending = Arc::clone(&state);
    tokio::task::spawn_blocking(move || sending.send(more.count))
        .await
        .map_err(anyhow::Error::from)
        .and_then(|sent| sent)
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))?;
    Ok(Json(
        json!({"records": state.visible(), "highest_seq": highest_seq(&state)}),
    ))
}
