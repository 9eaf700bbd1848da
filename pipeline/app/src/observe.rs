//! Serves `/metrics`, `/healthz` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use chatledger_engine::clock::ClockReading;
use chatledger_engine::metrics::Metrics;
use chatledger_engine::shared::Progress;
use chatledger_schemas::CorpId;
use tokio_util::sync::CancellationToken;

/// What the endpoints report.
pub struct Observed {
    /// Metrics of the pipeline.
    pub metrics: Arc<Metrics>,
    /// Progress of each corp.
    pub progress: Vec<(CorpId, Arc<Progress>)>,
    /// Whether every system that is needed has answered and the pipeline runs.
    pub ready: AtomicBool,
    /// Whether the tasks of the pipeline run.
    pub alive: AtomicBool,
}

impl Observed {
    fn publish(&self) {
        let now = ClockReading::now();
        for (corp, progress) in &self.progress {
            progress.publish(corp.as_str(), &self.metrics, now);
        }
    }
}

/// Serves until `stop` is cancelled. Returns the address it listens on.
///
/// # Errors
/// It cannot listen on the address.
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
            tracing::error!(%error, "the metrics endpoints have failed");
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

fn status(good: bool, otherwise: &'static str) -> impl IntoResponse {
    if good {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, otherwise)
    }
}

async fn health(State(observed): State<Arc<Observed>>) -> impl IntoResponse {
    status(
        observed.alive.load(Ordering::Relaxed),
        "the pipeline has stopped\n",
    )
}

async fn ready(State(observed): State<Arc<Observed>>) -> impl IntoResponse {
    if !observed.ready.load(Ordering::Relaxed) {
        let waiting = "waiting for a system that is needed\n".to_owned();
        return (StatusCode::SERVICE_UNAVAILABLE, waiting);
    }
    let stopped: String = observed
        .progress
        .iter()
        .filter_map(|(corp, progress)| {
            let why = progress.why_stopped()?;
            Some(format!("corp {corp} is not archived: {why}\n"))
        })
        .collect();
    if stopped.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, stopped)
    }
}
