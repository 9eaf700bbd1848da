//! The operator's options: data directory, address, credentials, memory.

use std::env;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::error::Error;

/// The libchdb release this crate is tested with: the version of the npm packages `@chdb/lib-*` and the
/// name of the folder in the cache.
pub const LIBCHDB_VERSION: &str = "26.7.3-stable.1";

/// Environment variable that names the library file.
pub const LIBRARY_VARIABLE: &str = "CHATLEDGER_LIBCHDB";

/// Default memory of the engine in bytes: 2 GiB, half of the smallest supported machine.
pub const DEFAULT_MAX_MEMORY_BYTES: u64 = 2 << 30;

/// Default number of statements that run in parallel.
pub const DEFAULT_CONNECTIONS: usize = 8;

/// User and password that the front requires. The engine itself has one user without a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password, in the clear; wiped when dropped.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("user", &self.user)
            .field("password", &"***")
            .finish()
    }
}

/// How to run an embedded ClickHouse.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data directory. Created if missing; used by one process at a time.
    pub data_dir: PathBuf,
    /// The address to listen on; port 0 selects a free port, which [`Server::run`](crate::Server::run) reports.
    pub listen: SocketAddr,
    /// The library file; without it `CHATLEDGER_LIBCHDB` and then the cache folder are searched.
    pub lib_path: Option<PathBuf>,
    /// Required credentials; without them the address must be a loopback one, and only
    /// programs of the same user and of root are accepted.
    pub credentials: Option<Credentials>,
    /// Memory limit of the engine in bytes. One query may use 3/5 of it.
    pub max_memory_bytes: u64,
    /// Number of statements that run in parallel; further ones wait. At least 1. `INSERT`s with data do not
    /// count: four of them run beside the others.
    pub connections: usize,
    /// Runs without confining the process, for kernels older than Linux 5.19 or without Landlock. A client
    /// can then read every file that this user can read.
    pub unconfined: bool,
}

impl Options {
    /// Makes the default options for a data directory and an address.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            lib_path: None,
            credentials: None,
            max_memory_bytes: DEFAULT_MAX_MEMORY_BYTES,
            connections: DEFAULT_CONNECTIONS,
            unconfined: false,
        }
    }

    /// Checks the options before anything is opened.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.credentials.is_none() && !self.listen.ip().is_loopback() {
            return Err(Error::CredentialsRequired {
                listen: self.listen,
            });
        }
        Ok(())
    }
}

/// Finds libchdb: `given`, else `CHATLEDGER_LIBCHDB`, else
/// `${XDG_CACHE_HOME:-$HOME/.cache}/chatledger/libchdb/<version>/libchdb.so`, where
/// `deploy/local/fetch-libchdb` puts it.
///
/// # Errors
/// [`Error::LibraryMissing`] if there is no file. If a path is given or set, no other one is searched.
pub fn find_library(given: Option<PathBuf>) -> Result<PathBuf, Error> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let mut searched = Vec::new();
    if let Some(path) = given.or_else(|| set(LIBRARY_VARIABLE).map(PathBuf::from)) {
        searched.push(path);
    } else {
        let cache = set("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache")));
        searched.extend(cache.map(|cache| {
            cache
                .join("chatledger/libchdb")
                .join(LIBCHDB_VERSION)
                .join("libchdb.so")
        }));
    }
    match searched.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(Error::LibraryMissing {
            version: LIBCHDB_VERSION,
            searched,
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn passwords_are_not_printed() {
        let credentials = Credentials {
            user: "reader".to_owned(),
            password: "hunter2".to_owned().into(),
        };
        let mut options = Options::new("data", "0.0.0.0:0".parse().unwrap());
        options.credentials = Some(credentials);
        assert!(!format!("{options:?}").contains("hunter2"));
        assert!(options.check().is_ok());
    }

    #[test]
    fn public_addresses_need_credentials() {
        let error = Options::new("data", "0.0.0.0:8123".parse().unwrap())
            .check()
            .unwrap_err();
        assert!(matches!(error, Error::CredentialsRequired { .. }));
        for loopback in ["127.0.0.1:8123", "[::1]:8123"] {
            Options::new("data", loopback.parse().unwrap())
                .check()
                .unwrap();
        }
    }

    #[test]
    fn error_of_a_missing_library_says_how_to_get_it() {
        let error = find_library(Some(PathBuf::from("/nowhere/libchdb.so"))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nowhere/libchdb.so"), "{text}");
        assert!(text.contains("deploy/local/fetch-libchdb"), "{text}");
    }
}
