//! A scripted WeCom: a real HTTP server on a free port, one for each test.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{Response, Uri};
use chatledger_schemas::Secret;
use chatledger_wecom::{Archive, ArchiveOptions, DirectoryClient, DirectoryOptions, OnCall};
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub(crate) const SECRET: &str = "s3cr3t/with+odd=chars";
/// Begins every token of the archive's secret.
pub(crate) const ARCHIVE_TOKEN: &str = "archive-token";
/// The archive's secret, where both are used.
pub(crate) const ARCHIVE_SECRET: &str = "an0ther/secret";
pub(crate) const TOKEN: &str = "tok-Zz9";

/// One call that the server received.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedCall {
    /// Path after `/cgi-bin/`.
    pub(crate) api: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) body: Value,
    /// Number of earlier calls of this API.
    pub(crate) earlier: usize,
}

pub(crate) enum ServerReply {
    Json(Value),
    Raw(u16, String),
    /// Announces this many bytes, sends the given part, then closes the connection.
    Truncated(usize, String),
    /// Announces this many bytes, sends the given part, then stalls.
    Stall(usize, String),
    /// Never replies.
    Never,
}

pub(crate) fn errcode(code: i64) -> ServerReply {
    ServerReply::Json(
        json!({"errcode": code, "errmsg": format!("errmsg of {code}"), "chatdata": []}),
    )
}

type ReplyScript = dyn Fn(&ReceivedCall) -> ServerReply + Send + Sync;

pub(crate) struct Server {
    pub(crate) base_url: String,
    state: Arc<ServerState>,
    task: JoinHandle<()>,
}

struct ServerState {
    script: Box<ReplyScript>,
    calls: Mutex<Vec<ReceivedCall>>,
}

impl Server {
    /// Starts a server that replies as `script` says. For `gettoken`, a reply of `{}` is replaced by a
    /// token `TOKEN-<n>`.
    pub(crate) async fn start(
        script: impl Fn(&ReceivedCall) -> ServerReply + Send + Sync + 'static,
    ) -> Self {
        let state = Arc::new(ServerState {
            script: Box::new(script),
            calls: Mutex::default(),
        });
        let app = Router::new().fallback(answer).with_state(state.clone());
        let call_log = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", call_log.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(call_log, app).await.unwrap() });
        Self {
            base_url,
            state,
            task,
        }
    }

    pub(crate) fn calls(&self, api: &str) -> Vec<ReceivedCall> {
        let calls = self.state.calls.lock().unwrap();
        calls
            .iter()
            .filter(|call| call.api == api)
            .cloned()
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether the token of a call is that of the other secret: WeCom gives `msgaudit/*` only to the archive's secret, and
/// contacts only to that of an application.
fn is_wrong_token(call: &ReceivedCall) -> bool {
    let Some(token) = call.query.get("access_token") else {
        return false;
    };
    let needs_archive = call.api.starts_with("msgaudit/");
    !call.api.starts_with("message/") && needs_archive != token.starts_with(ARCHIVE_TOKEN)
}

async fn answer(
    State(state): State<Arc<ServerState>>,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Response<Body> {
    let api = uri.path().rsplit_once("/cgi-bin/").unwrap().1.to_owned();
    let call = {
        let mut calls = state.calls.lock().unwrap();
        let call = ReceivedCall {
            earlier: calls.iter().filter(|call| call.api == api).count(),
            api,
            query,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        calls.push(call.clone());
        call
    };
    let response = Response::builder();
    let reply = if is_wrong_token(&call) {
        errcode(48002)
    } else {
        (state.script)(&call)
    };
    match reply {
        ServerReply::Json(json) if call.api == "gettoken" && json == json!({}) => {
            let of_archive = call
                .query
                .get("corpsecret")
                .is_some_and(|s| s == ARCHIVE_SECRET);
            let prefix = if of_archive { ARCHIVE_TOKEN } else { TOKEN };
            let token = format!("{prefix}-{}", call.earlier + 1);
            let json = json!({"errcode": 0, "access_token": token, "expires_in": 7200});
            response.body(Body::from(json.to_string())).unwrap()
        }
        ServerReply::Json(json) => response.body(Body::from(json.to_string())).unwrap(),
        ServerReply::Raw(status, text) => response.status(status).body(Body::from(text)).unwrap(),
        ServerReply::Truncated(length, part) => {
            let end = stream::once(async {
                // Yields, so that the first part is sent before the error.
                tokio::task::yield_now().await;
                Err("the connection is closed here")
            });
            response
                .header("content-length", length)
                .body(Body::from_stream(stream::iter([Ok(part)]).chain(end)))
                .unwrap()
        }
        ServerReply::Stall(length, part) => {
            let parts = stream::iter([Ok::<_, &str>(part)]).chain(stream::pending());
            response
                .header("content-length", length)
                .body(Body::from_stream(parts))
                .unwrap()
        }
        ServerReply::Never => std::future::pending().await,
    }
}

/// The arguments of every `on_call`, in order.
pub(crate) type CallLog = Arc<Mutex<Vec<(&'static str, &'static str)>>>;

pub(crate) fn call_log() -> (OnCall, CallLog) {
    let call_log = CallLog::default();
    let on_call = {
        let call_log = call_log.clone();
        Arc::new(move |api, result| call_log.lock().unwrap().push((api, result)))
    };
    (on_call, call_log)
}

pub(crate) fn archive(base_url: &str, limit: u32, timeout: Duration) -> (Archive, CallLog) {
    let (on_call, call_log) = call_log();
    let archive = Archive::new(ArchiveOptions {
        corp_id: "ww1".into(),
        base_url: base_url.to_owned(),
        secret: Secret::new(SECRET.into()),
        limit,
        timeout,
        on_call,
    })
    .unwrap();
    (archive, call_log)
}

pub(crate) fn directory(base_url: &str) -> (DirectoryClient, CallLog) {
    let (on_call, call_log) = call_log();
    let client = DirectoryClient::new(DirectoryOptions {
        corp_id: "ww1".into(),
        base_url: base_url.to_owned(),
        secret: Secret::new(SECRET.into()),
        archive_secret: Secret::new(ARCHIVE_SECRET.into()),
        timeout: Duration::from_secs(30),
        on_call,
    })
    .unwrap();
    (client, call_log)
}

/// Returns a page with one record for each seq.
pub(crate) fn page(seqs: impl IntoIterator<Item = u64>) -> ServerReply {
    let chatdata: Vec<Value> = seqs
        .into_iter()
        .map(|seq| {
            json!({"seq": seq, "msgid": format!("m{seq}"), "publickey_ver": 1,
                   "encrypt_random_key": "AA==", "encrypt_chat_msg": "BB=="})
        })
        .collect();
    ServerReply::Json(json!({"errcode": 0, "errmsg": "ok", "chatdata": chatdata}))
}
