//! A sink in memory that recognises the names of batches, with its checkpoints.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{SimulatedProcess, lock};
use crate::batch::{Batch, BatchRange};
use crate::fault::Fault;
use crate::ports::{BatchWriter, CheckpointStore, WriteAttempt};
use crate::sink::{Limits, Probe, ProbeError, SchemaVersions, Sink, Stream};
use crate::sink_checkpoint::SinkCheckpoint;

/// How a sink recognises a batch that it was sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameMemory {
    /// By insert tokens, of which each table remembers this many.
    Tokens(usize),
    /// By the file's name; a file that exists is never replaced.
    Files,
}

/// A kind of row; one table, or one kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowKind {
    /// A message.
    Message,
    /// A violation.
    Violation,
    /// A dead letter.
    DeadLetter,
    /// An event of a dead letter.
    DeadLetterEvent,
}

impl RowKind {
    const ALL: [Self; 4] = [
        Self::Message,
        Self::Violation,
        Self::DeadLetter,
        Self::DeadLetterEvent,
    ];

    fn rows_of(self, batch: &Batch) -> Vec<FakeRow> {
        let row = |seq, id: &str| FakeRow {
            kind: self,
            seq,
            id: id.to_owned(),
        };
        match self {
            Self::Message => batch
                .messages
                .iter()
                .map(|r| row(r.seq, &r.msgid))
                .collect(),
            Self::Violation => {
                let rows = batch.violations.iter();
                rows.map(|r| row(r.seq, &r.violation_id)).collect()
            }
            Self::DeadLetter => {
                let rows = batch.dead_letters.iter();
                rows.map(|r| row(r.seq, &r.msgid)).collect()
            }
            Self::DeadLetterEvent => {
                let rows = batch.events.iter();
                rows.map(|r| row(r.seq, &format!("{:?} {}", r.event, r.msgid)))
                    .collect()
            }
        }
    }
}

/// A row as the sink holds it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FakeRow {
    /// Its kind.
    pub kind: RowKind,
    /// Position of its record in the archive.
    pub seq: u64,
    /// Its msgid, or the violation's id.
    pub id: String,
}

/// A fault to be found by a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedSinkFault {
    /// Names are ignored: a batch that is sent again is written again.
    IgnoresNames,
    /// A write is acknowledged before its rows are stored; they are stored by the next write of
    /// the same writer, and lost with it.
    AcknowledgesBeforeStoring,
}

/// A sink in memory. Clones share their rows.
#[derive(Clone)]
pub struct FakeSink {
    name: &'static str,
    memory: NameMemory,
    fault: Option<PlantedSinkFault>,
    state: Arc<Mutex<SinkState>>,
}

#[derive(Default)]
struct SinkState {
    rows: Vec<FakeRow>,
    tokens: BTreeMap<RowKind, VecDeque<String>>,
    files: BTreeSet<(RowKind, String)>,
    checkpoints: BTreeMap<String, SinkCheckpoint>,
}

impl SinkState {
    /// Writes rows of one kind unless their name is known.
    fn insert(&mut self, memory: NameMemory, kind: RowKind, name: String, rows: Vec<FakeRow>) {
        let new = match memory {
            NameMemory::Files => self.files.insert((kind, name)),
            NameMemory::Tokens(limit) => {
                let tokens = self.tokens.entry(kind).or_default();
                let new = !tokens.contains(&name);
                if new {
                    tokens.push_back(name);
                    if tokens.len() > limit {
                        tokens.pop_front();
                    }
                }
                new
            }
        };
        if new {
            self.rows.extend(rows);
        }
    }
}

impl FakeSink {
    /// An empty sink.
    pub fn new(name: &'static str, memory: NameMemory) -> Self {
        Self {
            name,
            memory,
            fault: None,
            state: Arc::default(),
        }
    }

    /// Plants a fault.
    #[must_use]
    pub fn with_fault(mut self, fault: Option<PlantedSinkFault>) -> Self {
        self.fault = fault;
        self
    }

    /// Its rows, in the order in which they were written.
    pub fn rows(&self) -> Vec<FakeRow> {
        lock(&self.state).rows.clone()
    }

    /// The checkpoint of a lane.
    pub fn checkpoint(&self, log: &str) -> Option<SinkCheckpoint> {
        lock(&self.state).checkpoints.get(log).copied()
    }

    /// Replaces or removes the checkpoint of a lane by hand.
    pub fn set_checkpoint(&self, log: &str, checkpoint: Option<SinkCheckpoint>) {
        let mut state = lock(&self.state);
        match checkpoint {
            Some(checkpoint) => state.checkpoints.insert(log.to_owned(), checkpoint),
            None => state.checkpoints.remove(log),
        };
    }

    /// The sink as a process uses it.
    pub fn sink(
        &self,
        process: &SimulatedProcess,
        streams: &'static [Stream],
        limits: Limits,
    ) -> Sink {
        let client = Client {
            sink: self.clone(),
            process: process.clone(),
        };
        let writer = client.clone();
        Sink {
            name: self.name,
            title: self.name,
            address: "memory".to_owned(),
            streams,
            limits,
            make_writer: Arc::new(move || {
                Box::new(FakeWriter {
                    client: writer.clone(),
                    gathered: Vec::new(),
                    unstored: Vec::new(),
                })
            }),
            layout: None,
            checkpoints: Arc::new(client.clone()),
            probe: Arc::new(client),
            audit: None,
            directory: None,
        }
    }
}

/// The sink in the hands of one process.
#[derive(Clone)]
struct Client {
    sink: FakeSink,
    process: SimulatedProcess,
}

impl CheckpointStore for Client {
    fn load<'a>(&'a self, log: &'a str) -> BoxFuture<'a, Result<Option<SinkCheckpoint>, Fault>> {
        async move {
            let load = || Ok(self.sink.checkpoint(log));
            self.process.call("sink.load_checkpoint", load).await
        }
        .boxed()
    }

    fn store<'a>(
        &'a self,
        log: &'a str,
        checkpoint: SinkCheckpoint,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let store = || {
                self.sink.set_checkpoint(log, Some(checkpoint));
                Ok(())
            };
            self.process.call("sink.store_checkpoint", store).await
        }
        .boxed()
    }
}

impl Probe for Client {
    fn answers(&self) -> BoxFuture<'_, Result<(), ProbeError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn prepare(&self) -> BoxFuture<'_, Result<Option<SchemaVersions>, ProbeError>> {
        std::future::ready(Ok(None)).boxed()
    }
}

struct FakeWriter {
    client: Client,
    gathered: Vec<Arc<Batch>>,
    /// Acknowledged and not stored, with a planted fault.
    unstored: Vec<(RowKind, String, Vec<FakeRow>)>,
}

impl FakeWriter {
    /// Sends the rows of one kind.
    async fn insert(&self, kind: RowKind, name: String, rows: Vec<FakeRow>) -> Result<(), Fault> {
        let (sink, process) = (self.client.sink.clone(), &self.client.process);
        let memory = sink.memory;
        let state = Arc::clone(&sink.state);
        if let Err(fault) = process.pass("sink.write").await {
            // A request whose answer the client did not wait for may still be carried out.
            process.simulation().maybe_later(move || {
                lock(&state).insert(memory, kind, name, rows);
            });
            return Err(fault);
        }
        lock(&state).insert(memory, kind, name, rows);
        process.pass("sink.write").await
    }
}

impl BatchWriter for FakeWriter {
    fn append(&mut self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), Fault>> {
        self.gathered.push(batch);
        std::future::ready(Ok(())).boxed()
    }

    fn bytes(&self) -> usize {
        self.gathered.iter().map(|batch| batch.rows() * 100).sum()
    }

    fn write<'a>(
        &'a mut self,
        log: &'a str,
        range: &'a BatchRange,
        _attempt: WriteAttempt,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let fault = self.client.sink.fault;
            for (kind, name, rows) in std::mem::take(&mut self.unstored) {
                self.insert(kind, name, rows).await?;
            }
            for kind in RowKind::ALL {
                let batches = self.gathered.iter();
                let rows: Vec<FakeRow> = batches.flat_map(|batch| kind.rows_of(batch)).collect();
                if rows.is_empty() {
                    continue;
                }
                let mut name = range.name(log);
                match fault {
                    Some(PlantedSinkFault::IgnoresNames) => {
                        let dice = |dice: &mut super::Dice| dice.number();
                        name = self.client.process.simulation().draw(dice).to_string();
                    }
                    Some(PlantedSinkFault::AcknowledgesBeforeStoring) => {
                        self.unstored.push((kind, name, rows));
                        continue;
                    }
                    None => {}
                }
                self.insert(kind, name, rows).await?;
            }
            self.gathered.clear();
            Ok(())
        }
        .boxed()
    }
}

/// Limits that make small batches.
pub fn small_limits(rows: usize) -> Limits {
    Limits {
        rows,
        bytes: 1 << 20,
        interval: Duration::from_secs(1),
    }
}
