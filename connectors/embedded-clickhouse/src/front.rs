//! The HTTP front: routes, access, and passing statements to the engine and results back.
//!
//! Guarantees: no async thread waits for the engine; a statement that only reads is ended when its
//! client disconnects, one that writes runs to its end. Without credentials, only programs of the same
//! user and of root are answered, only if they address this machine by IP address or as `localhost`, and
//! no web page of another site, so that no such page can read or change the archive.
//!
//! Not here: TLS, compression of responses, ClickHouse's `/play` and `/dashboard`.

use std::io::Read;
use std::net::SocketAddr;
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

use crate::answer::{self, ResponseBody};
use crate::engine::{Engine, Lane};
use crate::exception::Exception;
use crate::execute;
use crate::intake::read_statement;
use crate::job::{Job, ResponseStart, StatementStatus};
use crate::options::Credentials;
use crate::peer::PeerCheck;
use crate::request::{self, QueryRequest};
use crate::session::Sessions;
use crate::spool::{BodyError, MEMORY_PER_BODY, Spool, Spooler};
use crate::statement::Statement;

/// Attempts to end a statement whose client is gone: it may not be listed yet.
const END_ATTEMPTS: usize = 20;

/// Pause between two attempts.
const END_PAUSE: Duration = Duration::from_millis(250);

/// State shared by all requests.
pub(crate) struct Front {
    /// The engine.
    pub(crate) engine: Arc<Engine>,
    /// The open sessions.
    pub(crate) sessions: Arc<Sessions>,
    /// Keeps bodies while they are received.
    pub(crate) spooler: Spooler,
    /// Required credentials.
    pub(crate) credentials: Option<Credentials>,
    /// Without credentials: finds the user of a connection.
    pub(crate) peers: Option<PeerCheck>,
    /// All spawned tasks, to wait for them at the end.
    pub(crate) tasks: TaskTracker,
}

/// The client has disconnected; no answer can be sent.
#[derive(Debug, thiserror::Error)]
#[error("the client has disconnected")]
pub(crate) struct ClientGone;

impl Front {
    /// Returns whether the user at the other end of a connection may use a server without credentials.
    pub(crate) async fn is_allowed(
        self: &Arc<Self>,
        peer: SocketAddr,
        own: Option<SocketAddr>,
    ) -> bool {
        if self.peers.is_none() {
            return true;
        }
        let front = Arc::clone(self);
        let check = self.tasks.spawn_blocking(move || {
            let (Some(peers), Some(own)) = (&front.peers, own) else {
                return false;
            };
            peers.allows(peer, own)
        });
        check.await.unwrap_or(false)
    }

    /// Answers one request. `allowed` is the result of [`Front::is_allowed`] for its connection.
    pub(crate) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        allowed: bool,
    ) -> Result<Response<ResponseBody>, ClientGone> {
        let (head, body) = request.into_parts();
        if !allowed {
            return Ok(answer::plain(
                StatusCode::FORBIDDEN,
                "This server has no password, so it answers only programs of its own user. Start it \
                 with a user and a password for others.\n",
            ));
        }
        if let Some(response) = self.refuse_remote(&head.headers) {
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
        let request = match QueryRequest::read(&head).and_then(|request| {
            request.authorize(self.credentials.as_ref())?;
            Ok(request)
        }) {
            Ok(request) => request,
            Err(exception) => return Ok(answer::failed(&exception, "", &self.engine)),
        };
        let query_id = request.query_id.clone();
        match self.statement(&head, request, body).await {
            Ok(response) => Ok(response),
            Err(BodyError::Exception(exception)) => {
                tracing::debug!(query_id, code = exception.code(), "request failed");
                Ok(answer::failed(&exception, &query_id, &self.engine))
            }
            Err(BodyError::Disconnected) => Err(ClientGone),
        }
    }

    /// Refuses requests from elsewhere if there are no credentials: then only the address protects the
    /// data.
    fn refuse_remote(&self, headers: &HeaderMap) -> Option<Response<ResponseBody>> {
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
                "This server has no password, so it answers only requests from this machine that \
                 are addressed to an IP address or localhost and do not come from a web page of \
                 another site.\n",
            )
        })
    }

    async fn statement(
        self: &Arc<Self>,
        head: &Parts,
        mut request: QueryRequest,
        body: Incoming,
    ) -> Result<Response<ResponseBody>, BodyError> {
        let mut body = self.spooler.receive(body).await?;
        if let Some(boundary) = form_boundary(&head.headers) {
            let fields = form_fields(body, boundary)
                .await
                .map_err(BodyError::Exception)?;
            request.add_form(fields).map_err(BodyError::Exception)?;
            body = Spool::of(Vec::new());
        }
        let timezone = request
            .settings
            .iter()
            .rev()
            .find(|(name, _)| name == "session_timezone")
            .map_or_else(
                || self.engine.timezone().to_owned(),
                |(_, zone)| zone.clone(),
            );
        let query_id = request.query_id.clone();
        let (request, statement, text, body) = self
            .read(request, body)
            .await
            .map_err(BodyError::Exception)?;
        let permit = self
            .engine
            .permit(Lane::of(&statement))
            .await
            .map_err(BodyError::Exception)?;
        let status = Arc::new(StatementStatus::new(request::new_id()));
        let guard = Guard {
            front: Arc::clone(self),
            status: Arc::clone(&status),
        };
        let (reply, replied) = oneshot::channel();
        let job = Job {
            engine: Arc::clone(&self.engine),
            sessions: Arc::clone(&self.sessions),
            request,
            statement,
            text,
            body,
            status,
            runtime: Handle::current(),
            reply,
        };
        self.tasks.spawn_blocking(move || {
            execute::run(job);
            drop(permit);
        });
        let reply: ResponseStart = match replied.await {
            Ok(result) => result.map_err(BodyError::Exception)?,
            Err(_) => {
                return Err(BodyError::Exception(Exception::internal(
                    "The statement ended without a result",
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

    /// Reads the statement's text. Decompression takes processor time, so it runs outside the async threads.
    async fn read(&self, request: QueryRequest, body: Spool) -> Result<ReadRequest, Exception> {
        let read = self.tasks.spawn_blocking(move || {
            let mut body = body.reader(request.encoding.as_deref())?;
            let (text, statement) = read_statement(&request.query, &mut *body)?;
            Ok((request, statement, text, body))
        });
        read.await
            .unwrap_or_else(|error| Err(Exception::internal(error.to_string())))
    }
}

/// A request whose statement is classified: its text, and the rest of its body.
type ReadRequest = (QueryRequest, Statement, Vec<u8>, Box<dyn Read + Send>);

/// Ends the statement if its response is dropped before its end.
struct Guard {
    front: Arc<Front>,
    status: Arc<StatementStatus>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.status.is_abandonable() {
            return;
        }
        let engine = Arc::clone(&self.front.engine);
        let status = Arc::clone(&self.status);
        self.front.tasks.spawn(async move {
            for _ in 0..END_ATTEMPTS {
                // A response that was read completely needs a moment to be recorded as ended.
                tokio::time::sleep(END_PAUSE).await;
                if !status.is_abandonable() {
                    return;
                }
                let (engine, status) = (Arc::clone(&engine), Arc::clone(&status));
                let ended =
                    tokio::task::spawn_blocking(move || engine.kill(Some(&status.log_comment)));
                if ended.await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Returns whether `host[:port]` is an IP address or `localhost`.
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
/// interface does not support.
async fn form_fields(body: Spool, boundary: String) -> Result<Vec<(String, String)>, Exception> {
    let broken =
        |error: multer::Error| Exception::broken_body(format!("StatementFailed form: {error}"));
    let Some(memory) = body.into_memory() else {
        return Err(Exception::new(
            229,
            "QUERY_IS_TOO_LARGE",
            format!("The form has more than {MEMORY_PER_BODY} bytes"),
        ));
    };
    let body = stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(memory))]);
    let mut form = multer::Multipart::new(body, boundary);
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
    fn local_hosts_are_ip_addresses_and_localhost() {
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
    async fn form_fields_are_read_and_files_refused() {
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
        let truncated = form_fields(Spool::of(form[..40].to_vec()), "x".to_owned()).await;
        assert_eq!(truncated.unwrap_err().code(), 27);
    }
}
