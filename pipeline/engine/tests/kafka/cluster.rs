//! Processes that run the stages, wired as the application does (`app/src/wiring/kafka.rs`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use chatledger_crypto::SealRing;
use chatledger_directory::Directory;
use chatledger_engine::kafka::process::{CorpTools, ProcessStage};
use chatledger_engine::kafka::process_checkpoints::ProcessCheckpointReader;
use chatledger_engine::kafka::sink::SinkStage;
use chatledger_engine::kafka::source::SourceStage;
use chatledger_engine::kafka::testing::MemoryLog;
use chatledger_engine::kafka::{Ending, Topic};
use chatledger_engine::metrics::Metrics;
use chatledger_engine::pull::{AcceptGap, Puller};
use chatledger_engine::shared::{Current, Progress, Summary, Totals};
use chatledger_engine::sink::Stream;
use chatledger_engine::testing::archive::{FORBIDDEN, FakeArchive, FakeOpener};
use chatledger_engine::testing::sink::{FakeSink, small_limits};
use chatledger_engine::testing::{SimulatedProcess, Simulation};
use chatledger_rules::{RuleFile, RuleSet, compile};
use chatledger_schemas::CorpId;
use chatledger_schemas::directory::Snapshot;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) const CORP: &str = "ww1";

/// A sink and the streams it takes.
#[derive(Clone)]
pub(crate) struct ClusterSink {
    pub(crate) sink: FakeSink,
    pub(crate) name: &'static str,
    pub(crate) streams: &'static [Stream],
}

/// Everything that outlives a process.
pub(crate) struct Cluster {
    pub(crate) simulation: Simulation,
    pub(crate) log: MemoryLog,
    pub(crate) archive: FakeArchive,
    pub(crate) opener: Arc<FakeOpener>,
    pub(crate) sinks: Vec<ClusterSink>,
    pub(crate) batch_rows: usize,
    pub(crate) accept_gap: AcceptGap,
    rules: Arc<Current<RuleSet>>,
}

/// A process that runs the stages.
pub(crate) struct Running {
    pub(crate) process: SimulatedProcess,
    pub(crate) totals: Arc<Totals>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), String>>,
}

impl Running {
    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(self) -> Result<Summary, String> {
        let ended = tokio::time::timeout(Duration::from_secs(3600), self.task).await;
        let ended = ended.map_err(|_| "a process does not end".to_owned())?;
        ended.map_err(|error| error.to_string())??;
        Ok(self.totals.summary())
    }

    /// Stops it as SIGTERM does and waits until it has ended.
    pub(crate) async fn stop(self) -> Result<Summary, String> {
        self.stop.cancel();
        self.ended().await
    }

    pub(crate) fn ask_to_stop(&self) {
        self.stop.cancel();
    }
}

fn rules() -> RuleSet {
    let text = format!(
        "[[rule]]\nid = \"r\"\nname = \"r\"\ncategory = \"c\"\nseverity = \"high\"\nwords = [\"{FORBIDDEN}\"]\n[rule.scope]\nall = true\n"
    );
    let source = RuleFile {
        name: "r.toml",
        text: &text,
    };
    compile(&[source], |_, _| Ok::<_, std::io::Error>(String::new())).expect("one rule")
}

impl Cluster {
    /// A cluster whose archive has `records` records, none of them released.
    pub(crate) fn new(
        simulation: &Simulation,
        partitions: usize,
        records: usize,
        sinks: Vec<ClusterSink>,
    ) -> Self {
        let archive = simulation.draw(|dice| FakeArchive::new(CORP.into(), records, 30, dice));
        Self {
            simulation: simulation.clone(),
            log: MemoryLog::new(simulation, partitions),
            archive,
            opener: Arc::default(),
            sinks,
            batch_rows: 7,
            accept_gap: AcceptGap::Refuse,
            rules: Arc::new(Current::new(rules())),
        }
    }

    /// Starts a process that runs every stage; in a drain it ends once everything is delivered.
    pub(crate) fn start(&self, name: &str, drain: bool) -> Running {
        let process = self.simulation.process(name);
        let (stop, totals) = (CancellationToken::new(), Arc::new(Totals::default()));
        let stages = self.stages(&process, &totals, &stop, drain);
        let watched = process.clone();
        let task = tokio::spawn(async move {
            let mut stages = stages;
            loop {
                tokio::select! {
                    biased;
                    () = watched.killed() => return Ok(()),
                    ended = stages.join_next() => match ended {
                        Some(ended) => ended.map_err(|error| error.to_string())??,
                        None => return Ok(()),
                    }
                }
            }
        });
        Running {
            process,
            totals,
            stop,
            task,
        }
    }

    fn stages(
        &self,
        process: &SimulatedProcess,
        totals: &Arc<Totals>,
        stop: &CancellationToken,
        drain: bool,
    ) -> JoinSet<Result<(), String>> {
        let metrics = Arc::new(Metrics::new("test").expect("metrics"));
        let progress = Arc::new(Progress::default());
        let seal = Arc::new(SealRing::new(false));
        let (_always, ended) = watch::channel(true);
        let ending = |upstream: &watch::Receiver<bool>| Ending {
            stop: stop.clone(),
            abandon: CancellationToken::new(),
            upstream: drain.then(|| upstream.clone()),
        };
        let (source_done, source_ended) = watch::channel(false);
        let (process_done, process_ended) = watch::channel(false);
        let mut stages = JoinSet::new();
        let source = SourceStage {
            join: self.log.source(process),
            corps: vec![Arc::new(Puller {
                corp_id: CORP.into(),
                source: self.archive.source(process),
                poll_interval: Duration::from_millis(500),
                progress: Arc::clone(&progress),
            })],
            metrics: Arc::clone(&metrics),
            totals: Arc::clone(totals),
            accept_gap: self.accept_gap.clone(),
            ending: ending(&ended),
        };
        stages.spawn(async move {
            let result = source.run().await.map_err(|error| error.to_string());
            source_done.send_replace(true);
            result
        });
        let directory = Directory::new(Snapshot::empty(CORP.into()));
        let tools = CorpTools {
            opener: Arc::clone(&self.opener) as _,
            directory: Arc::new(Current::new(directory)),
        };
        let stage = ProcessStage {
            join: self.log.process(process),
            checkpoints: ProcessCheckpointReader(
                self.log.reader(process, Topic::ProcessCheckpoints),
            ),
            corps: Arc::new(HashMap::from([(CORP.to_owned(), tools)])),
            seal: Arc::clone(&seal),
            rules: Arc::clone(&self.rules),
            metrics: Arc::clone(&metrics),
            totals: Arc::clone(totals),
            ending: ending(&source_ended),
        };
        stages.spawn(async move {
            stage.run().await;
            process_done.send_replace(true);
            Ok(())
        });
        for ClusterSink {
            sink,
            name,
            streams,
        } in &self.sinks
        {
            for stream in *streams {
                let topic = match stream {
                    Stream::Messages => Topic::Messages,
                    Stream::Violations => Topic::Violations,
                    Stream::DeadLetters => Topic::DeadLetter,
                };
                let stage = SinkStage {
                    sink: sink.sink(process, streams, small_limits(self.batch_rows)),
                    topic,
                    join: self.log.sink(process, name, topic),
                    seal: Arc::clone(&seal),
                    progress: Arc::new(BTreeMap::from([(
                        CorpId::from(CORP),
                        Arc::clone(&progress),
                    )])),
                    metrics: Arc::clone(&metrics),
                    ending: ending(&process_ended),
                };
                stages.spawn(async move {
                    stage.run().await;
                    Ok(())
                });
            }
        }
        stages
    }

    /// Lets one process read everything to its end. Nothing goes wrong meanwhile.
    pub(crate) async fn drain(&self, name: &str) -> Result<Summary, String> {
        self.start(name, true).ended().await
    }
}
