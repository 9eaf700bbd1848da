//! The archive API: sealed records by `seq`, and media in chunks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, StreamExt};
use serde::Deserialize;

use super::api_faults::CallFault;
use super::reply::{
    ApiError, BAD_PARAMETER, BAD_TOKEN, BUSY, CONFLICT, EXPIRED_TOKEN, NO_MEDIA, TOO_MANY,
    TOO_OFTEN, raw_json, request,
};
use super::tokens::{Access, Right};
use super::{ServerState, SharedState};
use crate::faults::ApiFault;
use crate::media::{CHUNK, Media};

/// Maximum records in a page.
const MAX_RECORDS: u64 = 1_000;
/// How long the archive keeps records, in milliseconds.
const WINDOW_MS: i64 = 5 * 86_400_000;

#[derive(Deserialize)]
struct PageRequest {
    seq: u64,
    limit: u64,
}

pub(crate) async fn getchatdata(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    body: Bytes,
) -> Response {
    let began = Instant::now();
    if let Err(error) = state.enter("getchatdata", &access, &[Right::Archive]) {
        return error.into_response();
    }
    let wanted: PageRequest = match request(&body) {
        Ok(wanted) => wanted,
        Err(error) => return error.into_response(),
    };
    if !(1..=MAX_RECORDS).contains(&wanted.limit) {
        return BAD_PARAMETER.into_response();
    }
    if !state.api_faults.within_limit(began) {
        return TOO_OFTEN.into_response();
    }
    let fault = state.api_faults.next();
    if let Some(error) = fault.and_then(|fault| refused(&state, fault)) {
        state.calls.count("getchatdata faults", false);
        return error;
    }
    let records = if fault == Some(CallFault::Empty) {
        "[]".to_owned()
    } else {
        if matches!(fault, None | Some(CallFault::Fails(ApiFault::Slow))) {
            state.asked_beyond.fetch_max(wanted.seq, Ordering::AcqRel);
        }
        let state = Arc::clone(&state);
        match tokio::task::spawn_blocking(move || page(&state, &wanted)).await {
            Ok(records) => records,
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    let delay = state.api_faults.delay().saturating_sub(began.elapsed());
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    answer(fault, &records).await
}

fn page(state: &ServerState, wanted: &PageRequest) -> String {
    let tenant = &state.tenant;
    let visible = state.visible();
    let mut first = tenant.after(wanted.seq).min(visible);
    if state.enforce_window {
        let oldest = chrono::Utc::now().timestamp_millis() - WINDOW_MS;
        first = first.max(first_since(state, visible, oldest));
    }
    tenant.records(first..(first + wanted.limit).min(visible))
}

/// Returns the position of the first record whose message is not older; times ascend with `seq`.
fn first_since(state: &ServerState, visible: u64, oldest: i64) -> u64 {
    let tenant = &state.tenant;
    let (mut low, mut high) = (0, visible);
    while low < high {
        let middle = low + (high - low) / 2;
        let content = tenant.faults.content(middle);
        if tenant.message(content.message).msgtime < oldest {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Returns the response of a fault that needs no records.
fn refused(state: &ServerState, fault: CallFault) -> Option<Response> {
    let CallFault::Fails(kind) = fault else {
        return None;
    };
    let error: ApiError = match kind {
        ApiFault::Busy => BUSY,
        ApiFault::Rate => TOO_OFTEN,
        ApiFault::Concurrency => TOO_MANY,
        ApiFault::Expired => {
            state.tokens.invalidate(EXPIRED_TOKEN);
            EXPIRED_TOKEN
        }
        ApiFault::Invalid => {
            state.tokens.invalidate(BAD_TOKEN);
            BAD_TOKEN
        }
        ApiFault::E500 => {
            return Some((StatusCode::INTERNAL_SERVER_ERROR, "internal error").into_response());
        }
        ApiFault::E502 => {
            return Some((StatusCode::BAD_GATEWAY, "<html>502 Bad Gateway</html>").into_response());
        }
        ApiFault::Disconnect | ApiFault::Truncated | ApiFault::Error | ApiFault::Slow => {
            return None;
        }
    };
    Some(error.into_response())
}

async fn answer(fault: Option<CallFault>, records: &str) -> Response {
    let (code, text) = match fault {
        Some(CallFault::Fails(ApiFault::Error)) => (CONFLICT.0, CONFLICT.1),
        _ => (0, "ok"),
    };
    let envelope = format!(r#"{{"errcode":{code},"errmsg":"{text}","chatdata":{records}}}"#);
    match fault {
        Some(CallFault::Fails(ApiFault::Truncated)) => {
            raw_json(envelope.as_bytes()[..envelope.len() * 2 / 3].to_vec())
        }
        Some(CallFault::Fails(ApiFault::Disconnect)) => {
            let half = Bytes::copy_from_slice(&envelope.as_bytes()[..envelope.len() / 2]);
            // Send the first half before closing the connection.
            let disconnect = stream::once(async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
            });
            raw_json(Body::from_stream(
                stream::iter([Ok(half)]).chain(disconnect),
            ))
        }
        Some(CallFault::Fails(ApiFault::Slow)) => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            raw_json(envelope)
        }
        _ => raw_json(envelope),
    }
}

#[derive(Deserialize)]
struct MediaRequest {
    sdkfileid: String,
    #[serde(default)]
    indexbuf: String,
}

pub(crate) async fn getchatmediadata(
    axum::extract::State(state): SharedState,
    Query(access): Query<Access>,
    body: Bytes,
) -> Result<Response, ApiError> {
    state.enter("getchatmediadata", &access, &[Right::Archive])?;
    let wanted: MediaRequest = request(&body)?;
    let seed = state.tenant.options.seed;
    let media = Media::from_sdkfileid(seed, &wanted.sdkfileid).ok_or(NO_MEDIA)?;
    // The SDK's indexbuf is the next byte range.
    let start: usize = match wanted.indexbuf.strip_prefix("Range:bytes=") {
        Some(range) => {
            let start = range.split('-').next().and_then(|start| start.parse().ok());
            start
                .filter(|&start| start < media.size as usize)
                .ok_or(BAD_PARAMETER)?
        }
        None if wanted.indexbuf.is_empty() => 0,
        None => return Err(BAD_PARAMETER),
    };
    let bytes = Bytes::from(media.bytes(seed));
    let end = (start + CHUNK).min(bytes.len());
    let finished = end == bytes.len();
    let next = if finished {
        String::new()
    } else {
        format!("Range:bytes={end}-{}", (end + CHUNK).min(bytes.len()) - 1)
    };
    let mut response = Response::new(Body::from(bytes.slice(start..end)));
    let headers = response.headers_mut();
    let next = HeaderValue::from_str(&next).map_err(|_| BAD_PARAMETER)?;
    headers.insert(HeaderName::from_static("x-index-buf"), next);
    let finish = HeaderValue::from_static(if finished { "1" } else { "0" });
    headers.insert(HeaderName::from_static("x-is-finish"), finish);
    Ok(response)
}
