//! Partitions and transactions: what a broker and its transaction coordinator do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use chatledger_schemas::{Classified, FaultClass};
use tokio::time::Instant;

use super::group::GroupState;
use crate::kafka::{OutRecord, RawRecord, Topic};
use crate::shared::now_ms;
use crate::testing::Dice;

/// After this an open transaction is aborted, as `transaction.timeout.ms` says.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Key of the records that are rolled back with what was left open.
const CLEARING: &[u8] = b"clearing";

/// Names a producer in the partitions; the same for every holder of a transactional id.
pub(super) type ProducerId = u64;

/// A refusal by the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("another producer has taken over the transactional id")]
    ProducerFenced,
    #[error("the member does not hold partition {0}")]
    NotHeld(i32),
    #[error("another client has taken over the member's instance id")]
    InstanceFenced,
    #[error("the group does not know the member")]
    UnknownMember,
    #[error("the group has a newer generation")]
    StaleGeneration,
    #[error("the member did not poll in time")]
    PollExceeded,
    #[error("a broker restarted; the producer must start again")]
    Disturbed,
    #[error("the topic has more partitions than when reading began")]
    MorePartitions,
    #[error("the committed positions depend on a transaction that is open")]
    UnstableOffsets,
    #[error("the partition is not assigned to this member")]
    NotAssigned,
    #[error("the producer has not been started")]
    NotStarted,
    #[error("the member has not joined yet")]
    NotJoined,
    #[error("the member was not set up to write")]
    ReadOnly,
    #[error("the member does not write to topic {0}")]
    ForeignTopic(&'static str),
}

impl Classified for Refusal {
    fn class(&self) -> FaultClass {
        match self {
            Self::ProducerFenced
            | Self::NotHeld(_)
            | Self::InstanceFenced
            | Self::UnknownMember
            | Self::StaleGeneration
            | Self::Disturbed
            | Self::MorePartitions => FaultClass::Refresh,
            Self::PollExceeded | Self::UnstableOffsets | Self::NotAssigned | Self::NotStarted => {
                FaultClass::Retry
            }
            Self::NotJoined | Self::ReadOnly | Self::ForeignTopic(_) => FaultClass::Stop,
        }
    }
}

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

    fn append(&mut self, producer: ProducerId, partition: i32, record: &OutOrClearing<'_>) {
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
    fn mark(&mut self, producer: ProducerId, commit: bool) {
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

enum OutOrClearing<'a> {
    Out(&'a OutRecord, Vec<(&'static str, String)>),
    Clearing,
}

/// A transactional id.
struct Producer {
    id: ProducerId,
    epoch: u32,
    phase: Phase,
}

enum Phase {
    Idle,
    Open(OpenTransaction),
    /// The outcome is decided; markers are being written.
    Ending(Instant),
}

struct OpenTransaction {
    since: Instant,
    partitions: BTreeSet<(Topic, i32)>,
    groups: BTreeSet<String>,
}

/// A marker that will be written to a partition, or to a group's positions.
struct DueMarker {
    at: Instant,
    producer: ProducerId,
    commit: bool,
    target: MarkerTarget,
}

enum MarkerTarget {
    Partition(Topic, i32),
    Group(String),
}

/// The state of the cluster.
pub(super) struct Broker {
    pub(super) topics: BTreeMap<Topic, Vec<PartitionLog>>,
    pub(super) groups: BTreeMap<String, GroupState>,
    producers: BTreeMap<String, Producer>,
    due: Vec<DueMarker>,
    /// When [`Broker::advance`] ran last.
    advanced: Option<Instant>,
    /// How often a broker restarted.
    pub(super) restarts: u64,
    /// Plants a fault: commits are accepted from members that lost the partition.
    pub(super) accepts_stale_commits: bool,
}

impl Broker {
    pub(super) fn new() -> Self {
        Self {
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            producers: BTreeMap::new(),
            due: Vec::new(),
            advanced: None,
            restarts: 0,
            accepts_stale_commits: false,
        }
    }

    /// Does what is due in a group: removes members that died, completes a rebalance.
    pub(super) fn advance_group(&mut self, group: &str, dice: &mut Dice) {
        self.advance(dice);
        if let Some(group) = self.groups.get_mut(group) {
            let partitions = self.topics.get(&group.topic()).map_or(0, Vec::len);
            group.advance(partitions as i32, Instant::now(), dice);
        }
    }

    /// Does what is due elsewhere: markers, transactions that timed out.
    pub(super) fn advance(&mut self, dice: &mut Dice) {
        let now = Instant::now();
        if self.advanced == Some(now) {
            return;
        }
        self.advanced = Some(now);
        let expired: Vec<String> = self
            .producers
            .iter()
            .filter(|(_, producer)| match &producer.phase {
                Phase::Open(open) => open.since + TRANSACTION_TIMEOUT <= now,
                _ => false,
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in expired {
            self.end(&id, false, dice);
            if let Some(producer) = self.producers.get_mut(&id) {
                producer.epoch += 1;
            }
        }
        self.due.sort_by_key(|marker| marker.at);
        let later = self.due.partition_point(|marker| marker.at <= now);
        for marker in self.due.drain(..later).collect::<Vec<_>>() {
            self.write_marker(&marker);
        }
        for producer in self.producers.values_mut() {
            if matches!(producer.phase, Phase::Ending(at) if at <= now) {
                producer.phase = Phase::Idle;
            }
        }
    }

    fn write_marker(&mut self, marker: &DueMarker) {
        match &marker.target {
            MarkerTarget::Partition(topic, partition) => {
                if let Some(log) = self.partition_mut(*topic, *partition) {
                    log.mark(marker.producer, marker.commit);
                }
            }
            MarkerTarget::Group(group) => {
                if let Some(group) = self.groups.get_mut(group) {
                    group.end_transaction(marker.producer, marker.commit);
                }
            }
        }
    }

    pub(super) fn partition(&self, topic: Topic, partition: i32) -> Option<&PartitionLog> {
        let index = usize::try_from(partition).ok()?;
        self.topics.get(&topic)?.get(index)
    }

    pub(super) fn partition_mut(
        &mut self,
        topic: Topic,
        partition: i32,
    ) -> Option<&mut PartitionLog> {
        let index = usize::try_from(partition).ok()?;
        self.topics.get_mut(&topic)?.get_mut(index)
    }

    /// Starts a producer: fences every older holder of the id and aborts what it left open. `None`
    /// while a transaction of the id is being ended.
    pub(super) fn start_producer(&mut self, id: &str, dice: &mut Dice) -> Option<u32> {
        let next = self.producers.len() as ProducerId;
        let producer = self
            .producers
            .entry(id.to_owned())
            .or_insert_with(|| Producer {
                id: next,
                epoch: 0,
                phase: Phase::Idle,
            });
        match producer.phase {
            Phase::Idle => {
                producer.epoch += 1;
                Some(producer.epoch)
            }
            Phase::Open(_) => {
                producer.epoch += 1;
                self.end(id, false, dice);
                None
            }
            Phase::Ending(_) => None,
        }
    }

    fn fenced(&mut self, id: &str, epoch: u32) -> Result<&mut Producer, Refusal> {
        match self.producers.get_mut(id) {
            Some(producer) if producer.epoch == epoch => Ok(producer),
            _ => Err(Refusal::ProducerFenced),
        }
    }

    /// Begins a transaction; false while the last one is being ended.
    pub(super) fn begin(&mut self, id: &str, epoch: u32) -> Result<bool, Refusal> {
        let producer = self.fenced(id, epoch)?;
        if matches!(producer.phase, Phase::Ending(_)) {
            return Ok(false);
        }
        producer.phase = Phase::Open(OpenTransaction {
            since: Instant::now(),
            partitions: BTreeSet::new(),
            groups: BTreeSet::new(),
        });
        Ok(true)
    }

    fn open(
        &mut self,
        id: &str,
        epoch: u32,
    ) -> Result<(ProducerId, &mut OpenTransaction), Refusal> {
        let producer = self.fenced(id, epoch)?;
        match &mut producer.phase {
            Phase::Open(open) => Ok((producer.id, open)),
            _ => Err(Refusal::ProducerFenced),
        }
    }

    /// Appends a record to the partition of its key.
    pub(super) fn produce(
        &mut self,
        (id, epoch): (&str, u32),
        out: &OutRecord,
        headers: Vec<(&'static str, String)>,
        dice: &mut Dice,
    ) -> Result<(), Refusal> {
        let partitions = self.topics.get(&out.topic).map_or(0, Vec::len) as u64;
        // The client library chooses at random for an empty key.
        let hash = if out.key.is_empty() {
            dice.number()
        } else {
            xxhash_rust::xxh3::xxh3_64(&out.key)
        };
        let partition = (hash % partitions.max(1)) as i32;
        let (producer, open) = self.open(id, epoch)?;
        open.partitions.insert((out.topic, partition));
        if let Some(log) = self.partition_mut(out.topic, partition) {
            log.append(producer, partition, &OutOrClearing::Out(out, headers));
        }
        Ok(())
    }

    /// Writes to every partition of topics, and the position of a group, to be rolled back.
    pub(super) fn clear(
        &mut self,
        (id, epoch): (&str, u32),
        topics: &[Topic],
        group: Option<&str>,
        dice: &mut Dice,
    ) -> Result<bool, Refusal> {
        if !self.begin(id, epoch)? {
            return Ok(false);
        }
        for topic in topics {
            for partition in 0..self.topics.get(topic).map_or(0, Vec::len) as i32 {
                let (producer, open) = self.open(id, epoch)?;
                open.partitions.insert((*topic, partition));
                if let Some(log) = self.partition_mut(*topic, partition) {
                    log.append(producer, partition, &OutOrClearing::Clearing);
                }
            }
        }
        if let Some(group) = group {
            self.send_offsets((id, epoch), group, &[(0, 0)])?;
        }
        self.end(id, false, dice);
        Ok(true)
    }

    /// Adds positions of a group to a transaction.
    pub(super) fn send_offsets(
        &mut self,
        (id, epoch): (&str, u32),
        group: &str,
        positions: &[(i32, u64)],
    ) -> Result<(), Refusal> {
        let (producer, open) = self.open(id, epoch)?;
        open.groups.insert(group.to_owned());
        if let Some(group) = self.groups.get_mut(group) {
            group.add_pending(producer, positions);
        }
        Ok(())
    }

    /// Ends a producer's own transaction.
    pub(super) fn finish(
        &mut self,
        (id, epoch): (&str, u32),
        commit: bool,
        dice: &mut Dice,
    ) -> Result<(), Refusal> {
        self.open(id, epoch)?;
        self.end(id, commit, dice);
        Ok(())
    }

    /// Decides the outcome of the open transaction of an id. The markers that make it visible follow
    /// one after the other.
    fn end(&mut self, id: &str, commit: bool, dice: &mut Dice) {
        let Some(producer) = self.producers.get_mut(id) else {
            return;
        };
        let Phase::Open(open) = &producer.phase else {
            return;
        };
        let partitions = open.partitions.iter();
        let targets = partitions
            .map(|(topic, partition)| MarkerTarget::Partition(*topic, *partition))
            .chain(open.groups.iter().cloned().map(MarkerTarget::Group));
        let now = Instant::now();
        let mut done = now + Duration::from_millis(1);
        for target in targets {
            let at = now + dice.millis(1..40);
            done = done.max(at);
            self.due.push(DueMarker {
                at,
                producer: producer.id,
                commit,
                target,
            });
        }
        producer.phase = Phase::Ending(done);
    }

    /// A broker goes away and returns. Every producer notices. Some open transactions are taken for
    /// timed out while partitions have no leader: the coordinator forgets them without writing their
    /// markers, so readers wait there until the same id writes its next marker.
    pub(super) fn restart(&mut self, dice: &mut Dice) {
        self.restarts += 1;
        for producer in self.producers.values_mut() {
            if matches!(producer.phase, Phase::Open(_)) && dice.chance(0.5) {
                producer.phase = Phase::Idle;
                producer.epoch += 1;
            }
        }
    }

    /// Whether a producer has a transaction that is open or being ended.
    pub(super) fn has_open_transactions(&self) -> bool {
        let producers = self.producers.values();
        producers
            .into_iter()
            .any(|producer| !matches!(producer.phase, Phase::Idle))
    }
}
