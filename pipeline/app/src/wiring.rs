//! Puts the parts together, by hand, and runs them: the one place where engine and connectors meet.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chatledger_clickhouse::ClickHouse;
use chatledger_directory::Directory;
use chatledger_engine::delivery::Limits;
use chatledger_engine::direct::driver::{self, Context, CorpSetup, LaneSetup};
use chatledger_engine::direct::{StateError, StateLock};
use chatledger_engine::directory_sync::{DirectorySync, await_first, remembered};
use chatledger_engine::fault::{Backoff, Fault};
use chatledger_engine::kafka::directory::{CorpDirectory, DirectoryFollower, DirectoryStage};
use chatledger_engine::kafka::process::{CorpTools, ProcessStage};
use chatledger_engine::kafka::sink::SinkStage;
use chatledger_engine::kafka::source::SourceStage;
use chatledger_engine::kafka::{Ending, Topic};
use chatledger_engine::metrics::Metrics;
use chatledger_engine::ports::{CutWriter, DirectorySink};
use chatledger_engine::pull::Puller;
use chatledger_engine::shared::{Current, Progress, Totals, WantedRooms};
use chatledger_parquet::Zones;
use chatledger_rules::RuleSet;
use chatledger_schemas::config::Mode;
use chatledger_schemas::directory::Snapshot;
use chatledger_schemas::{Classified, CorpId, FaultClass};
use chatledger_wecom::{Archive, ArchiveOptions, DirectoryClient, DirectoryOptions, OnCall};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::adapters::{DirectoryTables, FileWriter, TableWriter, WecomArchive, WecomDirectory};
use crate::cli::StageName;
use crate::config::{Corp, Settings};
use crate::exit::{Failure, chain};
use crate::kafka_log::{Names, Role};
use crate::observe::{self, Observed};
use crate::rules_dir;

const CLICKHOUSE: &str = "clickhouse";
const PARQUET: &str = "parquet";

/// Bytes in memory after which a lane writes though it has not enough rows.
const LANE_BYTES: usize = 48 << 20;
/// Longest exchange with WeCom; the SDK's own default is 5 s, gateways may be slower.
const WECOM_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the first directory is waited for before records are opened without names.
const FIRST_DIRECTORY: Duration = Duration::from_secs(60);
/// Attempts to reach what is needed at the start.
const START_ATTEMPTS: u32 = 6;

/// How to run.
pub struct RunOptions {
    /// Stages of the kafka driver; empty means all.
    pub stages: Vec<StageName>,
    /// End by itself.
    pub drain: bool,
    /// Stop pulling, deliver, end.
    pub stop: CancellationToken,
    /// Do not wait for sinks any longer.
    pub abandon: CancellationToken,
}

/// What is running, for whoever watches.
pub struct Running {
    /// Counts.
    pub totals: Arc<Totals>,
    /// Where metrics are served.
    pub metrics_address: std::net::SocketAddr,
}

/// Everything that is shared by the parts of one process.
struct Parts {
    settings: Settings,
    metrics: Arc<Metrics>,
    totals: Arc<Totals>,
    progress: Arc<BTreeMap<CorpId, Arc<Progress>>>,
    rules: Arc<Current<RuleSet>>,
    clickhouse: Option<Arc<ClickHouse>>,
    zones: Zones,
}

/// Runs the pipeline until it is stopped or drained. `started` is told when it is up.
///
/// # Errors
/// What is needed cannot be reached, is refused, or the pipeline has failed.
pub async fn run(
    settings: Settings,
    options: RunOptions,
    started: impl FnOnce(Running),
) -> Result<Arc<Totals>, Failure> {
    let rules = match &settings.rules_dir {
        Some(dir) => rules_dir::load(dir).map_err(|errors| {
            Failure::config(format!(
                "{}: rules\n  {}",
                dir.display(),
                errors.join("\n  ")
            ))
        })?,
        None => RuleSet::default(),
    };
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
    let clickhouse = reach(&settings, needs).await?;
    let zones = Zones::new(
        settings
            .corps
            .iter()
            .map(|c| (c.id.clone(), c.zone))
            .collect(),
    );
    let totals = Arc::new(Totals::default());
    let parts = Parts {
        settings,
        metrics,
        totals: Arc::clone(&totals),
        progress: Arc::new(progress),
        rules: Arc::new(Current::new(rules)),
        clickhouse,
        zones,
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
    let result = match parts.settings.driver.mode {
        Mode::Direct => direct(parts, &options).await,
        Mode::Kafka => kafka(parts, &options).await,
    };
    observed.ready.store(false, Ordering::Relaxed);
    observed.alive.store(false, Ordering::Relaxed);
    watching.cancel();
    if let Some(task) = rules_task {
        task.await.map_err(Failure::other)?;
    }
    result.map(|()| totals)
}

/// Asks something until it answers, a bounded number of times.
async fn attempt<T, E, F>(what: &str, mut ask: impl FnMut() -> F) -> Result<T, E>
where
    E: Classified,
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::default();
    loop {
        let error = match ask().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if error.class() == FaultClass::Stop || backoff.attempts() + 1 >= START_ATTEMPTS {
            return Err(error);
        }
        let pause = backoff.pause(&Fault::local(std::fmt::Error), 0.5);
        warn!(what, error = chain(&error), ?pause, "not reached yet");
        tokio::time::sleep(pause).await;
    }
}

fn not_reached(what: &str, where_to: &str, error: &dyn std::error::Error) -> Failure {
    let error = chain(error);
    Failure::unreachable(format!(
        "{what} at {where_to} cannot be used ({error}); gave up after at most {START_ATTEMPTS} attempts"
    ))
}

/// Which of its peers a process needs: a source must not wait for a sink's outage to end.
#[derive(Clone, Copy)]
struct Needs {
    archive: bool,
    tables: bool,
    files: bool,
}

impl Needs {
    fn of(mode: Mode, stages: &[StageName]) -> Self {
        let all = mode == Mode::Direct || stages.is_empty();
        let runs = |stage| all || stages.contains(&stage);
        Self {
            archive: runs(StageName::Source),
            tables: runs(StageName::Sink) || runs(StageName::Directory),
            files: runs(StageName::Sink),
        }
    }
}

/// Reaches everything that is needed and brings the tables up to date.
async fn reach(settings: &Settings, needs: Needs) -> Result<Option<Arc<ClickHouse>>, Failure> {
    if settings.driver.mode == Mode::Kafka {
        let kafka = &settings.kafka;
        let names = Names::new(kafka, String::new());
        let topics = names.topics(kafka);
        attempt("Kafka", || {
            chatledger_kafka::ensure_topics(&kafka.brokers, &topics)
        })
        .await
        .map_err(|error| not_reached("Kafka", &kafka.brokers.bootstrap, &error))?;
    }
    if let Some(parquet) = settings.parquet.as_ref().filter(|_| needs.files) {
        attempt("Parquet target", || parquet.target.check())
            .await
            .map_err(|error| not_reached("the Parquet target", &parquet.url, &error))?;
    }
    for corp in settings.corps.iter().filter(|_| needs.archive) {
        let archive = archive(corp, Arc::new(|_, _| {}))?;
        // Behind every seq there can be: proves token and address without moving records.
        attempt("archive", || archive.page(i64::MAX as u64))
            .await
            .map_err(|error| not_reached("the archive", &corp.base_url, &error))?;
    }
    match &settings.clickhouse {
        Some(_) if needs.tables => Ok(Some(migrate(settings).await?.0)),
        _ => Ok(None),
    }
}

/// Reaches ClickHouse and brings its tables up to this program's schema.
///
/// # Errors
/// It cannot be reached, or its schema is newer than the program.
pub async fn migrate(
    settings: &Settings,
) -> Result<(Arc<ClickHouse>, chatledger_clickhouse::Migrated), Failure> {
    let Some(sink) = &settings.clickhouse else {
        return Err(Failure::config("there is no [sink.clickhouse] to migrate"));
    };
    let url = &sink.options.url;
    let clickhouse = ClickHouse::new(sink.options.clone())
        .map_err(|error| Failure::config(format!("sink.clickhouse: {}", chain(&error))))?;
    let done = attempt("ClickHouse", || clickhouse.migrate())
        .await
        .map_err(|error| match error {
            chatledger_clickhouse::Error::SchemaTooNew { .. } => Failure::refused(error),
            other => not_reached("ClickHouse", url, &other),
        })?;
    if done.from != done.to {
        info!(from = done.from, to = done.to, "tables brought up to date");
    }
    Ok((Arc::new(clickhouse), done))
}

/// One corp's archive.
///
/// # Errors
/// The client cannot be made.
pub fn archive(corp: &Corp, on_call: OnCall) -> Result<Archive, Failure> {
    Archive::new(ArchiveOptions {
        corp_id: corp.id.clone(),
        base_url: corp.base_url.clone(),
        secret: corp.secret.clone(),
        limit: corp.batch_limit,
        timeout: WECOM_TIMEOUT,
        on_call,
    })
    .map_err(|error| Failure::config(format!("corp {}: {}", corp.id, chain(&error))))
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
        let client = DirectoryClient::new(DirectoryOptions {
            corp_id: corp.id.clone(),
            base_url: directory.base_url.clone(),
            secret: directory.secret.clone(),
            timeout: WECOM_TIMEOUT,
            on_call: self.on_call(),
        })
        .map_err(|error| Failure::config(format!("corp {}: {}", corp.id, chain(&error))))?;
        Ok(Some((WecomDirectory(client), directory.refresh_interval)))
    }

    fn directory_tables(&self) -> Vec<Arc<dyn DirectorySink>> {
        let tables = self.clickhouse.iter();
        tables
            .map(|ch| Arc::new(DirectoryTables(Arc::clone(ch))) as Arc<dyn DirectorySink>)
            .collect()
    }

    /// The sinks there are: name, limits, and how a lane's writing end is made.
    fn sinks(&self) -> Vec<(&'static str, Limits, WriterFactory)> {
        let mut sinks: Vec<(&'static str, Limits, WriterFactory)> = Vec::new();
        if let (Some(setting), Some(clickhouse)) = (&self.settings.clickhouse, &self.clickhouse) {
            let limits = Limits {
                rows: setting.batch_rows,
                bytes: LANE_BYTES,
                interval: setting.batch_interval,
            };
            let clickhouse = Arc::clone(clickhouse);
            let make = move || Box::new(TableWriter::new(Arc::clone(&clickhouse))) as Writer;
            sinks.push((CLICKHOUSE, limits, Box::new(make)));
        }
        if let Some(setting) = &self.settings.parquet {
            let limits = Limits {
                rows: setting.roll_rows,
                bytes: LANE_BYTES,
                interval: setting.roll_interval,
            };
            let (target, zones) = (setting.target.clone(), self.zones.clone());
            let make = move || Box::new(FileWriter::new(target.clone(), zones.clone())) as Writer;
            sinks.push((PARQUET, limits, Box::new(make)));
        }
        sinks
    }
}

type Writer = Box<dyn CutWriter>;
type WriterFactory = Box<dyn Fn() -> Writer + Send + Sync>;

fn nobody(corp: &Corp) -> Arc<Current<Directory>> {
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

async fn direct(parts: Parts, options: &RunOptions) -> Result<(), Failure> {
    let context = Context {
        metrics: Arc::clone(&parts.metrics),
        totals: Arc::clone(&parts.totals),
        drain: options.drain,
        stop: options.stop.clone(),
        abandon: options.abandon.clone(),
    };
    // Directories stop after the corps, so that rooms named last are still asked for.
    let directories_stop = CancellationToken::new();
    let mut directories = JoinSet::new();
    let mut firsts = Vec::new();
    let mut setups = Vec::new();
    for corp in &parts.settings.corps {
        let state_dir = parts.settings.driver.state_dir.join(corp.id.as_str());
        std::fs::create_dir_all(&state_dir).map_err(Failure::other)?;
        let (directory, wanted) = (nobody(corp), Arc::new(WantedRooms::default()));
        if let Some((client, interval)) = parts.directory_client(corp)? {
            let file = state_dir.join("directory.json");
            let sync = DirectorySync {
                corp_id: corp.id.clone(),
                source: Arc::new(client),
                sinks: parts.directory_tables(),
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
        let lanes = parts.sinks().into_iter();
        setups.push(CorpSetup {
            corp_id: corp.id.clone(),
            puller: parts.puller(corp)?,
            opener: Arc::clone(&corp.keys) as _,
            directory,
            wanted,
            rules: Arc::clone(&parts.rules),
            state_dir,
            lanes: lanes
                .map(|(sink, limits, make)| LaneSetup {
                    sink,
                    limits,
                    writer: make(),
                })
                .collect(),
        });
    }
    await_directories(firsts, &options.stop).await;

    let mut corps = JoinSet::new();
    for setup in setups {
        corps.spawn(driver::run(setup, context.clone()));
    }
    let mut result = Ok(());
    while let Some(ended) = corps.join_next().await {
        let ended = ended
            .map_err(Failure::other)
            .and_then(|ended| ended.map_err(driver_failure));
        if ended.is_err() && result.is_ok() {
            // One corp's failure ends the process in order: whoever restarts it sees why.
            options.stop.cancel();
            result = ended;
        }
    }
    directories_stop.cancel();
    while directories.join_next().await.is_some() {}
    result
}

fn driver_failure(error: driver::DriverError) -> Failure {
    use driver::DriverError as E;
    match error {
        E::Source { .. } => Failure::unreachable(chain(&error)),
        E::State(
            StateError::Damaged { .. } | StateError::Locked { .. } | StateError::Unplaced { .. },
        ) => Failure::refused(chain(&error)),
        other => Failure::other(other),
    }
}

/// Name of this process on the brokers, the same at every start from its state folder.
fn instance(state_dir: &Path) -> std::io::Result<String> {
    let file = state_dir.join("instance");
    match std::fs::read_to_string(&file) {
        Ok(name) if !name.trim().is_empty() => Ok(name.trim().to_owned()),
        Ok(_) => write_instance(&file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => write_instance(&file),
        Err(error) => Err(error),
    }
}

fn write_instance(file: &Path) -> std::io::Result<String> {
    use std::hash::{BuildHasher, RandomState};
    let name = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
    chatledger_engine::direct::write_whole(file, name.as_bytes())?;
    Ok(name)
}

async fn kafka(parts: Parts, options: &RunOptions) -> Result<(), Failure> {
    let runs = |stage| options.stages.is_empty() || options.stages.contains(&stage);
    let name = instance(&parts.settings.driver.state_dir).map_err(Failure::other)?;
    let names = Names::new(&parts.settings.kafka, name);
    let settings = &parts.settings;
    // A stage ends when the one before it in this process has; one that runs elsewhere is taken to
    // have ended already.
    let (_always, ended) = watch::channel(true);
    let ending = |upstream: &watch::Receiver<bool>| Ending {
        stop: options.stop.clone(),
        abandon: options.abandon.clone(),
        upstream: options.drain.then(|| upstream.clone()),
    };
    let (source_done, source_ended) = watch::channel(!runs(StageName::Source));
    let (process_done, process_ended) = watch::channel(!runs(StageName::Process));
    let mut tasks: JoinSet<Result<(), Failure>> = JoinSet::new();
    let mut background = JoinSet::new();
    let background_stop = CancellationToken::new();
    let background_ending = || Ending {
        stop: background_stop.clone(),
        abandon: options.abandon.clone(),
        upstream: None,
    };

    if runs(StageName::Directory) {
        let mut corps = Vec::new();
        for corp in &settings.corps {
            if let Some((client, interval)) = parts.directory_client(corp)? {
                corps.push(CorpDirectory {
                    corp_id: corp.id.clone(),
                    source: Arc::new(client),
                    sinks: parts.directory_tables(),
                    interval,
                    progress: parts.progress(corp),
                });
            }
        }
        let join = names.join(&Role::Directory);
        background.spawn(
            DirectoryStage {
                join,
                corps,
                ending: background_ending(),
            }
            .run(),
        );
    }
    if runs(StageName::Source) {
        let pullers = settings
            .corps
            .iter()
            .map(|corp| parts.puller(corp).map(Arc::new));
        let stage = SourceStage {
            join: names.join(&Role::Source),
            corps: pullers.collect::<Result<_, _>>()?,
            metrics: Arc::clone(&parts.metrics),
            totals: Arc::clone(&parts.totals),
            ending: ending(&ended),
        };
        tasks.spawn(async move {
            let done = stage.run().await;
            source_done.send_replace(true);
            done.map_err(|fault| Failure::unreachable(format!("the archive: {fault}")))
        });
    }
    if runs(StageName::Process) {
        let mut tools = HashMap::new();
        let mut followed = HashMap::new();
        let mut firsts = Vec::new();
        for corp in &settings.corps {
            let directory = nobody(corp);
            if corp.directory.is_some() {
                let (first, arrived) = watch::channel(false);
                firsts.push((corp.id.clone(), arrived));
                followed.insert(corp.id.to_string(), (Arc::clone(&directory), first));
            }
            let tool = CorpTools {
                opener: Arc::clone(&corp.keys) as _,
                directory,
            };
            tools.insert(corp.id.to_string(), tool);
        }
        let names_task = DirectoryFollower {
            join: names.join(&Role::Follower),
            corps: followed,
            ending: background_ending(),
        };
        background.spawn(names_task.run());
        let stage = ProcessStage {
            join: names.join(&Role::Process),
            corps: Arc::new(tools),
            rules: Arc::clone(&parts.rules),
            metrics: Arc::clone(&parts.metrics),
            totals: Arc::clone(&parts.totals),
            ending: ending(&source_ended),
        };
        let stop = options.stop.clone();
        tasks.spawn(async move {
            await_directories(firsts, &stop).await;
            stage.run().await;
            process_done.send_replace(true);
            Ok(())
        });
    }
    if runs(StageName::Sink) {
        for topic in [Topic::Messages, Topic::Violations, Topic::DeadLetter] {
            for (sink, limits, writer) in parts.sinks() {
                if sink == PARQUET && topic == Topic::DeadLetter {
                    continue;
                }
                let stage = SinkStage {
                    sink,
                    topic,
                    join: names.join(&Role::Sink(sink, topic)),
                    limits,
                    writer,
                    progress: Arc::clone(&parts.progress),
                    metrics: Arc::clone(&parts.metrics),
                    ending: ending(&process_ended),
                };
                tasks.spawn(async move {
                    stage.run().await;
                    Ok(())
                });
            }
        }
    }
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.map_err(Failure::other).and_then(|ended| ended);
        if ended.is_err() && result.is_ok() {
            options.stop.cancel();
            result = ended;
        }
    }
    if runs(StageName::Directory) && !runs(StageName::Source) && !options.drain {
        // Only the directory runs here: it ends when it is told to.
        options.stop.cancelled().await;
    }
    background_stop.cancel();
    while background.join_next().await.is_some() {}
    result
}
