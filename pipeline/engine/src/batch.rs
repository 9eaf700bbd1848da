//! What the stages made of a run of consecutive records.

use chatledger_schemas::ledger::ChainAnchor;
use chatledger_schemas::{DeadLetter, DeadLetterEvent, Message, Violation};

/// A run of consecutive positions in a log and an order-independent digest of what stood there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Extent {
    /// First position in it.
    pub first: u64,
    /// Last position in it.
    pub last: u64,
    /// How many records there are between the two; positions need not be dense.
    pub records: u64,
    /// Sum over hashes of the records' positions and ids: the same records, the same digest.
    pub digest: u64,
}

impl Extent {
    /// The extent of one record.
    pub fn of(position: u64, id: &str) -> Self {
        let digest = xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), position);
        Self {
            first: position,
            last: position,
            records: 1,
            digest,
        }
    }

    /// Grows by an extent that follows.
    pub fn extend(&mut self, next: Self) {
        debug_assert!(next.first > self.last, "extents follow each other");
        self.last = next.last;
        self.records += next.records;
        self.digest = self.digest.wrapping_add(next.digest);
    }

    /// The extent of several records in ascending order; `None` if there are none.
    pub fn over<'a>(records: impl IntoIterator<Item = (u64, &'a str)>) -> Option<Self> {
        let mut whole: Option<Self> = None;
        for (position, id) in records {
            let one = Self::of(position, id);
            match &mut whole {
                Some(whole) => whole.extend(one),
                None => whole = Some(one),
            }
        }
        whole
    }
}

/// The rows of an extent, in ascending position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What it covers, duplicates and dead letters included.
    pub extent: Extent,
    /// Messages that were opened.
    pub messages: Vec<Message>,
    /// Rules they broke.
    pub violations: Vec<Violation>,
    /// Records that could not be opened.
    pub dead_letters: Vec<DeadLetter>,
    /// The hash chain at records in it.
    pub anchors: Vec<ChainAnchor>,
    /// What was done about dead letters.
    pub events: Vec<DeadLetterEvent>,
}

impl Batch {
    /// A batch without rows.
    pub fn empty(extent: Extent) -> Self {
        Self {
            extent,
            messages: Vec::new(),
            violations: Vec::new(),
            dead_letters: Vec::new(),
            anchors: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Rows of all tables together.
    pub fn rows(&self) -> usize {
        self.messages.len() + self.violations.len() + self.dead_letters.len() + self.events.len()
    }
}
