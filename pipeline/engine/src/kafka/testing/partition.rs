//! A partition: records, the transactions they belong to, and what readers see of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::kafka::{OutRecord, RawRecord};
use crate::shared::now_ms;

/// Key of the records that are rolled back with what was left open.
const CLEARING: &[u8] = b"clearing";

/// Names a producer in the partitions; the same for every holder of a transactional id.
pub(super) type ProducerId = u64;

/// A record as a partition stores it.
#[derive(Debug, Clone)]
pub(super) struct StoredRecord {
    pub(super) raw: RawRecord,
    pub(super) headers: Vec<(&'static str, String)>,
}

/// What an offset of a partition holds.
enum Slot {
    Record {
        producer: ProducerId,
        state: SlotState,
        record: StoredRecord,
    },
    /// The end of a transaction, or a record that compaction removed.
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SlotState {
    Open,
    Committed,
    Aborted,
}

/// One partition.
#[derive(Default)]
pub(super) struct PartitionLog {
    first: u64,
    slots: VecDeque<Slot>,
    /// The first offset of each producer's open transaction.
    ongoing: BTreeMap<ProducerId, u64>,
}

/// What a reader of committed records finds at a position.
pub(super) enum ReadStep {
    Record(Box<StoredRecord>),
    /// Nothing that can be read yet; reading goes on at this offset.
    End(u64),
    /// The position is beyond what can be read.
    Beyond,
}

impl PartitionLog {
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// The end for readers of committed records: the first open transaction.
    pub(super) fn stable_end(&self) -> u64 {
        let open = self.ongoing.values().copied().min();
        open.unwrap_or_else(|| self.end())
    }

    pub(super) fn append(
        &mut self,
        producer: ProducerId,
        partition: i32,
        record: &OutOrClearing<'_>,
    ) {
        let offset = self.end();
        self.ongoing.entry(producer).or_insert(offset);
        let (key, value, headers) = match record {
            OutOrClearing::Out(out, headers) => (
                Bytes::from(out.key.clone()),
                out.value.clone(),
                headers.clone(),
            ),
            OutOrClearing::Clearing => (Bytes::from_static(CLEARING), Bytes::new(), Vec::new()),
        };
        self.slots.push_back(Slot::Record {
            producer,
            state: SlotState::Open,
            record: StoredRecord {
                raw: RawRecord {
                    partition,
                    offset,
                    key,
                    value,
                    timestamp: now_ms(),
                },
                headers,
            },
        });
    }

    /// Writes the marker that ends a producer's transaction here. It decides about everything that
    /// the producer wrote since its last marker.
    pub(super) fn mark(&mut self, producer: ProducerId, commit: bool) {
        if self.ongoing.remove(&producer).is_none() {
            return;
        }
        let ended = if commit {
            SlotState::Committed
        } else {
            SlotState::Aborted
        };
        for slot in &mut self.slots {
            if let Slot::Record {
                producer: owner,
                state,
                ..
            } = slot
                && *owner == producer
                && *state == SlotState::Open
            {
                *state = ended;
            }
        }
        self.slots.push_back(Slot::Nothing);
    }

    /// Reads from a position; one that is out of range starts at the beginning, as
    /// `auto.offset.reset=earliest` does.
    pub(super) fn read(&self, position: u64) -> ReadStep {
        let in_range = (self.first..=self.end()).contains(&position);
        let from = if in_range { position } else { self.first };
        let stable = self.stable_end();
        if from > stable {
            return ReadStep::Beyond;
        }
        let slots = self.slots.range((from - self.first) as usize..);
        for slot in slots.take((stable - from) as usize) {
            if let Slot::Record {
                state: SlotState::Committed,
                record,
                ..
            } = slot
            {
                return ReadStep::Record(Box::new(record.clone()));
            }
        }
        ReadStep::End(stable)
    }

    /// Removes everything before an offset, as retention does.
    pub(super) fn drop_head(&mut self, offset: u64) {
        let offset = offset.min(self.stable_end());
        while self.first < offset && self.slots.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// Removes committed records that a later one with the same key replaces.
    pub(super) fn compact(&mut self) {
        let mut newer: BTreeSet<Bytes> = BTreeSet::new();
        let stable = (self.stable_end() - self.first) as usize;
        for slot in self.slots.iter_mut().take(stable).rev() {
            if let Slot::Record {
                state: SlotState::Committed,
                record,
                ..
            } = slot
                && !newer.insert(record.raw.key.clone())
            {
                *slot = Slot::Nothing;
            }
        }
    }
}

pub(super) enum OutOrClearing<'a> {
    Out(&'a OutRecord, Vec<(&'static str, String)>),
    Clearing,
}
