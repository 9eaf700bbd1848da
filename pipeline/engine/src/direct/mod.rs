//! The driver for one process: no broker, the archive itself is the log.
//!
//! ```text
//! archive ──page──▶ puller ──[2 pages]──▶ processor ──[4 batches]──▶ clickhouse lane ──▶ ClickHouse
//!                                             │  └─────[4 batches]──▶ parquet lane ─────▶ Parquet
//!                                             ▼
//!                                    ledger, dead letters (files, synced first)
//! ```
//!
//! The archive can be read again by `seq` for five days, so nothing has to be kept on the way: each
//! lane has its own position, and after a start the archive is read again from the lowest of them.
//! Batches end at every lane's position and at the end of every cut that has to be repeated, so a
//! lane takes a batch whole or not at all.
//!
//! Files under `state_dir/<corp>/`: `ledger` ([`ledger`]), `dead_letters.jsonl` and
//! `dead_letter_events.jsonl` ([`store`]), `replay.json` ([`replay`]), `dlq/` ([`inbox`]),
//! `<sink>.json` ([`journal`]), `contact.json` ([`contact`]), `directory.json`.

pub mod contact;
pub mod control_inbox;
pub mod dead_letter_store;
pub mod driver;
pub mod journal;
pub mod ledger;
pub mod offline;
pub mod replay;
pub mod replayer;

use std::io;
use std::path::{Path, PathBuf};

use crate::failpoint::Injected;

/// What can be wrong with the state folder.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file cannot be read or written.
    #[error("{path}: cannot be read or written")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file holds something this program did not write.
    #[error("{path}: {what}; it may come from a newer program or have been changed by hand")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// A sink has no position though another has one.
    #[error(
        "{path}: sink {sink} has no position, though {other} has one. If the sink is new, let it \
         begin where {other} stands: copy {other}.json to {sink}.json; what came before is then not \
         in it. If the file was lost, bring it back"
    )]
    Unplaced {
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

/// Writes a file so that a reader sees the old or the new content, never a part, whatever dies.
///
/// # Errors
/// The folder cannot be written.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// The lock of a state folder, held as long as the process lives.
#[derive(Debug)]
pub struct StateLock(#[expect(dead_code, reason = "held for its lock")] std::fs::File);

impl StateLock {
    /// Creates the folder if needed and locks it.
    ///
    /// # Errors
    /// Another process holds it, or it cannot be written.
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
