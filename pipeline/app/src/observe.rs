//! `/metrics`, `/healthz`, `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use chatledger_engine::metrics::Metrics;
use chatledger_engine::shared::{Progress, now_ms};
use chatledger_schemas::CorpId;
use tokio_util::sync::CancellationToken;

/// What the endpoints tell.
pub struct Observed {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// How far each corp is.
    pub progress: Vec<(CorpId, Arc<Progress>)>,
    /// Whether the pipeline is up: everything it needs has answered, and its tasks run.
    pub ready: AtomicBool,
    /// Whether the pipeline's tasks run.
    pub alive: AtomicBool,
}

impl Observed {
    fn publish(&self) {
        let now = now_ms();
        for (corp, progress) in &self.progress {
            progress.publish(corp.as_str(), &self.metrics, now);
        }
    }
}

/// Serves until stopped; gives the address it listens on.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(
    listen: SocketAddr,
    observed: Arc<Observed>,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .with_state(observed);
    tokio::spawn(async move {
        let shutdown = async move { stop.cancelled().await };
        if let Err(error) = axum::serve(listener, router)
            .with_graceful_shutdown(shutdown)
            .await
        {
            tracing::error!(%error, "metrics are no longer served");
        }
    });
    Ok(address)
}

async fn metrics(State(observed): State<Arc<Observed>>) -> impl IntoResponse {
    observed.publish();
    match observed.metrics.render() {
        Ok(text) => (
            StatusCode::OK,
            [("content-type", "text/plain; version=0.0.4")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [("content-type", "text/plain")],
            format!("{error}\n"),
        ),
    }
}

fn answer(good: bool, what: &'static str) -> impl IntoResponse {
    if good {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, what)
    }
}

async fn health(State(observed): State<Arc<Observed>>) -> impl IntoResponse {
    answer(
        observed.alive.load(Ordering::Relaxed),
        "the pipeline has ended\n",
    )
}

async fn ready(State(observed): State<Arc<Observed>>) -> impl IntoResponse {
    answer(
        observed.ready.load(Ordering::Relaxed),
        "not everything it needs has answered yet\n",
    )
}
