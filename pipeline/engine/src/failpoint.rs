//! Fail points: the places at which the crash matrix kills the process, fails a step or delays it.
//!
//! There is one before and after every step that leaves something behind. The engine's own are
//! listed here: the points of the stages, and the steps that every sink passes. A sink's connector
//! lists the points inside its writes. The program joins the three (`app/src/failpoints.rs`), and
//! `tests/crash` checks that each is passed in every driver that has it.
//!
//! With the cargo feature `failpoints`, crate `fail` decides what happens at a point. Without it, as
//! in every release, [`pass`] does nothing and is compiled away.

use chatledger_schemas::{Classified, FaultClass};

/// A place at which the crash matrix stops the program.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FailPoint {
    /// The component and the step it has just completed: `component.step`.
    pub name: String,
    /// Whether the direct driver passes it.
    pub direct: bool,
    /// Whether the kafka driver passes it.
    pub kafka: bool,
}

/// A step and the drivers that have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The step just completed; for a stage with the stage's name, `stage.step`.
    pub name: &'static str,
    /// Whether the direct driver has it.
    pub direct: bool,
    /// Whether the kafka driver has it.
    pub kafka: bool,
}

impl Step {
    /// A step of both drivers.
    pub const fn both(name: &'static str) -> Self {
        Self {
            name,
            direct: true,
            kafka: true,
        }
    }

    /// A step of the direct driver.
    pub const fn direct(name: &'static str) -> Self {
        Self {
            name,
            direct: true,
            kafka: false,
        }
    }

    /// A step of the kafka driver.
    pub const fn kafka(name: &'static str) -> Self {
        Self {
            name,
            direct: false,
            kafka: true,
        }
    }

    /// The fail point of a component at this step.
    pub fn of(self, component: &str) -> FailPoint {
        FailPoint {
            name: format!("{component}.{}", self.name),
            direct: self.direct,
            kafka: self.kafka,
        }
    }
}

/// The points of the stages, in the order in which a record passes them.
pub const STAGE_STEPS: &[Step] = &[
    // The archive has answered; nothing is stored anywhere yet.
    Step::both("source.page_received"),
    // Transaction of `source`: begun; records and cursor produced; committed.
    Step::kafka("source.begun"),
    Step::kafka("source.produced"),
    Step::kafka("source.committed"),
    // The stages have made the rows of a batch.
    Step::both("process.batch_opened"),
    // Its dead letters are on disk; then the entries of the ledger.
    Step::direct("process.dead_letters_written"),
    Step::direct("process.ledger_written"),
    // Transaction of `process`: begun; rows produced; offsets sent; committed.
    Step::kafka("process.begun"),
    Step::kafka("process.produced"),
    Step::kafka("process.offsets_sent"),
    Step::kafka("process.committed"),
    // Transaction of `directory`, which consumes nothing.
    Step::kafka("directory.begun"),
    Step::kafka("directory.produced"),
    Step::kafka("directory.committed"),
];

/// The steps of a delivery that come before the connector's own points.
pub const SINK_STEPS_BEFORE_WRITE: &[Step] = &[
    // The open batch is complete; then the journal holds it as pending.
    Step::both("batch_gathered"),
    Step::both("batch_recorded"),
];

/// The steps of a delivery that come after the connector's own points.
pub const SINK_STEPS_AFTER_WRITE: &[Step] = &[
    // The sink has acknowledged all rows; its checkpoint is not stored yet.
    Step::kafka("rows_written"),
    // Rows and sink checkpoint are stored; then the journal holds the new position.
    Step::both("batch_delivered"),
    Step::both("position_saved"),
];

/// The fail points of a sink, in order; `connector` are the points inside its writes.
pub fn of_sink(sink: &str, connector: &[Step]) -> Vec<FailPoint> {
    SINK_STEPS_BEFORE_WRITE
        .iter()
        .chain(connector)
        .chain(SINK_STEPS_AFTER_WRITE)
        .map(|step| step.of(sink))
        .collect()
}

/// The fail points of the stages, in order.
pub fn of_stages() -> Vec<FailPoint> {
    STAGE_STEPS
        .iter()
        .map(|step| FailPoint {
            name: step.name.to_owned(),
            direct: step.direct,
            kafka: step.kafka,
        })
        .collect()
}

/// The failure of a step that a fail point was told to fail.
#[derive(Debug, thiserror::Error)]
#[error("fail point")]
pub struct Injected;

impl Classified for Injected {
    fn class(&self) -> FaultClass {
        FaultClass::Retry
    }
}

/// Passes the point `component.step`.
///
/// # Errors
/// With the feature `failpoints`: the step was told to fail here.
#[cfg(feature = "failpoints")]
pub fn pass(component: &str, step: &str) -> Result<(), Injected> {
    fail::fail_point!(&format!("{component}.{step}"), |_| Err(Injected));
    Ok(())
}

/// Passes the point `component.step`.
///
/// # Errors
/// With the feature `failpoints`: the step was told to fail here.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "nothing of it may remain in a release"
)]
pub fn pass(_component: &str, _step: &str) -> Result<(), Injected> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own_and_a_driver() {
        let mut all = of_stages();
        all.extend(of_sink("sink", &[Step::kafka("table_sent")]));
        let mut names: Vec<&str> = all.iter().map(|point| point.name.as_str()).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(all.iter().all(|point| point.direct || point.kafka));
        assert!(names.iter().all(|name| name.split('.').count() == 2));
    }
}
