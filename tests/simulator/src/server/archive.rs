//! The archive: sealed records by `seq`, and media in pieces.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, StreamExt};
use serde::Deserialize;

use super::mishaps::Mishap;
use super::reply::{
    BAD_PARAMETER, BAD_TOKEN, BUSY, CONFLICT, EXPIRED_TOKEN, NO_MEDIA, Refusal, TOO_MANY,
    TOO_OFTEN, raw_json, request,
};
use super::tokens::{Access, Right};
use super::{Shared, State};
use crate::faults::ApiFault;
use crate::media::{CHUNK, Media};

/// Records in a page at most.
const MOST: u64 = 1_000;
/// How far back the archive reaches, milliseconds.
const WINDOW_MS: i64 = 5 * 86_400_000;

#[derive(Deserialize)]
struct Wanted {
    seq: u64,
    limit: u64,
}

pub(crate) async fn getchatdata(
    axum::extract::State(state): Shared,
    Query(access): Query<Access>,
    body: Bytes,
) -> Response {
    let began = Instant::now();
    if let Err(refusal) = state.enter("getchatdata", &access, &[Right::Archive]) {
        return refusal.into_response();
    }
    let wanted: Wanted = match request(&body) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal.into_response(),
    };
    if !(1..=MOST).contains(&wanted.limit) {
        return BAD_PARAMETER.into_response();
    }
    if !state.mishaps.within_limit(began) {
        return TOO_OFTEN.into_response();
    }
    let mishap = state.mishaps.next();
    if let Some(refusal) = mishap.and_then(|mishap| refused(&state, mishap)) {
        state.calls.count("getchatdata faults", false);
        return refusal;
    }
    let records = if mishap == Some(Mishap::Empty) {
        "[]".to_owned()
    } else {
        if matches!(mishap, None | Some(Mishap::Fails(ApiFault::Slow))) {
            state.asked_beyond.fetch_max(wanted.seq, Ordering::AcqRel);
        }
        let state = Arc::clone(&state);
        match tokio::task::spawn_blocking(move || page(&state, &wanted)).await {
            Ok(records) => records,
            Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    let delay = state.mishaps.delay().saturating_sub(began.elapsed());
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    answer(mishap, &records).await
}

fn page(state: &State, wanted: &Wanted) -> String {
    let tenant = &state.tenant;
    let visible = state.visible();
    let mut first = tenant.after(wanted.seq).min(visible);
    if state.enforce_window {
        let oldest = chrono::Utc::now().timestamp_millis() - WINDOW_MS;
        first = first.max(first_since(state, visible, oldest));
    }
    tenant.records(first..(first + wanted.limit).min(visible))
}

/// The first record whose message is not older; times ascend with `seq`.
fn first_since(state: &State, visible: u64, oldest: i64) -> u64 {
    let tenant = &state.tenant;
    let (mut low, mut high) = (0, visible);
    while low < high {
        let middle = low + (high - low) / 2;
        let place = tenant.faults.place(middle);
        if tenant.message(place.message).msgtime < oldest {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// A failure that needs no records.
fn refused(state: &State, mishap: Mishap) -> Option<Response> {
    let Mishap::Fails(fault) = mishap else {
        return None;
    };
    let refusal: Refusal = match fault {
        ApiFault::Busy => BUSY,
        ApiFault::Rate => TOO_OFTEN,
        ApiFault::Concurrency => TOO_MANY,
        ApiFault::Expired => {
            state.tokens.void(EXPIRED_TOKEN);
            EXPIRED_TOKEN
        }
        ApiFault::Invalid => {
            state.tokens.void(BAD_TOKEN);
            BAD_TOKEN
        }
        ApiFault::E500 => {
            return Some((StatusCode::INTERNAL_SERVER_ERROR, "internal error").into_response());
        }
        ApiFault::E502 => {
            return Some((StatusCode::BAD_GATEWAY, "<html>502 Bad Gateway</html>").into_response());
        }
        ApiFault::Cut | ApiFault::Truncated | ApiFault::Error | ApiFault::Slow => return None,
    };
    Some(refusal.into_response())
}

async fn answer(mishap: Option<Mishap>, records: &str) -> Response {
    let (code, text) = match mishap {
        Some(Mishap::Fails(ApiFault::Error)) => (CONFLICT.0, CONFLICT.1),
        _ => (0, "ok"),
    };
    let envelope = format!(r#"{{"errcode":{code},"errmsg":"{text}","chatdata":{records}}}"#);
    match mishap {
        Some(Mishap::Fails(ApiFault::Truncated)) => {
            raw_json(envelope.as_bytes()[..envelope.len() * 2 / 3].to_vec())
        }
        Some(Mishap::Fails(ApiFault::Cut)) => {
            let half = Bytes::copy_from_slice(&envelope.as_bytes()[..envelope.len() / 2]);
            // The first half has to be on its way before the connection ends.
            let cut = stream::once(async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
            });
            raw_json(Body::from_stream(stream::iter([Ok(half)]).chain(cut)))
        }
        Some(Mishap::Fails(ApiFault::Slow)) => {
            tokio::time::sleep(Duration::from_secs(2)).await;
            raw_json(envelope)
        }
        _ => raw_json(envelope),
    }
}

#[derive(Deserialize)]
struct WantedMedia {
    sdkfileid: String,
    #[serde(default)]
    indexbuf: String,
}

pub(crate) async fn getchatmediadata(
    axum::extract::State(state): Shared,
    Query(access): Query<Access>,
    body: Bytes,
) -> Result<Response, Refusal> {
    state.enter("getchatmediadata", &access, &[Right::Archive])?;
    let wanted: WantedMedia = request(&body)?;
    let seed = state.tenant.options.seed;
    let media = Media::from_sdkfileid(seed, &wanted.sdkfileid).ok_or(NO_MEDIA)?;
    // What the SDK calls indexbuf is the next range.
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
