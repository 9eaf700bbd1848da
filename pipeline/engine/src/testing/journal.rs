//! A journal that belongs to one owner at a time, as a partition does.

use std::sync::{Arc, Mutex};

use chatledger_schemas::{Classified, FaultClass};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::{SimulatedProcess, lock};
use crate::fault::Fault;
use crate::lane::LaneCheckpoint;
use crate::ports::Journal;

/// A lane's checkpoint and who may write it.
#[derive(Clone, Default)]
pub struct FakeJournal(Arc<Mutex<JournalState>>);

#[derive(Default)]
struct JournalState {
    owner: u64,
    checkpoint: LaneCheckpoint,
    accepts_stale_owners: bool,
}

/// Another process owns the lane.
#[derive(Debug, thiserror::Error)]
#[error("another process owns the lane")]
struct NotOwner;

impl Classified for NotOwner {
    fn class(&self) -> FaultClass {
        FaultClass::Refresh
    }
}

impl FakeJournal {
    /// Gives the lane to a process; the one that had it can no longer save.
    pub fn take_over(&self, process: &SimulatedProcess) -> OwnedJournal {
        let mut state = lock(&self.0);
        state.owner += 1;
        OwnedJournal {
            journal: self.clone(),
            owner: state.owner,
            process: process.clone(),
        }
    }

    /// The checkpoint it holds.
    pub fn checkpoint(&self) -> LaneCheckpoint {
        lock(&self.0).checkpoint
    }

    /// Plants a fault: a process that has lost the lane can still save.
    pub fn accept_stale_owners(&self) {
        lock(&self.0).accepts_stale_owners = true;
    }
}

/// The journal in the hands of one process.
pub struct OwnedJournal {
    journal: FakeJournal,
    owner: u64,
    process: SimulatedProcess,
}

impl Journal for OwnedJournal {
    fn save(&mut self, checkpoint: LaneCheckpoint) -> BoxFuture<'_, Result<(), Fault>> {
        async move {
            let effect = || {
                let mut state = lock(&self.journal.0);
                if state.owner != self.owner && !state.accepts_stale_owners {
                    return Err(Fault::new(NotOwner));
                }
                state.checkpoint = checkpoint;
                Ok(())
            };
            self.process.call("journal.save", effect).await
        }
        .boxed()
    }
}
