//! Access tokens: one per secret, reused while it is valid.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::Query;
use serde::Deserialize;
use serde_json::json;

use super::reply::{
    ApiError, ApiResult, BAD_CORPID, BAD_SECRET, BAD_TOKEN, EXPIRED_TOKEN, NO_PRIVILEGE, NO_TOKEN,
    ok,
};
use super::{ServerState, SharedState};
use crate::options::TenantOptions;
use crate::random::{Purpose, number};

/// Which APIs a secret gives access to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Right {
    /// The archive API.
    Archive,
    /// The contact APIs.
    Contact,
}

#[derive(Clone, Debug)]
struct AccessToken {
    text: String,
    until: Instant,
    right: Right,
}

/// The issued tokens.
#[derive(Debug)]
pub(crate) struct Tokens {
    corp_id: String,
    secrets: [(String, Right); 2],
    seed: u64,
    ttl: Duration,
    issued: Mutex<Issued>,
}

#[derive(Debug, Default)]
struct Issued {
    count: u64,
    current: HashMap<Right, AccessToken>,
    /// Tokens that have expired or were invalidated.
    past: HashMap<String, ApiError>,
}

impl Tokens {
    pub(crate) fn new(options: &TenantOptions, ttl: Duration) -> Self {
        Self {
            corp_id: options.corp_id(),
            secrets: [
                (options.secret(1), Right::Archive),
                (options.secret(2), Right::Contact),
            ],
            seed: options.seed,
            ttl,
            issued: Mutex::default(),
        }
    }

    fn issue(&self, corp_id: &str, secret: &str) -> Result<(String, u64), ApiError> {
        if corp_id != self.corp_id {
            return Err(BAD_CORPID);
        }
        let (_, right) = self
            .secrets
            .iter()
            .find(|(known, _)| known == secret)
            .ok_or(BAD_SECRET)?;
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(token) = issued.current.get(right)
            && token.until > now
        {
            return Ok((token.text.clone(), (token.until - now).as_secs().max(1)));
        }
        issued.count += 1;
        let index = (*right as u64) << 40 | issued.count;
        let text = format!(
            "{:016x}{:016x}",
            number(self.seed, Purpose::Api, index),
            number(!self.seed, Purpose::Api, index)
        );
        let token = AccessToken {
            text: text.clone(),
            until: now + self.ttl,
            right: *right,
        };
        if let Some(old) = issued.current.insert(*right, token) {
            issued.past.insert(old.text, EXPIRED_TOKEN);
        }
        Ok((text, self.ttl.as_secs()))
    }

    /// Checks that a token gives access to one of these.
    pub(crate) fn check(&self, text: Option<&str>, rights: &[Right]) -> Result<(), ApiError> {
        let text = text.filter(|text| !text.is_empty()).ok_or(NO_TOKEN)?;
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = issued.past.get(text) {
            return Err(*error);
        }
        let token = issued
            .current
            .values()
            .find(|token| token.text == text)
            .ok_or(BAD_TOKEN)?;
        if token.until <= Instant::now() {
            return Err(EXPIRED_TOKEN);
        }
        if rights.contains(&token.right) {
            Ok(())
        } else {
            Err(NO_PRIVILEGE)
        }
    }

    /// Invalidates the archive's token; calls that use it return `error`.
    pub(crate) fn invalidate(&self, error: ApiError) {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = issued.current.remove(&Right::Archive) {
            issued.past.insert(token.text, error);
        }
    }
}

/// The token parameter of a request.
#[derive(Debug, Deserialize)]
pub(crate) struct Access {
    access_token: Option<String>,
}

impl ServerState {
    /// Counts a call and checks its token.
    pub(crate) fn enter(
        &self,
        api: &'static str,
        access: &Access,
        rights: &[Right],
    ) -> Result<(), ApiError> {
        let checked = self.tokens.check(access.access_token.as_deref(), rights);
        self.calls.count(api, checked.is_ok());
        checked
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct TokenQuery {
    #[serde(default)]
    corpid: String,
    #[serde(default)]
    corpsecret: String,
}

pub(crate) async fn gettoken(
    axum::extract::State(state): SharedState,
    Query(credentials): Query<TokenQuery>,
) -> ApiResult {
    let state: Arc<ServerState> = state;
    let issued = state
        .tokens
        .issue(&credentials.corpid, &credentials.corpsecret);
    state.calls.count("gettoken", issued.is_ok());
    let (token, seconds) = issued?;
    Ok(ok(json!({"access_token": token, "expires_in": seconds})))
}
