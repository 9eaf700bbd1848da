//! Puts the parts together and runs them. The engine and the connectors meet only here and in
//! [`crate::sinks`].

mod direct;
mod kafka;
mod offline;
mod reach;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chatledger_crypto::KeyRing;
use chatledger_directory::Directory;
use chatledger_engine::direct::{StateError, StateLock};
use chatledger_engine::directory_sync::await_first;
use chatledger_engine::metrics::Metrics;
use chatledger_engine::ports::DirectorySink;
use chatledger_engine::pull::{AcceptGap, Puller};
use chatledger_engine::shared::{Current, Progress, Totals};
use chatledger_rules::RuleSet;
use chatledger_schemas::CorpId;
use chatledger_schemas::config::Mode;
use chatledger_schemas::directory::Snapshot;
use chatledger_wecom::{DirectoryClient, DirectoryOptions, OnCall};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

pub use self::offline::{dead_letter_log, replayers};
use self::reach::{Needs, reach};
pub use self::reach::{archive, migrate, reach_readable};
use crate::cli::StageName;
use crate::config::{self, Corp, Settings};
use crate::exit::{Failure, chain};
use crate::key_files::{self, Rings};
use crate::observe::{self, Observed};
use crate::rules_dir;
use crate::wecom::{WecomArchive, WecomDirectory};

/// Time limit of one call of a directory API.
const DIRECTORY_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for the first directory; after that, names stay empty until there is one.
const FIRST_DIRECTORY: Duration = Duration::from_secs(60);

/// How to run.
pub struct RunOptions {
    /// Stages of the kafka driver; empty means all.
    pub stages: Vec<StageName>,
    /// Whether to stop when there is nothing more to deliver.
    pub drain: bool,
    /// The corps that continue although their archive may have dropped records that were not read in time.
    pub accept_gap: AcceptGap,
    /// Stop pulling, deliver, end.
    pub stop: CancellationToken,
    /// Stop waiting for sinks.
    pub abandon: CancellationToken,
}

/// What is running, for the caller.
pub struct Running {
    /// The counts.
    pub totals: Arc<Totals>,
    /// Where metrics are served.
    pub metrics_address: std::net::SocketAddr,
}

/// What the parts of one process share.
struct Parts {
    settings: Settings,
    metrics: Arc<Metrics>,
    totals: Arc<Totals>,
    progress: Arc<BTreeMap<CorpId, Arc<Progress>>>,
    rules: Arc<Current<RuleSet>>,
    keys: Rings,
}

/// Runs the pipeline until it is stopped or drained. `started` is called when it is up.
///
/// # Errors
/// A peer cannot be reached or refuses, or the pipeline failed.
pub async fn run(
    settings: Settings,
    options: RunOptions,
    started: impl FnOnce(Running),
) -> Result<Arc<Totals>, Failure> {
    let rules = rules_dir::configured(settings.rules_dir.as_deref())?;
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")).map_err(Failure::other)?);
    metrics.rules_active(rules_dir::active(&rules));
    let progress: BTreeMap<CorpId, Arc<Progress>> = settings
        .corps
        .iter()
        .map(|corp| (corp.id.clone(), Arc::default()))
        .collect();
    for corp in &settings.corps {
        metrics.announce(corp.id.as_str());
    }
    let observed = Arc::new(Observed {
        metrics: Arc::clone(&metrics),
        progress: progress
            .iter()
            .map(|(corp, p)| (corp.clone(), Arc::clone(p)))
            .collect(),
        ready: AtomicBool::new(false),
        alive: AtomicBool::new(true),
    });
    let served = CancellationToken::new();
    let _served = served.clone().drop_guard();
    let listen = settings.metrics_listen;
    let metrics_address = observe::serve(listen, Arc::clone(&observed), served)
        .await
        .map_err(|error| Failure::other(anyhow::anyhow!("metrics.listen {listen}: {error}")))?;

    let _lock = StateLock::take(&settings.driver.state_dir).map_err(|error| match error {
        StateError::Locked { .. } => Failure::refused(error),
        other => Failure::other(other),
    })?;
    let needs = Needs::of(settings.driver.mode, &options.stages);
    reach(&settings, needs).await?;
    let totals = Arc::new(Totals::default());
    let keys = rings(&settings);
    let parts = Parts {
        settings,
        metrics,
        totals: Arc::clone(&totals),
        progress: Arc::new(progress),
        rules: Arc::new(Current::new(rules)),
        keys,
    };
    observed.ready.store(true, Ordering::Relaxed);
    started(Running {
        totals: Arc::clone(&totals),
        metrics_address,
    });

    let watching = CancellationToken::new();
    let rules_task = parts.settings.rules_dir.clone().map(|dir| {
        let (rules, metrics) = (Arc::clone(&parts.rules), Arc::clone(&parts.metrics));
        tokio::spawn(rules_dir::watch(dir, rules, metrics, watching.clone()))
    });
    let keys_task = tokio::spawn(key_files::watch(
        parts.settings.file.clone(),
        parts.keys.clone(),
        Arc::clone(&parts.metrics),
        watching.clone(),
    ));
    let result = match parts.settings.driver.mode {
        Mode::Direct => direct::run(parts, &options).await,
        Mode::Kafka => kafka::run(parts, &options).await,
    };
    observed.ready.store(false, Ordering::Relaxed);
    observed.alive.store(false, Ordering::Relaxed);
    watching.cancel();
    if let Some(task) = rules_task {
        task.await.map_err(Failure::other)?;
    }
    keys_task.await.map_err(Failure::other)?;
    result.map(|()| totals)
}

/// The keys at the start.
fn rings(settings: &Settings) -> Rings {
    let corps = settings.corps.iter();
    corps
        .map(|corp| {
            (
                corp.id.clone(),
                Arc::new(Current::new((*corp.keys).clone())),
            )
        })
        .collect()
}

impl Parts {
    fn on_call(&self) -> OnCall {
        let metrics = Arc::clone(&self.metrics);
        Arc::new(move |api, class| metrics.api_call(api, class))
    }

    fn progress(&self, corp: &Corp) -> Arc<Progress> {
        self.progress
            .get(&corp.id)
            .map(Arc::clone)
            .unwrap_or_default()
    }

    fn keys(&self, corp: &Corp) -> Arc<Current<KeyRing>> {
        self.keys.get(&corp.id).map(Arc::clone).unwrap_or_default()
    }

    fn puller(&self, corp: &Corp) -> Result<Puller, Failure> {
        Ok(Puller {
            corp_id: corp.id.clone(),
            source: Arc::new(WecomArchive(archive(corp, self.on_call())?)),
            poll_interval: corp.poll_interval,
            progress: self.progress(corp),
        })
    }

    fn directory_client(&self, corp: &Corp) -> Result<Option<(WecomDirectory, Duration)>, Failure> {
        let Some(directory) = &corp.directory else {
            return Ok(None);
        };
        let client = directory_client(corp, directory, self.on_call())?;
        Ok(Some((WecomDirectory(client), directory.refresh_interval)))
    }

    /// The sinks that take directory rows.
    fn directory_sinks(&self) -> Vec<Arc<dyn DirectorySink>> {
        let sinks = self.settings.sinks.iter();
        sinks.filter_map(|sink| sink.directory.clone()).collect()
    }
}

fn directory_client(
    corp: &Corp,
    directory: &config::DirectorySource,
    on_call: OnCall,
) -> Result<DirectoryClient, Failure> {
    DirectoryClient::new(DirectoryOptions {
        corp_id: corp.id.clone(),
        base_url: directory.base_url.clone(),
        secret: directory.secret.clone(),
        archive_secret: corp.secret.clone(),
        timeout: DIRECTORY_TIMEOUT,
        on_call,
    })
    .map_err(|error| Failure::config(format!("corp {}: {}", corp.id, chain(&error))))
}

/// A client to try a corp's directory with, and its address; `None` if the corp has none.
///
/// # Errors
/// The client cannot be made.
pub fn directory_probe(corp: &Corp) -> Result<Option<(DirectoryClient, String)>, Failure> {
    let Some(directory) = &corp.directory else {
        return Ok(None);
    };
    let client = directory_client(corp, directory, Arc::new(|_, _| {}))?;
    Ok(Some((client, directory.base_url.clone())))
}

fn empty_directory(corp: &Corp) -> Arc<Current<Directory>> {
    Arc::new(Current::new(Directory::new(Snapshot::empty(
        corp.id.clone(),
    ))))
}

/// Waits for the first directories side by side, each at most [`FIRST_DIRECTORY`].
async fn await_directories(firsts: Vec<(CorpId, watch::Receiver<bool>)>, stop: &CancellationToken) {
    let waits = firsts.into_iter().map(|(corp, first)| async move {
        if !await_first(first, FIRST_DIRECTORY).await {
            warn!(%corp, "no directory yet; names stay empty until there is one");
        }
    });
    tokio::select! {
        _ = futures::future::join_all(waits) => {}
        () = stop.cancelled() => {}
    }
}
