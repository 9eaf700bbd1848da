//! A line to a ClickHouse that has moods: what a network and a server can do to a request.
//!
//! The engine behind it is the real one. The proxy drops, delays or forgets; only [`Mood::ReadOnly`]
//! changes a request, by a setting that makes the engine refuse as it would by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::http;

/// How requests fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// They pass.
    Well,
    /// Connections are closed at once.
    Gone,
    /// Inserts arrive, and their answers do not: the connection is closed.
    Forgetful,
    /// Inserts arrive, and there is no answer ever.
    Silent,
    /// Inserts arrive when the mood has changed.
    Late,
    /// Everything arrives with `readonly = 1`.
    ReadOnly,
}

/// A proxy in front of one server. It lives as long as the test's runtime.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    line: Arc<Line>,
}

#[derive(Debug)]
struct Line {
    server: String,
    client: reqwest::Client,
    mood: watch::Sender<Mood>,
    bitten: AtomicU64,
    waiting: AtomicU64,
}

/// The connection is to be closed without an answer.
#[derive(Debug)]
struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed on purpose")
    }
}

impl std::error::Error for Closed {}

impl Proxy {
    /// Starts one in front of `http://host:port`.
    ///
    /// # Errors
    /// No port can be taken.
    pub async fn start(server: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.context("take a port")?;
        let url = format!(
            "http://{}",
            listener.local_addr().context("look at the port")?
        );
        let line = Arc::new(Line {
            server: server.to_owned(),
            client: http::client(),
            mood: watch::Sender::new(Mood::Well),
            bitten: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        });
        let serving = Arc::clone(&line);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&serving), stream));
            }
        });
        Ok(Self { url, line })
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Changes the mood, also for requests that wait.
    pub fn set(&self, mood: Mood) {
        self.line.bitten.store(0, Ordering::SeqCst);
        self.line.mood.send_replace(mood);
    }

    /// Requests that have suffered since the mood was set.
    pub fn bitten(&self) -> u64 {
        self.line.bitten.load(Ordering::SeqCst)
    }

    /// Requests held up, or forwarded and not answered by the server yet.
    pub fn waiting(&self) -> u64 {
        self.line.waiting.load(Ordering::SeqCst)
    }
}

async fn serve(line: Arc<Line>, stream: TcpStream) {
    if *line.mood.borrow() == Mood::Gone {
        line.bitten.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let service = service_fn(move |request| {
        let line = Arc::clone(&line);
        // A task of its own: what has arrived here goes on when the client has hung up.
        async move {
            let exchange = tokio::spawn(async move { line.exchange(request).await });
            exchange.await.unwrap_or(Err(Closed))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new();
    // A connection that is cut on purpose ends in an error.
    let _ = connection
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Line {
    async fn exchange(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Closed> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Closed)?.to_bytes();
        let query = head.uri.query().unwrap_or_default().to_owned();
        let insert = query.contains("INSERT") || body.starts_with(b"INSERT");
        let mood = *self.mood.borrow();
        let bites = match mood {
            Mood::Well => false,
            Mood::Gone | Mood::ReadOnly => true,
            Mood::Forgetful | Mood::Silent | Mood::Late => insert,
        };
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if bites {
            self.bitten.fetch_add(1, Ordering::SeqCst);
            if mood == Mood::Late {
                let _ = self
                    .mood
                    .subscribe()
                    .wait_for(|now| *now != Mood::Late)
                    .await;
            }
        }
        let answer = if bites && mood == Mood::Gone {
            Err(Closed)
        } else {
            let query = if bites && mood == Mood::ReadOnly {
                format!("{query}&readonly=1")
            } else {
                query
            };
            self.forward(&head, &query, body).await
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if bites && mood == Mood::Forgetful {
            return Err(Closed);
        }
        if bites && mood == Mood::Silent {
            let mut moods = self.mood.subscribe();
            let _ = moods.wait_for(|now| *now != Mood::Silent).await;
            return Err(Closed);
        }
        answer
    }

    async fn forward(
        &self,
        head: &hyper::http::request::Parts,
        query: &str,
        body: Bytes,
    ) -> Result<Response<Full<Bytes>>, Closed> {
        let url = format!("{}{}?{query}", self.server, head.uri.path());
        let mut headers = head.headers.clone();
        for own in ["host", "content-length", "transfer-encoding", "connection"] {
            headers.remove(own);
        }
        let request = self.client.request(head.method.clone(), url);
        let answer = request.headers(headers).body(body).send().await;
        let answer = answer.map_err(|_| Closed)?;
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            if !matches!(
                name.as_str(),
                "content-length" | "transfer-encoding" | "connection"
            ) {
                response = response.header(name, value);
            }
        }
        let body = answer.bytes().await.map_err(|_| Closed)?;
        response.body(Full::new(body)).map_err(|_| Closed)
    }
}
