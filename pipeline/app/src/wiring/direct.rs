//! The direct driver: for each corp, its pipeline and its directory, in one process.

use std::sync::Arc;

use chatledger_engine::direct::StateError;
use chatledger_engine::direct::driver::{self, Context, CorpSetup};
use chatledger_engine::directory_sync::{DirectorySync, remembered};
use chatledger_engine::fault::{Fault, Retry};
use chatledger_engine::pull::AcceptGap;
use chatledger_engine::shared::WantedRooms;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{Parts, RunOptions, await_directories, empty_directory};
use crate::exit::{Failure, chain};

/// Runs every corp with the direct driver.
pub(super) async fn run(parts: Parts, options: &RunOptions) -> Result<(), Failure> {
    let context = Context {
        metrics: Arc::clone(&parts.metrics),
        totals: Arc::clone(&parts.totals),
        drain: options.drain,
        stop: options.stop.clone(),
        abandon: options.abandon.clone(),
        accept_gap: options.accept_gap.clone(),
    };
    // Directories stop after the corps, so that rooms named last are still looked up.
    let directories_stop = CancellationToken::new();
    let mut directories = JoinSet::new();
    let mut firsts = Vec::new();
    let mut setups = Vec::new();
    for corp in &parts.settings.corps {
        let state_dir = parts.settings.driver.state_dir.join(corp.id.as_str());
        std::fs::create_dir_all(&state_dir).map_err(Failure::other)?;
        let (directory, wanted) = (empty_directory(corp), Arc::new(WantedRooms::default()));
        if let Some((client, interval)) = parts.directory_client(corp)? {
            let file = state_dir.join("directory.json");
            let sync = DirectorySync {
                corp_id: corp.id.clone(),
                source: Arc::new(client),
                sinks: parts.directory_sinks(),
                current: Arc::clone(&directory),
                wanted: Arc::clone(&wanted),
                interval,
                last: remembered(&file, &corp.id),
                file: Some(file),
                progress: parts.progress(corp),
            };
            let (first, arrived) = watch::channel(false);
            firsts.push((corp.id.clone(), arrived));
            directories.spawn(sync.run(first, directories_stop.clone()));
        }
        setups.push(CorpSetup {
            corp_id: corp.id.clone(),
            puller: parts.puller(corp)?,
            keys: parts.keys(corp),
            directory,
            wanted,
            rules: Arc::clone(&parts.rules),
            state_dir,
            sinks: parts.settings.sinks.clone(),
        });
    }
    await_directories(firsts, &options.stop).await;

    // One corp's failure must not stop the others. If there are none, what restarts the process does it better.
    let is_alone = setups.len() == 1;
    let mut corps = JoinSet::new();
    for setup in setups {
        let context = context.clone();
        corps.spawn(async move {
            if is_alone || context.drain {
                let progress = Arc::clone(&setup.puller.progress);
                let ended = driver::run(setup, context).await;
                return ended.inspect_err(|error| progress.stopped(chain(error)));
            }
            restarted(setup, context).await
        });
    }
    let mut result = Ok(());
    while let Some(ended) = corps.join_next().await {
        let ended = ended
            .map_err(Failure::other)
            .and_then(|ended| ended.map_err(driver_failure));
        result = result.and(ended);
    }
    directories_stop.cancel();
    while directories.join_next().await.is_some() {}
    result
}

/// Runs a corp, and again after a failure that may pass.
async fn restarted(setup: CorpSetup, mut context: Context) -> Result<(), driver::DriverError> {
    let (corp, progress) = (setup.corp_id.clone(), Arc::clone(&setup.puller.progress));
    let stop = context.stop.clone();
    let mut retry = Retry::new(&stop);
    loop {
        let Err(failure) = driver::run(setup.clone(), context.clone()).await else {
            return Ok(());
        };
        let error = chain(&failure);
        progress.stopped(error.clone());
        if !failure.is_passing() {
            error!(%corp, error, "this corp is not archived any more; the others are");
            return Err(failure);
        }
        // A person has accepted the gap of the start, not one that comes later.
        context.accept_gap = AcceptGap::Refuse;
        let log = |pause| error!(%corp, error, ?pause, "this corp has failed; starting it again");
        if !retry
            .wait(&Fault::local(std::io::Error::other(error.clone())), log)
            .await
        {
            return Err(failure);
        }
    }
}

fn driver_failure(error: driver::DriverError) -> Failure {
    use driver::DriverError as E;
    match error {
        E::Source { .. } => Failure::unreachable(chain(&error)),
        E::ArchiveGap { .. }
        | E::State(
            StateError::Damaged { .. } | StateError::Locked { .. } | StateError::NoPosition { .. },
        ) => Failure::refused(chain(&error)),
        other => Failure::other(other),
    }
}
