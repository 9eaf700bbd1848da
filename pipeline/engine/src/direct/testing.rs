//! An archive, keys and a sink in memory, for the tests of this driver.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chatledger_crypto::{KeyRing, OpenError, OpenedRecord, Opener};
use chatledger_directory::Directory;
use chatledger_rules::RuleSet;
use chatledger_schemas::directory::Snapshot;
use chatledger_schemas::{Reason, SealedRecord};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::open_request::CorpTools;
use super::setup::{Context, CorpSetup};
use crate::batch::{Batch, BatchRange};
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::ports::{BatchWriter, CheckpointStore, Source, WriteAttempt};
use crate::pull::Puller;
use crate::shared::{Current, Totals};
use crate::sink::{Limits, Probe, ProbeError, SchemaVersions, Sink, Stream};
use crate::sink_checkpoint::SinkCheckpoint;

pub(super) const CORP: &str = "ww1";

/// A record whose sealed form is its plaintext; see [`TestKeys`].
pub(super) fn record(seq: u64) -> SealedRecord {
    let json = format!(
        r#"{{"from":"a","tolist":["b"],"msgtime":1,"msgtype":"text","text":{{"content":"{seq}"}}}}"#
    );
    SealedRecord {
        corp_id: CORP.into(),
        seq,
        msgid: format!("m{seq}").into(),
        json: json.into(),
    }
}

/// Opens records of [`record`].
#[derive(Default)]
pub(super) struct TestKeys {
    /// Panics at this record.
    pub(super) panic_at: Option<u64>,
    /// Records whose key is missing.
    pub(super) missing: Mutex<BTreeSet<u64>>,
}

impl Opener for TestKeys {
    fn open(&self, batch: &[SealedRecord]) -> Vec<Result<OpenedRecord, OpenError>> {
        let missing = self.missing.lock().unwrap();
        let one = |record: &SealedRecord| {
            assert_ne!(Some(record.seq), self.panic_at, "planned panic");
            if missing.contains(&record.seq) {
                return Err(OpenError {
                    reason: Reason::UnknownKeyVersion,
                    error: "no private key of version 1".into(),
                    key_version: 1,
                });
            }
            Ok(OpenedRecord {
                plaintext: record.json.to_vec(),
                key_version: 1,
            })
        };
        batch.iter().map(one).collect()
    }
}

/// An archive that returns pages of a fixed size.
pub(super) struct MemoryArchive {
    pub(super) records: Vec<SealedRecord>,
    pub(super) page: usize,
}

impl Source for MemoryArchive {
    fn page(&self, after: u64) -> BoxFuture<'_, Result<Vec<SealedRecord>, Fault>> {
        let rest = self.records.iter().filter(|record| record.seq > after);
        let page = rest.take(self.page).cloned().collect();
        async move { Ok(page) }.boxed()
    }
}

/// A sink that holds what was written by the name of its range, so that a repeated write changes
/// nothing.
#[derive(Clone, Default)]
pub(super) struct MemorySink {
    pub(super) rows: Arc<Mutex<BTreeMap<String, Vec<u64>>>>,
    /// Fails to gather rows.
    pub(super) refuses: bool,
    /// Fails to write them.
    pub(super) unreachable: bool,
    /// Number of writes that failed.
    pub(super) failed: Arc<AtomicUsize>,
}

impl MemorySink {
    /// The positions of all rows, ascending.
    pub(super) fn seqs(&self) -> Vec<u64> {
        let mut seqs: Vec<u64> = self
            .rows
            .lock()
            .unwrap()
            .values()
            .flatten()
            .copied()
            .collect();
        seqs.sort_unstable();
        seqs
    }

    /// The sink as a value.
    pub(super) fn sink(&self) -> Sink {
        let sink = self.clone();
        Sink {
            name: "memory",
            title: "Memory",
            address: "memory".into(),
            streams: &Stream::ALL,
            limits: Limits {
                rows: 10,
                bytes: usize::MAX,
                interval: Duration::from_millis(20),
            },
            make_writer: Arc::new(move || {
                Box::new(MemoryWriter {
                    sink: sink.clone(),
                    gathered: Vec::new(),
                })
            }),
            layout: None,
            checkpoints: Arc::new(Unused),
            probe: Arc::new(Unused),
            audit: None,
            directory: None,
        }
    }
}

struct MemoryWriter {
    sink: MemorySink,
    gathered: Vec<u64>,
}

impl BatchWriter for MemoryWriter {
    fn append(&mut self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), Fault>> {
        let messages = batch.messages.iter().map(|message| message.seq);
        let dead_letters = batch.dead_letters.iter().map(|dead_letter| dead_letter.seq);
        self.gathered.extend(messages.chain(dead_letters));
        let refuses = self.sink.refuses;
        async move {
            if refuses {
                Err(Fault::local(std::fmt::Error))
            } else {
                Ok(())
            }
        }
        .boxed()
    }

    fn bytes(&self) -> usize {
        self.gathered.len()
    }

    fn write<'a>(
        &'a mut self,
        log: &'a str,
        range: &'a BatchRange,
        _attempt: WriteAttempt,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        if self.sink.unreachable {
            self.sink.failed.fetch_add(1, Ordering::SeqCst);
            return async { Err(Fault::local(std::fmt::Error)) }.boxed();
        }
        let rows = std::mem::take(&mut self.gathered);
        let mut written = self.sink.rows.lock().unwrap();
        written.entry(range.name(log)).or_insert(rows);
        async { Ok(()) }.boxed()
    }
}

/// What a sink of the direct driver does not use.
struct Unused;

impl CheckpointStore for Unused {
    fn load<'a>(&'a self, _log: &'a str) -> BoxFuture<'a, Result<Option<SinkCheckpoint>, Fault>> {
        async { Ok(None) }.boxed()
    }

    fn store<'a>(
        &'a self,
        _log: &'a str,
        _checkpoint: SinkCheckpoint,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async { Ok(()) }.boxed()
    }
}

impl Probe for Unused {
    fn answers(&self) -> BoxFuture<'_, Result<(), ProbeError>> {
        async { Ok(()) }.boxed()
    }

    fn prepare(&self) -> BoxFuture<'_, Result<Option<SchemaVersions>, ProbeError>> {
        async { Ok(None) }.boxed()
    }
}

/// Waits until a condition is true.
pub(super) async fn wait_for(mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .expect("the condition must become true");
}

fn directory() -> Arc<Current<Directory>> {
    let empty = Directory::new(Snapshot::empty(CORP.into()));
    Arc::new(Current::new(empty))
}

/// What the stages need, with these keys.
pub(super) fn tools(keys: &Arc<TestKeys>) -> CorpTools {
    let opener = Arc::clone(keys);
    CorpTools {
        corp_id: CORP.into(),
        opener,
        directory: directory(),
        rules: Arc::default(),
    }
}

/// What a run shares; it drains.
pub(super) fn context() -> Context {
    Context {
        metrics: Arc::new(Metrics::new("test").unwrap()),
        totals: Arc::new(Totals::default()),
        drain: true,
        stop: CancellationToken::new(),
        abandon: CancellationToken::new(),
        accept_gap: crate::pull::AcceptGap::Refuse,
    }
}

/// A corp with an archive of `records`, which keeps its state in a folder.
pub(super) fn corp(folder: &Path, records: Vec<SealedRecord>, sink: &MemorySink) -> CorpSetup {
    CorpSetup {
        corp_id: CORP.into(),
        puller: Puller {
            corp_id: CORP.into(),
            source: Arc::new(MemoryArchive { records, page: 5 }),
            poll_interval: Duration::from_millis(5),
            progress: Arc::default(),
        },
        keys: Arc::new(Current::new(KeyRing::new())),
        directory: directory(),
        wanted: Arc::default(),
        rules: Arc::new(Current::new(RuleSet::default())),
        state_dir: folder.to_owned(),
        sinks: vec![sink.sink()],
    }
}
