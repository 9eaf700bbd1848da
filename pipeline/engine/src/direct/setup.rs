//! What a corp's pipeline is made of, and why it can fail.

use std::path::PathBuf;
use std::sync::Arc;

use chatledger_crypto::KeyRing;
use chatledger_directory::Directory;
use chatledger_rules::RuleSet;
use chatledger_schemas::CorpId;
use tokio_util::sync::CancellationToken;

use super::StateError;
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::pull::{AcceptGap, ArchiveGap, Puller};
use crate::shared::{Current, Totals, WantedRooms};
use crate::sink::Sink;

/// The parts of one corp's pipeline.
#[derive(Clone)]
pub struct CorpSetup {
    /// The corp.
    pub corp_id: CorpId,
    /// Its archive.
    pub puller: Puller,
    /// Its keys.
    pub keys: Arc<Current<KeyRing>>,
    /// Its directory.
    pub directory: Arc<Current<Directory>>,
    /// Rooms that the directory must look up.
    pub wanted: Arc<WantedRooms>,
    /// The rules.
    pub rules: Arc<Current<RuleSet>>,
    /// Folder for its state.
    pub state_dir: PathBuf,
    /// The sinks.
    pub sinks: Vec<Sink>,
}

/// What all corps of a run share.
#[derive(Clone)]
pub struct Context {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The totals of the run.
    pub totals: Arc<Totals>,
    /// Whether to end when the archive has nothing more.
    pub drain: bool,
    /// Stop pulling, deliver what was pulled, end.
    pub stop: CancellationToken,
    /// Do not wait for sinks or the disk any longer.
    pub abandon: CancellationToken,
    /// The corps that continue although their archive may have dropped records that were not read in time.
    pub accept_gap: AcceptGap,
}

impl DriverError {
    /// Whether the corp may continue by itself when it is started again. Otherwise a person has to act.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::ArchiveGap { .. }
            | Self::State(
                StateError::Damaged { .. }
                | StateError::Locked { .. }
                | StateError::NoPosition { .. },
            ) => false,
            Self::State(StateError::Io { .. })
            | Self::Source { .. }
            | Self::Sink { .. }
            | Self::Replay(_)
            | Self::Died(_) => true,
        }
    }
}

/// Why a corp's pipeline failed.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The state folder cannot be used.
    #[error("state")]
    State(#[from] StateError),
    /// The archive did not answer while draining.
    #[error("archive of {corp}: {fault}")]
    Source {
        /// The corp.
        corp: CorpId,
        /// The last failure.
        fault: Fault,
    },
    /// The archive may have dropped records that were not read in time.
    #[error("corp {corp}")]
    ArchiveGap {
        /// The corp.
        corp: CorpId,
        /// Since when.
        source: ArchiveGap,
    },
    /// Rows could not be gathered for a sink, or its journal refused.
    #[error("sink {sink}: {fault}")]
    Sink {
        /// The sink.
        sink: &'static str,
        /// The failure.
        fault: Fault,
    },
    /// Rows could not be gathered for a replay.
    #[error("replay")]
    Replay(#[from] Fault),
    /// A task panicked. The next start reads the records again that it was working on.
    #[error("a task of the pipeline panicked")]
    Died(#[from] tokio::task::JoinError),
}
