//! A request on its way through the engine, and what the front learns of it.
//!
//! Guarantees: the answer's beginning comes once, its pieces through a bounded channel; a statement
//! can be told to be one nobody misses only while it runs.
//!
//! Deliberately not here: running it ([`crate::execute`]) and HTTP ([`crate::front`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::engine::Engine;
use crate::exception::Exception;
use crate::ffi::Progress;
use crate::request::Ask;
use crate::session::Sessions;
use crate::spool::Spool;

/// One request on its way through the engine.
pub(crate) struct Job {
    /// The engine.
    pub(crate) engine: Arc<Engine>,
    /// The open sessions.
    pub(crate) sessions: Arc<Sessions>,
    /// The request.
    pub(crate) ask: Ask,
    /// Its body.
    pub(crate) body: Spool,
    /// Whether anyone still waits for the answer.
    pub(crate) watch: Arc<Watch>,
    /// For waiting on the client.
    pub(crate) runtime: Handle,
    /// Where the beginning of the answer goes.
    pub(crate) reply: oneshot::Sender<Result<Reply, Exception>>,
}

/// The beginning of an answer.
pub(crate) struct Reply {
    /// The format it is in.
    pub(crate) format: String,
    /// What the statement has done so far; all of it when `rest` is `None`.
    pub(crate) progress: Progress,
    /// Time since the start.
    pub(crate) elapsed: Duration,
    /// The first pieces.
    pub(crate) first: Vec<Bytes>,
    /// The pieces to come.
    pub(crate) rest: Option<mpsc::Receiver<Piece>>,
}

/// A piece of an answer, or why there are no more.
pub(crate) type Piece = Result<Bytes, Exception>;

/// What the front and a running statement know of each other.
pub(crate) struct Watch {
    /// The statement's `log_comment`, by which it can be ended.
    pub(crate) mark: String,
    abandonable: AtomicBool,
    done: AtomicBool,
}

impl Watch {
    /// Watches a statement that will run under `mark`.
    pub(crate) fn new(mark: String) -> Self {
        Self {
            mark,
            abandonable: AtomicBool::new(false),
            done: AtomicBool::new(false),
        }
    }

    /// Says that the statement only reads.
    pub(crate) fn only_reads(&self) {
        self.abandonable.store(true, Ordering::Release);
    }

    /// Says that the statement has ended.
    pub(crate) fn ended(&self) {
        self.done.store(true, Ordering::Release);
    }

    /// Whether it runs and only reads, so that nobody misses it once its client is gone.
    pub(crate) fn is_abandonable(&self) -> bool {
        self.abandonable.load(Ordering::Acquire) && !self.done.load(Ordering::Acquire)
    }
}
