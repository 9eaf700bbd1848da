//! A WeCom that answers from a script: a real HTTP server on a free port, one a test.

#![allow(dead_code, reason = "every test file uses its own part")]

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
pub(crate) const TOKEN: &str = "tok-Zz9";

/// One call as the server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Path after `/cgi-bin/`.
    pub(crate) api: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) body: Value,
    /// How many calls of this API came before.
    pub(crate) earlier: usize,
}

pub(crate) enum Answer {
    Json(Value),
    Raw(u16, String),
    /// The head of an answer of this many bytes and what there is of it; then the connection dies.
    Cut(usize, String),
    /// The same, but then nothing more comes.
    Stall(usize, String),
    /// No answer while the client waits.
    Never,
}

pub(crate) fn errcode(code: i64) -> Answer {
    Answer::Json(json!({"errcode": code, "errmsg": format!("says {code}"), "chatdata": []}))
}

type Script = dyn Fn(&Call) -> Answer + Send + Sync;

pub(crate) struct Server {
    pub(crate) base_url: String,
    state: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    script: Box<Script>,
    calls: Mutex<Vec<Call>>,
}

impl Server {
    /// Answers by `script`; `gettoken` is answered with `TOKEN-<n>` unless the script gives more
    /// than `{}`.
    pub(crate) async fn start(script: impl Fn(&Call) -> Answer + Send + Sync + 'static) -> Self {
        let state = Arc::new(Shared {
            script: Box::new(script),
            calls: Mutex::default(),
        });
        let app = Router::new().fallback(answer).with_state(state.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            base_url,
            state,
            task,
        }
    }

    pub(crate) fn calls(&self, api: &str) -> Vec<Call> {
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

async fn answer(
    State(state): State<Arc<Shared>>,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Response<Body> {
    let api = uri.path().rsplit_once("/cgi-bin/").unwrap().1.to_owned();
    let call = {
        let mut calls = state.calls.lock().unwrap();
        let call = Call {
            earlier: calls.iter().filter(|call| call.api == api).count(),
            api,
            query,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        calls.push(call.clone());
        call
    };
    let response = Response::builder();
    match (state.script)(&call) {
        Answer::Json(json) if call.api == "gettoken" && json == json!({}) => {
            let token = format!("{TOKEN}-{}", call.earlier + 1);
            let json = json!({"errcode": 0, "access_token": token, "expires_in": 7200});
            response.body(Body::from(json.to_string())).unwrap()
        }
        Answer::Json(json) => response.body(Body::from(json.to_string())).unwrap(),
        Answer::Raw(status, text) => response.status(status).body(Body::from(text)).unwrap(),
        Answer::Cut(length, part) => {
            let end = stream::once(async {
                // The first part goes out when the second is not there yet.
                tokio::task::yield_now().await;
                Err("the connection dies here")
            });
            response
                .header("content-length", length)
                .body(Body::from_stream(stream::iter([Ok(part)]).chain(end)))
                .unwrap()
        }
        Answer::Stall(length, part) => {
            let parts = stream::iter([Ok::<_, &str>(part)]).chain(stream::pending());
            response
                .header("content-length", length)
                .body(Body::from_stream(parts))
                .unwrap()
        }
        Answer::Never => std::future::pending().await,
    }
}

/// What the listener was told, in order.
pub(crate) type Told = Arc<Mutex<Vec<(&'static str, &'static str)>>>;

pub(crate) fn listener() -> (OnCall, Told) {
    let told = Told::default();
    let on_call = {
        let told = told.clone();
        Arc::new(move |api, how| told.lock().unwrap().push((api, how)))
    };
    (on_call, told)
}

pub(crate) fn archive(base_url: &str, limit: u32, timeout: Duration) -> (Archive, Told) {
    let (on_call, told) = listener();
    let archive = Archive::new(ArchiveOptions {
        corp_id: "ww1".into(),
        base_url: base_url.to_owned(),
        secret: Secret::new(SECRET.into()),
        limit,
        timeout,
        on_call,
    })
    .unwrap();
    (archive, told)
}

pub(crate) fn directory(base_url: &str) -> (DirectoryClient, Told) {
    let (on_call, told) = listener();
    let client = DirectoryClient::new(DirectoryOptions {
        corp_id: "ww1".into(),
        base_url: base_url.to_owned(),
        secret: Secret::new(SECRET.into()),
        timeout: Duration::from_secs(30),
        on_call,
    })
    .unwrap();
    (client, told)
}

/// A page with one record for each seq.
pub(crate) fn page(seqs: impl IntoIterator<Item = u64>) -> Answer {
    let chatdata: Vec<Value> = seqs
        .into_iter()
        .map(|seq| {
            json!({"seq": seq, "msgid": format!("m{seq}"), "publickey_ver": 1,
                   "encrypt_random_key": "AA==", "encrypt_chat_msg": "BB=="})
        })
        .collect();
    Answer::Json(json!({"errcode": 0, "errmsg": "ok", "chatdata": chatdata}))
}
