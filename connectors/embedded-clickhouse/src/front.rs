//! The HTTP front: routes, who may come in, and a statement's way to the engine and back.
//!
//! Guarantees: no async thread ever waits for the engine; a statement that only reads is ended
//! when its client goes away, one that writes runs to its end; without credentials only requests
//! addressed to this machine by number or as `localhost` are answered, and none that a web page
//! of somewhere else makes, so that no page a person looks at can read or change the archive.
//!
//! Deliberately not here: TLS, compression of answers, ClickHouse's `/play` and `/dashboard`.

use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::answer::{self, Body};
use crate::engine::Engine;
use crate::exception::Exception;
use crate::execute;
use crate::job::{Job, Reply, Watch};
use crate::options::Credentials;
use crate::request::{self, Ask};
use crate::session::Sessions;
use crate::spool::{MEMORY_PER_BODY, Refused, Spool, Spooler};

/// How often it is tried to end a statement nobody waits for: it may not be listed yet.
const END_TRIES: usize = 20;

/// Time between two tries.
const END_PAUSE: Duration = Duration::from_millis(250);

/// What all requests share.
pub(crate) struct Front {
    /// The engine.
    pub(crate) engine: Arc<Engine>,
    /// The open sessions.
    pub(crate) sessions: Arc<Sessions>,
    /// Where bodies are kept while they come in.
    pub(crate) spooler: Spooler,
    /// Who may come in.
    pub(crate) credentials: Option<Credentials>,
    /// Everything spawned, to be waited for.
    pub(crate) tasks: TaskTracker,
}

/// The client went away; there is nobody to answer.
#[derive(Debug, thiserror::Error)]
#[error("the client went away")]
pub(crate) struct Gone;

impl Front {
    /// Answers one request.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Gone> {
        let (head, body) = request.into_parts();
        if let Some(response) = self.refuse_strangers(&head.headers) {
            return Ok(response);
        }
        match (&head.method, head.uri.path()) {
            (&Method::GET | &Method::HEAD, "/ping" | "/replicas_status") => {
                return Ok(answer::plain(StatusCode::OK, "Ok.\n"));
            }
            (&Method::GET | &Method::HEAD, "/") if head.uri.query().is_none() => {
                return Ok(answer::plain(StatusCode::OK, "Ok.\n"));
            }
            (&Method::GET | &Method::HEAD | &Method::POST, "/" | "/query") => {}
            (_, "/" | "/ping" | "/replicas_status" | "/query") => {
                return Ok(answer::plain(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "Use GET or POST.\n",
                ));
            }
            (_, path) => {
                let text = format!(
                    "There is no handle {path}\n\nUse / or /ping for health checks.\n\nSend \
                     queries from your program with POST method or GET /?query=...\n"
                );
                return Ok(answer::plain(StatusCode::NOT_FOUND, text));
            }
        }
        let ask = match Ask::read(&head).and_then(|ask| {
            ask.authorize(self.credentials.as_ref())?;
            Ok(ask)
        }) {
            Ok(ask) => ask,
            Err(exception) => return Ok(answer::failed(&exception, "", &self.engine)),
        };
        let query_id = ask.query_id.clone();
        match self.statement(&head, ask, body).await {
            Ok(response) => Ok(response),
            Err(Refused::Answer(exception)) => {
                tracing::debug!(query_id, code = exception.code(), "request failed");
                Ok(answer::failed(&exception, &query_id, &self.engine))
            }
            Err(Refused::Cut) => Err(Gone),
        }
    }

    /// Without credentials, the address is all that protects the data.
    fn refuse_strangers(&self, headers: &HeaderMap) -> Option<Response<Body>> {
        if self.credentials.is_some() {
            return None;
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let host = header(header::HOST.as_str()).unwrap_or("localhost");
        let origin = header(header::ORIGIN.as_str())
            .map(|origin| origin.split_once("://").map_or("", |(_, host)| host));
        let local = is_local(host)
            && origin.is_none_or(is_local)
            && header("sec-fetch-site").is_none_or(|site| site != "cross-site");
        (!local).then(|| {
            answer::plain(
                StatusCode::FORBIDDEN,
                "This server has no password, so it answers only requests made on this machine, \
                 addressed by number or as localhost, and none made by a web page of another \
                 site.\n",
            )
        })
    }

    async fn statement(
        self: &Arc<Self>,
        head: &Parts,
        mut ask: Ask,
        body: Incoming,
    ) -> Result<Response<Body>, Refused> {
        let mut body = self.spooler.receive(body).await?;
        if let Some(boundary) = form_boundary(&head.headers) {
            let fields = form_fields(body, boundary).await.map_err(Refused::Answer)?;
            ask.add_form(fields).map_err(Refused::Answer)?;
            body = Spool::of(Vec::new());
        }
        let timezone = ask
            .settings
            .iter()
            .rev()
            .find(|(name, _)| name == "session_timezone")
            .map_or_else(
                || self.engine.timezone().to_owned(),
                |(_, zone)| zone.clone(),
            );
        let query_id = ask.query_id.clone();
        let turn = self.engine.turn().await.map_err(Refused::Answer)?;
        let watch = Arc::new(Watch::new(request::new_id()));
        let guard = Guard {
            front: Arc::clone(self),
            watch: Arc::clone(&watch),
        };
        let (reply, replied) = oneshot::channel();
        let job = Job {
            engine: Arc::clone(&self.engine),
            sessions: Arc::clone(&self.sessions),
            ask,
            body,
            watch,
            runtime: Handle::current(),
            reply,
        };
        self.tasks.spawn_blocking(move || {
            execute::run(job);
            drop(turn);
        });
        let reply: Reply = match replied.await {
            Ok(result) => result.map_err(Refused::Answer)?,
            Err(_) => {
                return Err(Refused::Answer(Exception::internal(
                    "The statement ended without an answer",
                )));
            }
        };
        Ok(answer::succeeded(
            reply,
            &query_id,
            &timezone,
            &self.engine,
            Box::new(guard),
        ))
    }
}

/// Ends the statement when its answer is dropped before its end.
struct Guard {
    front: Arc<Front>,
    watch: Arc<Watch>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.watch.is_abandonable() {
            return;
        }
        let engine = Arc::clone(&self.front.engine);
        let watch = Arc::clone(&self.watch);
        self.front.tasks.spawn(async move {
            for _ in 0..END_TRIES {
                // An answer that was read to its end needs a moment to say so.
                tokio::time::sleep(END_PAUSE).await;
                if !watch.is_abandonable() {
                    return;
                }
                let (engine, watch) = (Arc::clone(&engine), Arc::clone(&watch));
                let ended = tokio::task::spawn_blocking(move || engine.kill(Some(&watch.mark)));
                if ended.await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Whether `host[:port]` is this machine by its own words: a number, or `localhost`.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

fn form_boundary(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    multer::parse_boundary(value).ok()
}

/// Reads the fields of a form. A field with a file name is external data, which the engine's C
/// interface has no way to take.
async fn form_fields(body: Spool, boundary: String) -> Result<Vec<(String, String)>, Exception> {
    let broken = |error: multer::Error| Exception::broken_body(format!("Broken form: {error}"));
    let Some(memory) = body.into_memory() else {
        return Err(Exception::new(
            229,
            "QUERY_IS_TOO_LARGE",
            format!("The form has more than {MEMORY_PER_BODY} bytes"),
        ));
    };
    let whole = stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(memory))]);
    let mut form = multer::Multipart::new(whole, boundary);
    let mut fields = Vec::new();
    while let Some(field) = form.next_field().await.map_err(broken)? {
        if field.file_name().is_some() {
            return Err(Exception::not_implemented(
                "External data (a file in the form) is not supported by the embedded server; \
                 insert it into a table first",
            ));
        }
        let name = field.name().unwrap_or_default().to_owned();
        fields.push((name, field.text().await.map_err(broken)?));
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn local_hosts_are_numbers_and_localhost() {
        for local in [
            "127.0.0.1:8123",
            "localhost",
            "LOCALHOST:1",
            "[::1]:8123",
            "10.0.0.1",
        ] {
            assert!(is_local(local), "{local}");
        }
        for far in [
            "",
            "example.org",
            "localhost.example.org:8123",
            "127.0.0.1.example.org",
        ] {
            assert!(!is_local(far), "{far}");
        }
    }

    #[tokio::test]
    async fn forms_give_their_fields_and_refuse_files() {
        let form = b"--x\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT 1\r\n\
                     --x\r\nContent-Disposition: form-data; name=\"param_a\"\r\n\r\n\xe4\xb8\xad\r\n--x--\r\n";
        let fields = form_fields(Spool::of(form.to_vec()), "x".to_owned())
            .await
            .unwrap();
        assert_eq!(
            fields,
            [
                ("query".to_owned(), "SELECT 1".to_owned()),
                ("param_a".to_owned(), "中".to_owned())
            ]
        );
        let file = b"--x\r\nContent-Disposition: form-data; name=\"t\"; filename=\"t\"\r\n\r\n1\r\n--x--\r\n";
        let refused = form_fields(Spool::of(file.to_vec()), "x".to_owned()).await;
        assert_eq!(refused.unwrap_err().code(), 48);
        let cut = form_fields(Spool::of(form[..40].to_vec()), "x".to_owned()).await;
        assert_eq!(cut.unwrap_err().code(), 27);
    }
}
