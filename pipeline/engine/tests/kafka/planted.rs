//! Faults planted on purpose: the property finds each of them.

use chatledger_engine::testing::failing_seeds;
use chatledger_engine::testing::sink::PlantedSinkFault;

use super::property::{Planted, run};

fn found(planted: Planted) -> Vec<(u64, String)> {
    failing_seeds(0..60, |seed| run(seed, Some(planted)))
}

#[test]
fn lost_rows_of_a_sink_that_acknowledges_before_it_stores_are_found() {
    let found = found(Planted::Sink(PlantedSinkFault::AcknowledgesBeforeStoring));
    assert!(found.iter().any(|(_, failure)| failure.contains(": 0×")));
}

#[test]
fn doubled_rows_of_a_sink_that_ignores_names_are_found() {
    let found = found(Planted::Sink(PlantedSinkFault::IgnoresNames));
    assert!(found.iter().any(|(_, failure)| failure.contains(": 2×")));
}

#[test]
fn commit_after_revocation_is_found() {
    let found = found(Planted::CommitAfterRevocation);
    assert!(
        found.iter().any(|(_, failure)| failure.contains(": 2×")),
        "{found:?}"
    );
}
