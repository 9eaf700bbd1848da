//! Which rows of a batch are in their table.
//!
//! A server that was killed in the middle of an insert can remember its token without having its
//! rows (26.7 notes the token first); a repeat under that token is then dropped. So whoever repeats
//! an insert asks here afterwards.
//!
//! A row is there if any row of its sorting key is, which is a function of the message alone: one
//! that a later repeat by the archive has replaced counts as there.

use std::collections::{BTreeMap, HashSet};

use chatledger_schemas::{CorpId, DeadLetter, DeadLetterEvent, Message, Violation};

use crate::{ClickHouse, Error, Fault};

/// Rows asked for in one query at most.
const ROWS: usize = 1000;
/// Bytes of ids in one query, after which no further one is added; one alone may be longer.
const BYTES: usize = 128 << 10;
/// Longest query text the server shall take, where an id is a monster.
const QUERY_BYTES: &str = "67108864";
/// Times by which rows are looked for: 1970 to 2100, milliseconds. Others are not told apart by all
/// functions of ClickHouse.
const PLAUSIBLE: std::ops::Range<i64> = 0..4_102_444_800_000;

/// A row that can be asked for.
trait Kept: Sync {
    const TABLE: &'static str;
    /// The question; its parameters are the corp, whether to look everywhere or only between two
    /// places, those, and the ids.
    const ASK: &'static str;

    fn corp(&self) -> &CorpId;
    /// Where in the table's order it lies, if that helps to find it.
    fn place(&self) -> Option<i64>;
    fn id(&self) -> String;
}

impl Kept for Message {
    const TABLE: &'static str = "messages";
    const ASK: &'static str = "SELECT DISTINCT msgid FROM messages WHERE corp_id = ? AND (? OR \
        msgtime BETWEEN fromUnixTimestamp64Milli(?, 'UTC') AND fromUnixTimestamp64Milli(?, 'UTC')) \
        AND msgid IN ?";

    fn corp(&self) -> &CorpId {
        &self.corp_id
    }

    fn place(&self) -> Option<i64> {
        Some(self.msgtime).filter(|time| PLAUSIBLE.contains(time))
    }

    fn id(&self) -> String {
        self.msgid.clone()
    }
}

impl Kept for Violation {
    const TABLE: &'static str = "violations";
    const ASK: &'static str = "SELECT DISTINCT violation_id FROM violations WHERE corp_id = ? AND (? \
        OR msgtime BETWEEN fromUnixTimestamp64Milli(?, 'UTC') AND fromUnixTimestamp64Milli(?, 'UTC')) \
        AND violation_id IN ?";

    fn corp(&self) -> &CorpId {
        &self.corp_id
    }

    fn place(&self) -> Option<i64> {
        Some(self.msgtime).filter(|time| PLAUSIBLE.contains(time))
    }

    fn id(&self) -> String {
        self.violation_id.clone()
    }
}

impl Kept for DeadLetter {
    const TABLE: &'static str = "dead_letters";
    const ASK: &'static str = "SELECT DISTINCT concat(toString(seq), '/', msgid) AS id \
        FROM dead_letters WHERE corp_id = ? AND (? OR seq BETWEEN ? AND ?) AND id IN ?";

    fn corp(&self) -> &CorpId {
        &self.corp_id
    }

    fn place(&self) -> Option<i64> {
        i64::try_from(self.seq).ok()
    }

    fn id(&self) -> String {
        format!("{}/{}", self.seq, self.msgid)
    }
}

/// An event as the row that hides its letter.
struct Settling<'r>(&'r DeadLetterEvent);

impl Kept for Settling<'_> {
    const TABLE: &'static str = "dead_letters";
    const ASK: &'static str = "SELECT DISTINCT concat(toString(seq), '/', msgid) AS id \
        FROM dead_letters WHERE is_deleted = 1 AND corp_id = ? AND (? OR seq BETWEEN ? AND ?) \
        AND id IN ?";

    fn corp(&self) -> &CorpId {
        &self.0.corp_id
    }

    fn place(&self) -> Option<i64> {
        i64::try_from(self.0.seq).ok()
    }

    fn id(&self) -> String {
        format!("{}/{}", self.0.seq, self.0.msgid)
    }
}

impl Kept for DeadLetterEvent {
    const TABLE: &'static str = "dead_letter_events";
    const ASK: &'static str = "SELECT DISTINCT concat(toString(seq), '/', msgid, '/', \
        toString(attempt), '/', event) AS id FROM dead_letter_events WHERE corp_id = ? \
        AND (? OR seq BETWEEN ? AND ?) AND id IN ?";

    fn corp(&self) -> &CorpId {
        &self.corp_id
    }

    fn place(&self) -> Option<i64> {
        i64::try_from(self.seq).ok()
    }

    fn id(&self) -> String {
        let (attempt, event) = (self.attempt, self.event.as_str());
        format!("{}/{}/{attempt}/{event}", self.seq, self.msgid)
    }
}

impl ClickHouse {
    /// Those of the events whose letters are not hidden.
    pub async fn absent_settled_letters<'r>(
        &self,
        rows: &[&'r DeadLetterEvent],
    ) -> Result<Vec<&'r DeadLetterEvent>, Error> {
        let rows: Vec<Settling<'r>> = rows.iter().map(|event| Settling(event)).collect();
        let absent = self.absent(&rows.iter().collect::<Vec<_>>()).await?;
        Ok(absent.into_iter().map(|settling| settling.0).collect())
    }

    /// Those of the events that are not in their table.
    pub async fn absent_dead_letter_events<'r>(
        &self,
        rows: &[&'r DeadLetterEvent],
    ) -> Result<Vec<&'r DeadLetterEvent>, Error> {
        self.absent(rows).await
    }

    /// Those of the messages that are not in their table.
    pub async fn absent_messages<'r>(
        &self,
        rows: &[&'r Message],
    ) -> Result<Vec<&'r Message>, Error> {
        self.absent(rows).await
    }

    /// Those of the violations that are not in their table.
    pub async fn absent_violations<'r>(
        &self,
        rows: &[&'r Violation],
    ) -> Result<Vec<&'r Violation>, Error> {
        self.absent(rows).await
    }

    /// Those of the dead letters that are not in their table.
    pub async fn absent_dead_letters<'r>(
        &self,
        rows: &[&'r DeadLetter],
    ) -> Result<Vec<&'r DeadLetter>, Error> {
        self.absent(rows).await
    }

    async fn absent<'r, R: Kept>(&self, rows: &[&'r R]) -> Result<Vec<&'r R>, Error> {
        let failed = |source| Error::Look {
            table: R::TABLE,
            source,
        };
        let mut by_corp: BTreeMap<&str, Vec<(usize, String)>> = BTreeMap::new();
        for (index, row) in rows.iter().enumerate() {
            let ids = by_corp.entry(row.corp().as_str()).or_default();
            ids.push((index, row.id()));
        }
        let mut absent = Vec::new();
        for (corp, ids) in by_corp {
            for ids in chunks(&ids) {
                let places: Option<Vec<i64>> =
                    ids.iter().map(|(index, _)| rows[*index].place()).collect();
                let asked: Vec<&str> = ids.iter().map(|(_, id)| id.as_str()).collect();
                let there = self.there::<R>(corp, places.as_deref(), &asked).await;
                let there = there.map_err(failed)?;
                let missing = ids.iter().filter(|(_, id)| !there.contains(id));
                absent.extend(missing.map(|(index, _)| *index));
            }
        }
        // In the order in which they were given.
        absent.sort_unstable();
        Ok(absent.into_iter().map(|index| rows[index]).collect())
    }

    async fn there<R: Kept>(
        &self,
        corp: &str,
        places: Option<&[i64]>,
        ids: &[&str],
    ) -> Result<HashSet<String>, Fault> {
        let range = places.and_then(|places| Some((places.iter().min()?, places.iter().max()?)));
        let (first, last) = range.unwrap_or((&0, &0));
        let query = self
            .client
            .query(R::ASK)
            .bind(corp)
            .bind(range.is_none())
            .bind(first)
            .bind(last)
            .bind(ids)
            .with_setting("max_query_size", QUERY_BYTES)
            .fetch_all::<String>();
        Ok(self.within(query).await?.into_iter().collect())
    }
}

/// Parts of a list that fit into a query each.
fn chunks(mut ids: &[(usize, String)]) -> impl Iterator<Item = &[(usize, String)]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = ids.iter().take(ROWS).take_while(|(_, id)| {
            let fits = bytes < BYTES;
            bytes += id.len();
            fits
        });
        let (chunk, rest) = ids.split_at(fits.count());
        ids = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_everything_once_and_fit_into_a_query() {
        let ids: Vec<(usize, String)> = (0..2500)
            .map(|index| (index, "x".repeat(if index == 700 { 1 << 20 } else { 30 })))
            .collect();
        let parts: Vec<&[(usize, String)]> = chunks(&ids).collect();
        assert_eq!(parts.concat(), ids);
        assert!(parts.iter().all(|part| part.len() <= ROWS));
        assert_eq!(parts[0].len(), 701, "a monster ends its query");
        assert!(chunks(&[]).next().is_none());
    }
}
