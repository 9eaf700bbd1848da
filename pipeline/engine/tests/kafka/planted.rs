//! Faults planted on purpose: the property finds each of them.

use chatledger_engine::testing::failing_seeds;
use chatledger_engine::testing::sink::PlantedSinkFault;

use super::property::{Planted, run};

/// Whether one of the first thousand seeds fails with a text that contains `sign`.
fn is_found(planted: Planted, sign: &str) -> bool {
    (0..1000).step_by(20).any(|first| {
        failing_seeds(first..first + 20, |seed| run(seed, Some(planted)))
            .iter()
            .any(|(_, failure)| failure.contains(sign))
    })
}

#[test]
fn lost_rows_of_a_sink_that_acknowledges_before_it_stores_are_found() {
    let fault = PlantedSinkFault::AcknowledgesBeforeStoring;
    assert!(is_found(Planted::Sink(fault), ": 0×"));
}

#[test]
fn doubled_rows_of_a_sink_that_ignores_names_are_found() {
    let fault = PlantedSinkFault::IgnoresNames;
    assert!(is_found(Planted::Sink(fault), ": 2×"));
}

#[test]
fn commit_after_revocation_is_found() {
    assert!(is_found(Planted::CommitAfterRevocation, ": 2×"));
}
