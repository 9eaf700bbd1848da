//! The lifecycle of the process: listen, confine the process, start the engine, stop cleanly.
//!
//! Guarantees: after `shutdown` no new connection is accepted; running requests have [`GRACE_PERIOD`] to
//! end, then their statements are ended, then the engine is closed. An insert is stored before it is
//! acknowledged.
//!
//! Not here: signals. The caller provides `shutdown`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio::time::{interval, sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::confine::{AllowedPaths, confine};
use crate::datadir::DataDir;
use crate::engine::Engine;
use crate::error::Error;
use crate::front::Front;
use crate::options::{Options, find_library};
use crate::peer::PeerCheck;
use crate::session::Sessions;
use crate::spool::Spooler;

/// How long running requests may continue after a shutdown was requested.
const GRACE_PERIOD: Duration = Duration::from_secs(5);

/// How long ended statements may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How often idle sessions are closed.
const SESSION_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Pause after a failed `accept`, which fails again at once if there are no file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An embedded ClickHouse that holds its address and its data directory, in a process that is confined.
pub struct Server {
    options: Options,
    listener: std::net::TcpListener,
    address: SocketAddr,
    library: PathBuf,
    data_dir: DataDir,
    /// Without credentials.
    peers: Option<PeerCheck>,
}

impl Server {
    /// Listens on the address, locks the data directory and confines the process: from now on it can
    /// open no other file and no connection (see `confine.rs`). This cannot be undone. Call it before
    /// any thread is started, so before a Tokio runtime is built.
    ///
    /// # Errors
    /// [`Error`], one variant per step.
    pub fn prepare(options: Options) -> Result<Self, Error> {
        options.check()?;
        let failed = |source| Error::Listen {
            listen: options.listen,
            source,
        };
        // First, because it is cheap and the most frequent error.
        let listener = std::net::TcpListener::bind(options.listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let library = find_library(options.lib_path.clone())?;
        let data_dir = DataDir::open(&options)?;
        let peers = match options.credentials {
            Some(_) => None,
            None => Some(PeerCheck::open().map_err(Error::Peers)?),
        };
        if options.unconfined {
            tracing::warn!(
                "this process is not confined: a client can read files and reach machines that this \
                 user can"
            );
        } else {
            confine(&AllowedPaths {
                owned: vec![data_dir.store(), data_dir.spool()],
                read: vec![data_dir.config(), data_dir.users(), library.clone()],
            })?;
        }
        Ok(Self {
            options,
            listener,
            address,
            library,
            data_dir,
            peers,
        })
    }

    /// Runs until `shutdown` completes, then stops cleanly.
    ///
    /// Calls `ready` once, with the address it listens on, as soon as queries are answered. The future
    /// must run on a multi-threaded Tokio runtime with time and I/O enabled. A process can run one
    /// engine, and cannot start another after it has stopped.
    ///
    /// # Errors
    /// [`Error`], one variant per step; [`Error::StopEngine`] if a statement could not be ended and the
    /// engine was not closed.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()>,
        ready: impl FnOnce(SocketAddr),
    ) -> Result<(), Error> {
        let listener = TcpListener::from_std(self.listener).map_err(|source| Error::Listen {
            listen: self.address,
            source,
        })?;
        let credentials = self.options.credentials.clone();
        let folder = self.options.data_dir.clone();
        let start = move || Engine::start(&self.options, self.library, self.data_dir);
        let engine =
            tokio::task::spawn_blocking(start)
                .await
                .map_err(|error| Error::StartEngine {
                    data_dir: folder,
                    reason: error.to_string(),
                })??;
        let engine = Arc::new(engine);
        let front = Arc::new(Front {
            spooler: Spooler::new(engine.spool()),
            engine: Arc::clone(&engine),
            sessions: Arc::new(Sessions::default()),
            credentials,
            peers: self.peers,
            tasks: TaskTracker::new(),
        });
        ready(self.address);
        let graceful = GracefulShutdown::new();
        accept(&listener, &front, &graceful, shutdown).await;
        drop(listener);
        stop(&front, graceful).await
    }
}

async fn accept(
    listener: &TcpListener,
    front: &Arc<Front>,
    graceful: &GracefulShutdown,
    shutdown: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    let mut session_check = interval(SESSION_CHECK_INTERVAL);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            _ = session_check.tick() => {
                let sessions = Arc::clone(&front.sessions);
                front.tasks.spawn_blocking(move || sessions.expire(Instant::now()));
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    // Small responses must not wait for the client's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let own_user = Arc::new(OnceCell::new());
                    let own = stream.local_addr();
                    let service = {
                        let front = Arc::clone(front);
                        service_fn(move |request| {
                            let (front, own_user) = (Arc::clone(&front), Arc::clone(&own_user));
                            let own = own.as_ref().ok().copied();
                            async move {
                                let allowed = own_user.get_or_init(|| front.is_allowed(peer, own)).await;
                                front.answer(request, *allowed).await
                            }
                        })
                    };
                    let connection = http.serve_connection(TokioIo::new(stream), service);
                    let connection = graceful.watch(connection);
                    front.tasks.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

async fn stop(front: &Arc<Front>, graceful: GracefulShutdown) -> Result<(), Error> {
    tracing::info!("stopping");
    let engine = &front.engine;
    let drained = async {
        graceful.shutdown().await;
        engine.drained().await;
    };
    tokio::pin!(drained);
    if timeout(GRACE_PERIOD, &mut drained).await.is_err() {
        tracing::info!("ending the statements that are still running");
        let ended = async {
            loop {
                let engine = Arc::clone(engine);
                let killed = tokio::task::spawn_blocking(move || engine.kill(None));
                if timeout(Duration::from_millis(500), &mut drained)
                    .await
                    .is_ok()
                {
                    return;
                }
                let _ = killed.await;
            }
        };
        if timeout(STOP_TIMEOUT, ended).await.is_err() {
            return Err(Error::StopEngine {
                seconds: (GRACE_PERIOD + STOP_TIMEOUT).as_secs(),
            });
        }
    }
    front.tasks.close();
    let _ = timeout(STOP_TIMEOUT, front.tasks.wait()).await;
    let front = Arc::clone(front);
    let closed = tokio::task::spawn_blocking(move || {
        front.sessions.clear();
        front.engine.stop();
    });
    if !matches!(timeout(STOP_TIMEOUT, closed).await, Ok(Ok(()))) {
        return Err(Error::StopEngine {
            seconds: STOP_TIMEOUT.as_secs(),
        });
    }
    Ok(())
}
