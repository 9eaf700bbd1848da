//! Reads files of messages and violations back for an audit: their rows and the rows' contents.

use arrow_array::cast::AsArray;
use arrow_array::types::{TimestampMillisecondType, UInt32Type, UInt64Type};
use arrow_array::{
    Array, ListArray, PrimitiveArray, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow_schema::ArrowError;
use bytes::Bytes;
use chatledger_schemas::ledger::{ChainAnchor, RecordKey, RowDigest, RowParts, digest_of};
use chatledger_schemas::{CorpId, Severity, Violation};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;

use crate::Error;

/// Rows decoded at once.
const CHUNK_ROWS: usize = 8192;

/// The content of a file of messages or violations. Reading it is CPU work.
pub struct ArchiveFile {
    path: String,
    bytes: Bytes,
}

impl ArchiveFile {
    /// Takes the content of a file; `path` is its path within the target, for errors.
    pub fn new(path: String, bytes: Bytes) -> Self {
        Self { path, bytes }
    }

    /// Returns the anchors of the hash chain in the file's metadata.
    pub fn anchors(&self) -> Result<Vec<ChainAnchor>, Error> {
        let builder = self.builder()?;
        let metadata = builder.metadata().file_metadata().key_value_metadata();
        let entries = metadata.into_iter().flatten();
        Ok(entries
            .filter_map(|entry| ChainAnchor::parse(&entry.key, entry.value.as_deref()?))
            .collect())
    }

    /// Calls `each` with the key of every row.
    pub fn keys(&self, mut each: impl FnMut(RecordKey)) -> Result<(), Error> {
        self.chunks(Some(&["seq", "msgid"]), |batch| {
            let (seq, msgid) = (numbers(batch, "seq")?, texts(batch, "msgid")?);
            for (seq, msgid) in seq.iter().zip(msgid.iter()) {
                each(RecordKey {
                    seq: *seq,
                    msgid: digest_of(msgid.unwrap_or_default().as_bytes()),
                });
            }
            Ok(())
        })
    }

    /// Calls `each` with the digest of every row of a file of messages.
    pub fn messages(&self, mut each: impl FnMut(RowDigest)) -> Result<(), Error> {
        self.chunks(None, |batch| {
            let text = |name| texts(batch, name);
            let seq = numbers(batch, "seq")?;
            let (msgid, action, msgtype) = (text("msgid")?, text("action")?, text("msgtype")?);
            let (conversation, room) = (text("conversation_id")?, text("room_id")?);
            let (from, content, payload) = (text("from_id")?, text("content")?, text("payload")?);
            let msgtime = instants(batch, "msgtime")?;
            let version = column(batch, "key_version")?
                .as_primitive_opt::<UInt32Type>()
                .ok_or_else(|| wrong_column("key_version"))?;
            let to_ids = lists(batch, "to_ids")?;
            let mut ids: Vec<&str> = Vec::new();
            for (row, seq) in seq.iter().enumerate() {
                let (first, last) = (to_ids.value_offsets()[row], to_ids.value_offsets()[row + 1]);
                let items = to_ids.values().as_string_opt::<i32>();
                let items = items.ok_or_else(|| wrong_column("to_ids"))?;
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
                each(RowDigest::from(&parts));
            }
            Ok(())
        })
    }

    /// Calls `each` with the digest of every row of a file of violations. The corp is in its path.
    pub fn violations(&self, corp: &CorpId, mut each: impl FnMut(RowDigest)) -> Result<(), Error> {
        self.chunks(None, |batch| {
            let text = |name| texts(batch, name);
            let (id, msgid, seq) = (
                text("violation_id")?,
                text("msgid")?,
                numbers(batch, "seq")?,
            );
            let (conversation, from) = (text("conversation_id")?, text("from_id")?);
            let (rule, name) = (text("rule_id")?, text("rule_name")?);
            let (version, category) = (text("rule_version")?, text("category")?);
            let severity = text("severity")?;
            let (msgtime, detected) =
                (instants(batch, "msgtime")?, instants(batch, "detected_at")?);
            let (matched, spans) = (lists(batch, "matched")?, lists(batch, "spans")?);
            for (row, seq) in seq.iter().enumerate() {
                let mut known = Severity::ALL.into_iter();
                let found = severity.value(row);
                let severity = known.find(|one| one.as_str() == found);
                let severity = severity.ok_or_else(|| wrong_column("severity"))?;
                each(RowDigest::from(&Violation {
                    corp_id: corp.clone(),
                    violation_id: id.value(row).to_owned(),
                    msgid: msgid.value(row).to_owned(),
                    seq: *seq,
                    msgtime: msgtime.value(row),
                    conversation_id: conversation.value(row).to_owned(),
                    from_id: from.value(row).to_owned(),
                    rule_id: rule.value(row).to_owned(),
                    rule_name: name.value(row).to_owned(),
                    rule_version: version.value(row).to_owned(),
                    category: category.value(row).to_owned(),
                    severity,
                    matched: texts_of(&matched.value(row))?,
                    spans: spans_of(&spans.value(row))?,
                    detected_at: detected.value(row),
                }));
            }
            Ok(())
        })
    }

    fn builder(&self) -> Result<ParquetRecordBatchReaderBuilder<Bytes>, Error> {
        ParquetRecordBatchReaderBuilder::try_new(self.bytes.clone())
            .map_err(|source| self.unreadable(source))
    }

    fn chunks(
        &self,
        columns: Option<&[&str]>,
        mut each: impl FnMut(&RecordBatch) -> Result<(), ArrowError>,
    ) -> Result<(), Error> {
        let mut builder = self.builder()?.with_batch_size(CHUNK_ROWS);
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

fn wrong_column(name: &str) -> ArrowError {
    ArrowError::SchemaError(format!("column {name} is missing or of another type"))
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a dyn Array, ArrowError> {
    let column = batch.column_by_name(name);
    column.map(AsRef::as_ref).ok_or_else(|| wrong_column(name))
}

fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, ArrowError> {
    let column = column(batch, name)?;
    column
        .as_string_opt::<i32>()
        .ok_or_else(|| wrong_column(name))
}

fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a [u64], ArrowError> {
    let column = column(batch, name)?.as_primitive_opt::<UInt64Type>();
    Ok(column.ok_or_else(|| wrong_column(name))?.values())
}

fn instants<'a>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a TimestampMillisecondArray, ArrowError> {
    let column = column(batch, name)?;
    column
        .as_primitive_opt::<TimestampMillisecondType>()
        .ok_or_else(|| wrong_column(name))
}

fn lists<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ListArray, ArrowError> {
    let column = column(batch, name)?.as_list_opt::<i32>();
    column.ok_or_else(|| wrong_column(name))
}

/// The texts of one list.
fn texts_of(items: &dyn Array) -> Result<Vec<String>, ArrowError> {
    let items = items.as_string_opt::<i32>();
    let items = items.ok_or_else(|| wrong_column("matched"))?;
    Ok(items.iter().flatten().map(str::to_owned).collect())
}

/// The spans of one list.
fn spans_of(items: &dyn Array) -> Result<Vec<(u32, u32)>, ArrowError> {
    let wrong = || wrong_column("spans");
    let items = items.as_struct_opt().ok_or_else(wrong)?;
    let ends = |name| -> Result<&PrimitiveArray<UInt32Type>, ArrowError> {
        let column = items.column_by_name(name).ok_or_else(wrong)?;
        column.as_primitive_opt::<UInt32Type>().ok_or_else(wrong)
    };
    let (start, end) = (ends("start")?, ends("end")?);
    Ok(start
        .values()
        .iter()
        .copied()
        .zip(end.values().iter().copied())
        .collect())
}
