//! What the program stores about its own work: sink checkpoints and results of reconciliations.

use clickhouse::Row;
use serde::{Deserialize, Serialize};

use super::Table;

/// The table `lanes`. The newest row of a lane counts.
#[derive(Clone, Copy, Debug)]
pub struct Lanes;

/// How far a lane has been written. What position and fingerprint mean is up to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Row, Deserialize)]
pub struct SinkCheckpoint {
    /// Everything up to here is in the tables.
    pub position: u64,
    /// Fingerprint of the last record.
    #[serde(rename = "witness")]
    pub fingerprint: u64,
}

/// A row of `lanes`.
#[derive(Row, Serialize)]
pub struct LaneRow<'a> {
    log: &'a str,
    position: u64,
    #[serde(rename = "witness")]
    fingerprint: u64,
}

impl Table for Lanes {
    const NAME: &'static str = "lanes";
    type Record<'r> = (&'r str, SinkCheckpoint);
    type Row = LaneRow<'static>;

    fn row((log, checkpoint): Self::Record<'_>) -> LaneRow<'_> {
        LaneRow {
            log,
            position: checkpoint.position,
            fingerprint: checkpoint.fingerprint,
        }
    }
}

/// The table `reconciliations`.
#[derive(Clone, Copy, Debug)]
pub struct Reconciliations;

/// One result of a reconciliation, a row of `reconciliations`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Serialize)]
#[expect(missing_docs, reason = "the columns of the table, explained there")]
pub struct ReconciliationRow<'a> {
    pub corp_id: &'a str,
    pub run_at: i64,
    pub first_seq: u64,
    pub last_seq: u64,
    pub pulled: u64,
    pub clickhouse: u64,
    pub parquet: u64,
    pub dead_letters: u64,
    pub dropped: u64,
    pub duplicates: u64,
    pub missing: u64,
    pub unexpected: u64,
    pub repeated: u64,
    pub in_flight: u64,
    pub gaps: u64,
    pub accounted: bool,
    pub bad_blocks: &'a [u64],
}

impl Table for Reconciliations {
    const NAME: &'static str = "reconciliations";
    type Record<'r> = ReconciliationRow<'r>;
    type Row = ReconciliationRow<'static>;

    fn row(record: Self::Record<'_>) -> ReconciliationRow<'_> {
        record
    }
}
