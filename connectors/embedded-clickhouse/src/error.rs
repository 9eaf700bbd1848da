//! Errors of the process as a whole, one variant per operation.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why [`Server`](crate::Server) could not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libchdb was not found.
    #[error(
        "libchdb {version} was not found (searched {}); fetch it with deploy/local/fetch-libchdb, \
         or set its path with --lib or CHATLEDGER_LIBCHDB",
        .searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    LibraryMissing {
        /// The version that was searched for.
        version: &'static str,
        /// The searched paths, in order.
        searched: Vec<PathBuf>,
    },
    /// libchdb cannot be loaded, or is a version with different functions.
    #[error("cannot load libchdb from {}", .path.display())]
    LoadLibrary {
        /// The file.
        path: PathBuf,
        /// The loader's error.
        source: libloading::Error,
    },
    /// The data directory cannot be created or written to.
    #[error("cannot prepare the data directory {}", .path.display())]
    PrepareDataDir {
        /// The directory or a file in it.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process holds the data directory.
    #[error("the data directory {} is in use by another process{}", .path.display(), holder_text(*.holder))]
    DataDirInUse {
        /// The directory.
        path: PathBuf,
        /// The id of the other process, if recorded.
        holder: Option<u32>,
    },
    /// The kernel cannot confine the process.
    #[error(
        "cannot confine the process ({reason}); this needs Linux 5.19 or later with Landlock and \
         seccomp. Without it a client can read every file that this user can read; \
         --unconfined accepts that"
    )]
    Confine {
        /// The step that failed.
        reason: String,
    },
    /// The process had other threads, which could not have been confined.
    #[error("the process has {threads} threads; it can only be confined while it has one")]
    ConfineThreads {
        /// How many there are.
        threads: usize,
    },
    /// The users of connections cannot be found, which a server without a password needs.
    #[error("cannot find the users of connections; set a user and a password")]
    Peers(#[source] io::Error),
    /// The insert tokens that tables have recorded cannot be checked against their parts.
    #[error("cannot check the insert tokens recorded in {}", .path.display())]
    RepairTokens {
        /// The engine's store.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// One process can run one engine.
    #[error("this process already runs an embedded ClickHouse")]
    AlreadyRunning,
    /// The engine did not start.
    #[error("the engine did not start on {}: {reason}", .data_dir.display())]
    StartEngine {
        /// Its data directory.
        data_dir: PathBuf,
        /// The reason; more may be on stderr.
        reason: String,
    },
    /// An address that other machines can reach requires credentials.
    #[error(
        "refusing to listen on {listen}, which other machines can reach, without credentials; \
         set a user and a password, or listen on a loopback address"
    )]
    CredentialsRequired {
        /// The configured address.
        listen: SocketAddr,
    },
    /// The address is in use or does not belong to this machine.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The configured address.
        listen: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// A statement did not end, so the engine was not closed.
    #[error("the engine did not stop within {seconds} s; its data is safe, as after a crash")]
    StopEngine {
        /// The time waited.
        seconds: u64,
    },
}

fn holder_text(holder: Option<u32>) -> String {
    holder
        .map(|id| format!(" (process {id})"))
        .unwrap_or_default()
}
