//! What can go wrong with the process as a whole, one variant for each operation.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why [`serve`](crate::serve) could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libchdb is nowhere to be found.
    #[error(
        "libchdb {version} is not there (looked at {}); fetch it with deploy/local/fetch-libchdb, \
         or say where it is with --lib or CHATLEDGER_LIBCHDB",
        .looked_at.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    LibraryMissing {
        /// The version that was looked for.
        version: &'static str,
        /// The places, in order.
        looked_at: Vec<PathBuf>,
    },
    /// libchdb is there but cannot be loaded, or is another version with other functions.
    #[error("cannot load libchdb from {}", .path.display())]
    LoadLibrary {
        /// The file.
        path: PathBuf,
        /// What the loader said.
        source: libloading::Error,
    },
    /// The data directory cannot be made or written to.
    #[error("cannot prepare the data directory {}", .path.display())]
    PrepareDataDir {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the data directory.
    #[error("the data directory {} is in use by another process{}", .path.display(), holder_text(*.holder))]
    DataDirInUse {
        /// The directory.
        path: PathBuf,
        /// The process id the other one wrote down.
        holder: Option<u32>,
    },
    /// The tables' notes of insert tokens cannot be checked against their parts.
    #[error("cannot check the insert tokens kept in {}", .path.display())]
    RepairTokens {
        /// The engine's store.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One process can run one engine.
    #[error("this process already runs an embedded ClickHouse")]
    AlreadyRunning,
    /// The engine did not come up.
    #[error("the engine did not start on {}: {reason}", .data_dir.display())]
    StartEngine {
        /// Its data directory.
        data_dir: PathBuf,
        /// What it said; more may stand on stderr.
        reason: String,
    },
    /// An address others can reach needs credentials.
    #[error(
        "refusing to listen on {listen}, which others can reach, without credentials; \
         give a user and a password, or listen on a loopback address"
    )]
    CredentialsRequired {
        /// The address asked for.
        listen: SocketAddr,
    },
    /// The address is taken or not ours.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address asked for.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A statement would not end, so the engine was left open.
    #[error("the engine did not stop within {seconds} s; its data is safe, as after a crash")]
    StopEngine {
        /// How long was waited.
        seconds: u64,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    holder
        .map(|id| format!(" (process {id})"))
        .unwrap_or_default()
}
