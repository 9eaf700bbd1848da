//! Compares one block record by record.

use std::collections::{BTreeMap, HashSet};

use chatledger_schemas::ledger::{Digest128, Outcome};

use super::blocks::{Block, BlockReport};
use super::{Finding, Key, Wrong};

/// Findings that are told of one block at most; all of them are counted.
const TOLD: usize = 20;

/// A record as the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// Which record.
    pub key: Key,
    /// What became of it; `None` if that is not known yet.
    pub outcome: Option<Outcome>,
}

/// The rows of one block, place by place; `None` where a place is not in use.
#[derive(Debug, Default)]
pub struct Rows {
    /// Rows of the table, each as often as it stands there.
    pub clickhouse: Option<Vec<Key>>,
    /// Rows of the files, each as often as it stands there.
    pub parquet: Option<Vec<Key>>,
    /// Open letters.
    pub open: Option<Vec<Key>>,
    /// Dropped letters.
    pub dropped: Vec<Key>,
    /// Msgids of records missing in the table whose message stands there under another position:
    /// a repeat by the archive that came after the first had been forgotten.
    pub elsewhere: HashSet<Digest128>,
}

/// The records of a block that the table does not have.
pub fn missing_in_clickhouse(recorded: &[Recorded], rows: &Rows) -> Vec<Key> {
    let Some(clickhouse) = &rows.clickhouse else {
        return Vec::new();
    };
    let there: HashSet<&Key> = clickhouse.iter().collect();
    recorded
        .iter()
        .filter(|one| one.outcome == Some(Outcome::Message) && !there.contains(&one.key))
        .map(|one| one.key)
        .collect()
}

/// What the ledger says of a record.
#[derive(Debug, Default, Clone, Copy)]
enum Recording {
    /// Nothing.
    #[default]
    Unknown,
    /// It was pulled.
    Unsettled,
    /// It was pulled, and this became of it.
    As(Outcome),
}

/// Where one record stands, and how often.
#[derive(Debug, Default, Clone, Copy)]
struct Standing {
    recorded: Recording,
    clickhouse: usize,
    parquet: usize,
    open: usize,
    dropped: usize,
}

/// Judges a block record by record.
pub fn judge(block: &Block, recorded: &[Recorded], rows: &Rows) -> BlockReport {
    let mut standing: BTreeMap<Key, Standing> = BTreeMap::new();
    for one in recorded {
        standing.entry(one.key).or_default().recorded =
            one.outcome.map_or(Recording::Unsettled, Recording::As);
    }
    for key in rows.clickhouse.iter().flatten() {
        standing.entry(*key).or_default().clickhouse += 1;
    }
    for key in rows.parquet.iter().flatten() {
        standing.entry(*key).or_default().parquet += 1;
    }
    for key in rows.open.iter().flatten() {
        standing.entry(*key).or_default().open += 1;
    }
    for key in &rows.dropped {
        standing.entry(*key).or_default().dropped += 1;
    }
    let mut report = BlockReport {
        missing: 0,
        unexpected: 0,
        repeated: 0,
        in_flight: 0,
        findings: Vec::new(),
        ..block.report()
    };
    for (key, at) in &standing {
        let mut wrong = Vec::new();
        look(key, at, rows, &mut report, &mut wrong);
        let is = |kinds: &[Wrong]| u64::from(wrong.iter().any(|what| kinds.contains(what)));
        report.missing += is(&[
            Wrong::MissingInClickhouse,
            Wrong::MissingInParquet,
            Wrong::MissingLetter,
        ]);
        report.repeated += is(&[Wrong::RepeatedInClickhouse, Wrong::RepeatedInParquet]);
        report.unexpected += is(&[
            Wrong::UnexpectedInClickhouse,
            Wrong::UnexpectedInParquet,
            Wrong::UnexpectedLetter,
        ]);
        let room = TOLD.saturating_sub(report.findings.len());
        let told = wrong.into_iter().take(room);
        report
            .findings
            .extend(told.map(|what| Finding { seq: key.seq, what }));
    }
    report.accounted = report.missing + report.unexpected + report.repeated + report.in_flight == 0;
    report
}

fn look(key: &Key, at: &Standing, rows: &Rows, report: &mut BlockReport, wrong: &mut Vec<Wrong>) {
    let sinks = at.clickhouse + at.parquet > 0;
    let unexpected = |wrong: &mut Vec<Wrong>| {
        if at.clickhouse > 0 {
            wrong.push(Wrong::UnexpectedInClickhouse);
        }
        if at.parquet > 0 {
            wrong.push(Wrong::UnexpectedInParquet);
        }
    };
    match at.recorded {
        Recording::Unsettled => report.in_flight += 1,
        // Nobody pulled it, or its message is there under an earlier position.
        Recording::Unknown | Recording::As(Outcome::Duplicate) => {
            unexpected(wrong);
            if at.open > 0 {
                wrong.push(Wrong::UnexpectedLetter);
            }
        }
        // Parked, and not replayed.
        Recording::As(Outcome::DeadLetter) if at.open + at.dropped > 0 => unexpected(wrong),
        Recording::As(Outcome::DeadLetter) if !sinks => {
            if rows.open.is_some() {
                wrong.push(Wrong::MissingLetter);
            }
        }
        Recording::As(Outcome::Message | Outcome::DeadLetter) => {
            if at.open > 0 {
                wrong.push(Wrong::UnexpectedLetter);
            }
            if rows.clickhouse.is_some() {
                match at.clickhouse {
                    0 if rows.elsewhere.contains(&key.msgid) => report.duplicates += 1,
                    0 => wrong.push(Wrong::MissingInClickhouse),
                    1 => {}
                    _ => wrong.push(Wrong::RepeatedInClickhouse),
                }
            }
            if rows.parquet.is_some() {
                match at.parquet {
                    0 => wrong.push(Wrong::MissingInParquet),
                    1 => {}
                    _ => wrong.push(Wrong::RepeatedInParquet),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::blocks::Tally;
    use chatledger_schemas::ledger::digest_of;

    fn key(seq: u64) -> Key {
        Key {
            seq,
            msgid: digest_of(&seq.to_le_bytes()),
        }
    }

    fn block() -> Block {
        Block {
            number: 0,
            ledger: Tally::default(),
            clickhouse: None,
            parquet: None,
            open: None,
            dropped: None,
        }
    }

    /// 1 and 2 are messages, 3 is parked, 4 repeats 1, 5 is on its way.
    fn recorded() -> Vec<Recorded> {
        let outcomes = [
            Some(Outcome::Message),
            Some(Outcome::Message),
            Some(Outcome::DeadLetter),
            Some(Outcome::Duplicate),
        ];
        let each = outcomes.into_iter().zip(1..);
        each.map(|(outcome, seq)| Recorded {
            key: key(seq),
            outcome,
        })
        .collect()
    }

    fn rows(clickhouse: &[u64], parquet: &[u64], open: &[u64]) -> Rows {
        let keys = |seqs: &[u64]| Some(seqs.iter().copied().map(key).collect());
        Rows {
            clickhouse: keys(clickhouse),
            parquet: keys(parquet),
            open: keys(open),
            ..Rows::default()
        }
    }

    fn findings(rows: &Rows) -> Vec<(u64, Wrong)> {
        let report = judge(&block(), &recorded(), rows);
        assert_eq!(report.accounted, report.findings.is_empty());
        report
            .findings
            .iter()
            .map(|one| (one.seq, one.what))
            .collect()
    }

    #[test]
    fn every_way_of_being_wrong_is_named_with_its_record() {
        use Wrong as W;
        assert_eq!(findings(&rows(&[1, 2], &[2, 1], &[3])), []);
        assert_eq!(
            findings(&rows(&[1], &[1, 2], &[3])),
            [(2, W::MissingInClickhouse)]
        );
        assert_eq!(
            findings(&rows(&[1, 2], &[2], &[3])),
            [(1, W::MissingInParquet)]
        );
        assert_eq!(
            findings(&rows(&[1, 2], &[1, 2], &[])),
            [(3, W::MissingLetter)]
        );
        assert_eq!(
            findings(&rows(&[1, 2, 2], &[1, 2], &[3])),
            [(2, W::RepeatedInClickhouse)]
        );
        assert_eq!(
            findings(&rows(&[1, 2], &[1, 1, 2], &[3])),
            [(1, W::RepeatedInParquet)]
        );
        assert_eq!(
            findings(&rows(&[1, 2, 77], &[1, 2], &[3])),
            [(77, W::UnexpectedInClickhouse)]
        );
        assert_eq!(
            findings(&rows(&[1, 2], &[1, 2, 4], &[3])),
            [(4, W::UnexpectedInParquet)]
        );
        assert_eq!(
            findings(&rows(&[1, 2], &[1, 2], &[2, 3])),
            [(2, W::UnexpectedLetter)]
        );
        assert_eq!(
            findings(&rows(&[1, 2, 3], &[1, 2], &[])),
            [(3, W::MissingInParquet)]
        );
    }

    #[test]
    fn letters_that_were_replayed_or_dropped_and_late_repeats_are_accounted_for() {
        assert_eq!(findings(&rows(&[1, 2, 3], &[1, 2, 3], &[])), [], "replayed");
        let dropped = Rows {
            dropped: vec![key(3)],
            ..rows(&[1, 2], &[1, 2], &[])
        };
        assert_eq!(findings(&dropped), []);
        let repeated = Rows {
            elsewhere: HashSet::from([key(2).msgid]),
            ..rows(&[1], &[1, 2], &[3])
        };
        assert_eq!(findings(&repeated), []);
        assert_eq!(judge(&block(), &recorded(), &repeated).duplicates, 1);
        let mut on_its_way = recorded();
        on_its_way[1].outcome = None;
        let report = judge(&block(), &on_its_way, &rows(&[1], &[1], &[3]));
        assert_eq!(
            (report.in_flight, report.missing, report.accounted),
            (1, 0, false)
        );
    }
}
