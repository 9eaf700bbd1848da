//! Encodes one file: gathers rows into chunks of a fixed size, encodes the chunks into row groups, and
//! joins the row groups when the file is complete.
//!
//! It uses the encoder below `ArrowWriter`, column by column, because the footer holds two things that
//! are known only at the end: the metadata and whether the rows are sorted. The result depends only on
//! the rows and their order, not on when they arrived.

use std::io;

use bytes::Bytes;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowRowGroupWriterFactory, compute_leaves,
};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedFileWriter;

use crate::layout::{CHUNK_BYTES, CHUNK_ROWS, ROW_GROUP_BYTES, ROW_GROUP_ROWS, TableLayout};
use crate::rows::{ColumnBuilders, EncodableRow};

/// Limit of the bytes of text in one row: half of what the arrays' 32-bit offsets can address, so that
/// a row always fits behind a chunk that is not yet full.
pub(crate) const ROW_BYTES: usize = 1 << 30;

/// Bytes of a waiting row besides its texts: numbers, offsets and lengths.
const ROW_OVERHEAD: usize = 192;

/// Bytes that encoders and compressors of an open row group use in addition to what its columns
/// report; measured with 6 and 31 open groups.
const GROUP_OVERHEAD: usize = 4 << 20;

pub(crate) struct FileEncoder<R: EncodableRow> {
    layout: &'static TableLayout,
    waiting: R::Columns,
    waiting_rows: usize,
    waiting_bytes: usize,
    group: Option<Group>,
    done: Vec<Vec<ArrowColumnChunk>>,
    done_bytes: usize,
    rows: usize,
    last_seq: u64,
    sorted: bool,
}

/// A row group that can take more rows.
struct Group {
    columns: Vec<ArrowColumnWriter>,
    rows: usize,
}

impl<R: EncodableRow> FileEncoder<R> {
    pub(crate) fn new(layout: &'static TableLayout) -> Self {
        Self {
            layout,
            waiting: R::Columns::default(),
            waiting_rows: 0,
            waiting_bytes: 0,
            group: None,
            done: Vec::new(),
            done_bytes: 0,
            rows: 0,
            last_seq: 0,
            sorted: true,
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns approximately how many bytes of memory are in use.
    pub(crate) fn bytes(&self) -> usize {
        let group = self.group.as_ref().map_or(0, |group| {
            let columns = group.columns.iter().map(ArrowColumnWriter::memory_size);
            columns.sum::<usize>() + GROUP_OVERHEAD
        });
        let waiting = self.waiting_bytes + self.waiting_rows * ROW_OVERHEAD;
        size_of::<Self>() + waiting + group + self.done_bytes
    }

    /// Adds a row of at most [`ROW_BYTES`] bytes of text.
    pub(crate) fn push(&mut self, row: &R) -> Result<(), ParquetError> {
        let bytes = row.text_bytes();
        let full = self.waiting_rows == CHUNK_ROWS
            || self.waiting_rows > 0 && self.waiting_bytes + bytes > CHUNK_BYTES;
        if full {
            self.encode_waiting()?;
        }
        self.waiting.push(row);
        self.waiting_rows += 1;
        self.waiting_bytes += bytes;
        self.rows += 1;
        self.sorted &= self.last_seq <= row.seq();
        self.last_seq = row.seq();
        Ok(())
    }

    /// Completes the file and returns its content.
    pub(crate) fn finish(mut self, metadata: &[(String, String)]) -> Result<Bytes, ParquetError> {
        self.encode_waiting()?;
        self.close_group()?;
        let properties = self.layout.finished(metadata, self.sorted);
        let buffer = Vec::with_capacity(self.done_bytes + 16 * 1024);
        let mut file = SerializedFileWriter::new(buffer, self.layout.parquet.clone(), properties)?;
        for chunks in self.done {
            let mut group = file.next_row_group()?;
            for chunk in chunks {
                chunk.append_to_row_group(&mut group)?;
            }
            group.close()?;
        }
        Ok(file.into_inner()?.into())
    }

    fn encode_waiting(&mut self) -> Result<(), ParquetError> {
        if self.waiting_rows == 0 {
            return Ok(());
        }
        let arrays = self.waiting.take();
        let group = match &mut self.group {
            Some(group) => group,
            none => none.insert(Group {
                columns: columns(self.layout)?,
                rows: 0,
            }),
        };
        let mut columns = group.columns.iter_mut();
        for (field, array) in self.layout.arrow.fields().iter().zip(&arrays) {
            for leaf in compute_leaves(field, array)? {
                let column = columns
                    .next()
                    .ok_or_else(|| ParquetError::General("more leaves than columns".into()))?;
                column.write(&leaf)?;
            }
        }
        group.rows += self.waiting_rows;
        self.waiting_rows = 0;
        self.waiting_bytes = 0;

        let encoded: usize = group
            .columns
            .iter()
            .map(ArrowColumnWriter::get_estimated_total_bytes)
            .sum();
        if group.rows >= ROW_GROUP_ROWS || encoded >= ROW_GROUP_BYTES {
            self.close_group()?;
        }
        Ok(())
    }

    fn close_group(&mut self) -> Result<(), ParquetError> {
        let Some(group) = self.group.take() else {
            return Ok(());
        };
        let mut chunks = Vec::with_capacity(group.columns.len());
        for column in group.columns {
            let chunk = column.close()?;
            self.done_bytes += usize::try_from(chunk.close().bytes_written).unwrap_or(usize::MAX);
            chunks.push(chunk);
        }
        self.done.push(chunks);
        Ok(())
    }
}

/// Makes new column writers. The factory needs a file, from which it only reads the schema and the
/// properties.
fn columns(layout: &TableLayout) -> Result<Vec<ArrowColumnWriter>, ParquetError> {
    let shape = SerializedFileWriter::new(
        io::sink(),
        layout.parquet.clone(),
        layout.properties.clone(),
    )?;
    ArrowRowGroupWriterFactory::new(&shape, layout.arrow.clone()).create_column_writers(0)
}
