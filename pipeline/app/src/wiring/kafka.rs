//! Every stage a consumer group: which of them this process runs, and in what order they end.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use chatledger_engine::kafka::directory::{CorpDirectory, DirectoryFollower, DirectoryStage};
use chatledger_engine::kafka::key_watch::KeyWatch;
use chatledger_engine::kafka::process::{CorpTools, ProcessStage};
use chatledger_engine::kafka::process_checkpoints::ProcessCheckpointReader;
use chatledger_engine::kafka::sink::SinkStage;
use chatledger_engine::kafka::source::SourceStage;
use chatledger_engine::kafka::{Ending, Topic};
use chatledger_engine::pull::PullError;
use chatledger_engine::sink::Stream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Parts, RunOptions, await_directories, nobody};
use crate::cli::StageName;
use crate::exit::{Failure, chain};
use crate::kafka_log::{Names, Role};

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

/// Runs the stages chosen with the kafka driver.
pub(super) async fn run(parts: Parts, options: &RunOptions) -> Result<(), Failure> {
    let runs = |stage| options.stages.is_empty() || options.stages.contains(&stage);
    let name = instance(&parts.settings.driver.state_dir).map_err(Failure::other)?;
    parts.settings.kafka.warn_of_plain_text();
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
                    sinks: parts.directory_sinks(),
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
            accept_gap: options.accept_gap,
            ending: ending(&ended),
        };
        tasks.spawn(async move {
            let done = stage.run().await;
            source_done.send_replace(true);
            done.map_err(|error| match error.source {
                PullError::ArchiveGap(_) => Failure::refused(chain(&error)),
                PullError::GaveUp(_) => Failure::unreachable(chain(&error)),
            })
        });
    }
    if runs(StageName::Process) {
        let (look, looked) = watch::channel(false);
        let keys = KeyWatch {
            log: names.dead_letters(),
            keys: parts.keys.clone(),
            metrics: Arc::clone(&parts.metrics),
            stop: background_stop.clone(),
        };
        background.spawn(keys.run(look));
        // A drain also ends what a key that has come since lets be opened.
        let (begin_end, begun) = watch::channel(false);
        let mut waits = [source_ended.clone(), looked];
        let stopped = options.stop.clone();
        background.spawn(async move {
            for wait in &mut waits {
                tokio::select! {
                    _ = wait.wait_for(|done| *done) => {}
                    () = stopped.cancelled() => {}
                }
            }
            begin_end.send_replace(true);
        });
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
                opener: parts.keys(corp),
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
            checkpoints: ProcessCheckpointReader(names.join(&Role::Marks)),
            corps: Arc::new(tools),
            seal: Arc::clone(&parts.settings.kafka.seal),
            rules: Arc::clone(&parts.rules),
            metrics: Arc::clone(&parts.metrics),
            totals: Arc::clone(&parts.totals),
            ending: ending(&begun),
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
        for stream in Stream::ALL {
            for sink in settings.sinks.iter().filter(|sink| sink.takes(stream)) {
                let topic = Topic::of(stream);
                let stage = SinkStage {
                    sink: sink.clone(),
                    topic,
                    join: names.join(&Role::Sink(sink.name, topic)),
                    seal: Arc::clone(&settings.kafka.seal),
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
        // Only the directory runs here: it ends when the process is stopped.
        options.stop.cancelled().await;
    }
    background_stop.cancel();
    while background.join_next().await.is_some() {}
    result
}
