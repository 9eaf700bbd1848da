//! What `chatledger dlq` needs: the replays of a corp while no pipeline runs, and the dead-letter log.

use std::sync::Arc;

use chatledger_directory::Directory;
use chatledger_engine::direct::offline::{self, Corp};
use chatledger_engine::direct::replayer::Replayer;
use chatledger_engine::directory_sync::remembered;
use chatledger_engine::kafka::dead_letters::DeadLetterLog;
use chatledger_engine::metrics::Metrics;
use chatledger_engine::shared::{Current, Totals};
use tokio_util::sync::CancellationToken;

use super::reach::{Needs, reach};
use super::{Parts, rings};
use crate::config::Settings;
use crate::exit::{Failure, chain};
use crate::kafka_log::Names;
use crate::rules_dir;

/// The replays of every corp with the direct driver, while no pipeline runs: the state folder's
/// lock must be held. Sinks are reached first.
///
/// # Errors
/// A sink cannot be reached, or the state folder cannot be used.
pub async fn replayers(
    settings: Settings,
    stop: &CancellationToken,
) -> Result<Vec<Replayer>, Failure> {
    let rules = rules_dir::configured(settings.rules_dir.as_deref())?;
    reach(&settings, Needs::sinks()).await?;
    let parts = Parts {
        metrics: Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")).map_err(Failure::other)?),
        totals: Arc::new(Totals::default()),
        progress: Arc::default(),
        rules: Arc::new(Current::new(rules)),
        keys: rings(&settings),
        settings,
    };
    let mut replayers = Vec::new();
    for corp in &parts.settings.corps {
        let state_dir = parts.settings.driver.state_dir.join(corp.id.as_str());
        let snapshot = remembered(&state_dir.join("directory.json"), &corp.id);
        let corp = Corp {
            corp_id: corp.id.clone(),
            keys: parts.keys(corp),
            directory: Arc::new(Current::new(Directory::new(snapshot))),
            rules: Arc::clone(&parts.rules),
            state_dir,
            sinks: parts.settings.sinks.clone(),
            metrics: Arc::clone(&parts.metrics),
            stop: stop.clone(),
        };
        let replayer = offline::replayer(corp);
        replayers.push(replayer.map_err(|error| Failure::refused(chain(&error)))?);
    }
    Ok(replayers)
}

/// The log of dead letters with the kafka driver; the brokers are reached first.
///
/// # Errors
/// The brokers cannot be reached.
pub async fn dead_letter_log(settings: &Settings) -> Result<DeadLetterLog, Failure> {
    reach(settings, Needs::nothing()).await?;
    Ok(Names::new(&settings.kafka, String::new()).dead_letters())
}
