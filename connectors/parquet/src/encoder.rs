//! Encodes the rows of one batch, in memory. Dropping an encoder leaves nothing behind.

use std::collections::BTreeMap;

use bytes::Bytes;
use chatledger_schemas::{CorpId, Message, Violation};
use chrono::NaiveDate;
use parquet::errors::ParquetError;

use crate::Error;
use crate::file_encoder::{FileEncoder, ROW_BYTES};
use crate::layout::TableLayout;
use crate::partition::{ParquetTable, PartitionKey, Zones};
use crate::rows::EncodableRow;

/// Encodes the rows of one batch as they are added. Nothing is visible until the [`EncodedFile`]s of
/// [`BatchEncoder::finish`] are put.
///
/// Encoding is CPU work; call it outside the async threads.
pub struct BatchEncoder {
    zones: Zones,
    messages: Partitions<Message>,
    violations: Partitions<Violation>,
}

/// A complete file in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFile {
    /// Path relative to the target: `messages/corp_id=<id>/dt=<YYYY-MM-DD>/<batch>.parquet`.
    pub path: String,
    /// Number of rows.
    pub rows: usize,
    /// Its content.
    pub bytes: Bytes,
}

impl BatchEncoder {
    /// Makes an encoder without rows.
    pub fn new(zones: Zones) -> Self {
        Self {
            zones,
            messages: Partitions::new(ParquetTable::Messages),
            violations: Partitions::new(ParquetTable::Violations),
        }
    }

    /// Adds rows, in the order in which the files are to hold them.
    ///
    /// After an error the encoder is unusable: drop it and encode the batch again from its rows.
    pub fn append(&mut self, messages: &[Message], violations: &[Violation]) -> Result<(), Error> {
        for row in messages {
            self.messages
                .push(&self.zones, &row.corp_id, row.msgtime, row)?;
        }
        for row in violations {
            self.violations
                .push(&self.zones, &row.corp_id, row.msgtime, row)?;
        }
        Ok(())
    }

    /// Returns the number of messages and violations added so far.
    pub fn rows(&self) -> usize {
        self.messages.rows() + self.violations.rows()
    }

    /// Returns approximately how many bytes of memory are in use. A driver limits them in addition to
    /// the rows, because a batch that covers many days has a file open for each.
    pub fn bytes(&self) -> usize {
        self.messages.bytes() + self.violations.bytes()
    }

    /// Completes the files of the batch and returns them ordered by path. `name` becomes their name;
    /// `metadata` is written into each as key-value metadata.
    ///
    /// # Errors
    /// [`Error::Name`] unless `name` consists of 1 to 200 ASCII letters, digits, `-`, `_` and `.` and
    /// begins with a letter or digit (readers skip names that begin with `.` or `_`).
    pub fn finish(
        self,
        name: &str,
        metadata: &[(String, String)],
    ) -> Result<Vec<EncodedFile>, Error> {
        if !is_file_name(name) {
            return Err(Error::Name {
                name: name.to_owned(),
            });
        }
        let mut files = Vec::new();
        self.messages.finish(name, metadata, &mut files)?;
        self.violations.finish(name, metadata, &mut files)?;
        Ok(files)
    }
}

fn is_file_name(name: &str) -> bool {
    name.len() <= 200
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The open files of one table.
struct Partitions<R: EncodableRow> {
    table: ParquetTable,
    open: Vec<(PartitionKey, FileEncoder<R>)>,
    /// Index in `open` of a partition's file.
    index: BTreeMap<PartitionKey, usize>,
    /// Index in `open` of the last row's file; usually also the next row's.
    last: usize,
}

impl<R: EncodableRow> Partitions<R> {
    fn new(table: ParquetTable) -> Self {
        Self {
            table,
            open: Vec::new(),
            index: BTreeMap::new(),
            last: 0,
        }
    }

    fn push(&mut self, zones: &Zones, corp: &CorpId, msgtime: i64, row: &R) -> Result<(), Error> {
        let bytes = row.text_bytes();
        if bytes > ROW_BYTES {
            return Err(Error::RowTooLarge {
                seq: row.seq(),
                bytes,
                limit: ROW_BYTES,
            });
        }
        let table = self.table;
        let failed = |source| Error::Encode {
            table: table.as_str(),
            source,
        };
        let writer = self
            .writer(corp, zones.date(corp, msgtime))
            .map_err(failed)?;
        writer.push(row).map_err(failed)
    }

    fn writer(
        &mut self,
        corp: &CorpId,
        date: NaiveDate,
    ) -> Result<&mut FileEncoder<R>, ParquetError> {
        let last = self.open.get(self.last);
        if !last.is_some_and(|(key, _)| key.date == date && key.corp_id == *corp) {
            let key = PartitionKey {
                table: self.table,
                corp_id: corp.clone(),
                date,
            };
            self.last = if let Some(&position) = self.index.get(&key) {
                position
            } else {
                let position = self.open.len();
                let writer = FileEncoder::new(TableLayout::of(self.table)?);
                self.open.push((key.clone(), writer));
                self.index.insert(key, position);
                position
            };
        }
        Ok(&mut self.open[self.last].1)
    }

    fn rows(&self) -> usize {
        self.open.iter().map(|(_, writer)| writer.rows()).sum()
    }

    fn bytes(&self) -> usize {
        self.open.iter().map(|(_, writer)| writer.bytes()).sum()
    }

    fn finish(
        mut self,
        name: &str,
        metadata: &[(String, String)],
        files: &mut Vec<EncodedFile>,
    ) -> Result<(), Error> {
        self.open.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (key, writer) in self.open {
            files.push(EncodedFile {
                path: format!("{key}/{name}.parquet"),
                rows: writer.rows(),
                bytes: writer.finish(metadata).map_err(|source| Error::Encode {
                    table: self.table.as_str(),
                    source,
                })?,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn invalid_file_name_is_refused() {
        for name in [
            "", ".", "..", ".a", "_a", "-a", "a/b", "a\\b", "a b", "a=b", "a%2F", "企", "a\0",
        ] {
            let refused = BatchEncoder::new(Zones::default()).finish(name, &[]);
            assert!(matches!(refused, Err(Error::Name { .. })), "{name:?}");
        }
        let long = "a".repeat(201);
        assert!(
            BatchEncoder::new(Zones::default())
                .finish(&long, &[])
                .is_err()
        );
        let files = BatchEncoder::new(Zones::default()).finish("ww1-1-200", &[]);
        assert!(files.unwrap().is_empty());
    }
}
