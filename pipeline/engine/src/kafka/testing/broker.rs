//! The brokers and their transaction coordinator.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::group::GroupState;
use super::partition::{OutOrClearing, PartitionLog, ProducerId};
use super::refusal::Refusal;
use crate::kafka::{OutRecord, Topic};
use crate::testing::Dice;

/// After this an open transaction is aborted, as `transaction.timeout.ms` says.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

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
