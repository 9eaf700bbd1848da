//! The sink JSONL: rows as JSON lines, in files of a folder or on stdout, for pipes and for looking.
//!
//! In a folder a batch is one file for each kind of row, named by its range and never overwritten, so
//! a batch that is written again is stored once. On stdout nothing can be taken back: after a crash
//! the last batch may be printed again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use chatledger_engine::audit::{AuditReader, Content, Selection, SinkSums, block_of};
use chatledger_engine::batch::{Batch, BatchRange};
use chatledger_engine::failpoint::Step;
use chatledger_engine::fault::Fault;
use chatledger_engine::ports::{BatchWriter, CheckpointStore, WriteAttempt};
use chatledger_engine::sink::{Limits, Probe, ProbeError, SchemaVersions, Sink, Stream};
use chatledger_engine::sink_checkpoint::SinkCheckpoint;
use chatledger_jsonl::{Error, Folder, Line, encode, print, read_rows};
use chatledger_schemas::ledger::{RecordKey, RowDigest, RowParts};
use chatledger_schemas::{CorpId, Message, Violation};
use futures::FutureExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{LANE_BYTES, SinkConfig, SinkKind, checkpoint_name, schema_of, steps};
use crate::progress;

const NAME: &str = "jsonl";
/// The path that means stdout.
const STDOUT: &str = "-";
/// The folder of message files.
const MESSAGES: &str = "messages";
/// The kind of files with violations.
const VIOLATIONS: &str = "violations";

/// This kind of sink.
pub(super) const KIND: SinkKind = SinkKind {
    name: NAME,
    schema: schema_of::<JsonlSection>,
    make,
    fail_points: || steps(NAME, chatledger_jsonl::FAIL_POINTS, Step::both),
};

/// `[sink.jsonl]`: JSON lines.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct JsonlSection {
    /// Folder that files are written into, or `-` for stdout.
    #[schemars(length(min = 1))]
    path: String,
    /// Number of rows after which a batch is written.
    #[serde(default = "default_batch_rows")]
    #[schemars(range(min = 1, max = 1_000_000))]
    batch_rows: u32,
    /// Time after which a batch is written even if it is not full.
    #[serde(default = "default_batch_interval")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    batch_interval: String,
}

fn default_batch_rows() -> u32 {
    10_000
}
fn default_batch_interval() -> String {
    "1s".into()
}

fn make(config: &mut SinkConfig<'_, '_>) -> Option<Sink> {
    let section: JsonlSection = config.table("sink.jsonl")?;
    let interval = config
        .validator
        .duration("sink.jsonl.batch_interval", &section.batch_interval)?;
    let output = if section.path == STDOUT {
        Output::Stdout
    } else {
        Output::Folder(Folder::new(config.validator.folder().join(&section.path)))
    };
    let writer = output.clone();
    let audit = match &output {
        Output::Folder(folder) => {
            Some(Arc::new(FolderAudit(folder.clone())) as Arc<dyn AuditReader>)
        }
        Output::Stdout => None,
    };
    Some(Sink {
        name: NAME,
        title: "JSONL",
        address: section.path,
        streams: &Stream::ALL,
        limits: Limits {
            rows: section.batch_rows as usize,
            bytes: LANE_BYTES,
            interval,
        },
        make_writer: Arc::new(move || Box::new(LineWriter::new(writer.clone()))),
        layout: None,
        checkpoints: Arc::new(Checkpoints {
            output: output.clone(),
            prefix: config.prefix.to_owned(),
        }),
        probe: Arc::new(output),
        audit,
        directory: None,
    })
}

/// Where lines go.
#[derive(Clone)]
enum Output {
    Folder(Folder),
    Stdout,
}

/// Runs blocking work outside the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Fault> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(Fault::local)?.map_err(Fault::new)
}

/// The writing end of a lane: the encoded lines of the open batch, by kind of row.
struct LineWriter {
    output: Output,
    lines: Arc<BTreeMap<&'static str, Vec<u8>>>,
    bytes: usize,
}

impl LineWriter {
    fn new(output: Output) -> Self {
        Self {
            output,
            lines: Arc::default(),
            bytes: 0,
        }
    }
}

/// Adds the lines of a batch.
fn add(
    lines: &mut BTreeMap<&'static str, Vec<u8>>,
    batch: &Batch,
) -> Result<(), serde_json::Error> {
    let mut add = |kind, rows: &mut dyn Iterator<Item = Line<'_>>| {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        encode(rows, lines.entry(kind).or_default())
    };
    add(MESSAGES, &mut batch.messages.iter().map(Line::Message))?;
    add(
        VIOLATIONS,
        &mut batch.violations.iter().map(Line::Violation),
    )?;
    add(
        "dead_letters",
        &mut batch.dead_letters.iter().map(Line::DeadLetter),
    )?;
    add(
        "dead_letter_events",
        &mut batch.events.iter().map(Line::DeadLetterEvent),
    )
}

impl BatchWriter for LineWriter {
    fn append(&mut self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), Fault>> {
        async move {
            let mut lines = std::mem::take(&mut self.lines);
            let encoded = tokio::task::spawn_blocking(move || {
                let added = add(Arc::make_mut(&mut lines), &batch);
                (lines, added)
            });
            let (lines, added) = encoded.await.map_err(Fault::local)?;
            self.bytes = lines.values().map(Vec::len).sum();
            self.lines = lines;
            added.map_err(Fault::local)
        }
        .boxed()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn write<'a>(
        &'a mut self,
        log: &'a str,
        range: &'a BatchRange,
        _attempt: WriteAttempt,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let (output, name) = (self.output.clone(), range.name(log));
            let lines = Arc::clone(&self.lines);
            blocking(move || {
                // Messages first: no violation is visible before its message.
                let messages = lines.get_key_value(MESSAGES);
                let others = lines.iter().filter(|(kind, _)| **kind != MESSAGES);
                match output {
                    Output::Folder(folder) => messages
                        .into_iter()
                        .chain(others)
                        .try_for_each(|(kind, lines)| folder.put(kind, &name, lines)),
                    Output::Stdout => {
                        let all = messages.into_iter().chain(others);
                        print(
                            &all.flat_map(|(_, lines)| lines)
                                .copied()
                                .collect::<Vec<u8>>(),
                        )
                    }
                }
            })
            .await?;
            self.lines = Arc::default();
            self.bytes = 0;
            Ok(())
        }
        .boxed()
    }
}

/// Sink checkpoints in `_chatledger/lanes/<prefix>.<log>.json`; none on stdout.
struct Checkpoints {
    output: Output,
    prefix: String,
}

impl CheckpointStore for Checkpoints {
    fn load<'a>(&'a self, log: &'a str) -> BoxFuture<'a, Result<Option<SinkCheckpoint>, Fault>> {
        async move {
            let Output::Folder(folder) = self.output.clone() else {
                return Ok(None);
            };
            let name = checkpoint_name(&self.prefix, log);
            let stored = blocking(move || folder.read_state(&name)).await?;
            let parsed = stored.map(|text| serde_json::from_slice(&text));
            parsed.transpose().map_err(Fault::local)
        }
        .boxed()
    }

    fn store<'a>(
        &'a self,
        log: &'a str,
        checkpoint: SinkCheckpoint,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let Output::Folder(folder) = self.output.clone() else {
                return Ok(());
            };
            let name = checkpoint_name(&self.prefix, log);
            let text = serde_json::to_vec(&checkpoint).map_err(Fault::local)?;
            blocking(move || folder.write_state(&name, &text)).await
        }
        .boxed()
    }
}

impl Probe for Output {
    fn answers(&self) -> BoxFuture<'_, Result<(), ProbeError>> {
        async move {
            let Self::Folder(folder) = self.clone() else {
                return Ok(());
            };
            let checked = blocking(move || folder.check()).await;
            checked.map_err(ProbeError::Unusable)
        }
        .boxed()
    }

    fn readable(&self) -> BoxFuture<'_, Result<(), ProbeError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn prepare(&self) -> BoxFuture<'_, Result<Option<SchemaVersions>, ProbeError>> {
        async move { self.answers().await.map(|()| None) }.boxed()
    }
}

/// The files of messages and violations in a folder, read back.
struct FolderAudit(Folder);

impl FolderAudit {
    /// Passes the digest of every row of a corp with this content, file by file. Returns the files that
    /// cannot be read.
    async fn each(
        &self,
        corp: &CorpId,
        content: Content,
        mut row: impl FnMut(&str, RowDigest) + Send,
    ) -> Result<Vec<String>, Fault> {
        let folder = self.0.clone();
        let kind = match content {
            Content::Violations => VIOLATIONS,
            _ => MESSAGES,
        };
        let files = blocking(move || folder.files(kind)).await?;
        let bar = progress::bar("files", files.len() as u64);
        let mut unreadable = Vec::new();
        for file in files {
            let name = file.display().to_string();
            let corp = corp.clone();
            let read = blocking(move || digests(&file, content, &corp)).await;
            match read {
                Ok(rows) => rows.into_iter().for_each(|digest| row(&name, digest)),
                Err(error) => {
                    tracing::warn!(path = name, %error, "not a file of this archive");
                    unreadable.push(name);
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(unreadable)
    }
}

fn digests(file: &Path, content: Content, corp: &CorpId) -> Result<Vec<RowDigest>, Error> {
    let mut rows = Vec::new();
    match content {
        Content::Violations => read_rows(file, |violation: Violation| {
            if violation.corp_id == *corp {
                rows.push(RowDigest::from(&violation));
            }
        })?,
        _ => read_rows(file, |message: Message| {
            if message.corp_id == *corp {
                rows.push(RowDigest::from(&RowParts::from(&message)));
            }
        })?,
    }
    Ok(rows)
}

impl AuditReader for FolderAudit {
    fn contents(&self) -> &'static [Content] {
        &[Content::Messages, Content::Violations]
    }

    fn sums<'a>(
        &'a self,
        corp: &'a CorpId,
        first: u64,
        last: u64,
    ) -> BoxFuture<'a, Result<SinkSums, Fault>> {
        async move {
            let mut sums = SinkSums::default();
            for content in self.contents() {
                let blocks = sums.places.entry(*content).or_default();
                let each = |_: &str, row: RowDigest| {
                    if (first..=last).contains(&row.key.seq) {
                        let block = blocks.entry(block_of(row.key.seq)).or_default();
                        block.add(&row.key);
                    }
                };
                sums.unreadable
                    .extend(self.each(corp, *content, each).await?);
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
            let each = |_: &str, row: RowDigest| {
                if selection.covers(row.key.seq) {
                    keys.push(row.key);
                }
            };
            self.each(corp, content, each).await?;
            Ok(keys)
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
            self.each(corp, content, |part, digest| row(part, digest))
                .await
        }
        .boxed()
    }
}
