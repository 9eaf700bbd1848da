//! What the ledger knows about the rows of every record, and how the rows of one sink differ from it.

use std::collections::{HashMap, HashSet};

use chatledger_schemas::ledger::{
    Digest128, Outcome, RecordKey, RecordOutcome, RowDigest, Settlement, combined,
};

use super::Content;
use super::chain::Tampered;

/// The settlements in a ledger.
#[derive(Debug, Default)]
pub struct Known {
    /// The first settlement of each record.
    first: HashMap<RecordKey, Settlement>,
    /// Further settlements, in their order.
    further: HashMap<RecordKey, Vec<Settlement>>,
    /// Ranges of positions whose records were destroyed, both ends included.
    destroyed: Vec<(u64, u64)>,
    /// Ranges of positions whose records may have been lost before an accepted gap.
    maybe_lost: Vec<(u64, u64)>,
    /// Records that were settled again without having been a dead letter, with another row or outcome.
    resettled: Vec<RecordKey>,
    /// Messages that were settled again with the same row and other violations.
    other_violations: Vec<RecordKey>,
}

impl Known {
    /// Adds a settlement, in the ledger's order.
    pub fn settled(&mut self, outcome: &RecordOutcome) {
        let RecordOutcome {
            seq,
            msgid,
            settlement,
        } = *outcome;
        let key = RecordKey { seq, msgid };
        let Some(first) = self.first.get(&key) else {
            self.first.insert(key, settlement);
            return;
        };
        let further = self.further.entry(key).or_default();
        let before = further.iter().fold(*first, counting_settlement);
        let differs = (before.outcome, before.row) != (settlement.outcome, settlement.row);
        // The archive may return a record a second time.
        let is_repeat = settlement.outcome == Outcome::Duplicate;
        if before.outcome != Outcome::DeadLetter && differs && !is_repeat {
            self.resettled.push(key);
        }
        let violations = |one: &Settlement| (one.violations, one.violation_rows);
        let is_message = before.outcome == Outcome::Message && !is_repeat && !differs;
        if is_message && violations(&before) != violations(&settlement) {
            self.other_violations.push(key);
        }
        if *first != settlement && !further.contains(&settlement) {
            further.push(settlement);
        }
    }

    /// Adds a range of positions whose records were destroyed.
    pub fn destroyed(&mut self, first: u64, last: u64) {
        self.destroyed.push((first, last));
    }

    /// Adds a range of positions whose records may have been lost before an accepted gap.
    pub fn maybe_lost(&mut self, first: u64, last: u64) {
        self.maybe_lost.push((first, last));
    }

    /// Positions of settled records, ascending.
    pub fn positions(&self) -> Vec<u64> {
        let mut positions: Vec<u64> = self.first.keys().map(|key| key.seq).collect();
        positions.sort_unstable();
        positions.dedup();
        positions
    }

    /// Records that were settled again without having been a dead letter, with another row or outcome.
    pub fn resettled(&self) -> &[RecordKey] {
        &self.resettled
    }

    /// Messages that were settled again with the same row and other violations. With the direct driver
    /// this happens if the rules have changed between a crash and the repeat, otherwise never.
    pub fn other_violations(&self) -> &[RecordKey] {
        &self.other_violations
    }

    /// Number of ranges whose records were destroyed.
    pub fn destructions(&self) -> usize {
        self.destroyed.len()
    }

    fn is_destroyed(&self, key: RecordKey) -> bool {
        within(&self.destroyed, key)
    }

    /// All settlements of a record.
    fn of(&self, key: RecordKey) -> impl Iterator<Item = &Settlement> {
        let further = self.further.get(&key).into_iter().flatten();
        self.first.get(&key).into_iter().chain(further)
    }

    /// The settlement that counts.
    fn last(&self, key: RecordKey, first: Settlement) -> Settlement {
        let further = self.further.get(&key).into_iter().flatten();
        further.fold(first, counting_settlement)
    }

    /// Records that must have rows of this content, in no order.
    fn expected(&self, content: Content) -> impl Iterator<Item = RecordKey> {
        let all = self.first.iter();
        let settled = all.map(|(key, first)| (*key, self.last(*key, *first)));
        settled
            .filter(move |(_, settlement)| match content {
                Content::Messages => settlement.outcome == Outcome::Message,
                Content::Violations => settlement.violations > 0,
                // Discarded ones have no row; `reconcile` knows them.
                Content::OpenDeadLetters | Content::DiscardedDeadLetters => false,
            })
            .map(|(key, _)| key)
            .filter(|key| !self.is_destroyed(*key) && !within(&self.maybe_lost, *key))
    }
}

fn within(ranges: &[(u64, u64)], key: RecordKey) -> bool {
    let mut ranges = ranges.iter();
    ranges.any(|(first, last)| (*first..=*last).contains(&key.seq))
}

/// As [`super::counting`], for settlements.
fn counting_settlement(before: Settlement, next: &Settlement) -> Settlement {
    match (before.outcome, next.outcome) {
        (Outcome::DeadLetter, _) | (Outcome::Message, Outcome::Message) => *next,
        _ => before,
    }
}

/// Something that is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongRow {
    /// What.
    pub what: Tampered,
    /// The part of the sink that holds it.
    pub part: String,
    /// Its record.
    pub key: RecordKey,
    /// Whether the ledger may know it by now: it was written while the ledger was read.
    pub maybe_new: bool,
}

/// Rows of one content in one sink, compared with the ledger.
#[derive(Debug)]
pub struct SinkRows<'a> {
    known: &'a Known,
    content: Content,
    /// The digests of each record's rows, and the part that holds the first.
    grouped: HashMap<RecordKey, (String, Vec<Digest128>)>,
    /// The digests of rows that may be new, by record.
    unsure: HashMap<RecordKey, Vec<Digest128>>,
    present: HashSet<RecordKey>,
    wrong: Vec<WrongRow>,
    count: u64,
}

impl<'a> SinkRows<'a> {
    /// Starts without rows.
    pub fn new(known: &'a Known, content: Content) -> Self {
        Self {
            known,
            content,
            grouped: HashMap::new(),
            unsure: HashMap::new(),
            present: HashSet::new(),
            wrong: Vec::new(),
            count: 0,
        }
    }

    /// Adds a row that a part of the sink holds.
    pub fn add(&mut self, part: &str, row: RowDigest) {
        self.count += 1;
        let first = self.present.insert(row.key);
        if self.content == Content::Violations {
            let rows = self.grouped.entry(row.key);
            let rows = rows.or_insert_with(|| (part.to_owned(), Vec::new()));
            rows.1.push(row.digest);
            return;
        }
        let wanted = match self.content {
            Content::Messages => Outcome::Message,
            _ => Outcome::DeadLetter,
        };
        let settled = self.known.of(row.key);
        let mut settled = settled
            .filter(|settlement| settlement.outcome == wanted)
            .peekable();
        let has_row = settled.peek().is_some();
        let what = if !first || self.known.is_destroyed(row.key) {
            Some((Tampered::Inserted, false))
        } else if settled.any(|settlement| settlement.row == row.digest) {
            None
        } else if has_row {
            Some((Tampered::Changed, false))
        } else {
            // A dead letter may be replayed while the sinks are read.
            Some((Tampered::Inserted, true))
        };
        if let Some((what, maybe_new)) = what {
            if maybe_new {
                self.unsure.insert(row.key, vec![row.digest]);
            }
            self.find(what, part.to_owned(), row.key, maybe_new);
        }
    }

    /// The digests of a record's rows, if they may be new.
    pub fn digests(&self, key: RecordKey) -> &[Digest128] {
        self.unsure.get(&key).map_or(&[], Vec::as_slice)
    }

    fn find(&mut self, what: Tampered, part: String, key: RecordKey, maybe_new: bool) {
        self.wrong.push(WrongRow {
            what,
            part,
            key,
            maybe_new,
        });
    }

    /// Number of rows.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns what is wrong with the rows that are there, ascending.
    pub fn wrong(&mut self) -> Vec<WrongRow> {
        for (key, (part, mut digests)) in std::mem::take(&mut self.grouped) {
            let rows = digests.len() as u64;
            let digest = combined(&mut digests);
            let mut settled = self.known.of(key).peekable();
            let unknown = settled.peek().is_none();
            let right = |settlement: &&Settlement| {
                (u64::from(settlement.violations), settlement.violation_rows) == (rows, digest)
            };
            let settled: Vec<&Settlement> = settled.collect();
            let numbers = || settled.iter().map(|one| u64::from(one.violations));
            let what = if self.known.is_destroyed(key) || unknown {
                Tampered::Inserted
            } else if settled.iter().any(right) {
                continue;
            } else if numbers().any(|number| number == rows) {
                Tampered::Changed
            } else if numbers().any(|number| number > rows) {
                Tampered::Removed
            } else {
                Tampered::Inserted
            };
            let maybe_new = unknown || what == Tampered::Inserted;
            if maybe_new {
                self.unsure.insert(key, digests);
            }
            self.find(what, part, key, maybe_new);
        }
        let mut wrong = std::mem::take(&mut self.wrong);
        wrong.sort_by_key(|one| one.key);
        wrong
    }

    /// Returns the records without a row that must have one, ascending.
    pub fn missing(&self) -> Vec<RecordKey> {
        let expected = self.known.expected(self.content);
        let mut missing: Vec<RecordKey> =
            expected.filter(|key| !self.present.contains(key)).collect();
        missing.sort_unstable();
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seq: u64) -> RecordKey {
        RecordKey {
            seq,
            msgid: [seq as u8; 16],
        }
    }

    fn settle(known: &mut Known, seq: u64, outcome: Outcome, row: u8, violations: &[u8]) {
        let mut rows: Vec<Digest128> = violations.iter().map(|row| [*row; 16]).collect();
        known.settled(&RecordOutcome {
            seq,
            msgid: key(seq).msgid,
            settlement: Settlement {
                outcome,
                row: [row; 16],
                violations: rows.len() as u32,
                violation_rows: combined(&mut rows),
            },
        });
    }

    /// 1 has two violations, 2 is a dead letter that was replayed, 3 is open, 4 a duplicate.
    fn known() -> Known {
        let mut known = Known::default();
        settle(&mut known, 1, Outcome::Message, 11, &[1, 2]);
        settle(&mut known, 2, Outcome::DeadLetter, 20, &[]);
        settle(&mut known, 3, Outcome::DeadLetter, 30, &[]);
        settle(&mut known, 4, Outcome::Duplicate, 0, &[]);
        settle(&mut known, 2, Outcome::Message, 22, &[7]);
        known
    }

    fn compare(known: &Known, content: Content, held: &[(u64, u8)]) -> Vec<(Tampered, u64)> {
        let mut rows = SinkRows::new(known, content);
        for (seq, digest) in held {
            let digest = [*digest; 16];
            rows.add(
                "part",
                RowDigest {
                    key: key(*seq),
                    digest,
                },
            );
        }
        let missing = rows.missing();
        let mut all: Vec<_> = rows
            .wrong()
            .iter()
            .map(|one| (one.what, one.key.seq))
            .collect();
        all.extend(missing.iter().map(|key| (Tampered::Removed, key.seq)));
        all
    }

    #[test]
    fn rows_that_differ_from_the_ledger_are_named() {
        use Tampered::{Changed, Inserted, Removed};
        let known = known();
        assert!(known.resettled().is_empty());
        for (held, found) in [
            (&[(1, 11), (2, 22)][..], vec![]),
            (&[(1, 12), (2, 22)], vec![(Changed, 1)]),
            (&[(1, 11)], vec![(Removed, 2)]),
            (&[(1, 11), (2, 22), (2, 22)], vec![(Inserted, 2)]),
            (&[(1, 11), (2, 22), (3, 30)], vec![(Inserted, 3)]),
            (&[(1, 11), (2, 22), (4, 9)], vec![(Inserted, 4)]),
            (&[(1, 11), (2, 22), (9, 9)], vec![(Inserted, 9)]),
        ] {
            assert_eq!(compare(&known, Content::Messages, held), found, "{held:?}");
        }
        for (held, found) in [
            (&[(1, 2), (1, 1), (2, 7)][..], vec![]),
            (&[(1, 1), (2, 7)], vec![(Removed, 1)]),
            (&[(2, 7)], vec![(Removed, 1)]),
            (&[(1, 1), (1, 3), (2, 7)], vec![(Changed, 1)]),
            (&[(1, 1), (1, 2), (1, 3), (2, 7)], vec![(Inserted, 1)]),
            (&[(1, 1), (1, 2), (2, 7), (8, 1)], vec![(Inserted, 8)]),
        ] {
            assert_eq!(
                compare(&known, Content::Violations, held),
                found,
                "{held:?}"
            );
        }
        for (held, found) in [
            (&[(3, 30)][..], vec![]),
            (&[(3, 31)], vec![(Changed, 3)]),
            (&[(1, 30), (3, 30)], vec![(Inserted, 1)]),
        ] {
            assert_eq!(
                compare(&known, Content::OpenDeadLetters, held),
                found,
                "{held:?}"
            );
        }
    }

    #[test]
    fn second_settlement_that_differs_is_reported_and_violations_of_other_rules_are_accepted() {
        let mut known = known();
        settle(&mut known, 1, Outcome::Message, 11, &[5]);
        settle(&mut known, 1, Outcome::Duplicate, 0, &[]);
        assert!(known.resettled().is_empty());
        assert_eq!(known.other_violations(), [key(1)]);
        for held in [&[(1, 1), (1, 2), (2, 7)][..], &[(1, 5), (2, 7)]] {
            assert_eq!(compare(&known, Content::Violations, held), []);
        }
        settle(&mut known, 1, Outcome::Message, 99, &[]);
        settle(&mut known, 4, Outcome::Message, 1, &[]);
        assert_eq!(known.resettled(), [key(1), key(4)]);
    }

    #[test]
    fn destroyed_records_are_not_missing_and_their_rows_are_reported() {
        let mut known = known();
        known.destroyed(1, 2);
        assert_eq!(compare(&known, Content::Messages, &[]), []);
        assert_eq!(compare(&known, Content::Violations, &[]), []);
        let mut gap = self::known();
        gap.maybe_lost(2, 9);
        assert_eq!(compare(&gap, Content::Messages, &[(1, 11)]), []);
        assert_eq!(
            compare(&gap, Content::Messages, &[]),
            [(Tampered::Removed, 1)]
        );
        let left = compare(&known, Content::Messages, &[(1, 11)]);
        assert_eq!(left, [(Tampered::Inserted, 1)]);
    }
}
