//! Compares one block record by record.

use std::collections::{BTreeMap, HashSet};

use chatledger_schemas::ledger::{Digest128, Outcome, RecordKey, Settlement};

use super::blocks::{Block, BlockReport};
use super::{Content, Finding, Mismatch, Place, counting};

/// Findings reported for one block; all of them are counted.
const REPORTED: usize = 20;

/// A record as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The record.
    pub key: RecordKey,
    /// Its outcome; `None` if it has none yet.
    pub outcome: Option<Outcome>,
    /// How many violations it may have: one number for each time it was settled.
    pub violations: Vec<u32>,
    /// Whether it was destroyed deliberately.
    pub destroyed: bool,
    /// Whether it may have been lost before an accepted gap.
    pub maybe_lost: bool,
}

impl Recorded {
    /// Starts with a record that has no outcome.
    pub fn new(key: RecordKey) -> Self {
        Self {
            key,
            outcome: None,
            violations: Vec::new(),
            destroyed: false,
            maybe_lost: false,
        }
    }

    /// Adds a settlement, in the ledger's order.
    pub fn settle(&mut self, settlement: &Settlement) {
        self.outcome = Some(counting(self.outcome, settlement.outcome));
        self.violations.push(settlement.violations);
    }
}

/// The rows of one block in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlaceRows {
    /// The place.
    pub place: Place,
    /// The record of each row.
    pub keys: Vec<RecordKey>,
    /// Msgids of missing records whose message has a row at another position there: a duplicate
    /// that arrived after the first had left the window.
    pub elsewhere: HashSet<Digest128>,
}

impl PlaceRows {
    /// The records of a block that have no row here and must have one, if their message has no row at
    /// another position.
    pub fn missing(&self, recorded: &[Recorded]) -> Vec<RecordKey> {
        let present: HashSet<&RecordKey> = self.keys.iter().collect();
        let is_violations = self.place.content == Content::Violations;
        recorded
            .iter()
            .filter(|one| one.outcome == Some(Outcome::Message) && !one.destroyed)
            .filter(|one| !is_violations || one.violations.iter().any(|number| *number > 0))
            .map(|one| one.key)
            .filter(|key| !present.contains(key))
            .collect()
    }
}

/// What the ledger says about a record.
#[derive(Debug, Default, Clone, Copy)]
enum Recording {
    /// Nothing.
    #[default]
    Unknown,
    /// It was pulled and has no outcome yet.
    Unsettled,
    /// It was pulled and has an outcome.
    Settled(Outcome),
    /// It was pulled and destroyed deliberately.
    Destroyed,
}

/// What the ledger says about one record, and how many rows it has in each place.
#[derive(Debug, Clone)]
struct Occurrences {
    recorded: Recording,
    violations: Vec<u32>,
    maybe_lost: bool,
    rows: Vec<usize>,
}

/// Compares a block record by record.
pub fn judge(block: &Block, recorded: &[Recorded], places: &[PlaceRows]) -> BlockReport {
    let mut records: BTreeMap<RecordKey, Occurrences> = BTreeMap::new();
    let none = Occurrences {
        recorded: Recording::Unknown,
        violations: Vec::new(),
        maybe_lost: false,
        rows: vec![0; places.len()],
    };
    for one in recorded {
        let record = records.entry(one.key).or_insert_with(|| none.clone());
        record.recorded = match one.outcome {
            _ if one.destroyed => Recording::Destroyed,
            Some(outcome) => Recording::Settled(outcome),
            None => Recording::Unsettled,
        };
        record.violations.clone_from(&one.violations);
        record.maybe_lost = one.maybe_lost;
    }
    for (number, place) in places.iter().enumerate() {
        for key in &place.keys {
            records.entry(*key).or_insert_with(|| none.clone()).rows[number] += 1;
        }
    }
    let mut report = BlockReport {
        missing: 0,
        unexpected: 0,
        repeated: 0,
        in_flight: 0,
        destroyed: 0,
        lost: 0,
        findings: Vec::new(),
        ..block.report()
    };
    for (key, record) in &records {
        let mut wrong = match record.recorded {
            Recording::Unsettled => {
                report.in_flight += 1;
                continue;
            }
            _ => mismatches(key, record, places, &mut report.duplicates),
        };
        if record.maybe_lost {
            let all = wrong.len();
            wrong.retain(|(what, _)| *what != Mismatch::Missing);
            report.lost += u64::from(wrong.len() < all);
        }
        report.destroyed += u64::from(matches!(record.recorded, Recording::Destroyed));
        let is = |kind| u64::from(wrong.iter().any(|(what, _)| *what == kind));
        report.missing += is(Mismatch::Missing);
        report.repeated += is(Mismatch::Repeated);
        report.unexpected += is(Mismatch::Unexpected);
        let room = REPORTED.saturating_sub(report.findings.len());
        let findings = wrong.into_iter().take(room).map(|(what, place)| Finding {
            seq: key.seq,
            what,
            place,
        });
        report.findings.extend(findings);
    }
    report.accounted = report.missing + report.unexpected + report.repeated + report.in_flight == 0;
    report
}

/// What is wrong with one settled or unknown record. `duplicates` counts late duplicates.
fn mismatches(
    key: &RecordKey,
    record: &Occurrences,
    places: &[PlaceRows],
    duplicates: &mut u64,
) -> Vec<(Mismatch, Place)> {
    let of = |content: Content| {
        let all = places.iter().zip(&record.rows);
        all.filter(move |(place, _)| place.place.content == content)
    };
    let count = |content| of(content).map(|(_, rows)| *rows).sum::<usize>();
    let unexpected = |content: Content| {
        let there = of(content).filter(|(_, rows)| **rows > 0);
        there.map(|(place, _)| (Mismatch::Unexpected, place.place))
    };
    let (open, discarded) = (Content::OpenDeadLetters, Content::DiscardedDeadLetters);
    match record.recorded {
        Recording::Unsettled => Vec::new(),
        // Nobody pulled it, it was destroyed, or its message was archived at an earlier position.
        Recording::Unknown | Recording::Destroyed | Recording::Settled(Outcome::Duplicate) => {
            unexpected(Content::Messages)
                .chain(unexpected(Content::Violations))
                .chain(unexpected(open))
                .collect()
        }
        // Dead-lettered and not replayed.
        Recording::Settled(Outcome::DeadLetter) if count(open) + count(discarded) > 0 => {
            unexpected(Content::Messages)
                .chain(unexpected(Content::Violations))
                .collect()
        }
        Recording::Settled(Outcome::DeadLetter) if count(Content::Messages) == 0 => of(open)
            .map(|(place, _)| (Mismatch::Missing, place.place))
            .collect(),
        // A message, or a dead letter that was replayed.
        Recording::Settled(Outcome::Message | Outcome::DeadLetter) => {
            let mut wrong: Vec<_> = unexpected(open).collect();
            for (place, rows) in of(Content::Messages) {
                match rows {
                    0 if place.elsewhere.contains(&key.msgid) => *duplicates += 1,
                    0 => wrong.push((Mismatch::Missing, place.place)),
                    1 => {}
                    _ => wrong.push((Mismatch::Repeated, place.place)),
                }
            }
            wrong.extend(of(Content::Violations).filter_map(|(place, rows)| {
                let what = wrong_number(*rows, &record.violations)?;
                // Kept at another position, with the message.
                let elsewhere = place.elsewhere.contains(&key.msgid);
                (!elsewhere || what != Mismatch::Missing).then_some((what, place.place))
            }));
            wrong
        }
    }
}

/// What is wrong with a number of violations; `accepted` has the numbers that are right.
fn wrong_number(rows: usize, accepted: &[u32]) -> Option<Mismatch> {
    let mut accepted = accepted.iter().map(|number| *number as usize);
    if accepted.clone().any(|number| number == rows) || accepted.len() == 0 && rows == 0 {
        return None;
    }
    Some(if accepted.any(|number| number > rows) {
        Mismatch::Missing
    } else {
        Mismatch::Unexpected
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::blocks::LedgerBlock;
    use crate::audit::kept_elsewhere;
    use chatledger_schemas::ledger::digest_of;

    const TABLE: Place = Place {
        sink: "table",
        content: Content::Messages,
    };
    const FILES: Place = Place {
        sink: "files",
        content: Content::Messages,
    };
    const OPEN: Place = Place {
        sink: "table",
        content: Content::OpenDeadLetters,
    };
    const DISCARDED: Place = Place {
        sink: "table",
        content: Content::DiscardedDeadLetters,
    };

    fn key(seq: u64) -> RecordKey {
        RecordKey {
            seq,
            msgid: digest_of(&seq.to_le_bytes()),
        }
    }

    fn block() -> Block {
        Block {
            number: 0,
            ledger: LedgerBlock::default(),
            places: Vec::new(),
        }
    }

    /// 1 and 2 are messages, 3 is a dead letter, 4 is a duplicate of 1.
    fn recorded() -> Vec<Recorded> {
        let outcomes = [
            Some(Outcome::Message),
            Some(Outcome::Message),
            Some(Outcome::DeadLetter),
            Some(Outcome::Duplicate),
        ];
        let each = outcomes.into_iter().zip(1..);
        each.map(|(outcome, seq)| Recorded {
            outcome,
            violations: vec![u32::from(seq == 2) * 2],
            ..Recorded::new(key(seq))
        })
        .collect()
    }

    fn place(place: Place, seqs: &[u64]) -> PlaceRows {
        PlaceRows {
            place,
            keys: seqs.iter().copied().map(key).collect(),
            elsewhere: HashSet::new(),
        }
    }

    const VIOLATIONS: Place = Place {
        sink: "table",
        content: Content::Violations,
    };

    fn rows(table: &[u64], files: &[u64], open: &[u64]) -> Vec<PlaceRows> {
        vec![place(TABLE, table), place(FILES, files), place(OPEN, open)]
    }

    fn findings(rows: &[PlaceRows]) -> Vec<(u64, Mismatch, Place)> {
        let report = judge(&block(), &recorded(), rows);
        assert_eq!(report.accounted, report.findings.is_empty());
        let each = report.findings.iter();
        each.map(|one| (one.seq, one.what, one.place)).collect()
    }

    #[test]
    fn every_mismatch_is_reported_with_its_record_and_place() {
        use Mismatch::{Missing, Repeated, Unexpected};
        assert_eq!(findings(&rows(&[1, 2], &[2, 1], &[3])), []);
        for (rows, finding) in [
            (rows(&[1], &[1, 2], &[3]), (2, Missing, TABLE)),
            (rows(&[1, 2], &[2], &[3]), (1, Missing, FILES)),
            (rows(&[1, 2], &[1, 2], &[]), (3, Missing, OPEN)),
            (rows(&[1, 2, 2], &[1, 2], &[3]), (2, Repeated, TABLE)),
            (rows(&[1, 2], &[1, 1, 2], &[3]), (1, Repeated, FILES)),
            (rows(&[1, 2, 77], &[1, 2], &[3]), (77, Unexpected, TABLE)),
            (rows(&[1, 2], &[1, 2, 4], &[3]), (4, Unexpected, FILES)),
            (rows(&[1, 2], &[1, 2], &[2, 3]), (2, Unexpected, OPEN)),
            (rows(&[1, 2, 3], &[1, 2], &[]), (3, Missing, FILES)),
        ] {
            assert_eq!(findings(&rows), [finding]);
        }
    }

    #[test]
    fn replayed_and_discarded_dead_letters_and_late_duplicates_are_accounted_for() {
        assert_eq!(findings(&rows(&[1, 2, 3], &[1, 2, 3], &[])), [], "replayed");
        let mut discarded = rows(&[1, 2], &[1, 2], &[]);
        discarded.push(place(DISCARDED, &[3]));
        assert_eq!(findings(&discarded), []);
        let mut late = rows(&[1], &[1, 2], &[3]);
        late[0].elsewhere = HashSet::from([key(2).msgid]);
        assert_eq!(findings(&late), []);
        assert_eq!(judge(&block(), &recorded(), &late).duplicates, 1);
    }

    #[test]
    fn violations_are_counted_and_destroyed_records_must_be_gone() {
        use Mismatch::{Missing, Unexpected};
        let with_violations = |violations: &[u64]| {
            let mut all = rows(&[1, 2], &[1, 2], &[3]);
            all.push(place(VIOLATIONS, violations));
            all
        };
        assert_eq!(findings(&with_violations(&[2, 2])), []);
        assert_eq!(findings(&with_violations(&[2])), [(2, Missing, VIOLATIONS)]);
        assert_eq!(findings(&with_violations(&[])), [(2, Missing, VIOLATIONS)]);
        for (rows, seq) in [
            (&[2, 2, 2][..], 2),
            (&[1, 2, 2], 1),
            (&[2, 2, 3], 3),
            (&[2, 2, 4], 4),
        ] {
            assert_eq!(
                findings(&with_violations(rows)),
                [(seq, Unexpected, VIOLATIONS)]
            );
        }
        let mut recorded = recorded();
        // The rules changed between a crash and the repeat: both numbers are right.
        recorded[0].violations.push(1);
        for rows in [&[1, 2, 2][..], &[2, 2]] {
            assert!(judge(&block(), &recorded, &with_violations(rows)).accounted);
        }
        recorded[1].destroyed = true;
        let gone = [
            place(TABLE, &[1]),
            place(OPEN, &[3]),
            place(VIOLATIONS, &[]),
        ];
        let report = judge(&block(), &recorded, &gone);
        assert_eq!((report.accounted, report.destroyed), (true, 1));
        let left = [place(TABLE, &[1, 2]), place(OPEN, &[3])];
        let report = judge(&block(), &recorded, &left);
        assert_eq!((report.unexpected, report.accounted), (1, false));
    }

    #[test]
    fn record_that_was_pulled_and_lost_in_an_accepted_gap_is_counted_and_not_missing() {
        let mut recorded = recorded();
        for one in &mut recorded[1..3] {
            one.maybe_lost = true;
        }
        let report = judge(&block(), &recorded, &rows(&[1], &[1, 2], &[]));
        assert_eq!(
            (report.accounted, report.lost, report.missing),
            (true, 2, 0)
        );
        // What was delivered after all is compared as usual, and so is what was not in the gap.
        let report = judge(&block(), &recorded, &rows(&[1, 2, 2], &[2], &[3]));
        assert_eq!((report.lost, report.missing, report.repeated), (0, 1, 1));
    }

    #[test]
    fn message_counts_as_kept_elsewhere_only_at_another_position() {
        let other = RecordKey { seq: 9, ..key(1) };
        assert!(kept_elsewhere(&[key(1)], &[key(1), key(2)]).is_empty());
        let found = kept_elsewhere(&[key(1), key(2)], &[key(1), other, key(2)]);
        assert_eq!(found, HashSet::from([key(1).msgid]));
    }

    #[test]
    fn settlement_that_is_added_later_hides_no_message() {
        let mut one = Recorded::new(key(1));
        for outcome in [Outcome::DeadLetter, Outcome::Message, Outcome::Duplicate] {
            one.settle(&Settlement::without_rows(outcome));
        }
        assert_eq!(one.outcome, Some(Outcome::Message));
    }

    #[test]
    fn record_without_an_outcome_is_in_flight() {
        let mut unsettled = recorded();
        unsettled[1].outcome = None;
        let report = judge(&block(), &unsettled, &rows(&[1], &[1], &[3]));
        assert_eq!(
            (report.in_flight, report.missing, report.accounted),
            (1, 0, false)
        );
    }
}
