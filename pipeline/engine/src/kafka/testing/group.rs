//! A consumer group: members, generations and committed positions, as a group coordinator keeps
//! them (classic protocol, eager rebalances, static members).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::partition::ProducerId;
use super::refusal::Refusal;
use crate::kafka::Topic;
use crate::testing::{Dice, SimulatedProcess};

/// A member that is silent for so long is removed, as `session.timeout.ms` says.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
/// A member that does not poll for so long leaves, as `max.poll.interval.ms` says.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);
/// Members learn of a rebalance within this time, as `heartbeat.interval.ms` says; milliseconds.
const HEARTBEAT_MS: u64 = 1000;

pub(super) type MemberId = u64;

/// A committed position with its metadata.
#[derive(Debug, Clone, Default)]
pub(super) struct CommittedPosition {
    pub(super) position: u64,
    pub(super) metadata: String,
}

struct GroupMember {
    instance: String,
    process: SimulatedProcess,
    joined: Instant,
    polled: Instant,
    /// When its client was closed. A static member does not leave the group then.
    closed: Option<Instant>,
}

struct Rebalance {
    since: Instant,
    joined: BTreeSet<MemberId>,
    /// When each member learns of it.
    notified_at: BTreeMap<MemberId, Instant>,
}

/// What a member learns from the group.
pub(super) enum GroupAnswer {
    Nothing,
    /// It must give up its partitions and join again.
    Rebalance,
    /// Its partitions in a generation that it does not know yet.
    Share(u64, Vec<i32>),
    /// The group removed it; it must join as a new member.
    Removed,
}

/// The group.
pub(super) struct GroupState {
    topic: Topic,
    partitions: i32,
    generation: u64,
    next_member: MemberId,
    members: BTreeMap<MemberId, GroupMember>,
    rebalance: Option<Rebalance>,
    shares: BTreeMap<MemberId, Vec<i32>>,
    committed: BTreeMap<i32, CommittedPosition>,
    /// Positions in transactions that are not ended yet.
    pending: BTreeMap<ProducerId, BTreeMap<i32, u64>>,
    /// Members whose instance id another client has taken over.
    replaced: BTreeSet<MemberId>,
    /// Members that did not poll in time.
    exceeded: BTreeSet<MemberId>,
}

impl GroupState {
    pub(super) fn new(topic: Topic) -> Self {
        Self {
            topic,
            partitions: 0,
            generation: 0,
            next_member: 0,
            members: BTreeMap::new(),
            rebalance: None,
            shares: BTreeMap::new(),
            committed: BTreeMap::new(),
            pending: BTreeMap::new(),
            replaced: BTreeSet::new(),
            exceeded: BTreeSet::new(),
        }
    }

    pub(super) fn topic(&self) -> Topic {
        self.topic
    }

    /// Adds a member. One that returns under its instance id takes over the partitions it had,
    /// without a rebalance.
    pub(super) fn join(&mut self, process: &SimulatedProcess, dice: &mut Dice) -> MemberId {
        let id = self.next_member;
        self.next_member += 1;
        let now = Instant::now();
        let member = GroupMember {
            instance: process.name().to_owned(),
            process: process.clone(),
            joined: now,
            polled: now,
            closed: None,
        };
        let same = |(_, known): &(&MemberId, &GroupMember)| known.instance == member.instance;
        let old = self.members.iter().find(same).map(|(old, _)| *old);
        self.members.insert(id, member);
        if let Some(old) = old {
            self.members.remove(&old);
            self.replaced.insert(old);
            if let Some(share) = self.shares.remove(&old) {
                self.shares.insert(id, share);
            }
            if let Some(rebalance) = &mut self.rebalance {
                rebalance.joined.remove(&old);
                rebalance.joined.insert(id);
            } else if !self.shares.contains_key(&id) {
                self.start_rebalance(dice);
            }
        } else {
            self.start_rebalance(dice);
        }
        if let Some(rebalance) = &mut self.rebalance {
            rebalance.joined.insert(id);
        }
        id
    }

    fn start_rebalance(&mut self, dice: &mut Dice) {
        let now = Instant::now();
        let members = self.members.keys();
        let notified_at = members.map(|id| (*id, now + dice.millis(0..HEARTBEAT_MS)));
        let notified_at = notified_at.collect();
        self.rebalance.get_or_insert(Rebalance {
            since: now,
            joined: BTreeSet::new(),
            notified_at,
        });
    }

    /// Removes members that died or do not poll, and completes a rebalance once all have joined.
    pub(super) fn advance(&mut self, partitions: i32, now: Instant, dice: &mut Dice) {
        let mut removed = Vec::new();
        for (id, member) in &self.members {
            let died = member.closed.is_some_and(|at| at + SESSION_TIMEOUT <= now)
                || member
                    .process
                    .was_silent(member.joined, SESSION_TIMEOUT, now);
            let exceeded = member.polled + MAX_POLL_INTERVAL <= now;
            if died || exceeded {
                removed.push(*id);
            }
            if exceeded {
                self.exceeded.insert(*id);
            }
        }
        let changed = !removed.is_empty() || (partitions != self.partitions && self.generation > 0);
        self.partitions = partitions;
        for id in removed {
            self.remove(id);
        }
        if changed && !self.members.is_empty() {
            self.start_rebalance(dice);
        }
        let late = |rebalance: &Rebalance| rebalance.since + MAX_POLL_INTERVAL <= now;
        if let Some(rebalance) = &self.rebalance
            && late(rebalance)
        {
            let joined = rebalance.joined.clone();
            self.members.retain(|id, _| joined.contains(id));
        }
        let all_joined = self
            .rebalance
            .as_ref()
            .is_some_and(|rebalance| self.members.keys().all(|id| rebalance.joined.contains(id)));
        if all_joined {
            self.complete_rebalance(dice);
        }
    }

    fn remove(&mut self, id: MemberId) {
        self.members.remove(&id);
        self.shares.remove(&id);
        if let Some(rebalance) = &mut self.rebalance {
            rebalance.joined.remove(&id);
        }
    }

    fn complete_rebalance(&mut self, dice: &mut Dice) {
        self.rebalance = None;
        self.generation += 1;
        let mut members: Vec<MemberId> = self.members.keys().copied().collect();
        dice.shuffle(&mut members);
        self.shares = members.iter().map(|id| (*id, Vec::new())).collect();
        for partition in 0..self.partitions {
            if let Some(id) = members.get(partition as usize % members.len().max(1)) {
                self.shares.entry(*id).or_default().push(partition);
            }
        }
    }

    /// Answers a member that polls.
    pub(super) fn poll(
        &mut self,
        id: MemberId,
        generation: Option<u64>,
        now: Instant,
    ) -> Result<GroupAnswer, Refusal> {
        if self.replaced.contains(&id) {
            return Err(Refusal::InstanceFenced);
        }
        if self.exceeded.remove(&id) {
            return Err(Refusal::PollExceeded);
        }
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(GroupAnswer::Removed);
        };
        member.polled = now;
        if let Some(rebalance) = &self.rebalance {
            let notified_at = rebalance.notified_at.get(&id).is_none_or(|at| *at <= now);
            let waits = rebalance.joined.contains(&id) || !notified_at;
            return Ok(if waits {
                GroupAnswer::Nothing
            } else {
                GroupAnswer::Rebalance
            });
        }
        match self.shares.get(&id) {
            Some(share) if generation != Some(self.generation) => {
                Ok(GroupAnswer::Share(self.generation, share.clone()))
            }
            _ => Ok(GroupAnswer::Nothing),
        }
    }

    /// A member has given up its partitions and joins again.
    pub(super) fn rejoin(&mut self, id: MemberId) {
        if let Some(rebalance) = &mut self.rebalance
            && self.members.contains_key(&id)
        {
            rebalance.joined.insert(id);
        }
    }

    /// A client was closed without leaving.
    pub(super) fn close(&mut self, id: MemberId) {
        if let Some(member) = self.members.get_mut(&id) {
            member.closed = Some(Instant::now());
        }
    }

    /// Checks what a broker checks of a commit: the member and its generation, not whether the
    /// partition is the member's.
    pub(super) fn check(&self, id: MemberId, generation: Option<u64>) -> Result<(), Refusal> {
        if self.replaced.contains(&id) {
            return Err(Refusal::InstanceFenced);
        }
        if !self.members.contains_key(&id) {
            return Err(Refusal::UnknownMember);
        }
        if generation != Some(self.generation) {
            return Err(Refusal::StaleGeneration);
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, partition: i32, position: u64, metadata: String) {
        let committed = CommittedPosition { position, metadata };
        self.committed.insert(partition, committed);
    }

    /// Adds positions that a transaction will commit.
    pub(super) fn add_pending(&mut self, producer: ProducerId, positions: &[(i32, u64)]) {
        let pending = self.pending.entry(producer).or_default();
        pending.extend(positions.iter().copied());
    }

    /// Ends the positions of a transaction.
    pub(super) fn end_transaction(&mut self, producer: ProducerId, commit: bool) {
        let Some(positions) = self.pending.remove(&producer) else {
            return;
        };
        if commit {
            for (partition, position) in positions {
                self.commit(partition, position, String::new());
            }
        }
    }

    /// The committed positions of partitions; `None` while a transaction may still change one.
    pub(super) fn stable_positions(
        &self,
        partitions: &[i32],
    ) -> Option<Vec<(i32, CommittedPosition)>> {
        let unstable = |partition: &i32| {
            let mut pending = self.pending.values();
            pending.any(|positions| positions.contains_key(partition))
        };
        if partitions.iter().any(unstable) {
            return None;
        }
        let position = |partition: &i32| {
            let committed = self.committed.get(partition).cloned();
            (*partition, committed.unwrap_or_default())
        };
        Some(partitions.iter().map(position).collect())
    }

    pub(super) fn committed(&self) -> &BTreeMap<i32, CommittedPosition> {
        &self.committed
    }

    /// Moves the committed positions back by hand; `None` removes them.
    pub(super) fn reset(&mut self, position: Option<u64>) {
        match position {
            Some(position) => {
                for committed in self.committed.values_mut() {
                    *committed = CommittedPosition {
                        position: position.min(committed.position),
                        metadata: String::new(),
                    };
                }
            }
            None => self.committed.clear(),
        }
    }

    /// Forgets the positions of a topic that was deleted.
    pub(super) fn forget_positions(&mut self) {
        self.committed.clear();
        self.pending.clear();
    }
}
