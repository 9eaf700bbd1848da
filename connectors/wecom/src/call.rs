//! One HTTP exchange with WeCom, including access token and rate limit.
//!
//! Guarantees: every response is bounded in time and size; a token is renewed at most once for each
//! call, by one caller for all; redirects are not followed, because they would send the token to
//! another host; no result contains a URL. Pure functions elsewhere interpret the response.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use chatledger_schemas::{Classified as _, CorpId, FaultClass, Secret};
use reqwest::{Client, RequestBuilder, Url, redirect};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::Mutex;

use crate::limits::ApiRateLimits;
use crate::token::{AccessToken, TokenDecision, TokenGrant, TokenSlot};
use crate::{Api, Error, OnCall, errcode, lenient, redact};

/// Maximum size of a response. A page of 1000 records has at most about 20 MB.
const MAX_RESPONSE_BYTES: usize = 256 << 20;
/// Maximum buffer allocated in advance, regardless of the response's Content-Length.
const MAX_PREALLOCATED_BYTES: usize = 32 << 20;
const MAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A request to an API, without the token.
#[derive(Clone, Debug)]
pub(crate) enum ApiRequest {
    /// GET with these parameters.
    Get(Vec<(&'static str, String)>),
    /// POST with this body.
    Post(serde_json::Value),
}

/// Reports why a response cannot be used. [`Error`] adds the API that sent it.
#[derive(Debug)]
pub(crate) enum ResponseError {
    /// The errcode is not 0.
    Refused { code: i64, message: String },
    /// The response does not have the documented form.
    Malformed { line: usize, column: usize },
    /// See [`Error::NotAnAnswer`].
    NotAnAnswer,
    /// See [`Error::NoReadableSeq`].
    NoReadableSeq { records: usize },
}

impl From<serde_json::Error> for ResponseError {
    /// Keeps only the position, because serde's message quotes values.
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed {
            line: error.line(),
            column: error.column(),
        }
    }
}

/// `errcode` and `errmsg`, which any response may contain.
#[derive(Deserialize)]
pub(crate) struct ResponseStatus {
    #[serde(default, deserialize_with = "lenient::errcode")]
    errcode: Option<i64>,
    #[serde(default, deserialize_with = "lenient::text")]
    errmsg: String,
}

/// Whether a response has an `errcode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errcode {
    /// It is 0.
    Success,
    /// There is none.
    Missing,
}

impl ResponseStatus {
    /// Returns an error if `body` is not JSON of the documented form or its errcode is not 0.
    pub(crate) fn check(body: &[u8]) -> Result<Errcode, ResponseError> {
        let status: Self = serde_json::from_slice(body)?;
        match status.errcode {
            None => Ok(Errcode::Missing),
            Some(0) => Ok(Errcode::Success),
            Some(code) => Err(ResponseError::Refused {
                code,
                message: status.errmsg,
            }),
        }
    }
}

/// Parses a response of `api`, an object with `errcode` and the fields of `T`. Without either it is not an answer of
/// WeCom, but for example the error page of a gateway, and must not count as one that has nothing.
pub(crate) fn read<T: DeserializeOwned>(api: Api, body: &Bytes) -> Result<T, ResponseError> {
    if ResponseStatus::check(body)? == Errcode::Missing {
        #[expect(
            clippy::zero_sized_map_values,
            reason = "JSON has maps, and only the names matter"
        )]
        let fields: HashMap<Cow<'_, str>, IgnoredAny> = serde_json::from_slice(body)?;
        if !api
            .answer_fields()
            .iter()
            .any(|field| fields.contains_key(*field))
        {
            return Err(ResponseError::NotAnAnswer);
        }
    }
    Ok(serde_json::from_slice(body)?)
}

/// Calls the APIs of one corp with one secret.
pub(crate) struct ApiClient {
    http: Client,
    /// Base URL; its path is `prefix`.
    base: Url,
    prefix: String,
    corp_id: CorpId,
    secret: Secret,
    token: Mutex<TokenSlot>,
    limits: ApiRateLimits,
    on_call: OnCall,
}

impl ApiClient {
    /// Creates the client. `timeout` limits one HTTP exchange, from connecting to the last byte.
    pub(crate) fn new(
        corp_id: CorpId,
        base_url: &str,
        secret: Secret,
        timeout: Duration,
        on_call: OnCall,
    ) -> Result<Self, Error> {
        let base = parse_base_url(base_url)?;
        let http = Client::builder()
            .user_agent(concat!("chatledger/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .connect_timeout(timeout.min(MAX_CONNECT_TIMEOUT))
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|source| Error::Client {
                source: source.without_url(),
            })?;
        Ok(Self {
            http,
            prefix: base.path().trim_end_matches('/').to_owned(),
            base,
            corp_id,
            secret,
            token: Mutex::default(),
            limits: ApiRateLimits::new(),
            on_call,
        })
    }

    /// Sends the request once. If the token is rejected, sends it once more with a new token.
    pub(crate) async fn call<T>(
        &self,
        api: Api,
        request: &ApiRequest,
        read: impl Fn(&Bytes) -> Result<T, ResponseError>,
    ) -> Result<T, Error> {
        let token = self.token(None).await?;
        match self.exchange(api, request, &token, &read).await {
            Err(error) if error.class() == FaultClass::Refresh => {
                let token = self.token(Some(&token)).await?;
                match self.exchange(api, request, &token, &read).await {
                    Err(Error::Refused { api, code, .. })
                        if errcode::classify(code)
                            == errcode::ErrcodeClass::Fault(FaultClass::Refresh) =>
                    {
                        Err(Error::TokenRefused { api, code })
                    }
                    result => result,
                }
            }
            result => result,
        }
    }

    /// Returns a token other than `stale`. Holds the lock while requesting a new one, so that all
    /// callers wait for the same request.
    async fn token(&self, stale: Option<&AccessToken>) -> Result<AccessToken, Error> {
        let mut slot = self.token.lock().await;
        let requested_at = Instant::now();
        match slot.decide(stale, requested_at) {
            TokenDecision::Use(token) => Ok(token),
            TokenDecision::Refused(error) => Err(error),
            TokenDecision::Fetch => {
                let grant = self.request_token().await;
                slot.store(grant, requested_at)
            }
        }
    }

    async fn request_token(&self) -> Result<TokenGrant, Error> {
        let mut url = self.url(Api::Token);
        url.query_pairs_mut()
            .append_pair("corpid", self.corp_id.as_str())
            .append_pair("corpsecret", self.secret.expose());
        self.send(Api::Token, self.http.get(url), "", &read_token)
            .await
    }

    async fn exchange<T>(
        &self,
        api: Api,
        request: &ApiRequest,
        token: &AccessToken,
        read: &impl Fn(&Bytes) -> Result<T, ResponseError>,
    ) -> Result<T, Error> {
        let mut url = self.url(api);
        url.query_pairs_mut()
            .append_pair("access_token", token.expose());
        let request = match request {
            ApiRequest::Get(parameters) => {
                url.query_pairs_mut().extend_pairs(parameters);
                self.http.get(url)
            }
            ApiRequest::Post(body) => self.http.post(url).json(body),
        };
        self.send(api, request, token.expose(), read).await
    }

    /// Sends the request within the rate limit, parses the response and reports the result to
    /// `on_call`.
    async fn send<T>(
        &self,
        api: Api,
        request: RequestBuilder,
        token: &str,
        read: &impl Fn(&Bytes) -> Result<T, ResponseError>,
    ) -> Result<T, Error> {
        self.limits.acquire(api).await;
        let result = match receive(api, request).await {
            Ok((200..=299, body)) => read(&body).map_err(|error| self.with_api(api, error, token)),
            // A gateway may return WeCom's response with another HTTP status.
            Ok((status, body)) => Err(match ResponseStatus::check(&body) {
                Err(refused @ ResponseError::Refused { .. }) => self.with_api(api, refused, token),
                _ => Error::Status { api, status },
            }),
            Err(error) => Err(error),
        };
        let call_result = match &result {
            Ok(_) => "ok",
            Err(error) if error.is_about_item() => "ok",
            Err(error) => error.class().as_str(),
        };
        (self.on_call)(api.as_str(), call_result);
        result
    }

    fn with_api(&self, api: Api, error: ResponseError, token: &str) -> Error {
        match error {
            ResponseError::Refused { code, message } => Error::Refused {
                api,
                code,
                message: redact::redact(&message, &[self.secret.expose(), token]),
                retry_after: errcode::pause(
                    code,
                    SystemTime::now()
                        .duration_since(SystemTime::UNIX_EPOCH)
                        .unwrap_or_default(),
                ),
            },
            ResponseError::Malformed { line, column } => Error::Malformed { api, line, column },
            ResponseError::NotAnAnswer => Error::NotAnAnswer { api },
            ResponseError::NoReadableSeq { records } => Error::NoReadableSeq { records },
        }
    }

    fn url(&self, api: Api) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/cgi-bin/{api}", self.prefix));
        url
    }
}

fn parse_base_url(base_url: &str) -> Result<Url, Error> {
    let invalid = |reason: &str| Error::BaseUrl {
        reason: reason.to_owned(),
    };
    let url = Url::parse(base_url).map_err(|error| invalid(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(invalid("it must begin with http:// or https://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("it must not have a query or a fragment"));
    }
    Ok(url)
}

fn read_token(body: &Bytes) -> Result<TokenGrant, ResponseError> {
    #[derive(Deserialize)]
    struct TokenResponse {
        #[serde(default, deserialize_with = "lenient::text")]
        access_token: String,
        #[serde(default, deserialize_with = "lenient::integer")]
        expires_in: u32,
    }
    let response: TokenResponse = read(Api::Token, body)?;
    if response.access_token.is_empty() {
        return Err(ResponseError::Malformed { line: 0, column: 0 });
    }
    Ok(TokenGrant {
        value: response.access_token,
        expires_in: (response.expires_in > 0)
            .then(|| Duration::from_secs(response.expires_in.into())),
    })
}

/// Sends the request and reads status and body. Errors do not contain the URL.
async fn receive(api: Api, request: RequestBuilder) -> Result<(u16, Bytes), Error> {
    let oversize = || Error::Oversize {
        api,
        limit: MAX_RESPONSE_BYTES,
    };
    let mut response = request.send().await.map_err(|source| Error::Send {
        api,
        source: source.without_url(),
    })?;
    let announced = response
        .content_length()
        .map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if announced > MAX_RESPONSE_BYTES {
        return Err(oversize());
    }
    let mut body = Vec::with_capacity(announced.min(MAX_PREALLOCATED_BYTES));
    while let Some(chunk) = response.chunk().await.map_err(|source| Error::Receive {
        api,
        source: source.without_url(),
    })? {
        if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return Err(oversize());
        }
        body.extend_from_slice(&chunk);
    }
    Ok((response.status().as_u16(), Bytes::from(body)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn base_url_is_http_without_query_or_fragment() {
        assert!(parse_base_url("http://127.0.0.1:9701").is_ok());
        assert!(parse_base_url("https://gate.example/wecom/").is_ok());
        for invalid in [
            "",
            "127.0.0.1:9701",
            "ftp://x",
            "http://x?a=1",
            "http://x#a",
            "http://",
        ] {
            assert!(parse_base_url(invalid).is_err(), "{invalid:?} was accepted");
        }
    }

    #[test]
    fn errcode_may_be_missing_text_or_null_but_nothing_else() {
        for (valid, errcode) in [
            ("{}", Errcode::Missing),
            (r#"{"errcode":"0"}"#, Errcode::Success),
            (r#"{"errcode":0.0}"#, Errcode::Success),
            (r#"{"errcode":null,"errmsg":7}"#, Errcode::Missing),
        ] {
            let checked = ResponseStatus::check(valid.as_bytes()).unwrap();
            assert_eq!(checked, errcode, "{valid}");
        }
        assert!(matches!(
            ResponseStatus::check(br#"{"errcode":"-1","errmsg":"busy"}"#),
            Err(ResponseError::Refused { code: -1, .. })
        ));
        for invalid in [r#"{"errcode":"x"}"#, r#"{"errcode":{}}"#, "", "<html>", "3"] {
            assert!(
                matches!(
                    ResponseStatus::check(invalid.as_bytes()),
                    Err(ResponseError::Malformed { .. })
                ),
                "{invalid}"
            );
        }
    }

    #[test]
    fn response_with_neither_errcode_nor_a_field_of_the_api_is_not_an_answer() {
        #[derive(Deserialize)]
        struct Departments {
            #[serde(default, rename = "department")]
            list: Vec<u32>,
        }
        let read = |body: &'static str| {
            let body = Bytes::from_static(body.as_bytes());
            read::<Departments>(Api::Departments, &body).map(|answer| answer.list.len())
        };
        for body in [
            "{}",
            r#"{"code":500,"message":"upstream unavailable"}"#,
            r#"{"code":0,"data":{"errcode":0,"department":[1]}}"#,
            r#"{"errcode":null,"userlist":[]}"#,
        ] {
            let read = read(body);
            assert!(matches!(read, Err(ResponseError::NotAnAnswer)), "{body}");
        }
        assert_eq!(read(r#"{"errcode":0}"#).unwrap(), 0);
        assert_eq!(read(r#"{"department":[1]}"#).unwrap(), 1);
    }

    #[test]
    fn token_response_without_a_token_is_malformed() {
        let read = |body: &'static str| read_token(&Bytes::from_static(body.as_bytes()));
        assert!(read(r#"{"errcode":0,"access_token":"","expires_in":7200}"#).is_err());
        let grant = read(r#"{"access_token":"t","expires_in":"60"}"#).unwrap();
        assert_eq!(grant.expires_in, Some(Duration::from_secs(60)));
    }
}
