//! Delivers every record of a corp exactly once from one process, without a broker: the archive itself
//! is the log.
//!
//! ```text
//! archive ──page──▶ puller ──[2 pages]──▶ processor ──[4 batches]──▶ lane of sink A ──▶ sink A
//!                                          │  ▲  └───────[4 batches]──▶ lane of sink B ──▶ sink B
//!                                          │  └─[1 request]─ replayer ──▶ every sink
//!                                          ▼
//!                                  dead letters, ledger (files, synced first)
//! ```
//!
//! The archive can be read again by `seq` for [`ARCHIVE_RETENTION`], so nothing is stored on the way:
//! each lane has its own position, and a start reads the archive again from the lowest of them.
//! Batches end at every lane's position and at the end of every pending batch, so a lane takes a batch
//! whole or not at all.
//!
//! | module | what |
//! |---|---|
//! | [`driver`] | starts the tasks of one corp and joins them |
//! | [`offline`] | replays while no pipeline runs |
//! | `state` | opens everything below `state_dir/<corp>/` |
//! | `processor` | a thread: records to batches, and dead letters for replays |
//! | `pull_task` | pages of the archive into the queue of the processor |
//! | `lane_task` | batches of one lane into its sink |
//! | [`replayer`] | when to replay which dead letters |
//! | `replay`, `replay_plan`, `replay_sink` | one replay, safe against a crash at any step |
//!
//! Files below `state_dir/<corp>/`: `ledger` ([`ledger`]), `dead_letters.jsonl` and
//! `dead_letter_events.jsonl` ([`dead_letter_store`]), `replay.json` (`replay_plan`), `dlq/`
//! ([`control_inbox`]), `<sink>.json` ([`journal`]), `contact.json` (`contact`), `directory.json`
//! ([`crate::directory_sync`]).
//!
//! [`ARCHIVE_RETENTION`]: crate::pull::ARCHIVE_RETENTION

mod contact;
pub mod control_inbox;
pub mod dead_letter_store;
pub mod driver;
pub mod journal;
mod lane_task;
pub mod ledger;
pub mod offline;
mod open_request;
mod processor;
mod pull_task;
mod replay;
mod replay_plan;
mod replay_sink;
pub mod replayer;
mod setup;
mod state;
mod state_file;
#[cfg(test)]
mod testing;

use std::io;
use std::path::{Path, PathBuf};

use crate::failpoint::Injected;

pub use state_file::{FormVersion, StateFile, write_whole};

/// Whether a task of the pipeline continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    /// The task it delivers to has failed, or the process does not wait any longer.
    Stop,
}

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file cannot be read or written.
    #[error("{path}: cannot be read or written")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system reports.
        #[source]
        source: io::Error,
    },
    /// A file holds something that this program did not write.
    #[error("{path}: {what}; a newer program may have written the file, or it was changed by hand")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A sink has no recorded position, but another one has.
    #[error(
        "{path}: sink {sink} has no recorded position, but sink {other} has one. If {sink} is new, \
         copy {other}.json to {sink}.json: it then starts at the position of {other} and does not \
         receive earlier records. If the file was lost, restore it"
    )]
    NoPosition {
        /// The missing file.
        path: PathBuf,
        /// Its sink.
        sink: String,
        /// A sink that has a position.
        other: String,
    },
    /// Another process uses the folder.
    #[error("{path}: another process is using this state folder")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

impl StateError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            what: what.into(),
        }
    }
}

impl From<Injected> for StateError {
    fn from(injected: Injected) -> Self {
        Self::io(Path::new("state"))(io::Error::other(injected))
    }
}

/// The lock of a state folder, held until the process ends.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "held for its lock")] std::fs::File);

impl StateLock {
    /// Creates the folder if necessary and locks it.
    ///
    /// # Errors
    /// Another process holds the lock, or the folder cannot be written.
    pub fn take(state_dir: &Path) -> Result<Self, StateError> {
        std::fs::create_dir_all(state_dir).map_err(StateError::io(state_dir))?;
        let path = state_dir.join("lock");
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StateError::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(std::fs::TryLockError::WouldBlock) => Err(StateError::Locked { path }),
            Err(std::fs::TryLockError::Error(source)) => Err(StateError::Io { path, source }),
        }
    }
}
