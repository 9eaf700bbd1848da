//! Message files read back, for an audit: which rows stand in them, and with what content.

use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMillisecondType, UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch, StringArray};
use arrow_schema::ArrowError;
use bytes::Bytes;
use chatledger_schemas::ledger::{ChainAnchor, Digest128, RowParts, digest_of};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;

use crate::Error;

/// Rows decoded at once.
const BATCH: usize = 8192;

/// Which message a row is: its position and the digest of its msgid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Position in the corp's archive.
    pub seq: u64,
    /// Digest of the msgid.
    pub msgid: Digest128,
}

/// A row and the digest of what it holds of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowDigest {
    /// Which message it is.
    pub key: Key,
    /// [`RowParts::digest`] of the row.
    pub row: Digest128,
}

/// A message file. Reading is CPU work.
pub struct Contents {
    path: String,
    bytes: Bytes,
}

impl Contents {
    /// The content of a file by its path within the target.
    pub fn new(path: String, bytes: Bytes) -> Self {
        Self { path, bytes }
    }

    /// Anchors of the hash chain in the file's metadata.
    pub fn anchors(&self) -> Result<Vec<ChainAnchor>, Error> {
        let builder = self.builder()?;
        let metadata = builder.metadata().file_metadata().key_value_metadata();
        let entries = metadata.into_iter().flatten();
        Ok(entries
            .filter_map(|entry| ChainAnchor::parse(&entry.key, entry.value.as_deref()?))
            .collect())
    }

    /// Tells of every row which message it is.
    pub fn keys(&self, mut each: impl FnMut(Key)) -> Result<(), Error> {
        self.batches(Some(&["seq", "msgid"]), |batch| {
            let (seq, msgid) = (numbers(batch, "seq")?, texts(batch, "msgid")?);
            for (seq, msgid) in seq.iter().zip(msgid.iter()) {
                each(Key {
                    seq: *seq,
                    msgid: digest_of(msgid.unwrap_or_default().as_bytes()),
                });
            }
            Ok(())
        })
    }

    /// Tells of every row what it holds.
    pub fn rows(&self, mut each: impl FnMut(RowDigest)) -> Result<(), Error> {
        self.batches(None, |batch| {
            let text = |name| texts(batch, name);
            let seq = numbers(batch, "seq")?;
            let (msgid, action, msgtype) = (text("msgid")?, text("action")?, text("msgtype")?);
            let (conversation, room) = (text("conversation_id")?, text("room_id")?);
            let (from, content, payload) = (text("from_id")?, text("content")?, text("payload")?);
            let msgtime = column(batch, "msgtime")?
                .as_primitive_opt::<TimestampMillisecondType>()
                .ok_or_else(|| other("msgtime"))?;
            let version = column(batch, "key_version")?
                .as_primitive_opt::<UInt32Type>()
                .ok_or_else(|| other("key_version"))?;
            let to_ids = column(batch, "to_ids")?
                .as_list_opt::<i32>()
                .ok_or_else(|| other("to_ids"))?;
            let mut ids: Vec<&str> = Vec::new();
            for (row, seq) in seq.iter().enumerate() {
                let (first, last) = (to_ids.value_offsets()[row], to_ids.value_offsets()[row + 1]);
                let items = to_ids.values().as_string_opt::<i32>();
                let items = items.ok_or_else(|| other("to_ids"))?;
                ids.clear();
                ids.extend((first..last).map(|item| items.value(item as usize)));
                let parts = RowParts {
                    seq: *seq,
                    msgid: msgid.value(row),
                    action: action.value(row),
                    msgtype: msgtype.value(row),
                    msgtime: msgtime.value(row),
                    conversation_id: conversation.value(row),
                    room_id: room.value(row),
                    from_id: from.value(row),
                    to_ids: &ids,
                    content: content.value(row),
                    payload: payload.value(row),
                    key_version: version.value(row),
                };
                each(RowDigest {
                    key: Key {
                        seq: parts.seq,
                        msgid: digest_of(parts.msgid.as_bytes()),
                    },
                    row: parts.digest(),
                });
            }
            Ok(())
        })
    }

    fn builder(&self) -> Result<ParquetRecordBatchReaderBuilder<Bytes>, Error> {
        ParquetRecordBatchReaderBuilder::try_new(self.bytes.clone())
            .map_err(|source| self.unreadable(source))
    }

    fn batches(
        &self,
        columns: Option<&[&str]>,
        mut each: impl FnMut(&RecordBatch) -> Result<(), ArrowError>,
    ) -> Result<(), Error> {
        let mut builder = self.builder()?.with_batch_size(BATCH);
        if let Some(columns) = columns {
            let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
            builder = builder.with_projection(mask);
        }
        let reader = builder.build().map_err(|source| self.unreadable(source))?;
        for batch in reader {
            batch
                .and_then(|batch| each(&batch))
                .map_err(|error| self.unreadable(error.into()))?;
        }
        Ok(())
    }

    fn unreadable(&self, source: ParquetError) -> Error {
        Error::Read {
            path: self.path.clone(),
            source,
        }
    }
}

fn other(name: &str) -> ArrowError {
    ArrowError::SchemaError(format!("column {name} is missing or of another type"))
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array, ArrowError> {
    let column = batch.column_by_name(name);
    column.map(AsRef::as_ref).ok_or_else(|| other(name))
}

fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, ArrowError> {
    let column = column(batch, name)?;
    column.as_string_opt::<i32>().ok_or_else(|| other(name))
}

fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [u64], ArrowError> {
    let column = column(batch, name)?.as_primitive_opt::<UInt64Type>();
    Ok(column.ok_or_else(|| other(name))?.values())
}
