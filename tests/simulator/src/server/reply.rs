//! WeCom's responses: HTTP 200 with an errcode.

use axum::Json;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// An errcode with its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ApiError(pub(crate) i32, pub(crate) &'static str);

pub(crate) const BUSY: ApiError = ApiError(-1, "system busy");
pub(crate) const CONFLICT: ApiError = ApiError(6_000, "data version conflict");
pub(crate) const BAD_SECRET: ApiError = ApiError(40_001, "invalid credential");
pub(crate) const BAD_CORPID: ApiError = ApiError(40_013, "invalid corpid");
pub(crate) const BAD_TOKEN: ApiError = ApiError(40_014, "invalid access_token");
pub(crate) const BAD_PARAMETER: ApiError = ApiError(40_058, "invalid Request Parameter");
pub(crate) const BAD_CUSTOMER: ApiError = ApiError(40_096, "invalid external userid");
pub(crate) const NO_TOKEN: ApiError = ApiError(41_001, "access_token missing");
pub(crate) const EXPIRED_TOKEN: ApiError = ApiError(42_001, "access_token expired");
pub(crate) const TOO_OFTEN: ApiError = ApiError(45_009, "api freq out of limit");
pub(crate) const TOO_MANY: ApiError = ApiError(45_033, "too many concurrent calls");
pub(crate) const NO_PRIVILEGE: ApiError = ApiError(48_002, "api forbidden");
pub(crate) const NO_DEPARTMENT: ApiError = ApiError(60_123, "invalid party id");
pub(crate) const NO_MEMBER: ApiError = ApiError(60_111, "userid not found");
pub(crate) const NOT_FOLLOWED: ApiError = ApiError(84_061, "not external contact");
pub(crate) const NOT_CUSTOMER_ROOM: ApiError = ApiError(90_501, "chat is not a customer group");
pub(crate) const NO_MEDIA: ApiError = ApiError(301_048, "sdkfileid is invalid or expired");
pub(crate) const NOT_INTERNAL_ROOM: ApiError = ApiError(301_059, "not an internal group");
pub(crate) const TOO_MANY_ITEMS: ApiError = ApiError(301_060, "more than 100 items");

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        Json(json!({"errcode": self.0, "errmsg": self.1})).into_response()
    }
}

/// A successful response or an errcode.
pub(crate) type ApiResult = Result<Json<Value>, ApiError>;

/// Returns `value` with errcode 0.
pub(crate) fn ok(mut value: Value) -> Json<Value> {
    value["errcode"] = 0.into();
    value["errmsg"] = "ok".into();
    Json(value)
}

/// Returns a response whose body is already JSON.
pub(crate) fn raw_json(body: impl Into<axum::body::Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// Parses the JSON of a request.
pub(crate) fn request<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(if body.is_empty() { b"{}" } else { body }).map_err(|_| BAD_PARAMETER)
}

/// Returns one page of a list and the next cursor, which is opaque to clients.
pub(crate) fn page<'a, T>(
    list: &'a [T],
    cursor: &str,
    limit: usize,
) -> Result<(&'a [T], String), ApiError> {
    let start: usize = match cursor.strip_prefix("page-") {
        Some(number) => number.parse().map_err(|_| BAD_PARAMETER)?,
        None if cursor.is_empty() => 0,
        None => return Err(BAD_PARAMETER),
    };
    let end = (start + limit).min(list.len());
    let next = if end < list.len() {
        format!("page-{end}")
    } else {
        String::new()
    };
    Ok((list.get(start..end).ok_or(BAD_PARAMETER)?, next))
}
