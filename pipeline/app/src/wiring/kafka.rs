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

use super::{Parts, RunOptions, await_directories, empty_directory};
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

/// Runs the selected stages with the kafka driver.
pub(super) async fn run(parts: Parts, options: &RunOptions) -> Result<(), Failure> {
    let name = instance(&parts.settings.driver.state_dir).map_err(Failure::other)?;
    parts.settings.kafka.warn_of_plain_text();
    let names = Names::new(&parts.settings.kafka, name);
    let mut stages = Stages {
        parts: &parts,
        options,
        names,
        tasks: JoinSet::new(),
        background: JoinSet::new(),
        background_stop: CancellationToken::new(),
    };
    // A stage ends when the one before it in this process has ended; one that runs elsewhere counts
    // as ended.
    let (source_done, source_ended) = watch::channel(!stages.runs(StageName::Source));
    let (process_done, process_ended) = watch::channel(!stages.runs(StageName::Process));
    if stages.runs(StageName::Directory) {
        stages.start_directory()?;
    }
    if stages.runs(StageName::Source) {
        stages.start_source(source_done)?;
    }
    if stages.runs(StageName::Process) {
        stages.start_process(&source_ended, process_done);
    }
    if stages.runs(StageName::Sink) {
        stages.start_sinks(&process_ended);
    }
    stages.join().await
}

/// The stages of one process while they run.
struct Stages<'a> {
    parts: &'a Parts,
    options: &'a RunOptions,
    names: Names,
    /// Stages whose end ends the process.
    tasks: JoinSet<Result<(), Failure>>,
    /// What serves the stages and ends after them.
    background: JoinSet<()>,
    background_stop: CancellationToken,
}

impl Stages<'_> {
    fn runs(&self, stage: StageName) -> bool {
        let stages = &self.options.stages;
        stages.is_empty() || stages.contains(&stage)
    }

    /// When a stage ends: in a drain, after `upstream`.
    fn ending(&self, upstream: &watch::Receiver<bool>) -> Ending {
        Ending {
            stop: self.options.stop.clone(),
            abandon: self.options.abandon.clone(),
            upstream: self.options.drain.then(|| upstream.clone()),
        }
    }

    fn background_ending(&self) -> Ending {
        Ending {
            stop: self.background_stop.clone(),
            abandon: self.options.abandon.clone(),
            upstream: None,
        }
    }

    fn start_directory(&mut self) -> Result<(), Failure> {
        let mut corps = Vec::new();
        for corp in &self.parts.settings.corps {
            if let Some((client, interval)) = self.parts.directory_client(corp)? {
                corps.push(CorpDirectory {
                    corp_id: corp.id.clone(),
                    source: Arc::new(client),
                    sinks: self.parts.directory_sinks(),
                    interval,
                    progress: self.parts.progress(corp),
                });
            }
        }
        let stage = DirectoryStage {
            join: self.names.join(&Role::Directory),
            corps,
            ending: self.background_ending(),
        };
        self.background.spawn(stage.run());
        Ok(())
    }

    fn start_source(&mut self, done: watch::Sender<bool>) -> Result<(), Failure> {
        let corps = self.parts.settings.corps.iter();
        let pullers = corps.map(|corp| self.parts.puller(corp).map(Arc::new));
        // Nothing is before the archives: in a drain they end by themselves.
        let (_nothing, ended) = watch::channel(true);
        let stage = SourceStage {
            join: self.names.join(&Role::Source),
            corps: pullers.collect::<Result<_, _>>()?,
            metrics: Arc::clone(&self.parts.metrics),
            totals: Arc::clone(&self.parts.totals),
            accept_gap: self.options.accept_gap.clone(),
            ending: self.ending(&ended),
        };
        self.tasks.spawn(async move {
            let ended = stage.run().await;
            done.send_replace(true);
            ended.map_err(|error| match error.source {
                PullError::ArchiveGap(_) | PullError::Position(_) => {
                    Failure::refused(chain(&error))
                }
                PullError::GaveUp(_) => Failure::unreachable(chain(&error)),
            })
        });
        Ok(())
    }

    fn start_process(&mut self, source_ended: &watch::Receiver<bool>, done: watch::Sender<bool>) {
        let upstream = self.start_key_watch(source_ended);
        let mut tools = HashMap::new();
        let mut followed = HashMap::new();
        let mut firsts = Vec::new();
        for corp in &self.parts.settings.corps {
            let directory = empty_directory(corp);
            if corp.directory.is_some() {
                let (first, arrived) = watch::channel(false);
                firsts.push((corp.id.clone(), arrived));
                followed.insert(corp.id.to_string(), (Arc::clone(&directory), first));
            }
            let tool = CorpTools {
                opener: self.parts.keys(corp),
                directory,
            };
            tools.insert(corp.id.to_string(), tool);
        }
        let directory = DirectoryFollower {
            join: self.names.join(&Role::Follower),
            corps: followed,
            ending: self.background_ending(),
        };
        self.background.spawn(directory.run());
        let stage = ProcessStage {
            join: self.names.join(&Role::Process),
            checkpoints: ProcessCheckpointReader(self.names.join(&Role::ProcessCheckpoints)),
            corps: Arc::new(tools),
            seal: Arc::clone(&self.parts.settings.kafka.seal),
            rules: Arc::clone(&self.parts.rules),
            metrics: Arc::clone(&self.parts.metrics),
            totals: Arc::clone(&self.parts.totals),
            ending: self.ending(&upstream),
        };
        let stop = self.options.stop.clone();
        self.tasks.spawn(async move {
            await_directories(firsts, &stop).await;
            stage.run().await;
            done.send_replace(true);
            Ok(())
        });
    }

    /// Watches for keys of dead letters. In a drain, what a new key opens is part of the drain: the
    /// returned receiver turns true when the source has ended and the first look is done.
    fn start_key_watch(&mut self, source_ended: &watch::Receiver<bool>) -> watch::Receiver<bool> {
        let (look, looked) = watch::channel(false);
        let keys = KeyWatch {
            log: self.names.dead_letters(),
            keys: self.parts.keys.clone(),
            metrics: Arc::clone(&self.parts.metrics),
            stop: self.background_stop.clone(),
        };
        self.background.spawn(keys.run(look));
        let (both, both_done) = watch::channel(false);
        let mut waits = [source_ended.clone(), looked];
        let stop = self.options.stop.clone();
        self.background.spawn(async move {
            for wait in &mut waits {
                tokio::select! {
                    _ = wait.wait_for(|done| *done) => {}
                    () = stop.cancelled() => {}
                }
            }
            both.send_replace(true);
        });
        both_done
    }

    fn start_sinks(&mut self, process_ended: &watch::Receiver<bool>) {
        let settings = &self.parts.settings;
        for stream in Stream::ALL {
            for sink in settings.sinks.iter().filter(|sink| sink.takes(stream)) {
                let topic = Topic::of(stream);
                let stage = SinkStage {
                    sink: sink.clone(),
                    topic,
                    join: self.names.join(&Role::Sink(sink.name, topic)),
                    seal: Arc::clone(&settings.kafka.seal),
                    progress: Arc::clone(&self.parts.progress),
                    metrics: Arc::clone(&self.parts.metrics),
                    ending: self.ending(process_ended),
                };
                self.tasks.spawn(async move {
                    stage.run().await;
                    Ok(())
                });
            }
        }
    }

    /// Waits until the stages have ended. Outside a drain, the first failure stops the others.
    async fn join(mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.map_err(Failure::other).and_then(|ended| ended);
            // A drain delivers what was pulled also if an archive was refused: a stage that has ended ends those after it.
            if ended.is_err() && !self.options.drain {
                self.options.stop.cancel();
            }
            result = result.and(ended);
        }
        let only_directory = self.runs(StageName::Directory) && !self.runs(StageName::Source);
        if only_directory && !self.options.drain {
            self.options.stop.cancelled().await;
        }
        self.background_stop.cancel();
        while self.background.join_next().await.is_some() {}
        result
    }
}
