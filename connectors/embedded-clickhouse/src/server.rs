//! The life of the process: start the engine, listen, stop in order.
//!
//! Guarantees: after `shutdown` no new connection is taken; requests that run get
//! [`GRACE`] to end, then their statements are ended, then the engine closes. An insert that was
//! acknowledged is stored before the acknowledgement, whatever happens afterwards.
//!
//! Deliberately not here: signals. The caller decides what a shutdown is.

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

/// How long running requests may go on after a shutdown was asked for.
const GRACE: Duration = Duration::from_secs(5);

/// How long ended statements may take to notice.
const LAST_GRACE: Duration = Duration::from_secs(10);

/// How long a client may take over a request's head.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// How often idle sessions are looked for.
const SESSION_ROUND: Duration = Duration::from_secs(5);

/// Pause after a failed `accept`, which fails again at once when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Runs an embedded ClickHouse until `shutdown` comes, then stops it in order.
///
/// `ready` is called once, with the address that is listened on, when queries are answered. The
/// future must be run on a multi-threaded Tokio runtime with time and I/O on. One engine can run
/// in a process, and after it stopped none can be started again.
///
/// # Errors
/// [`Error`], one variant for each step that can fail; [`Error::StopEngine`] when a statement
/// could not be ended and the engine was left open.
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
    // First, because it fails for the commonest reason and costs nothing.
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
        .header_read_timeout(HEAD_PATIENCE);
    let mut session_round = interval(SESSION_ROUND);
    tokio::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            _ = session_round.tick() => {
                let sessions = Arc::clone(&front.sessions);
                front.tasks.spawn_blocking(move || sessions.expire(Instant::now()));
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // Small answers must not wait for the client's acknowledgement.
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
    if timeout(GRACE, &mut drained).await.is_err() {
        tracing::info!("ending the statements that still run");
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
        if timeout(LAST_GRACE, ended).await.is_err() {
            return Err(Error::StopEngine {
                seconds: (GRACE + LAST_GRACE).as_secs(),
            });
        }
    }
    front.tasks.close();
    let _ = timeout(LAST_GRACE, front.tasks.wait()).await;
    let front = Arc::clone(front);
    let closed = tokio::task::spawn_blocking(move || {
        front.sessions.clear();
        front.engine.stop();
    });
    if !matches!(timeout(LAST_GRACE, closed).await, Ok(Ok(()))) {
        return Err(Error::StopEngine {
            seconds: LAST_GRACE.as_secs(),
        });
    }
    Ok(())
}
