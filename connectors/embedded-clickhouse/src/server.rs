//! The lifecycle of the process: start the engine, listen, stop cleanly.
//!
//! Guarantees: after `shutdown` no new connection is accepted; running requests have [`GRACE_PERIOD`] to
//! end, then their statements are ended, then the engine is closed. An insert is stored before it is
//! acknowledged.
//!
//! Not here: signals. The caller provides `shutdown`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::time::{interval, sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::engine::Engine;
use crate::error::Error;
use crate::front::Front;
use crate::options::Options;
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

/// Runs an embedded ClickHouse until `shutdown` completes, then stops it cleanly.
///
/// Calls `ready` once, with the address it listens on, as soon as queries are answered. The future must
/// run on a multi-threaded Tokio runtime with time and I/O enabled. A process can run one engine, and
/// cannot start another after it has stopped.
///
/// # Errors
/// [`Error`], one variant per step; [`Error::StopEngine`] if a statement could not be ended and the
/// engine was not closed.
pub async fn serve(
    options: Options,
    shutdown: impl Future<Output = ()>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), Error> {
    options.check()?;
    let failed = |source| Error::Listen {
        listen: options.listen,
        source,
    };
    // First, because it is cheap and the most frequent error.
    let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let credentials = options.credentials.clone();
    let data_dir = options.data_dir.clone();
    let engine = tokio::task::spawn_blocking(move || Engine::start(&options))
        .await
        .map_err(|error| Error::StartEngine {
            data_dir,
            reason: error.to_string(),
        })??;
    let engine = Arc::new(engine);
    let front = Arc::new(Front {
        spooler: Spooler::new(engine.spool()),
        engine: Arc::clone(&engine),
        sessions: Arc::new(Sessions::default()),
        credentials,
        tasks: TaskTracker::new(),
    });
    ready(address);
    let graceful = GracefulShutdown::new();
    accept(&listener, &front, &graceful, shutdown).await;
    drop(listener);
    stop(&front, graceful).await
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
                Ok((stream, _)) => {
                    // Small responses must not wait for the client's acknowledgement.
                    let _ = stream.set_nodelay(true);
                    let service = {
                        let front = Arc::clone(front);
                        service_fn(move |request| Arc::clone(&front).answer(request))
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
