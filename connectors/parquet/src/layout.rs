//! How the columns are stored: encodings, dictionaries, statistics, bloom filters, row groups.
//!
//! The choices depend on what a column holds and were measured with chat messages
//! (`examples/encode_rate.rs`): a dictionary where values repeat, deltas for growing numbers, lengths
//! separate from the bytes for text that does not repeat. Prefix deltas (`DELTA_BYTE_ARRAY`) help
//! nowhere: message ids are random, and text becomes larger.

use std::sync::{Arc, LazyLock};

use arrow_schema::SchemaRef;
use chatledger_schemas::columns;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::{ColumnPath, TypePtr};

use crate::partition::ParquetTable;

/// Rows after which a row group is closed. Readers prune by row groups and read them in parallel.
pub(crate) const ROW_GROUP_ROWS: usize = 25 * CHUNK_ROWS;

/// Encoded bytes after which a row group is closed even if it has fewer rows.
pub(crate) const ROW_GROUP_BYTES: usize = 64 << 20;

/// Rows passed to the encoder at once. The encoder checks page limits after every 1,024 rows, counted
/// from the start of a chunk. Because chunks have a fixed size, the bytes do not depend on how the rows
/// arrived.
pub(crate) const CHUNK_ROWS: usize = 4096;

/// Bytes of text passed to the encoder at once, for the same reason and to keep pages small.
pub(crate) const CHUNK_BYTES: usize = 16 << 20;

/// Level 1 instead of the usual 3: with chat messages it takes half the time and makes files 8 %
/// larger, and compression is most of this crate's CPU time.
const ZSTD_LEVEL: i32 = 1;

/// False-positive rate of bloom filters. A filter is sized for [`ROW_GROUP_ROWS`] values and folded to
/// the size that a smaller row group needs.
const FALSE_POSITIVES: f64 = 0.01;

/// How the columns of one table are written.
pub(crate) struct TableLayout {
    pub(crate) arrow: SchemaRef,
    pub(crate) parquet: TypePtr,
    /// Without metadata and sort order, which are known only when a file is complete.
    pub(crate) properties: Arc<WriterProperties>,
    /// Index of the leaf column `seq`, declared as sort order if the rows are sorted by it.
    seq: i32,
}

/// Columns that are not stored the default way (dictionary, bounds per chunk).
enum ColumnKind {
    /// Repeating values that are searched for: dictionary, bounds per page, bloom filter.
    RepeatingKey,
    /// Slowly growing numbers: deltas, bounds per page.
    Growing,
    /// Unique values that are searched for: no dictionary, bloom filter.
    UniqueKey,
    /// Unique values: no dictionary, bounds per chunk.
    Unique,
    /// Long text: lengths separate from the bytes, no bounds (they would be useless).
    Text,
}

const MESSAGES: &[(&str, ColumnKind)] = &[
    ("seq", ColumnKind::Growing),
    ("msgid", ColumnKind::UniqueKey),
    ("msgtime", ColumnKind::Growing),
    ("conversation_id", ColumnKind::RepeatingKey),
    ("content", ColumnKind::Text),
    ("payload", ColumnKind::Text),
];

const VIOLATIONS: &[(&str, ColumnKind)] = &[
    ("violation_id", ColumnKind::Unique),
    ("msgid", ColumnKind::UniqueKey),
    ("seq", ColumnKind::Growing),
    ("msgtime", ColumnKind::Growing),
    ("conversation_id", ColumnKind::RepeatingKey),
    ("detected_at", ColumnKind::Growing),
];

impl TableLayout {
    /// Returns the layout of a table.
    ///
    /// # Errors
    /// The Arrow schema cannot be converted to Parquet; a test checks that both can.
    pub(crate) fn of(table: ParquetTable) -> Result<&'static Self, ParquetError> {
        static MESSAGES_LAYOUT: LazyLock<Result<TableLayout, ParquetError>> =
            LazyLock::new(|| TableLayout::new(columns::messages(), MESSAGES));
        static VIOLATIONS_LAYOUT: LazyLock<Result<TableLayout, ParquetError>> =
            LazyLock::new(|| TableLayout::new(columns::violations(), VIOLATIONS));
        match table {
            ParquetTable::Messages => &MESSAGES_LAYOUT,
            ParquetTable::Violations => &VIOLATIONS_LAYOUT,
        }
        .as_ref()
        .map_err(|error| ParquetError::General(error.to_string()))
    }

    fn new(arrow: SchemaRef, kinds: &[(&str, ColumnKind)]) -> Result<Self, ParquetError> {
        // "coerce": list elements are named `element`, as the format's specification requires.
        let descriptor = ArrowSchemaConverter::new()
            .schema_root("chatledger")
            .with_coerce_types(true)
            .convert(&arrow)?;
        let seq = descriptor
            .columns()
            .iter()
            .position(|column| column.name() == "seq")
            .and_then(|index| i32::try_from(index).ok())
            .ok_or_else(|| ParquetError::General("no column seq".into()))?;

        // parquet-mr parses the form `<name> version <version>` and ignores the bounds of text columns
        // in files whose writer it does not recognise.
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("chatledger version ", env!("CARGO_PKG_VERSION")).into())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_coerce_types(true)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_statistics_enabled(EnabledStatistics::Chunk);
        for (name, kind) in kinds {
            let column = || ColumnPath::from(*name);
            properties = match kind {
                ColumnKind::RepeatingKey => properties
                    .set_column_statistics_enabled(column(), EnabledStatistics::Page)
                    .set_column_bloom_filter_fpp(column(), FALSE_POSITIVES),
                ColumnKind::Growing => properties
                    .set_column_dictionary_enabled(column(), false)
                    .set_column_encoding(column(), Encoding::DELTA_BINARY_PACKED)
                    .set_column_statistics_enabled(column(), EnabledStatistics::Page),
                ColumnKind::UniqueKey => properties
                    .set_column_dictionary_enabled(column(), false)
                    .set_column_encoding(column(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
                    .set_column_bloom_filter_fpp(column(), FALSE_POSITIVES),
                ColumnKind::Unique => properties
                    .set_column_dictionary_enabled(column(), false)
                    .set_column_encoding(column(), Encoding::DELTA_LENGTH_BYTE_ARRAY),
                ColumnKind::Text => properties
                    .set_column_dictionary_enabled(column(), false)
                    .set_column_encoding(column(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
                    .set_column_statistics_enabled(column(), EnabledStatistics::None),
            };
        }
        Ok(Self {
            parquet: descriptor.root_schema_ptr(),
            arrow,
            properties: Arc::new(properties.build()),
            seq,
        })
    }

    /// Returns the properties of a complete file: with the metadata, and with the sort order if the
    /// rows are sorted by `seq`.
    pub(crate) fn finished(
        &self,
        metadata: &[(String, String)],
        sorted: bool,
    ) -> Arc<WriterProperties> {
        let sorting = sorted.then(|| {
            vec![SortingColumn {
                column_idx: self.seq,
                descending: false,
                nulls_first: false,
            }]
        });
        let metadata = metadata
            .iter()
            .map(|(key, value)| KeyValue::new(key.clone(), value.clone()))
            .collect();
        Arc::new(
            WriterProperties::clone(&self.properties)
                .into_builder()
                .set_key_value_metadata(Some(metadata))
                .set_sorting_columns(sorting)
                .build(),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_listed_column_belongs_to_its_table() {
        for (table, kinds) in [
            (ParquetTable::Messages, MESSAGES),
            (ParquetTable::Violations, VIOLATIONS),
        ] {
            let layout = TableLayout::of(table).unwrap();
            for (name, _) in kinds {
                assert!(layout.arrow.field_with_name(name).is_ok(), "{name}");
            }
        }
    }
}
