//! A sink as one value: everything the engine and the commands need to know about one.
//!
//! The application makes a [`Sink`] for each configured target and hands the list to whatever needs
//! it: the drivers write to it, `check` asks whether it answers, `reconcile` and `verify` read it
//! back. Nothing else in the engine depends on how many sinks there are or what they are called.

use std::sync::Arc;
use std::time::Duration;

use chatledger_schemas::{Classified, CorpId, FaultClass};
use futures::future::BoxFuture;

use crate::audit::AuditReader;
use crate::fault::Fault;
use crate::ports::{BatchWriter, CheckpointStore, DirectorySink};

/// A kind of rows. A sink takes some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Opened messages.
    Messages,
    /// Rule violations.
    Violations,
    /// Dead letters and their events.
    DeadLetters,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Self; 3] = [Self::Messages, Self::Violations, Self::DeadLetters];
}

/// When the open batch of a lane is written.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// After this many rows.
    pub rows: usize,
    /// After this many bytes in memory.
    pub bytes: usize,
    /// This long after its first row.
    pub interval: Duration,
}

/// Makes the writing end for one lane.
pub type WriterFactory = Arc<dyn Fn() -> Box<dyn BatchWriter> + Send + Sync>;

/// Returns the setting by which a sink divides the rows of a corp, such as its time zone.
pub type Layout = Arc<dyn Fn(&CorpId) -> String + Send + Sync>;

/// One sink.
#[derive(Clone)]
pub struct Sink {
    /// Its name: the metric label, the name of its journal file and part of its consumer groups'
    /// names. It outlives the process and must not change.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Where it is, for people; without secrets.
    pub address: String,
    /// The streams it takes.
    pub streams: &'static [Stream],
    /// When a lane's open batch is written.
    pub limits: Limits,
    /// Makes the writing end for a lane.
    pub make_writer: WriterFactory,
    /// How it divides a corp's rows, if that depends on settings that may change.
    pub layout: Option<Layout>,
    /// Where it keeps how far each lane has been written, beside the rows.
    pub checkpoints: Arc<dyn CheckpointStore>,
    /// Whether it can be used.
    pub probe: Arc<dyn Probe>,
    /// Reads its rows back for an audit; `None` if it cannot be read back.
    pub audit: Option<Arc<dyn AuditReader>>,
    /// Stores directory rows; `None` if it does not take them.
    pub directory: Option<Arc<dyn DirectorySink>>,
}

impl Sink {
    /// The writing end for one lane.
    pub fn writer(&self) -> Box<dyn BatchWriter> {
        (self.make_writer)()
    }

    /// Whether it takes a stream.
    pub fn takes(&self, stream: Stream) -> bool {
        self.streams.contains(&stream)
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink")
            .field("name", &self.name)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

/// Why a sink cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It does not answer, or refuses the request.
    #[error("{0}")]
    Unusable(Fault),
    /// It holds something that this program must not touch, such as a newer schema.
    #[error("{0}")]
    Refused(Fault),
}

impl Classified for ProbeError {
    fn class(&self) -> FaultClass {
        match self {
            Self::Unusable(fault) => fault.class,
            Self::Refused(_) => FaultClass::Stop,
        }
    }
}

impl ProbeError {
    /// The fault behind it.
    pub fn fault(&self) -> &Fault {
        match self {
            Self::Unusable(fault) | Self::Refused(fault) => fault,
        }
    }
}

/// A change of schema made by [`Probe::prepare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaVersions {
    /// The version found.
    pub from: u32,
    /// The version now.
    pub to: u32,
}

/// Asks whether a sink can be used.
pub trait Probe: Send + Sync {
    /// Asks whether it answers. Changes nothing.
    fn answers(&self) -> BoxFuture<'_, Result<(), ProbeError>>;

    /// Asks whether this program can read its rows. Changes nothing.
    fn readable(&self) -> BoxFuture<'_, Result<(), ProbeError>> {
        self.answers()
    }

    /// Makes it ready for writing, for example by migrating its schema.
    fn prepare(&self) -> BoxFuture<'_, Result<Option<SchemaVersions>, ProbeError>>;
}
