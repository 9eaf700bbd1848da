//! `chatledger run`

use std::time::Duration;

use chatledger_engine::pull::AcceptGap;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::say;
use crate::cli::RunArgs;
use crate::config::{self, Settings};
use crate::exit::Failure;
use crate::progress;
use crate::wiring::{self, RunOptions};

/// How long a stop waits for the sinks.
const GRACE: Duration = Duration::from_secs(25);

/// Runs the pipeline until it is stopped or drained.
pub async fn run(args: RunArgs) -> Result<(), Failure> {
    let settings = config::load(&args.config).map_err(Failure::config)?;
    let (stop, abandon) = (CancellationToken::new(), CancellationToken::new());
    stop_on_signal(stop.clone(), abandon.clone())?;
    let shown = CancellationToken::new();
    let mut bar = None;
    let options = RunOptions {
        stages: args.stages,
        drain: args.drain,
        accept_gap: accepted(args.accept_gap, &settings)?,
        stop,
        abandon,
    };
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let result = wiring::run(settings, options, |running| {
        info!(metrics = %running.metrics_address, "running");
        if args.drain && terminal {
            bar = Some(tokio::spawn(progress::show(
                running.totals,
                None,
                shown.clone(),
            )));
        }
    })
    .await;
    shown.cancel();
    if let Some(bar) = bar {
        bar.await.map_err(Failure::other)?;
    }
    let totals = result?;
    if args.drain {
        say(&serde_json::to_string(&totals.summary()).map_err(Failure::other)?)?;
    }
    Ok(())
}

/// The corps that `--accept-gap` names: `None` without the option, all if it names none.
fn accepted(corps: Option<Vec<String>>, settings: &Settings) -> Result<AcceptGap, Failure> {
    let Some(corps) = corps else {
        return Ok(AcceptGap::Refuse);
    };
    let known = || settings.corps.iter().map(|corp| corp.id.as_str());
    let unknown: Vec<String> = corps
        .iter()
        .filter(|corp| !known().any(|known| known == *corp))
        .map(|corp| format!("\"{corp}\""))
        .collect();
    if !unknown.is_empty() {
        let known: Vec<&str> = known().collect();
        return Err(Failure::config(format!(
            "--accept-gap: found {}; accepted: a corp of the configuration ({}), or no value for all of them",
            unknown.join(", "),
            known.join(", ")
        )));
    }
    if corps.is_empty() {
        return Ok(AcceptGap::All);
    }
    Ok(AcceptGap::Corps(
        corps.iter().map(|corp| corp.as_str().into()).collect(),
    ))
}

/// Stops the pipeline on SIGTERM or SIGINT: cancels `stop` at the first signal, and `abandon` after
/// [`GRACE`] or at the second signal.
pub fn stop_on_signal(stop: CancellationToken, abandon: CancellationToken) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::other)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::other)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping: delivering the records that were pulled");
        stop.cancel();
        tokio::select! {
            () = tokio::time::sleep(GRACE) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        warn!("stopped waiting for the sinks; undelivered records are processed at the next start");
        abandon.cancel();
    });
    Ok(())
}
