//! The result of a reconciliation.

use chatledger_schemas::CorpId;
use serde::Serialize;

use super::Sum;
use super::blocks::{BlockReport, PlaceSum};

/// Bad blocks named in a stored result.
const NAMED: usize = 100;

/// The result of a reconciliation for one corp.
#[derive(Debug, Serialize)]
pub struct Reconciliation {
    /// The corp.
    pub corp_id: CorpId,
    /// When it ran, milliseconds since the epoch, UTC.
    pub run_at: i64,
    /// First position compared.
    pub first_seq: u64,
    /// Last position compared.
    pub last_seq: u64,
    /// Records pulled after `last_seq`, which not every sink has reached yet.
    #[serde(rename = "behind")]
    pub not_compared: u64,
    /// Whether every record is in exactly one place.
    pub accounted: bool,
    /// The blocks together.
    pub total: Totals,
    /// Parts of sinks that cannot be read.
    #[serde(rename = "unreadable_files")]
    pub unreadable: Vec<String>,
    /// Entries of the ledger that cannot be read.
    pub unreadable_ledger: u64,
    /// The blocks.
    pub blocks: Vec<BlockReport>,
}

impl Reconciliation {
    /// The blocks in which something is wrong.
    pub fn bad(&self) -> impl Iterator<Item = &BlockReport> {
        self.blocks.iter().filter(|block| !block.accounted)
    }

    /// First positions of the first bad blocks.
    pub fn bad_blocks(&self) -> Vec<u64> {
        let bad = self.bad().map(|block| block.first_seq);
        bad.take(NAMED).collect()
    }
}

/// Sums over several blocks; see [`BlockReport`] for the fields.
#[derive(Debug, Default, Serialize)]
#[expect(missing_docs, reason = "as in BlockReport")]
pub struct Totals {
    pub pulled: Sum,
    pub places: Vec<PlaceSum>,
    pub dead_letters: Sum,
    #[serde(rename = "dropped")]
    pub discarded: u64,
    pub duplicates: u64,
    pub missing: u64,
    pub unexpected: u64,
    pub repeated: u64,
    pub in_flight: u64,
    pub violations: u64,
    pub gaps: u64,
    pub destroyed: u64,
    pub lost: u64,
}

impl Totals {
    /// The sums over blocks.
    pub fn over<'a>(blocks: impl IntoIterator<Item = &'a BlockReport>) -> Self {
        let mut totals = Self::default();
        for block in blocks {
            totals.add(block);
        }
        totals
    }

    fn add(&mut self, block: &BlockReport) {
        self.pulled = self.pulled.and(block.pulled);
        for held in &block.places {
            let mut known = self.places.iter_mut();
            match known.find(|known| known.place == held.place) {
                Some(known) => known.sum = known.sum.and(held.sum),
                None => self.places.push(*held),
            }
        }
        self.dead_letters = self.dead_letters.and(block.dead_letters);
        self.discarded += block.discarded;
        self.duplicates += block.duplicates;
        self.missing += block.missing;
        self.unexpected += block.unexpected;
        self.repeated += block.repeated;
        self.in_flight += block.in_flight;
        self.violations += block.violations;
        self.gaps += block.gaps;
        self.destroyed += block.destroyed;
        self.lost += block.lost;
    }
}
