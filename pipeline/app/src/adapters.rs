//! The engine's ports, filled in with connectors. Connectors do not know the engine and the engine
//! does not know them, so each port has a thin shell here.

use std::collections::BTreeMap;
use std::sync::Arc;

use chatledger_clickhouse::ClickHouse;
use chatledger_engine::batch::Batch;
use chatledger_engine::failpoint;
use chatledger_engine::fault::Fault;
use chatledger_engine::lane::Cut;
use chatledger_engine::ports::{CutWriter, DirectorySink, DirectorySource, Source};
use chatledger_engine::shared::now_ms;
use chatledger_parquet::{File, Open, Target, Zones};
use chatledger_schemas::directory::{DirectoryRow, Room, Snapshot};
use chatledger_schemas::ledger::Anchor;
use chatledger_schemas::{CorpId, DeadLetter, Message, SealedRecord, Violation};
use chatledger_wecom::{Archive, DirectoryClient};
use futures::FutureExt;
use futures::future::BoxFuture;

fn wecom_fault(error: chatledger_wecom::Error) -> Fault {
    let pause = error.retry_after();
    Fault::new(error).after(pause)
}

/// One corp's archive.
pub struct WecomArchive(pub Archive);

impl Source for WecomArchive {
    fn page(&self, after: u64) -> BoxFuture<'_, Result<Vec<SealedRecord>, Fault>> {
        async move {
            let page = self.0.page(after).await.map_err(wecom_fault)?;
            failpoint::pass("source", "page_received")?;
            Ok(page.records)
        }
        .boxed()
    }
}

/// One corp's directory.
pub struct WecomDirectory(pub DirectoryClient);

impl DirectorySource for WecomDirectory {
    fn sync<'a>(
        &'a self,
        wanted: &'a [String],
        known: &'a [Room],
    ) -> BoxFuture<'a, Result<Snapshot, Fault>> {
        async move {
            self.0
                .sync(wanted, known, now_ms())
                .await
                .map_err(wecom_fault)
        }
        .boxed()
    }
}

/// The directory tables.
pub struct DirectoryTables(pub Arc<ClickHouse>);

impl DirectorySink for DirectoryTables {
    fn store<'a>(
        &'a self,
        corp: &'a CorpId,
        taken_at: i64,
        rows: &'a [DirectoryRow],
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            self.0
                .insert_directory(corp, taken_at, rows)
                .await
                .map_err(Fault::new)
        }
        .boxed()
    }
}

/// A cut's rows on their way into the tables.
pub struct TableWriter {
    clickhouse: Arc<ClickHouse>,
    batches: Vec<Arc<Batch>>,
    bytes: usize,
}

impl TableWriter {
    /// An empty cut.
    pub fn new(clickhouse: Arc<ClickHouse>) -> Self {
        Self {
            clickhouse,
            batches: Vec::new(),
            bytes: 0,
        }
    }
}

/// What a batch holds in memory, about.
fn weight(batch: &Batch) -> usize {
    let messages = batch
        .messages
        .iter()
        .map(|m| m.payload.len() + m.content.len() + 600);
    let letters = batch
        .dead_letters
        .iter()
        .map(|letter| letter.sealed.len() + 300);
    messages.sum::<usize>() + letters.sum::<usize>() + batch.violations.len() * 500
}

impl CutWriter for TableWriter {
    fn append(&mut self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), Fault>> {
        self.bytes += weight(&batch);
        self.batches.push(batch);
        std::future::ready(Ok(())).boxed()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn write<'a>(&'a mut self, log: &'a str, cut: &'a Cut) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let token = cut.name(log);
            let batches = &self.batches;
            // Messages first: a violation or dead letter never stands there before its message does.
            let messages: Vec<&Message> = batches.iter().flat_map(|b| &b.messages).collect();
            self.clickhouse
                .insert_messages(&token, messages)
                .await
                .map_err(Fault::new)?;
            let violations: Vec<&Violation> = batches.iter().flat_map(|b| &b.violations).collect();
            self.clickhouse
                .insert_violations(&token, violations)
                .await
                .map_err(Fault::new)?;
            let letters: Vec<&DeadLetter> = batches.iter().flat_map(|b| &b.dead_letters).collect();
            self.clickhouse
                .insert_dead_letters(&token, letters)
                .await
                .map_err(Fault::new)?;
            self.batches.clear();
            self.bytes = 0;
            Ok(())
        }
        .boxed()
    }
}

/// A cut's rows on their way into Parquet files.
pub struct FileWriter {
    target: Target,
    zones: Zones,
    /// The furthest of each corp in the cut.
    anchors: BTreeMap<CorpId, Anchor>,
    state: Files,
}

enum Files {
    /// Rows are being encoded. `None` only while a worker thread has them.
    Open(Option<Box<Open>>),
    /// The files are whole; those not put yet.
    Whole(Vec<File>),
}

impl FileWriter {
    /// An empty cut.
    pub fn new(target: Target, zones: Zones) -> Self {
        let state = Files::Open(Some(Box::new(Open::new(zones.clone()))));
        Self {
            target,
            zones,
            anchors: BTreeMap::new(),
            state,
        }
    }
}

/// Rows were added to files that are being put; the engine does not do that.
#[derive(Debug, thiserror::Error)]
#[error("the cut's files are closed, or a worker died over them")]
struct Closed;

impl CutWriter for FileWriter {
    fn append(&mut self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), Fault>> {
        async move {
            let Files::Open(open) = &mut self.state else {
                return Err(Fault::local(Closed));
            };
            let Some(mut taken) = open.take() else {
                return Err(Fault::local(Closed));
            };
            for anchor in &batch.anchors {
                let furthest = self.anchors.entry(anchor.corp_id.clone());
                let furthest = furthest.or_insert_with(|| anchor.clone());
                if anchor.seq > furthest.seq {
                    furthest.clone_from(anchor);
                }
            }
            let (taken, appended) = tokio::task::spawn_blocking(move || {
                let appended = taken.append(&batch.messages, &batch.violations);
                (taken, appended)
            })
            .await
            .map_err(Fault::local)?;
            *open = Some(taken);
            appended.map_err(Fault::new)
        }
        .boxed()
    }

    fn bytes(&self) -> usize {
        match &self.state {
            Files::Open(open) => open.as_ref().map_or(0, |open| open.bytes()),
            Files::Whole(files) => files.iter().map(|file| file.bytes.len()).sum(),
        }
    }

    fn write<'a>(&'a mut self, log: &'a str, cut: &'a Cut) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            if let Files::Open(open) = &mut self.state {
                let Some(open) = open.take() else {
                    return Err(Fault::local(Closed));
                };
                let name = cut.name(log);
                let mut metadata = vec![
                    ("chatledger.log".to_owned(), log.to_owned()),
                    ("chatledger.first".to_owned(), cut.first.to_string()),
                    ("chatledger.last".to_owned(), cut.last.to_string()),
                    ("chatledger.records".to_owned(), cut.records.to_string()),
                ];
                let anchors = std::mem::take(&mut self.anchors);
                let anchors = anchors.values();
                metadata
                    .extend(anchors.map(|anchor| (Anchor::key(&anchor.corp_id), anchor.value())));
                let files = tokio::task::spawn_blocking(move || open.finish(&name, &metadata));
                let mut files = files.await.map_err(Fault::local)?.map_err(Fault::new)?;
                // Messages are put first: a violation is never seen before its message.
                files.reverse();
                self.state = Files::Whole(files);
            }
            if let Files::Whole(files) = &mut self.state {
                // What has been put stays put; after a fault only the rest is tried again.
                while let Some(file) = files.last() {
                    self.target.put(file.clone()).await.map_err(Fault::new)?;
                    files.pop();
                }
            }
            self.state = Files::Open(Some(Box::new(Open::new(self.zones.clone()))));
            Ok(())
        }
        .boxed()
    }
}
