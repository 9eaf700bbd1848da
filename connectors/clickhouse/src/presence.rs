//! Which rows of a batch are in their table.
//!
//! A server that is killed in the middle of an insert can remember the insert token without having
//! the rows (26.7 stores the token first); it then drops a repeated insert with that token. Check
//! here after repeating an insert.
//!
//! A row counts as present if any row with its sorting key is, because the sorting key is a function
//! of the message alone: a row that a later duplicate has replaced is present.

use std::collections::{BTreeMap, HashSet};

use crate::tables::BatchTable;
use crate::{ClickHouse, Error, RequestError};

/// Most rows of one query.
const ROWS: usize = 1000;
/// Bytes of keys in one query after which no further key is added. A single key may be longer.
const BYTES: usize = 128 << 10;
/// Longest query text the server accepts, for the case of a very long key.
const QUERY_BYTES: &str = "67108864";

impl ClickHouse {
    /// Returns the records of a batch whose rows are not in the table, in the order given.
    pub async fn absent<'r, T: BatchTable>(
        &self,
        _table: T,
        records: &[T::Record<'r>],
    ) -> Result<Vec<T::Record<'r>>, Error> {
        let mut by_corp: BTreeMap<&str, Vec<(usize, String)>> = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            let keys = by_corp.entry(T::corp(*record).as_str()).or_default();
            keys.push((index, T::key(*record)));
        }
        let mut absent = Vec::new();
        for (corp, keys) in by_corp {
            for keys in chunks(&keys) {
                let bounds: Option<Vec<i64>> = keys
                    .iter()
                    .map(|(index, _)| T::bound(records[*index]))
                    .collect();
                let wanted: Vec<&str> = keys.iter().map(|(_, key)| key.as_str()).collect();
                let present = self.present::<T>(corp, bounds.as_deref(), &wanted).await;
                let present = present.map_err(|source| Error::Query {
                    table: T::NAME,
                    source,
                })?;
                let missing = keys.iter().filter(|(_, key)| !present.contains(key));
                absent.extend(missing.map(|(index, _)| *index));
            }
        }
        absent.sort_unstable();
        Ok(absent.into_iter().map(|index| records[index]).collect())
    }

    async fn present<T: BatchTable>(
        &self,
        corp: &str,
        bounds: Option<&[i64]>,
        keys: &[&str],
    ) -> Result<HashSet<String>, RequestError> {
        let range = bounds.and_then(|bounds| Some((bounds.iter().min()?, bounds.iter().max()?)));
        let (first, last) = range.unwrap_or((&0, &0));
        let sql = format!(
            "SELECT DISTINCT {key} FROM {table} WHERE {condition} AND corp_id = ? \
             AND (? OR {bound}) AND {key} IN ?",
            key = T::KEY,
            table = T::NAME,
            condition = T::CONDITION.unwrap_or("true"),
            bound = T::BOUND.condition(),
        );
        let query = self
            .client
            .query(&sql)
            .bind(corp)
            .bind(range.is_none())
            .bind(first)
            .bind(last)
            .bind(keys)
            .with_setting("max_query_size", QUERY_BYTES)
            .fetch_all::<String>();
        Ok(self.within(query).await?.into_iter().collect())
    }
}

/// Splits a list into parts that fit into a query each.
fn chunks(mut keys: &[(usize, String)]) -> impl Iterator<Item = &[(usize, String)]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = keys.iter().take(ROWS).take_while(|(_, key)| {
            let fits = bytes < BYTES;
            bytes += key.len();
            fits
        });
        let (chunk, rest) = keys.split_at(fits.count());
        keys = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_everything_once_and_fit_into_a_query() {
        let keys: Vec<(usize, String)> = (0..2500)
            .map(|index| (index, "x".repeat(if index == 700 { 1 << 20 } else { 30 })))
            .collect();
        let parts: Vec<&[(usize, String)]> = chunks(&keys).collect();
        assert_eq!(parts.concat(), keys);
        assert!(parts.iter().all(|part| part.len() <= ROWS));
        assert_eq!(parts[0].len(), 701, "a very long key ends its query");
        assert!(chunks(&[]).next().is_none());
    }
}
