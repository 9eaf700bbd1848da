//! The sink Parquet: rows into files of a folder or a bucket, sink checkpoints into small files
//! beside them, audits.
//!
//! A batch that may have been written before needs no special care: a file is never overwritten, and
//! a file that is visible under its name is complete.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chatledger_engine::audit::{AuditReader, Content, Selection, SinkSums, Sum, block_of};
use chatledger_engine::batch::{Batch, BatchRange};
use chatledger_engine::failpoint::Step;
use chatledger_engine::fault::Fault;
use chatledger_engine::ports::{BatchWriter, CheckpointStore, WriteAttempt};
use chatledger_engine::sink::{Limits, Probe, ProbeError, SchemaVersions, Sink, Stream};
use chatledger_engine::sink_checkpoint::SinkCheckpoint;
use chatledger_parquet::{ArchiveFile, BatchEncoder, EncodedFile, Target, Zones};
use chatledger_schemas::ledger::{ChainAnchor, RecordKey, RowDigest};
use chatledger_schemas::{Classified, CorpId, FaultClass};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::Deserialize;
use tracing::warn;

use super::{LANE_BYTES, SinkConfig, SinkKind, checkpoint_name, schema_of, steps};
use crate::exit::chain;
use crate::progress;

const NAME: &str = "parquet";

/// This kind of sink.
pub(super) const KIND: SinkKind = SinkKind {
    name: NAME,
    schema: schema_of::<ParquetSection>,
    make,
    fail_points: || steps(NAME, chatledger_parquet::FAIL_POINTS, Step::both),
};

/// `[sink.parquet]`: Parquet files.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ParquetSection {
    /// `file:PATH`, or `s3://BUCKET/PREFIX` with region, endpoint and credentials in the `AWS_*`
    /// environment variables.
    #[schemars(regex(pattern = r"^(file:|s3://).+"))]
    url: String,
    /// Number of rows after which the open files are closed.
    #[serde(default = "default_roll_rows")]
    #[schemars(range(min = 1, max = 10_000_000))]
    roll_rows: u32,
    /// Time after which the open files are closed even if they are not full.
    #[serde(default = "default_roll_interval")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    roll_interval: String,
}

fn default_roll_rows() -> u32 {
    200_000
}
fn default_roll_interval() -> String {
    "1m".into()
}

/// Files read at once in an audit.
const FILES_AT_ONCE: usize = 2;

fn make(config: &mut SinkConfig<'_, '_>) -> Option<Sink> {
    let section: ParquetSection = config.table("sink.parquet")?;
    let interval = config
        .validator
        .duration("sink.parquet.roll_interval", &section.roll_interval);
    let target = Target::open(&section.url, config.validator.folder());
    let target = target.map_err(|error| {
        config.validator.problem("sink.parquet.url", chain(&error));
    });
    let (target, interval) = (target.ok()?, interval?);
    let corps = config.corps.iter();
    let zones = Zones::new(corps.map(|corp| (corp.id.clone(), corp.zone)).collect());
    let writer = target.clone();
    let layout_zones = zones.clone();
    Some(Sink {
        name: NAME,
        title: "Parquet",
        address: section.url,
        streams: &[Stream::Messages, Stream::Violations],
        limits: Limits {
            rows: section.roll_rows as usize,
            bytes: LANE_BYTES,
            interval,
        },
        make_writer: Arc::new(move || Box::new(FileWriter::new(writer.clone(), zones.clone()))),
        layout: Some(Arc::new(move |corp| layout_zones.name(corp).to_owned())),
        checkpoints: Arc::new(FileCheckpoints {
            target: target.clone(),
            prefix: config.prefix.to_owned(),
        }),
        probe: Arc::new(Folder(target.clone())),
        audit: Some(Arc::new(FileAudit(target))),
        directory: None,
    })
}

/// The writing end of a lane.
struct FileWriter {
    target: Target,
    zones: Zones,
    /// The furthest link of the hash chain of each corp in the open batch.
    anchors: BTreeMap<CorpId, ChainAnchor>,
    files: Files,
}

enum Files {
    /// Rows are being encoded. `None` only while a worker thread has the encoder.
    Open(Option<Box<BatchEncoder>>),
    /// The files are encoded; those that are not written yet.
    Encoded(Vec<EncodedFile>),
}

impl Files {
    fn empty(zones: &Zones) -> Self {
        Self::Open(Some(Box::new(BatchEncoder::new(zones.clone()))))
    }
}

impl FileWriter {
    fn new(target: Target, zones: Zones) -> Self {
        Self {
            files: Files::empty(&zones),
            target,
            zones,
            anchors: BTreeMap::new(),
        }
    }
}

/// Rows were added while files were being written, which the engine never does, or a worker died.
#[derive(Debug, thiserror::Error)]
#[error("the files of the batch are closed, or a worker thread died while encoding them")]
struct Closed;

impl BatchWriter for FileWriter {
    fn append(&mut self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), Fault>> {
        async move {
            let Files::Open(open) = &mut self.files else {
                return Err(Fault::local(Closed));
            };
            let Some(mut encoder) = open.take() else {
                return Err(Fault::local(Closed));
            };
            for anchor in &batch.anchors {
                let furthest = self.anchors.entry(anchor.corp_id.clone());
                let furthest = furthest.or_insert_with(|| anchor.clone());
                if anchor.seq > furthest.seq {
                    furthest.clone_from(anchor);
                }
            }
            let (encoder, appended) = tokio::task::spawn_blocking(move || {
                let appended = encoder.append(&batch.messages, &batch.violations);
                (encoder, appended)
            })
            .await
            .map_err(Fault::local)?;
            *open = Some(encoder);
            appended.map_err(Fault::new)
        }
        .boxed()
    }

    fn bytes(&self) -> usize {
        match &self.files {
            Files::Open(open) => open.as_ref().map_or(0, |encoder| encoder.bytes()),
            Files::Encoded(files) => files.iter().map(|file| file.bytes.len()).sum(),
        }
    }

    fn write<'a>(
        &'a mut self,
        log: &'a str,
        range: &'a BatchRange,
        _attempt: WriteAttempt,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            if let Files::Open(open) = &mut self.files {
                let Some(encoder) = open.take() else {
                    return Err(Fault::local(Closed));
                };
                let name = range.name(log);
                let mut metadata = vec![
                    ("chatledger.log".to_owned(), log.to_owned()),
                    ("chatledger.first".to_owned(), range.first.to_string()),
                    ("chatledger.last".to_owned(), range.last.to_string()),
                    ("chatledger.records".to_owned(), range.records.to_string()),
                ];
                let anchors = std::mem::take(&mut self.anchors);
                let anchors = anchors.values();
                metadata.extend(
                    anchors.map(|anchor| (ChainAnchor::key(&anchor.corp_id), anchor.value())),
                );
                let finished =
                    tokio::task::spawn_blocking(move || encoder.finish(&name, &metadata));
                let mut files = finished.await.map_err(Fault::local)?.map_err(Fault::new)?;
                // Taken from the end: messages are written first, so that no violation is visible
                // before its message.
                files.reverse();
                self.files = Files::Encoded(files);
            }
            if let Files::Encoded(files) = &mut self.files {
                // After a fault only the files that are not written yet are tried again.
                while let Some(file) = files.last() {
                    self.target.put(file.clone()).await.map_err(Fault::new)?;
                    files.pop();
                }
            }
            self.files = Files::empty(&self.zones);
            Ok(())
        }
        .boxed()
    }
}

/// Sink checkpoints in `_chatledger/lanes/<prefix>.<log>.json`.
struct FileCheckpoints {
    target: Target,
    prefix: String,
}

/// A checkpoint's file has another content.
#[derive(Debug, thiserror::Error)]
#[error("{path} is not a sink checkpoint; remove it only together with the rows of its lane")]
struct NotACheckpoint {
    path: String,
    source: serde_json::Error,
}

impl Classified for NotACheckpoint {
    fn class(&self) -> FaultClass {
        FaultClass::Stop
    }
}

impl FileCheckpoints {
    fn path(&self, log: &str) -> String {
        format!(
            "_chatledger/lanes/{}.json",
            checkpoint_name(&self.prefix, log)
        )
    }
}

impl CheckpointStore for FileCheckpoints {
    fn load<'a>(&'a self, log: &'a str) -> BoxFuture<'a, Result<Option<SinkCheckpoint>, Fault>> {
        async move {
            let path = self.path(log);
            let Some(text) = self.target.read_state(&path).await.map_err(Fault::new)? else {
                return Ok(None);
            };
            let stored = serde_json::from_slice(&text);
            stored
                .map(Some)
                .map_err(|source| Fault::new(NotACheckpoint { path, source }))
        }
        .boxed()
    }

    fn store<'a>(
        &'a self,
        log: &'a str,
        checkpoint: SinkCheckpoint,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let text = Bytes::from(serde_json::to_vec(&checkpoint).map_err(Fault::local)?);
            let stored = self.target.write_state(&self.path(log), text).await;
            stored.map_err(Fault::new)
        }
        .boxed()
    }
}

/// The folder or bucket.
struct Folder(Target);

impl Probe for Folder {
    fn answers(&self) -> BoxFuture<'_, Result<(), ProbeError>> {
        async move {
            let checked = self.0.check().await;
            checked.map_err(|error| ProbeError::Unusable(Fault::new(error)))
        }
        .boxed()
    }

    /// An audit finds out by reading; it may not have the right to write.
    fn readable(&self) -> BoxFuture<'_, Result<(), ProbeError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn prepare(&self) -> BoxFuture<'_, Result<Option<SchemaVersions>, ProbeError>> {
        async move { self.answers().await.map(|()| None) }.boxed()
    }
}

/// The files of messages and violations, read back.
struct FileAudit(Target);

/// A file that was read.
struct ReadFile {
    path: String,
    content: ArchiveFile,
}

impl FileAudit {
    /// Does CPU work on every file of a corp with this content, a few at a time, in their order. Returns
    /// the paths of files that cannot be read.
    async fn each<T: Send + 'static>(
        &self,
        corp: &CorpId,
        content: Content,
        work: impl Fn(&ArchiveFile) -> Result<T, chatledger_parquet::Error> + Clone + Send + 'static,
        mut done: impl FnMut(String, T) + Send,
    ) -> Result<Vec<String>, Fault> {
        let Some(table) = table_of(content) else {
            return Ok(Vec::new());
        };
        let paths = self.0.files(table, corp).await.map_err(Fault::new)?;
        let bar = progress::bar("files", paths.len() as u64);
        let results = futures::stream::iter(paths)
            .map(|path| async move {
                let bytes = self.0.read(&path).await.map_err(Fault::new)?;
                let content = ArchiveFile::new(path.clone(), bytes);
                Ok::<_, Fault>(ReadFile { path, content })
            })
            .buffered(FILES_AT_ONCE)
            .map_ok(|file| {
                let work = work.clone();
                async move {
                    let worked = tokio::task::spawn_blocking(move || {
                        let worked = work(&file.content);
                        (file.path, worked)
                    });
                    worked.await.map_err(Fault::local)
                }
            })
            .try_buffered(FILES_AT_ONCE);
        let mut results = std::pin::pin!(results);
        let mut unreadable = Vec::new();
        while let Some((path, worked)) = results.try_next().await? {
            match worked {
                Ok(worked) => done(path, worked),
                Err(error) => {
                    warn!(path, error = chain(&error), "not a file of this archive");
                    unreadable.push(path);
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(unreadable)
    }
}

/// The table whose files hold this content.
fn table_of(content: Content) -> Option<chatledger_parquet::ParquetTable> {
    match content {
        Content::Messages => Some(chatledger_parquet::ParquetTable::Messages),
        Content::Violations => Some(chatledger_parquet::ParquetTable::Violations),
        Content::OpenDeadLetters | Content::DiscardedDeadLetters => None,
    }
}

impl AuditReader for FileAudit {
    fn contents(&self) -> &'static [Content] {
        &[Content::Messages, Content::Violations]
    }

    fn delay(&self, limits: &Limits) -> Duration {
        limits.interval
    }

    fn sums<'a>(
        &'a self,
        corp: &'a CorpId,
        first: u64,
        last: u64,
    ) -> BoxFuture<'a, Result<SinkSums, Fault>> {
        async move {
            let mut sums = SinkSums::default();
            let work = move |file: &ArchiveFile| {
                let mut blocks = BTreeMap::<u64, Sum>::new();
                file.keys(|key| {
                    if (first..=last).contains(&key.seq) {
                        blocks.entry(block_of(key.seq)).or_default().add(&key);
                    }
                })?;
                Ok(blocks)
            };
            for content in self.contents() {
                let blocks = sums.places.entry(*content).or_default();
                let add = |_, in_file| {
                    for (block, sum) in in_file {
                        let total = blocks.entry(block).or_default();
                        *total = total.and(sum);
                    }
                };
                let unreadable = self.each(corp, *content, work, add).await?;
                sums.unreadable.extend(unreadable);
            }
            Ok(sums)
        }
        .boxed()
    }

    fn keys<'a>(
        &'a self,
        corp: &'a CorpId,
        content: Content,
        selection: Selection,
    ) -> BoxFuture<'a, Result<Vec<RecordKey>, Fault>> {
        async move {
            let mut keys = Vec::new();
            let work = move |file: &ArchiveFile| {
                let mut keys = Vec::new();
                file.keys(|key| {
                    if selection.covers(key.seq) {
                        keys.push(key);
                    }
                })?;
                Ok(keys)
            };
            self.each(corp, content, work, |_, in_file| keys.extend(in_file))
                .await?;
            Ok(keys)
        }
        .boxed()
    }

    fn anchors<'a>(
        &'a self,
        corp: &'a CorpId,
    ) -> BoxFuture<'a, Result<Vec<(ChainAnchor, String)>, Fault>> {
        async move {
            let mut anchors = Vec::new();
            let content = Content::Messages;
            self.each(corp, content, ArchiveFile::anchors, |path, in_file| {
                anchors.extend(in_file.into_iter().map(|anchor| (anchor, path.clone())));
            })
            .await?;
            Ok(anchors)
        }
        .boxed()
    }

    fn rows<'a>(
        &'a self,
        corp: &'a CorpId,
        content: Content,
        _positions: &'a [u64],
        row: &'a mut (dyn FnMut(&str, RowDigest) + Send),
    ) -> BoxFuture<'a, Result<Vec<String>, Fault>> {
        async move {
            let owner = corp.clone();
            let work = move |file: &ArchiveFile| {
                let mut rows = Vec::new();
                match content {
                    Content::Violations => file.violations(&owner, |digest| rows.push(digest))?,
                    _ => file.messages(|digest| rows.push(digest))?,
                }
                Ok(rows)
            };
            self.each(corp, content, work, |path, rows| {
                for digest in rows {
                    row(&path, digest);
                }
            })
            .await
        }
        .boxed()
    }
}
