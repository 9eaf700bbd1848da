//! The rim: one HTTP exchange with WeCom, with its token, its budget and its bounds.
//!
//! Guarantees: every answer is bounded in time and size; a token is renewed at most once a call,
//! by one caller for all; redirects are not followed (they would carry the token elsewhere);
//! nothing that leaves here holds an address. What an answer means is decided elsewhere, by pure
//! functions.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use chatledger_schemas::{Classified as _, CorpId, FaultClass, Secret};
use reqwest::{Client, RequestBuilder, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use crate::limits::Limits;
use crate::token::{Grant, Next, Slot, Token};
use crate::{Api, Error, OnCall, errcode, loose, redact};

/// No answer is read beyond this. A page of 1000 records is some 20 MB at the very most.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// What is reserved for an answer at once, whatever its header promises.
const MAX_RESERVE_BYTES: usize = 32 << 20;
const MAX_CONNECT: Duration = Duration::from_secs(10);

/// What is asked of an API, apart from the token.
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// GET with these parameters.
    Get(Vec<(&'static str, String)>),
    /// POST with this body.
    Post(serde_json::Value),
}

/// Why an answer was not understood or not granted, before it is known whose answer it is.
#[derive(Debug)]
pub(crate) enum Unread {
    /// The answer's errcode is not 0.
    Refused { code: i64, message: String },
    /// Not of the documented form.
    Malformed { line: usize, column: usize },
    /// See [`Error::NoReadableSeq`].
    NoReadableSeq { records: usize },
}

impl From<serde_json::Error> for Unread {
    /// Keeps the place alone: serde's own text quotes values.
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed {
            line: error.line(),
            column: error.column(),
        }
    }
}

/// `errcode` and `errmsg`, which any answer may carry.
#[derive(Deserialize)]
pub(crate) struct Outcome {
    #[serde(default, deserialize_with = "loose::errcode")]
    errcode: i64,
    #[serde(default, deserialize_with = "loose::text")]
    errmsg: String,
}

impl Outcome {
    pub(crate) fn read(body: &[u8]) -> Result<(), Unread> {
        let outcome: Self = serde_json::from_slice(body)?;
        outcome.granted()
    }

    fn granted(self) -> Result<(), Unread> {
        match self.errcode {
            0 => Ok(()),
            code => Err(Unread::Refused {
                code,
                message: self.errmsg,
            }),
        }
    }
}

/// Reads an answer that is an object with `errcode` and the fields of `T`.
pub(crate) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Unread> {
    Outcome::read(body)?;
    Ok(serde_json::from_slice(body)?)
}

/// Calls the APIs of one corp with one secret.
pub(crate) struct Caller {
    http: Client,
    /// The base address; its path is `prefix`.
    base: Url,
    prefix: String,
    corp_id: CorpId,
    secret: Secret,
    token: Mutex<Slot>,
    limits: Limits,
    on_call: OnCall,
}

impl Caller {
    /// `timeout` is the longest one exchange may take, from the connection to the last byte.
    pub(crate) fn new(
        corp_id: CorpId,
        base_url: &str,
        secret: Secret,
        timeout: Duration,
        on_call: OnCall,
    ) -> Result<Self, Error> {
        let base = base(base_url)?;
        let http = Client::builder()
            .user_agent(concat!("chatledger/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .connect_timeout(timeout.min(MAX_CONNECT))
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
            limits: Limits::new(),
            on_call,
        })
    }

    /// Asks once; if the token is not taken, once more with a new one.
    pub(crate) async fn call<T>(
        &self,
        api: Api,
        ask: &Ask,
        read: impl Fn(&Bytes) -> Result<T, Unread>,
    ) -> Result<T, Error> {
        let token = self.token(None).await?;
        match self.exchange(api, ask, &token, &read).await {
            Err(error) if error.class() == FaultClass::Refresh => {
                let token = self.token(Some(&token)).await?;
                match self.exchange(api, ask, &token, &read).await {
                    Err(Error::Refused { api, code, .. })
                        if errcode::verdict(code)
                            == errcode::Verdict::Fault(FaultClass::Refresh) =>
                    {
                        Err(Error::TokenRefused { api, code })
                    }
                    outcome => outcome,
                }
            }
            outcome => outcome,
        }
    }

    /// A token other than `stale`. The lock is held during the call, so that all wait for one.
    async fn token(&self, stale: Option<&Token>) -> Result<Token, Error> {
        let mut slot = self.token.lock().await;
        let asked_at = Instant::now();
        match slot.next(stale, asked_at) {
            Next::Use(token) => Ok(token),
            Next::Refused(error) => Err(error),
            Next::Fetch => {
                let grant = self.grant().await;
                slot.settle(grant, asked_at)
            }
        }
    }

    async fn grant(&self) -> Result<Grant, Error> {
        let mut url = self.url(Api::Token);
        url.query_pairs_mut()
            .append_pair("corpid", self.corp_id.as_str())
            .append_pair("corpsecret", self.secret.expose());
        self.told(Api::Token, self.http.get(url), "", &read_grant)
            .await
    }

    async fn exchange<T>(
        &self,
        api: Api,
        ask: &Ask,
        token: &Token,
        read: &impl Fn(&Bytes) -> Result<T, Unread>,
    ) -> Result<T, Error> {
        let mut url = self.url(api);
        url.query_pairs_mut()
            .append_pair("access_token", token.expose());
        let request = match ask {
            Ask::Get(parameters) => {
                url.query_pairs_mut().extend_pairs(parameters);
                self.http.get(url)
            }
            Ask::Post(body) => self.http.post(url).json(body),
        };
        self.told(api, request, token.expose(), read).await
    }

    /// Sends within the budget, reads, and tells the listener how it went.
    async fn told<T>(
        &self,
        api: Api,
        request: RequestBuilder,
        token: &str,
        read: &impl Fn(&Bytes) -> Result<T, Unread>,
    ) -> Result<T, Error> {
        self.limits.ready(api).await;
        let outcome = match fetch(api, request).await {
            Ok((200..=299, body)) => read(&body).map_err(|unread| self.named(api, unread, token)),
            // A gateway may put WeCom's own answer under a status of its choice.
            Ok((status, body)) => Err(match Outcome::read(&body) {
                Err(refused @ Unread::Refused { .. }) => self.named(api, refused, token),
                _ => Error::Status { api, status },
            }),
            Err(error) => Err(error),
        };
        let how = match &outcome {
            Ok(_) => "ok",
            Err(error) if error.is_about_item() => "ok",
            Err(error) => error.class().as_str(),
        };
        (self.on_call)(api.as_str(), how);
        outcome
    }

    fn named(&self, api: Api, unread: Unread, token: &str) -> Error {
        match unread {
            Unread::Refused { code, message } => Error::Refused {
                api,
                code,
                message: redact::clean(&message, &[self.secret.expose(), token]),
                retry_after: errcode::pause(
                    code,
                    SystemTime::now()
                        .duration_since(SystemTime::UNIX_EPOCH)
                        .unwrap_or_default(),
                ),
            },
            Unread::Malformed { line, column } => Error::Malformed { api, line, column },
            Unread::NoReadableSeq { records } => Error::NoReadableSeq { records },
        }
    }

    fn url(&self, api: Api) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/cgi-bin/{api}", self.prefix));
        url
    }
}

fn base(base_url: &str) -> Result<Url, Error> {
    let unusable = |reason: &str| Error::BaseUrl {
        reason: reason.to_owned(),
    };
    let url = Url::parse(base_url).map_err(|error| unusable(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(unusable("it must begin with http:// or https://"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(unusable("it must not have parameters"));
    }
    Ok(url)
}

fn read_grant(body: &Bytes) -> Result<Grant, Unread> {
    #[derive(Deserialize)]
    struct Granted {
        #[serde(default, deserialize_with = "loose::text")]
        access_token: String,
        #[serde(default, deserialize_with = "loose::integer")]
        expires_in: u32,
    }
    let granted: Granted = read(body)?;
    if granted.access_token.is_empty() {
        return Err(Unread::Malformed { line: 0, column: 0 });
    }
    Ok(Grant {
        value: granted.access_token,
        expires_in: (granted.expires_in > 0)
            .then(|| Duration::from_secs(granted.expires_in.into())),
    })
}

/// Sends the request and reads the answer's status and body, both without a trace of the address.
async fn fetch(api: Api, request: RequestBuilder) -> Result<(u16, Bytes), Error> {
    let oversize = || Error::Oversize {
        api,
        limit: MAX_ANSWER_BYTES,
    };
    let mut response = request.send().await.map_err(|source| Error::Send {
        api,
        source: source.without_url(),
    })?;
    let promised = response
        .content_length()
        .map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if promised > MAX_ANSWER_BYTES {
        return Err(oversize());
    }
    let mut body = Vec::with_capacity(promised.min(MAX_RESERVE_BYTES));
    while let Some(chunk) = response.chunk().await.map_err(|source| Error::Receive {
        api,
        source: source.without_url(),
    })? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
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
    fn base_address_is_http_without_parameters() {
        assert!(base("http://127.0.0.1:9701").is_ok());
        assert!(base("https://gate.example/wecom/").is_ok());
        for bad in [
            "",
            "127.0.0.1:9701",
            "ftp://x",
            "http://x?a=1",
            "http://x#a",
            "http://",
        ] {
            assert!(base(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn errcode_may_be_missing_text_or_null_but_not_nonsense() {
        for fine in ["{}", r#"{"errcode":"0"}"#, r#"{"errcode":null,"errmsg":7}"#] {
            assert!(Outcome::read(fine.as_bytes()).is_ok(), "{fine}");
        }
        assert!(matches!(
            Outcome::read(br#"{"errcode":"-1","errmsg":"busy"}"#),
            Err(Unread::Refused { code: -1, .. })
        ));
        for bad in [r#"{"errcode":"x"}"#, r#"{"errcode":{}}"#, "", "<html>", "3"] {
            assert!(
                matches!(Outcome::read(bad.as_bytes()), Err(Unread::Malformed { .. })),
                "{bad}"
            );
        }
    }

    #[test]
    fn grant_without_a_token_is_malformed() {
        let read = |body: &'static str| read_grant(&Bytes::from_static(body.as_bytes()));
        assert!(read(r#"{"errcode":0,"access_token":"","expires_in":7200}"#).is_err());
        let grant = read(r#"{"access_token":"t","expires_in":"60"}"#).unwrap();
        assert_eq!(grant.expires_in, Some(Duration::from_secs(60)));
    }
}
