//! The engine: started once, used through short-lived connections, stopped cleanly.
//!
//! Guarantees: every request has its own connection, so no setting, database or temporary table is
//! visible to another request (a connection costs about 0.2 ms); at most [`Options::connections`]
//! statements and [`INSERTS`] `INSERT`s with data run at once; [`Engine::stop`] returns after the last connection is closed and the engine
//! has written its data.
//!
//! Not here: HTTP, and the meaning of statements.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::datadir::DataDir;
use crate::error::Error;
use crate::exception::Exception;
use crate::ffi::{Connection, Library};
use crate::intake::MAX_TEXT;
use crate::options::Options;
use crate::statement::Statement;
use crate::tokens;

/// How long a request waits for a permit before it is refused.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(60);

/// `INSERT`s with data that run at once, beside the other statements. Long queries cannot hold them up.
const INSERTS: u32 = 4;

/// Which permits a statement needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// An `INSERT` with data.
    Insert,
    /// Any other statement.
    Other,
}

impl Lane {
    /// Returns the lane of a statement.
    pub(crate) fn of(statement: &Statement) -> Self {
        match statement {
            Statement::Insert { .. } => Self::Insert,
            _ => Self::Other,
        }
    }
}

/// libchdb can run only one engine in a process.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// The running engine.
pub(crate) struct Engine {
    library: Library,
    store: CString,
    data_dir: DataDir,
    /// Kept open so that the engine does not stop between two requests.
    keep_alive: Mutex<Option<Connection>>,
    /// Connections that only parse statements.
    parsers: Mutex<Vec<Connection>>,
    inserts: Arc<Semaphore>,
    others: Arc<Semaphore>,
    connections: u32,
    version: String,
    timezone: String,
    display_name: String,
}

impl Engine {
    /// Loads the library and starts the engine. Blocks for 0.1 to 1 s, longer with much data.
    pub(crate) fn start(
        options: &Options,
        path: PathBuf,
        data_dir: DataDir,
    ) -> Result<Self, Error> {
        let store = data_dir.store();
        tokens::repair(&store).map_err(|source| Error::RepairTokens {
            path: store.clone(),
            source,
        })?;
        if RUNNING.swap(true, Ordering::AcqRel) {
            return Err(Error::AlreadyRunning);
        }
        let library = Library::load(&path).map_err(|source| Error::LoadLibrary { path, source })?;
        let failed = |reason: String| Error::StartEngine {
            data_dir: options.data_dir.clone(),
            reason,
        };
        let argument = |name: &str, path: &std::path::Path| {
            let mut text = name.as_bytes().to_vec();
            text.extend_from_slice(path.as_os_str().as_bytes());
            CString::new(text).map_err(|error| failed(error.to_string()))
        };
        let store = argument("--path=", &store)?;
        let config = argument("--config-file=", &data_dir.config())?;
        let mut keep_alive = library
            .connect(&[c"chatledger".to_owned(), store.clone(), config])
            .ok_or_else(|| failed("the engine refused the first connection".to_owned()))?;
        let result = keep_alive
            .query(
                b"SELECT version(), timezone(), displayName(), serverTimezone()",
                "TSVRaw",
                &[],
            )
            .map_err(&failed)?;
        let text = String::from_utf8_lossy(result.as_ref()).into_owned();
        drop(result);
        let mut fields = text.trim_end().split('\t').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        let (version, timezone, display_name, machine_timezone) = (next(), next(), next(), next());
        tracing::info!(version, data_dir = %options.data_dir.display(), "engine started");
        if !matches!(machine_timezone.as_str(), "UTC" | "Etc/UTC") {
            tracing::warn!(
                timezone = machine_timezone,
                "the machine's time zone is not UTC: partition keys use it for columns of type DateTime \
                 without a time zone; use 'UTC' in the type, or start with TZ=UTC"
            );
        }
        let connections = options.connections.clamp(1, 1000) as u32;
        Ok(Self {
            library,
            store,
            data_dir,
            keep_alive: Mutex::new(Some(keep_alive)),
            parsers: Mutex::new(Vec::new()),
            inserts: Arc::new(Semaphore::new(INSERTS as usize)),
            others: Arc::new(Semaphore::new(connections as usize)),
            connections,
            version,
            timezone,
            display_name,
        })
    }

    /// Returns the engine's version as in `SELECT version()`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Returns the time zone of results.
    pub(crate) fn timezone(&self) -> &str {
        &self.timezone
    }

    /// Returns the engine's display name.
    pub(crate) fn display_name(&self) -> &str {
        &self.display_name
    }

    /// Returns the directory of large bodies.
    pub(crate) fn spool(&self) -> std::path::PathBuf {
        self.data_dir.spool()
    }

    /// Waits for a permit to run a statement of `lane`.
    pub(crate) async fn permit(&self, lane: Lane) -> Result<OwnedSemaphorePermit, Exception> {
        let (permits, limit) = match lane {
            Lane::Insert => (&self.inserts, INSERTS),
            Lane::Other => (&self.others, self.connections),
        };
        match tokio::time::timeout(QUEUE_TIMEOUT, Arc::clone(permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Exception::new(
                202,
                "TOO_MANY_SIMULTANEOUS_QUERIES",
                format!(
                    "Too many simultaneous queries. Maximum: {limit}; this one has waited {} s",
                    QUEUE_TIMEOUT.as_secs()
                ),
            )),
        }
    }

    /// Opens a connection, which is a separate session.
    pub(crate) fn connect(&self) -> Result<Connection, Exception> {
        self.library
            .connect(&[c"chatledger".to_owned(), self.store.clone()])
            .ok_or_else(|| Exception::internal("the engine refused a connection"))
    }

    /// Returns a statement in the engine's canonical form, on one line. The engine parses it and runs
    /// nothing of it. The settings of a client have no influence.
    pub(crate) fn canonical(&self, statement: &[u8]) -> Result<Vec<u8>, Exception> {
        let idle = self
            .parsers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut parser = match idle {
            Some(connection) => connection,
            None => self.parser()?,
        };
        let mut sql = b"SELECT formatQuerySingleLine('".to_vec();
        for byte in statement {
            if matches!(byte, b'\\' | b'\'') {
                sql.push(b'\\');
            }
            sql.push(*byte);
        }
        sql.extend_from_slice(b"')");
        let result = parser
            .query(&sql, "TSVRaw", &[])
            .map(|result| result.as_ref().to_vec())
            .map_err(|error| {
                // The engine quotes this module's own query after the reason.
                let own = error.find(": In scope SELECT formatQuery");
                Exception::from_engine(&own.map_or_else(
                    || error.clone(),
                    |end| format!("{}. (SYNTAX_ERROR)", &error[..end]),
                ))
            });
        self.parsers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(parser);
        result
    }

    /// Opens a connection that accepts a text of the size limit, twice as long by its escapes.
    fn parser(&self) -> Result<Connection, Exception> {
        let mut connection = self.connect()?;
        let sql = format!("SET max_query_size = {}", 2 * MAX_TEXT + 100);
        connection
            .query(sql.as_bytes(), "Null", &[])
            .map_err(|error| Exception::from_engine(&error))?;
        Ok(connection)
    }

    /// Ends the running statements with this `log_comment`, or all of them. Blocks shortly.
    pub(crate) fn kill(&self, log_comment: Option<&str>) {
        let parameters: Vec<_> = log_comment
            .map(|value| ("comment".to_owned(), value.to_owned()))
            .into_iter()
            .collect();
        let sql: &[u8] = if log_comment.is_some() {
            b"KILL QUERY WHERE Settings['log_comment'] = {comment:String} ASYNC"
        } else {
            b"KILL QUERY WHERE 1 ASYNC"
        };
        let killed = self.connect().and_then(|mut connection| {
            connection
                .query(sql, "Null", &parameters)
                .map_err(|error| Exception::from_engine(&error))
        });
        if let Err(error) = killed {
            tracing::debug!(code = error.code(), "could not end a statement");
        }
    }

    /// Waits until no statement runs. No further statement can start afterwards.
    pub(crate) async fn drained(&self) {
        for (permits, limit) in [(&self.inserts, INSERTS), (&self.others, self.connections)] {
            if let Ok(all) = permits.acquire_many(limit).await {
                all.forget();
            }
        }
    }

    /// Closes the engine, which must be [`Engine::drained`]. Blocks while the engine writes its data.
    pub(crate) fn stop(&self) {
        let keep_alive = self
            .keep_alive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(keep_alive);
        self.parsers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        // Closing the last connection shuts the engine down. Idle threads of its pools may remain (always
        // if a MergeTree table was loaded); they end with the process.
        let joined = self.library.shutdown();
        tracing::info!(joined, "engine stopped");
    }
}
