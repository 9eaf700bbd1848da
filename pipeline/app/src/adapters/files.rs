//! A cut's rows on their way into Parquet files, and the lanes' marks beside them.
//!
//! A cut that may have been put before needs nothing further: a file's name is never written over,
//! and what stands under it is whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chatledger_engine::batch::Batch;
use chatledger_engine::fault::Fault;
use chatledger_engine::lane::Cut;
use chatledger_engine::mark::Mark;
use chatledger_engine::ports::{Attempt, CutWriter, Marks};
use chatledger_parquet::{File, Open, Target, Zones};
use chatledger_schemas::ledger::ChainAnchor;
use chatledger_schemas::{Classified, CorpId, FaultClass};
use futures::FutureExt;
use futures::future::BoxFuture;

/// A cut's rows on their way into Parquet files.
pub struct FileWriter {
    target: Target,
    zones: Zones,
    /// The furthest of each corp in the cut.
    anchors: BTreeMap<CorpId, ChainAnchor>,
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

    fn write<'a>(
        &'a mut self,
        log: &'a str,
        cut: &'a Cut,
        _attempt: Attempt,
    ) -> BoxFuture<'a, Result<(), Fault>> {
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
                metadata.extend(
                    anchors.map(|anchor| (ChainAnchor::key(&anchor.corp_id), anchor.value())),
                );
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

/// The marks in `_chatledger/lanes/<prefix>.<log>.json`.
pub struct FileMarks {
    target: Target,
    prefix: String,
}

/// A mark's file holds something else: somebody has to look.
#[derive(Debug, thiserror::Error)]
#[error("{path} holds no mark; remove it only together with the rows of its lane")]
struct NoMark {
    path: String,
    source: serde_json::Error,
}

impl Classified for NoMark {
    fn class(&self) -> FaultClass {
        FaultClass::Stop
    }
}

impl FileMarks {
    /// Marks of logs whose names begin with `prefix` there.
    pub fn new(target: Target, prefix: String) -> Self {
        Self { target, prefix }
    }

    fn path(&self, log: &str) -> String {
        format!("_chatledger/lanes/{}.{log}.json", self.prefix)
    }
}

impl Marks for FileMarks {
    fn held<'a>(&'a self, log: &'a str) -> BoxFuture<'a, Result<Option<Mark>, Fault>> {
        async move {
            let path = self.path(log);
            let Some(note) = self.target.note(&path).await.map_err(Fault::new)? else {
                return Ok(None);
            };
            let mark = serde_json::from_slice(&note);
            mark.map(Some)
                .map_err(|source| Fault::new(NoMark { path, source }))
        }
        .boxed()
    }

    fn keep<'a>(&'a self, log: &'a str, mark: Mark) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let note = Bytes::from(serde_json::to_vec(&mark).map_err(Fault::local)?);
            let kept = self.target.keep_note(&self.path(log), note).await;
            kept.map_err(Fault::new)
        }
        .boxed()
    }
}
