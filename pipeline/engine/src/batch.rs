//! The rows made from a run of consecutive records, and the range they cover.

use chatledger_schemas::ledger::ChainAnchor;
use chatledger_schemas::{DeadLetter, DeadLetterEvent, Message, Violation};

/// A range of positions in a log, with an order-independent digest of the records in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BatchRange {
    /// First position.
    pub first: u64,
    /// Last position.
    pub last: u64,
    /// Number of records between the two; positions need not be dense.
    pub records: u64,
    /// Sum of hashes of the records' positions and ids: the same records give the same digest.
    pub digest: u64,
    /// Sum of the records' fingerprints: of their values and of the times at which the log accepted
    /// them. It tells apart the same positions and ids in the topics of two deployments, and in a topic
    /// and its successor of the same name. `None` in a log of one corp's archive, and in what an earlier
    /// version recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<u64>,
    /// Digest of the settings by which the sink divides these rows, if there are any: the same rows in
    /// other files under the same name would be two copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<u64>,
}

impl BatchRange {
    /// The range of one record.
    pub fn of(position: u64, id: &str) -> Self {
        let digest = xxhash_rust::xxh3::xxh3_64_with_seed(id.as_bytes(), position);
        Self {
            first: position,
            last: position,
            records: 1,
            digest,
            content: None,
            layout: None,
        }
    }

    /// Whether both ranges hold the same records. What an earlier version recorded says nothing of
    /// their content.
    pub fn same_records(&self, recorded: &Self) -> bool {
        let plain = |range: &Self| (range.first, range.last, range.records, range.digest);
        plain(self) == plain(recorded)
            && (recorded.content.is_none() || recorded.content == self.content)
    }

    /// Appends the range that follows.
    pub fn extend(&mut self, next: Self) {
        debug_assert!(next.first > self.last, "ranges must ascend");
        self.last = next.last;
        self.records += next.records;
        self.digest = self.digest.wrapping_add(next.digest);
        self.content = self
            .content
            .zip(next.content)
            .map(|(own, next)| own.wrapping_add(next));
    }

    /// The range of several records in ascending order; `None` if there are none.
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

    /// The name under which a repeated write changes nothing. Names of one log sort by position.
    pub fn name(&self, log: &str) -> String {
        format!(
            "{log}-{:020}-{:020}-{:016x}",
            self.first,
            self.last,
            self.content.unwrap_or(self.digest)
        )
    }
}

/// Rows of one range, in ascending position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Range covered, including duplicates and dead letters.
    pub range: BatchRange,
    /// Opened messages.
    pub messages: Vec<Message>,
    /// Rule violations in them.
    pub violations: Vec<Violation>,
    /// Records that could not be opened.
    pub dead_letters: Vec<DeadLetter>,
    /// Links of the hash chain at records in the range.
    pub anchors: Vec<ChainAnchor>,
    /// Events of dead letters.
    pub events: Vec<DeadLetterEvent>,
}

impl Batch {
    /// Creates a batch without rows.
    pub fn empty(range: BatchRange) -> Self {
        Self {
            range,
            messages: Vec::new(),
            violations: Vec::new(),
            dead_letters: Vec::new(),
            anchors: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Total number of rows.
    pub fn rows(&self) -> usize {
        self.messages.len() + self.violations.len() + self.dead_letters.len() + self.events.len()
    }
}
