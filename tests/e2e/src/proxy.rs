//! A proxy in front of a ClickHouse server that simulates faults of the network and the server.
//!
//! The server behind it is the real engine. The proxy drops or delays requests and responses; only
//! [`ProxyMode::ReadOnly`] changes a request, by adding a setting that makes the engine refuse writes.

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

/// What the proxy does to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// Forwards everything.
    Forward,
    /// Closes connections immediately.
    Unreachable,
    /// Forwards inserts, but closes the connection instead of returning the response.
    DropResponses,
    /// Forwards inserts, but never responds.
    Hang,
    /// Holds inserts back until the mode changes.
    Delay,
    /// Forwards everything with `readonly = 1`.
    ReadOnly,
}

/// A proxy in front of one server. It runs as long as the runtime of the test.
#[derive(Debug)]
pub struct FaultProxy {
    url: String,
    state: Arc<ProxyState>,
}

#[derive(Debug)]
struct ProxyState {
    server: String,
    client: reqwest::Client,
    mode: watch::Sender<ProxyMode>,
    disturbed: AtomicU64,
    waiting: AtomicU64,
}

/// The connection must be closed without a response.
#[derive(Debug)]
struct ConnectionClosed;

impl std::fmt::Display for ConnectionClosed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed by the test")
    }
}

impl std::error::Error for ConnectionClosed {}

impl FaultProxy {
    /// Starts a proxy in front of `http://host:port`.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start(server: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.context("bind a port")?;
        let url = format!(
            "http://{}",
            listener.local_addr().context("read the bound port")?
        );
        let state = Arc::new(ProxyState {
            server: server.to_owned(),
            client: http::client(),
            mode: watch::Sender::new(ProxyMode::Forward),
            disturbed: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        });
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&serving), stream));
            }
        });
        Ok(Self { url, state })
    }

    /// Returns its URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Changes the mode, also for requests that are held back.
    pub fn set(&self, mode: ProxyMode) {
        self.state.disturbed.store(0, Ordering::SeqCst);
        self.state.mode.send_replace(mode);
    }

    /// Returns the number of requests disturbed since the mode was set.
    pub fn disturbed(&self) -> u64 {
        self.state.disturbed.load(Ordering::SeqCst)
    }

    /// Returns the number of requests that are held back or that the server has not responded to yet.
    pub fn waiting(&self) -> u64 {
        self.state.waiting.load(Ordering::SeqCst)
    }
}

async fn serve(state: Arc<ProxyState>, stream: TcpStream) {
    if *state.mode.borrow() == ProxyMode::Unreachable {
        state.disturbed.fetch_add(1, Ordering::SeqCst);
        return;
    }
    let service = service_fn(move |request| {
        let state = Arc::clone(&state);
        // In its own task, so that a request is forwarded even if the client disconnects.
        async move {
            let exchange = tokio::spawn(async move { state.exchange(request).await });
            exchange.await.unwrap_or(Err(ConnectionClosed))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new();
    // A connection closed by the test ends with an error.
    let _ = connection
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl ProxyState {
    async fn exchange(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, ConnectionClosed> {
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map_err(|_| ConnectionClosed)?
            .to_bytes();
        let query = head.uri.query().unwrap_or_default().to_owned();
        let insert = query.contains("INSERT") || body.starts_with(b"INSERT");
        let mode = *self.mode.borrow();
        let disturbs = match mode {
            ProxyMode::Forward => false,
            ProxyMode::Unreachable | ProxyMode::ReadOnly => true,
            ProxyMode::DropResponses | ProxyMode::Hang | ProxyMode::Delay => insert,
        };
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if disturbs {
            self.disturbed.fetch_add(1, Ordering::SeqCst);
            if mode == ProxyMode::Delay {
                let _ = self
                    .mode
                    .subscribe()
                    .wait_for(|now| *now != ProxyMode::Delay)
                    .await;
            }
        }
        let answer = if disturbs && mode == ProxyMode::Unreachable {
            Err(ConnectionClosed)
        } else {
            let query = if disturbs && mode == ProxyMode::ReadOnly {
                format!("{query}&readonly=1")
            } else {
                query
            };
            self.forward(&head, &query, body).await
        };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        if disturbs && mode == ProxyMode::DropResponses {
            return Err(ConnectionClosed);
        }
        if disturbs && mode == ProxyMode::Hang {
            let mut modes = self.mode.subscribe();
            let _ = modes.wait_for(|now| *now != ProxyMode::Hang).await;
            return Err(ConnectionClosed);
        }
        answer
    }

    async fn forward(
        &self,
        head: &hyper::http::request::Parts,
        query: &str,
        body: Bytes,
    ) -> Result<Response<Full<Bytes>>, ConnectionClosed> {
        let url = format!("{}{}?{query}", self.server, head.uri.path());
        let mut headers = head.headers.clone();
        for own in ["host", "content-length", "transfer-encoding", "connection"] {
            headers.remove(own);
        }
        let request = self.client.request(head.method.clone(), url);
        let answer = request.headers(headers).body(body).send().await;
        let answer = answer.map_err(|_| ConnectionClosed)?;
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            if !matches!(
                name.as_str(),
                "content-length" | "transfer-encoding" | "connection"
            ) {
                response = response.header(name, value);
            }
        }
        let body = answer.bytes().await.map_err(|_| ConnectionClosed)?;
        response.body(Full::new(body)).map_err(|_| ConnectionClosed)
    }
}
