//! The open files of one cut.
//!
//! Nothing here touches a disk: a cut that is dropped has never existed.

use std::collections::BTreeMap;

use bytes::Bytes;
use chatledger_schemas::{CorpId, Message, Violation};
use chrono::NaiveDate;
use parquet::errors::ParquetError;

use crate::Error;
use crate::layout::Layout;
use crate::partition::{Key, Table, Zones};
use crate::rows::Row;
use crate::writer::{ROW_BYTES, Writer};

/// Rows of one cut, encoded as they come. Nothing is visible until the [`File`]s of
/// [`Open::finish`] are put.
///
/// Encoding is CPU work; call it off the async threads.
pub struct Open {
    zones: Zones,
    messages: Partitions<Message>,
    violations: Partitions<Violation>,
}

/// A finished file, not yet anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it belongs, relative to the target:
    /// `messages/corp_id=<id>/dt=<YYYY-MM-DD>/<cut>.parquet`.
    pub path: String,
    /// Its rows.
    pub rows: usize,
    /// The whole file.
    pub bytes: Bytes,
}

impl Open {
    /// A cut without rows.
    pub fn new(zones: Zones) -> Self {
        Self {
            zones,
            messages: Partitions::new(Table::Messages),
            violations: Partitions::new(Table::Violations),
        }
    }

    /// Adds rows, in the order in which they shall stand in the files.
    ///
    /// After an error the cut is spoilt: drop it and build it again from its rows.
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

    /// Messages and violations added so far.
    pub fn rows(&self) -> usize {
        self.messages.rows() + self.violations.rows()
    }

    /// Bytes of memory held, about; what a driver bounds besides the rows, because a cut over many
    /// days holds a file open for each.
    pub fn bytes(&self) -> usize {
        self.messages.bytes() + self.violations.bytes()
    }

    /// Finishes every file of the cut, in the order of their paths. `cut` becomes their name and
    /// `metadata` stands in each as key-value metadata.
    ///
    /// # Errors
    /// [`Error::Name`] unless `cut` is 1 to 200 ASCII letters, digits, `-`, `_` and `.` and begins
    /// with a letter or digit (readers skip names that begin with `.` or `_`).
    pub fn finish(self, cut: &str, metadata: &[(String, String)]) -> Result<Vec<File>, Error> {
        if !is_file_name(cut) {
            return Err(Error::Name {
                name: cut.to_owned(),
            });
        }
        let mut files = Vec::new();
        self.messages.finish(cut, metadata, &mut files)?;
        self.violations.finish(cut, metadata, &mut files)?;
        Ok(files)
    }
}

fn is_file_name(cut: &str) -> bool {
    cut.len() <= 200
        && cut.starts_with(|c: char| c.is_ascii_alphanumeric())
        && cut
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The open files of one table.
struct Partitions<R: Row> {
    table: Table,
    open: Vec<(Key, Writer<R>)>,
    /// Where in `open` a directory's file is.
    index: BTreeMap<Key, usize>,
    /// Where in `open` the last row went; the next one mostly belongs there too.
    last: usize,
}

impl<R: Row> Partitions<R> {
    fn new(table: Table) -> Self {
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

    fn writer(&mut self, corp: &CorpId, date: NaiveDate) -> Result<&mut Writer<R>, ParquetError> {
        let last = self.open.get(self.last);
        if !last.is_some_and(|(key, _)| key.date == date && key.corp_id == *corp) {
            let key = Key {
                table: self.table,
                corp_id: corp.clone(),
                date,
            };
            self.last = if let Some(&position) = self.index.get(&key) {
                position
            } else {
                let position = self.open.len();
                let writer = Writer::new(Layout::of(self.table)?);
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
        cut: &str,
        metadata: &[(String, String)],
        files: &mut Vec<File>,
    ) -> Result<(), Error> {
        self.open.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (key, writer) in self.open {
            files.push(File {
                path: format!("{key}/{cut}.parquet"),
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
    fn cut_that_is_no_file_name_is_refused() {
        for cut in [
            "", ".", "..", ".a", "_a", "-a", "a/b", "a\\b", "a b", "a=b", "a%2F", "企", "a\0",
        ] {
            let refused = Open::new(Zones::default()).finish(cut, &[]);
            assert!(matches!(refused, Err(Error::Name { .. })), "{cut:?}");
        }
        let long = "a".repeat(201);
        assert!(Open::new(Zones::default()).finish(&long, &[]).is_err());
        let files = Open::new(Zones::default()).finish("ww1-1-200", &[]);
        assert!(files.unwrap().is_empty());
    }
}
