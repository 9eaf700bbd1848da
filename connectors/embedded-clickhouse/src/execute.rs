//! Runs one request on the engine.
//!
//! Guarantees: what a request sets (settings, database, bound values) is reset after it, also in a
//! session. An `INSERT` is fed from a complete body in chunks of [`FEED_BYTES`], so that the engine
//! splits blocks by rows alone and the same body always gives the same blocks. A result larger than
//! [`FIRST_BYTES`] is sent as it is produced, in bounded chunks.
//!
//! Not here: HTTP. Everything in this module blocks and runs outside the async threads.

use std::io::Read;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::engine::Engine;
use crate::exception::Exception;
use crate::ffi::{Connection, EngineResult, Progress, StatementEffect};
use crate::intake::fill;
use crate::job::{Job, ResponseChunk, ResponseStart, StatementStatus};
use crate::native;
use crate::policy;
use crate::request::QueryRequest;
use crate::scope::SettingsScope;
use crate::session::Sessions;
use crate::statement::Statement;

/// Bytes passed to a running `INSERT` at a time. The engine queues 16 such chunks.
const FEED_BYTES: usize = 256 << 10;

/// Bytes of a result that are gathered before the response begins. An error within them gets its own
/// HTTP status, and the summary of a shorter result is complete.
const FIRST_BYTES: usize = 1 << 20;

/// Chunks of a response that wait for the client.
const CHUNKS_AHEAD: usize = 4;

/// How long a client may take to receive a chunk before its statement is cancelled.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// Formats whose chunks, concatenated, are the same bytes as the complete result.
const STREAMABLE: &[&str] = &[
    "CSV",
    "JSONCompactEachRow",
    "JSONCompactStringsEachRow",
    "JSONEachRow",
    "JSONLines",
    "JSONStringsEachRow",
    "NDJSON",
    "Native",
    "RowBinary",
    ROW_BINARY_WITH_HEADER,
    "TSKV",
    "TSV",
    "TSVRaw",
    "TabSeparated",
    "TabSeparatedRaw",
];

/// Streamable after removing the repeated header.
const ROW_BINARY_WITH_HEADER: &str = "RowBinaryWithNamesAndTypes";

/// Runs `job` to its end.
pub(crate) fn run(mut job: Job) {
    let mut run = RunningRequest {
        engine: &job.engine,
        sessions: &job.sessions,
        request: &job.request,
        status: &job.status,
        runtime: &job.runtime,
        started: Instant::now(),
        reply: Some(job.reply),
    };
    let end = run
        .request(&job.text, job.statement, &mut *job.body)
        .unwrap_or_else(RequestEnd::Failed);
    run.status.ended();
    match end {
        RequestEnd::Whole(reply) => {
            run.send(Ok(reply));
        }
        RequestEnd::Failed(exception) => {
            run.send(Err(exception));
        }
        // Dropping the sender ends the response.
        RequestEnd::Streamed(chunks, None) => drop(chunks),
        RequestEnd::Streamed(chunks, Some(exception)) => {
            run.send_chunk(&chunks, Err(exception));
        }
    }
}

/// How a request ended. The client is notified after its session is free for the next request.
enum RequestEnd {
    Whole(ResponseStart),
    Failed(Exception),
    Streamed(mpsc::Sender<ResponseChunk>, Option<Exception>),
}

struct RunningRequest<'a> {
    engine: &'a Engine,
    sessions: &'a Sessions,
    request: &'a QueryRequest,
    status: &'a StatementStatus,
    runtime: &'a Handle,
    started: Instant,
    reply: Option<oneshot::Sender<Result<ResponseStart, Exception>>>,
}

impl RunningRequest<'_> {
    /// Sends the beginning of the response; returns false if the client is gone.
    fn send(&mut self, result: Result<ResponseStart, Exception>) -> bool {
        self.reply
            .take()
            .is_some_and(|reply| reply.send(result).is_ok())
    }

    /// Sends a chunk; returns false if the client is gone or too slow.
    fn send_chunk(&self, chunks: &mpsc::Sender<ResponseChunk>, chunk: ResponseChunk) -> bool {
        let sent = self
            .runtime
            .block_on(async { tokio::time::timeout(SEND_TIMEOUT, chunks.send(chunk)).await });
        matches!(sent, Ok(Ok(())))
    }

    fn request(
        &mut self,
        text: &[u8],
        statement: Statement,
        body: &mut dyn Read,
    ) -> Result<RequestEnd, Exception> {
        let Some(session) = &self.request.session else {
            let mut connection = self.engine.connect()?;
            SettingsScope::enter(&mut connection, self.request, &self.status.log_comment)?;
            return self.statement(&mut connection, text, statement, body);
        };
        let mut connection = self.sessions.enter(session, || self.engine.connect())?;
        let (end, restored) = match SettingsScope::enter_session(
            &mut connection,
            self.request,
            &self.status.log_comment,
        ) {
            Ok(scope) => (
                self.statement(&mut connection, text, statement, body),
                scope.leave(&mut connection),
            ),
            Err((exception, restored)) => (Err(exception), restored),
        };
        match restored {
            Ok(()) => self.sessions.leave(session, connection),
            Err(exception) => {
                tracing::warn!(
                    code = exception.code(),
                    "session dropped: its settings cannot be restored"
                );
                self.sessions.forget(&session.id);
            }
        }
        end
    }

    fn statement(
        &mut self,
        connection: &mut Connection,
        text: &[u8],
        statement: Statement,
        body: &mut dyn Read,
    ) -> Result<RequestEnd, Exception> {
        if self.request.read_only
            && statement != Statement::Session
            && (matches!(statement, Statement::Insert { .. })
                || connection.effect(text) != StatementEffect::ReadOnly)
        {
            return Err(Exception::new(
                164,
                "READONLY",
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies \
                 readonly. You should use method POST for modifying queries",
            ));
        }
        let default = self.request.default_format();
        self.check_policy(text, &statement)?;
        match statement {
            Statement::Empty => Err(Exception::syntax("Empty query")),
            Statement::Insert { head, format, data } => {
                let progress =
                    self.insert(connection, &text[..head], &format, &text[data..], body)?;
                Ok(self.ended(default, progress, Vec::new()))
            }
            Statement::Select { format, has_extras } => {
                let format = format.unwrap_or_else(|| default.to_owned());
                self.status.only_reads();
                if STREAMABLE.contains(&format.as_str()) && !has_extras && !self.request.wait_end {
                    self.stream(connection, text, &format)
                } else {
                    self.whole(connection, text, &format)
                }
            }
            Statement::Other { format } => {
                self.whole(connection, text, format.as_deref().unwrap_or(default))
            }
            Statement::Session => self.whole(connection, text, default),
        }
    }

    /// Refuses what clients may not run. The engine's own parse decides, so a text that this crate's
    /// lexer reads differently is checked as the engine reads it.
    fn check_policy(&self, text: &[u8], statement: &Statement) -> Result<(), Exception> {
        for (name, _) in &self.request.settings {
            policy::check_setting(name)?;
        }
        for (_, value) in &self.request.parameters {
            policy::check_parameter(value)?;
        }
        policy::check_format(self.request.default_format())?;
        match statement {
            Statement::Empty => Ok(()),
            Statement::Insert { head, format, .. } => {
                policy::check_format(format)?;
                let mut complete = text[..*head].to_vec();
                complete.extend_from_slice(b"\nFORMAT Null");
                policy::check(&self.engine.canonical(&complete)?)
            }
            _ => policy::check(&self.engine.canonical(text)?),
        }
    }

    fn insert(
        &self,
        connection: &mut Connection,
        head: &[u8],
        format: &str,
        inline: &[u8],
        body: &mut dyn Read,
    ) -> Result<Progress, Exception> {
        if format.is_empty() || !format.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Exception::new(
                73,
                "UNKNOWN_FORMAT",
                format!("Unknown format {format}"),
            ));
        }
        let mut insert = connection
            .insert(head, format, &self.request.parameters)
            .map_err(|error| Exception::from_engine(&error))?;
        let mut alive = inline.is_empty() || insert.append(inline);
        let mut buffer = vec![0; FEED_BYTES];
        while alive {
            let filled = fill(body, &mut buffer)?;
            if filled == 0 {
                break;
            }
            alive = insert.append(&buffer[..filled]);
        }
        insert
            .finish()
            .map_err(|error| Exception::from_engine(&error))
    }

    fn whole(
        &self,
        connection: &mut Connection,
        text: &[u8],
        format: &str,
    ) -> Result<RequestEnd, Exception> {
        let result = connection
            .query(
                text,
                self.request.default_format(),
                &self.request.parameters,
            )
            .map_err(|error| Exception::from_engine(&error))?;
        let progress = result.progress();
        let chunk = self.shape(result, format, &mut Vec::new())?;
        Ok(self.ended(format, progress, vec![chunk]))
    }

    fn ended(&self, format: &str, progress: Progress, first: Vec<Bytes>) -> RequestEnd {
        RequestEnd::Whole(self.begun(format, progress, first, None))
    }

    fn begun(
        &self,
        format: &str,
        progress: Progress,
        first: Vec<Bytes>,
        rest: Option<mpsc::Receiver<ResponseChunk>>,
    ) -> ResponseStart {
        ResponseStart {
            format: format.to_owned(),
            progress,
            elapsed: self.started.elapsed(),
            first,
            rest,
        }
    }

    fn stream(
        &mut self,
        connection: &mut Connection,
        text: &[u8],
        format: &str,
    ) -> Result<RequestEnd, Exception> {
        let mut select = connection
            .select(
                text,
                self.request.default_format(),
                &self.request.parameters,
            )
            .map_err(|error| Exception::from_engine(&error))?;
        let mut header = Vec::new();
        let mut next = |run: &Self| -> Result<Option<(Bytes, Progress)>, Exception> {
            let result = select
                .next()
                .map_err(|error| Exception::from_engine(&error))?;
            let Some(result) = result else {
                return Ok(None);
            };
            let progress = result.progress();
            Ok(Some((run.shape(result, format, &mut header)?, progress)))
        };
        let mut progress = Progress::default();
        let mut first = Vec::new();
        let mut gathered = 0;
        while gathered < FIRST_BYTES {
            let Some((chunk, made)) = next(self)? else {
                return Ok(self.ended(format, progress, first));
            };
            progress += made;
            gathered += chunk.len();
            first.push(chunk);
        }
        let (chunks, rest) = mpsc::channel(CHUNKS_AHEAD);
        let reply = self.begun(format, progress, first, Some(rest));
        if self.send(Ok(reply)) {
            loop {
                match next(self) {
                    Ok(Some((chunk, _))) => {
                        if !self.send_chunk(&chunks, Ok(chunk)) {
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(exception) => return Ok(RequestEnd::Streamed(chunks, Some(exception))),
                }
            }
        }
        Ok(RequestEnd::Streamed(chunks, None))
    }

    /// Converts a result's bytes to what the client expects. `header` keeps the first chunk's header.
    fn shape(
        &self,
        result: EngineResult,
        format: &str,
        header: &mut Vec<u8>,
    ) -> Result<Bytes, Exception> {
        if format == "Native" && self.request.native_revision > 0 {
            return native::upgrade(result.as_ref(), self.request.native_revision).map(Bytes::from);
        }
        let bytes = Bytes::from_owner(result);
        if format != ROW_BINARY_WITH_HEADER {
            return Ok(bytes);
        }
        if header.is_empty() {
            let length = native::row_binary_header(&bytes).unwrap_or(bytes.len());
            header.extend_from_slice(&bytes[..length]);
            Ok(bytes)
        } else if bytes.starts_with(header) {
            Ok(bytes.slice(header.len()..))
        } else {
            Err(Exception::internal(
                "the engine changed the header within a result",
            ))
        }
    }
}
