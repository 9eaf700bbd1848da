//! A request that the engine runs, and what the front learns of its progress.
//!
//! Guarantees: the beginning of the response is sent once, its chunks through a bounded channel; a
//! statement counts as abandonable only while it runs.
//!
//! Not here: running it ([`crate::execute`]) and HTTP ([`crate::front`]).

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::engine::Engine;
use crate::exception::Exception;
use crate::ffi::Progress;
use crate::request::QueryRequest;
use crate::session::Sessions;
use crate::statement::Statement;

/// A request for the engine.
pub(crate) struct Job {
    /// The engine.
    pub(crate) engine: Arc<Engine>,
    /// The open sessions.
    pub(crate) sessions: Arc<Sessions>,
    /// The request.
    pub(crate) request: QueryRequest,
    /// Its statement.
    pub(crate) statement: Statement,
    /// The statement's text, up to where it was read to classify it.
    pub(crate) text: Vec<u8>,
    /// The rest of the body.
    pub(crate) body: Box<dyn Read + Send>,
    /// Whether the statement may be ended without its client.
    pub(crate) status: Arc<StatementStatus>,
    /// For waiting on the client.
    pub(crate) runtime: Handle,
    /// Receives the beginning of the response.
    pub(crate) reply: oneshot::Sender<Result<ResponseStart, Exception>>,
}

/// The beginning of a response.
pub(crate) struct ResponseStart {
    /// Its format.
    pub(crate) format: String,
    /// What the statement has done so far; everything if `rest` is `None`.
    pub(crate) progress: Progress,
    /// Time since the start.
    pub(crate) elapsed: Duration,
    /// The first chunks.
    pub(crate) first: Vec<Bytes>,
    /// The further chunks.
    pub(crate) rest: Option<mpsc::Receiver<ResponseChunk>>,
}

/// A chunk of a response, or the reason why there are no more.
pub(crate) type ResponseChunk = Result<Bytes, Exception>;

/// State shared by the front and a running statement.
pub(crate) struct StatementStatus {
    /// The statement's `log_comment`, by which it is ended.
    pub(crate) log_comment: String,
    abandonable: AtomicBool,
    done: AtomicBool,
}

impl StatementStatus {
    /// Makes the state of a statement that will run with `log_comment`.
    pub(crate) fn new(log_comment: String) -> Self {
        Self {
            log_comment,
            abandonable: AtomicBool::new(false),
            done: AtomicBool::new(false),
        }
    }

    /// Records that the statement only reads.
    pub(crate) fn only_reads(&self) {
        self.abandonable.store(true, Ordering::Release);
    }

    /// Records that the statement has ended.
    pub(crate) fn ended(&self) {
        self.done.store(true, Ordering::Release);
    }

    /// Returns whether it is running and only reads, so that it can be ended when its client is gone.
    pub(crate) fn is_abandonable(&self) -> bool {
        self.abandonable.load(Ordering::Acquire) && !self.done.load(Ordering::Acquire)
    }
}
