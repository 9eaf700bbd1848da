//! Fail points: the places at which the crash matrix makes the process die, a step fail or time pass.
//!
//! [`ALL`] is the closed list of them, before and after every step after which something stands
//! somewhere that did not stand there before. `tests/crash` takes it from the program and shows that
//! each is passed in every driver where it exists. With the cargo feature `failpoints` crate `fail`
//! decides at each point what happens there; without it, as in every release, [`pass`] does nothing
//! and nothing of it is in the program.
//!
//! Points named after connectors' steps stand in the connectors, which do not know this crate; their
//! names are agreed on here. Not here: what is done at a point, and how it is asked for
//! (`app/src/failpoints.rs`).

use chatledger_schemas::{Classified, FaultClass};

/// A place at which the crash matrix stops the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Point {
    /// Who passes it and what has just been done, `who.step`.
    pub name: &'static str,
    /// Whether the direct driver passes it.
    pub direct: bool,
    /// Whether the kafka driver passes it.
    pub kafka: bool,
}

const fn both(name: &'static str) -> Point {
    Point {
        name,
        direct: true,
        kafka: true,
    }
}

const fn direct(name: &'static str) -> Point {
    Point {
        name,
        direct: true,
        kafka: false,
    }
}

const fn kafka(name: &'static str) -> Point {
    Point {
        name,
        direct: false,
        kafka: true,
    }
}

/// Every fail point, in the order in which a record comes by.
pub const ALL: &[Point] = &[
    // The archive has answered; nothing is anywhere yet.
    both("source.page_received"),
    // Transaction of `source`: begun; raw records and then the cursor produced; committed.
    kafka("source.begun"),
    kafka("source.produced"),
    kafka("source.committed"),
    // The stages have made rows of a batch.
    both("process.batch_opened"),
    // Its dead letters are on the disk, then the ledger's entries.
    direct("process.dead_letters_written"),
    direct("process.ledger_written"),
    // Transaction of `process`: begun; rows produced; offsets sent; committed.
    kafka("process.begun"),
    kafka("process.produced"),
    kafka("process.offsets_sent"),
    kafka("process.committed"),
    // Transaction of `directory`, which consumes nothing.
    kafka("directory.begun"),
    kafka("directory.produced"),
    kafka("directory.committed"),
    // A cut is complete, then it is written down in the journal.
    both("clickhouse.cut_gathered"),
    both("clickhouse.cut_written"),
    // Of each table: the rows are on their way, the insert not ended; the server has answered.
    both("clickhouse.messages_sent"),
    both("clickhouse.messages_answered"),
    both("clickhouse.violations_sent"),
    both("clickhouse.violations_answered"),
    both("clickhouse.dead_letters_sent"),
    both("clickhouse.dead_letters_answered"),
    // Every table has answered. The lane's mark, kept beside the rows: on its way; the server has
    // answered.
    kafka("clickhouse.rows_written"),
    kafka("clickhouse.lanes_sent"),
    kafka("clickhouse.lanes_answered"),
    // Rows and mark are there; then the journal holds the new position in place of the cut.
    both("clickhouse.cut_delivered"),
    both("clickhouse.position_saved"),
    both("parquet.cut_gathered"),
    both("parquet.cut_written"),
    // Of each file: whole and not visible (uploaded), then under its final name (renamed, put).
    both("parquet.file_unnamed"),
    both("parquet.file_named"),
    kafka("parquet.rows_written"),
    both("parquet.cut_delivered"),
    both("parquet.position_saved"),
];

/// The failure of a step that a fail point has been told to let fail.
#[derive(Debug, thiserror::Error)]
#[error("fail point")]
pub struct Injected;

impl Classified for Injected {
    fn class(&self) -> FaultClass {
        FaultClass::Retry
    }
}

/// Passes the point `who.step`.
///
/// # Errors
/// With the feature `failpoints`: the step has been told to fail here.
#[cfg(feature = "failpoints")]
pub fn pass(who: &str, step: &str) -> Result<(), Injected> {
    fail::fail_point!(&format!("{who}.{step}"), |_| Err(Injected));
    Ok(())
}

/// Passes the point `who.step`.
///
/// # Errors
/// With the feature `failpoints`: the step has been told to fail here.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "nothing of it may remain in a release"
)]
pub fn pass(_who: &str, _step: &str) -> Result<(), Injected> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_named_once_and_passed_somewhere() {
        let mut names: Vec<&str> = ALL.iter().map(|point| point.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(ALL.iter().all(|point| point.direct || point.kafka));
        assert!(names.iter().all(|name| name.split('.').count() == 2));
    }
}
