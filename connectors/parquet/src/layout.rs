//! How the columns are laid down: encodings, dictionaries, statistics, filters, row groups.
//!
//! Each choice is by what the column holds, and was measured on chat messages
//! (`examples/encode_rate.rs`): a dictionary where values repeat, deltas for numbers that grow,
//! lengths apart from the bytes for text that does not repeat. Deltas of prefixes
//! (`DELTA_BYTE_ARRAY`) pay nowhere: message ids are random, and they make text larger.

use std::sync::{Arc, LazyLock};

use arrow_schema::SchemaRef;
use chatledger_schemas::columns;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::{ColumnPath, TypePtr};

use crate::partition::Table;

/// Rows after which a row group is closed: what a reader prunes by and reads in parallel.
pub(crate) const ROW_GROUP_ROWS: usize = 25 * BATCH_ROWS;

/// Encoded bytes after which a row group is closed though it has fewer rows.
pub(crate) const ROW_GROUP_BYTES: usize = 64 << 20;

/// Rows handed to the encoder at once. The encoder looks at page limits between runs of 1,024 rows
/// counted from the start of a hand-over, so hand-overs of a fixed size are what makes the bytes
/// independent of how the rows arrived.
pub(crate) const BATCH_ROWS: usize = 4096;

/// Bytes of text handed to the encoder at once, for the same reason and to keep pages small.
pub(crate) const BATCH_BYTES: usize = 16 << 20;

/// Level 1, not the customary 3: on chat messages it takes half the time for files 8 % larger, and
/// compressing is most of what this crate costs.
const ZSTD_LEVEL: i32 = 1;

/// How often a bloom filter may say "perhaps" for a value that is not there. A filter is made for
/// [`ROW_GROUP_ROWS`] values and folded to what a smaller row group needs.
const FALSE_POSITIVES: f64 = 0.01;

/// How the columns of one table are written.
pub(crate) struct Layout {
    pub(crate) arrow: SchemaRef,
    pub(crate) parquet: TypePtr,
    /// Without the metadata and the order, which are known only when a file is finished.
    pub(crate) properties: Arc<WriterProperties>,
    /// Leaf column of `seq`, by which rows are said to be sorted when they are.
    seq: i32,
}

/// How a column differs from the rest, which repeat and have a dictionary and bounds per chunk.
enum Kind {
    /// Repeats and is looked up: a dictionary, bounds per page and a bloom filter.
    RepeatingKey,
    /// Grows slowly: deltas, bounds per page.
    Growing,
    /// Different in each row and looked up: no dictionary, a bloom filter.
    UniqueKey,
    /// Different in each row: no dictionary, bounds per chunk.
    Unique,
    /// Long text: lengths apart from the bytes, no bounds (they would say nothing).
    Text,
}

const MESSAGES: &[(&str, Kind)] = &[
    ("seq", Kind::Growing),
    ("msgid", Kind::UniqueKey),
    ("msgtime", Kind::Growing),
    ("conversation_id", Kind::RepeatingKey),
    ("content", Kind::Text),
    ("payload", Kind::Text),
];

const VIOLATIONS: &[(&str, Kind)] = &[
    ("violation_id", Kind::Unique),
    ("msgid", Kind::UniqueKey),
    ("seq", Kind::Growing),
    ("msgtime", Kind::Growing),
    ("conversation_id", Kind::RepeatingKey),
    ("detected_at", Kind::Growing),
];

impl Layout {
    /// The layout of a table.
    ///
    /// # Errors
    /// The Arrow schema has no Parquet form; a test shows that both have.
    pub(crate) fn of(table: Table) -> Result<&'static Self, ParquetError> {
        static MESSAGES_LAYOUT: LazyLock<Result<Layout, ParquetError>> =
            LazyLock::new(|| Layout::new(columns::messages(), MESSAGES));
        static VIOLATIONS_LAYOUT: LazyLock<Result<Layout, ParquetError>> =
            LazyLock::new(|| Layout::new(columns::violations(), VIOLATIONS));
        match table {
            Table::Messages => &MESSAGES_LAYOUT,
            Table::Violations => &VIOLATIONS_LAYOUT,
        }
        .as_ref()
        .map_err(|error| ParquetError::General(error.to_string()))
    }

    fn new(arrow: SchemaRef, kinds: &[(&str, Kind)]) -> Result<Self, ParquetError> {
        // "coerce": list elements are called `element`, as the format's specification has it.
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

        // The form `<name> version <version>` is what parquet-mr parses; it distrusts the bounds of
        // text columns in files whose writer it cannot make out.
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("chatledger version ", env!("CARGO_PKG_VERSION")).into())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
            .set_coerce_types(true)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_statistics_enabled(EnabledStatistics::Chunk);
        for (name, kind) in kinds {
            let column = || ColumnPath::from(*name);
            properties = match kind {
                Kind::RepeatingKey => properties
                    .set_column_statistics_enabled(column(), EnabledStatistics::Page)
                    .set_column_bloom_filter_fpp(column(), FALSE_POSITIVES),
                Kind::Growing => properties
                    .set_column_dictionary_enabled(column(), false)
                    .set_column_encoding(column(), Encoding::DELTA_BINARY_PACKED)
                    .set_column_statistics_enabled(column(), EnabledStatistics::Page),
                Kind::UniqueKey => properties
                    .set_column_dictionary_enabled(column(), false)
                    .set_column_encoding(column(), Encoding::DELTA_LENGTH_BYTE_ARRAY)
                    .set_column_bloom_filter_fpp(column(), FALSE_POSITIVES),
                Kind::Unique => properties
                    .set_column_dictionary_enabled(column(), false)
                    .set_column_encoding(column(), Encoding::DELTA_LENGTH_BYTE_ARRAY),
                Kind::Text => properties
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

    /// The properties of a finished file: as above, with the metadata, and saying that the rows are
    /// sorted by `seq` if they are.
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
    fn every_named_column_is_one_of_its_table() {
        for (table, kinds) in [(Table::Messages, MESSAGES), (Table::Violations, VIOLATIONS)] {
            let layout = Layout::of(table).unwrap();
            for (name, _) in kinds {
                assert!(layout.arrow.field_with_name(name).is_ok(), "{name}");
            }
        }
    }
}
