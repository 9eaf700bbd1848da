//! Runs one request on the engine.
//!
//! Guarantees: what a request sets (settings, database, bound values) is gone after it, in a
//! session too; an `INSERT` is fed from a body that is whole, in pieces of [`FEED_BYTES`], so the
//! engine cuts blocks by rows alone and the same body gives the same blocks every time; an answer
//! that grows beyond [`FIRST_BYTES`] is passed on as it is made, in bounded pieces.
//!
//! Deliberately not here: HTTP. Everything in this module blocks and runs off the async threads.

use std::io::Read;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::engine::Engine;
use crate::exception::Exception;
use crate::ffi::{Answer, Connection, Effect, Progress};
use crate::intake::{fill, read_statement};
use crate::job::{Job, Piece, Reply, Watch};
use crate::native;
use crate::request::Ask;
use crate::scope::Scope;
use crate::session::Sessions;
use crate::spool::Spool;
use crate::statement::Statement;

/// Bytes handed to a running `INSERT` at a time. The engine queues 16 of them.
const FEED_BYTES: usize = 256 << 10;

/// Bytes of an answer that are gathered before it begins. Within them an error still gets its
/// own HTTP status, and the summary is complete.
const FIRST_BYTES: usize = 1 << 20;

/// Pieces of an answer that wait for the client.
const PIECES_AHEAD: usize = 4;

/// How long a client may take over a piece before its statement is given up.
const SEND_PATIENCE: Duration = Duration::from_secs(60);

/// Formats whose pieces, one after another, are the same bytes as the whole.
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

/// Streamable once the repeated header is taken off.
const ROW_BINARY_WITH_HEADER: &str = "RowBinaryWithNamesAndTypes";

/// Runs `job` to its end.
pub(crate) fn run(job: Job) {
    let mut run = Run {
        engine: &job.engine,
        sessions: &job.sessions,
        ask: &job.ask,
        watch: &job.watch,
        runtime: &job.runtime,
        started: Instant::now(),
        reply: Some(job.reply),
    };
    let end = run.request(job.body).unwrap_or_else(End::Failed);
    run.watch.ended();
    match end {
        End::Whole(reply) => {
            run.send(Ok(reply));
        }
        End::Failed(exception) => {
            run.send(Err(exception));
        }
        // Dropping the sender ends the answer.
        End::Streamed(pieces, None) => drop(pieces),
        End::Streamed(pieces, Some(exception)) => {
            run.send_piece(&pieces, Err(exception));
        }
    }
}

/// How a request ended. What the client learns of the end, it learns after a session is free for
/// its next request.
enum End {
    Whole(Reply),
    Failed(Exception),
    Streamed(mpsc::Sender<Piece>, Option<Exception>),
}

struct Run<'a> {
    engine: &'a Engine,
    sessions: &'a Sessions,
    ask: &'a Ask,
    watch: &'a Watch,
    runtime: &'a Handle,
    started: Instant,
    reply: Option<oneshot::Sender<Result<Reply, Exception>>>,
}

impl Run<'_> {
    /// False when the client is gone.
    fn send(&mut self, result: Result<Reply, Exception>) -> bool {
        self.reply
            .take()
            .is_some_and(|reply| reply.send(result).is_ok())
    }

    /// False when the client is gone, or too slow.
    fn send_piece(&self, pieces: &mpsc::Sender<Piece>, piece: Piece) -> bool {
        let sent = self
            .runtime
            .block_on(async { tokio::time::timeout(SEND_PATIENCE, pieces.send(piece)).await });
        matches!(sent, Ok(Ok(())))
    }

    fn request(&mut self, body: Spool) -> Result<End, Exception> {
        let mut body = body.reader(self.ask.encoding.as_deref())?;
        let (text, statement) = read_statement(&self.ask.query, &mut *body)?;
        let Some(session) = &self.ask.session else {
            let mut connection = self.engine.connect()?;
            Scope::enter(&mut connection, self.ask, &self.watch.mark)?;
            return self.statement(&mut connection, &text, statement, &mut *body);
        };
        let mut connection = self.sessions.enter(session, || self.engine.connect())?;
        let (end, restored) =
            match Scope::enter_session(&mut connection, self.ask, &self.watch.mark) {
                Ok(scope) => (
                    self.statement(&mut connection, &text, statement, &mut *body),
                    scope.leave(&mut connection),
                ),
                Err((exception, restored)) => (Err(exception), restored),
            };
        match restored {
            Ok(()) => self.sessions.leave(session, connection),
            Err(exception) => {
                tracing::warn!(
                    code = exception.code(),
                    "session dropped: cannot restore it"
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
    ) -> Result<End, Exception> {
        if self.ask.read_only
            && statement != Statement::Session
            && (matches!(statement, Statement::Insert { .. })
                || connection.effect(text) != Effect::None)
        {
            return Err(Exception::new(
                164,
                "READONLY",
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies \
                 readonly. You should use method POST for modifying queries",
            ));
        }
        let default = self.ask.default_format();
        match statement {
            Statement::Empty => Err(Exception::syntax("Empty query")),
            Statement::Insert { head, format, data } => {
                let progress =
                    self.insert(connection, &text[..head], &format, &text[data..], body)?;
                Ok(self.ended(default, progress, Vec::new()))
            }
            Statement::Select { format, has_extras } => {
                let format = format.unwrap_or_else(|| default.to_owned());
                self.watch.only_reads();
                if STREAMABLE.contains(&format.as_str()) && !has_extras && !self.ask.wait_end {
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
            .insert(head, format, &self.ask.parameters)
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
    ) -> Result<End, Exception> {
        let answer = connection
            .query(text, self.ask.default_format(), &self.ask.parameters)
            .map_err(|error| Exception::from_engine(&error))?;
        let progress = answer.progress();
        let piece = self.shape(answer, format, &mut Vec::new())?;
        Ok(self.ended(format, progress, vec![piece]))
    }

    fn ended(&self, format: &str, progress: Progress, first: Vec<Bytes>) -> End {
        End::Whole(self.begun(format, progress, first, None))
    }

    fn begun(
        &self,
        format: &str,
        progress: Progress,
        first: Vec<Bytes>,
        rest: Option<mpsc::Receiver<Piece>>,
    ) -> Reply {
        Reply {
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
    ) -> Result<End, Exception> {
        let mut select = connection
            .select(text, self.ask.default_format(), &self.ask.parameters)
            .map_err(|error| Exception::from_engine(&error))?;
        let mut header = Vec::new();
        let mut next = |run: &Self| -> Result<Option<(Bytes, Progress)>, Exception> {
            let answer = select
                .next()
                .map_err(|error| Exception::from_engine(&error))?;
            let Some(answer) = answer else {
                return Ok(None);
            };
            let progress = answer.progress();
            Ok(Some((run.shape(answer, format, &mut header)?, progress)))
        };
        let mut progress = Progress::default();
        let mut first = Vec::new();
        let mut gathered = 0;
        while gathered < FIRST_BYTES {
            let Some((piece, made)) = next(self)? else {
                return Ok(self.ended(format, progress, first));
            };
            progress += made;
            gathered += piece.len();
            first.push(piece);
        }
        let (pieces, rest) = mpsc::channel(PIECES_AHEAD);
        let reply = self.begun(format, progress, first, Some(rest));
        if self.send(Ok(reply)) {
            loop {
                match next(self) {
                    Ok(Some((piece, _))) => {
                        if !self.send_piece(&pieces, Ok(piece)) {
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(exception) => return Ok(End::Streamed(pieces, Some(exception))),
                }
            }
        }
        Ok(End::Streamed(pieces, None))
    }

    /// Makes an answer's bytes what the client expects. `header` remembers the first piece's.
    fn shape(
        &self,
        answer: Answer,
        format: &str,
        header: &mut Vec<u8>,
    ) -> Result<Bytes, Exception> {
        if format == "Native" && self.ask.native_revision > 0 {
            return native::upgrade(answer.as_ref(), self.ask.native_revision).map(Bytes::from);
        }
        let bytes = Bytes::from_owner(answer);
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
                "the engine changed the header within an answer",
            ))
        }
    }
}
