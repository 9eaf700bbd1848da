//! A member of a group on the log in memory. It refuses whatever the real connector refuses
//! (`connectors/kafka/src/{member,writer,rebalance}.rs`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::broker::Broker;
use super::group::{GroupAnswer, MemberId};
use super::partition::{PartitionLog, ReadStep, StoredRecord};
use super::refusal::Refusal;
use super::{Membership, MemoryLog, ReadFrom};
use crate::fault::Fault;
use crate::kafka::{Assigned, Group, GroupEvent, LogRecord, OutRecord};
use crate::testing::{Dice, SimulatedProcess, lock};

/// How often a member looks for something new while it waits; shorter waits are kept.
const POLL: Duration = Duration::from_millis(100);
/// How often a step is tried again that waits for a transaction to end.
const STEP: Duration = Duration::from_millis(10);
/// Longest wait for committed positions in a rebalance.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a reader outside any group looks for more partitions.
const MORE_PARTITIONS: Duration = Duration::from_secs(30);
/// How often `keep_alive` polls.
const KEEP_ALIVE: Duration = Duration::from_millis(200);

/// What the rebalance callback leaves for [`Group::next`].
enum Notice {
    Event(GroupEvent),
    Failed(Refusal),
}

/// Where a partition is read.
struct ReadCursor {
    next: u64,
    /// The end that was reported last.
    reported_end: Option<u64>,
}

/// What the client library and the connector remember.
#[derive(Default)]
pub(super) struct Client {
    pub(super) id: Option<MemberId>,
    /// The generation whose partitions it has; `None` between two.
    pub(super) generation: Option<u64>,
    cursors: BTreeMap<i32, ReadCursor>,
    /// Partitions whose assignment was reported and that were not revoked since.
    held: BTreeSet<i32>,
    notices: VecDeque<Notice>,
    /// Epoch of the producer, once it was started.
    pub(super) epoch: Option<u32>,
    /// Restarts of brokers when the producer was started.
    pub(super) restarts: u64,
    /// Next look at the number of partitions, outside a group.
    look_at: Option<Instant>,
}

/// A live membership.
pub(super) struct MemoryMember {
    pub(super) log: MemoryLog,
    pub(super) process: SimulatedProcess,
    pub(super) membership: Membership,
    client: Mutex<Client>,
}

impl Drop for MemoryMember {
    fn drop(&mut self) {
        if let (Some(group), Some(id)) = (&self.membership.group, lock(&self.client).id) {
            self.log.with(|broker, _| {
                if let Some(group) = broker.groups.get_mut(group) {
                    group.close(id);
                }
            });
        }
    }
}

impl MemoryMember {
    pub(super) fn join(
        log: &MemoryLog,
        process: &SimulatedProcess,
        membership: Membership,
    ) -> Self {
        let member = Self {
            log: log.clone(),
            process: process.clone(),
            membership,
            client: Mutex::default(),
        };
        if member.membership.group.is_none() {
            let (topic, now) = (member.membership.topic, Instant::now());
            let mut client = lock(&member.client);
            client.look_at = Some(now + MORE_PARTITIONS);
            client.cursors = log.with(|broker, _| {
                let partitions = broker.topics.get(&topic).into_iter().flatten();
                let cursors = partitions.map(|log| ReadCursor {
                    next: log.first(),
                    reported_end: None,
                });
                (0..).zip(cursors).collect()
            });
        }
        member
    }

    pub(super) fn client<T>(&self, with: impl FnOnce(&mut Client) -> T) -> T {
        with(&mut lock(&self.client))
    }

    pub(super) fn broker<T>(
        &self,
        with: impl FnOnce(&mut Broker, &mut Dice) -> Result<T, Refusal>,
    ) -> Result<T, Fault> {
        self.log.with(with).map_err(Fault::new)
    }

    /// Polls the group: joins, gives up partitions, takes up new ones.
    async fn poll(&self) -> Result<(), Fault> {
        let Some(group) = &self.membership.group else {
            return self.look_for_partitions();
        };
        let (mut id, generation) = self.client(|client| (client.id, client.generation));
        let answer = self.broker(|broker, dice| {
            broker.advance_group(group, dice);
            let Some(state) = broker.groups.get_mut(group) else {
                return Ok(GroupAnswer::Nothing);
            };
            let joined = match id {
                Some(id) => id,
                None => state.join(&self.process, dice),
            };
            id = Some(joined);
            state.poll(joined, generation, Instant::now())
        });
        self.client(|client| client.id = id);
        match answer? {
            GroupAnswer::Nothing => {}
            GroupAnswer::Rebalance => {
                self.revoke();
                self.log.with(|broker, _| {
                    if let (Some(state), Some(id)) = (broker.groups.get_mut(group), id) {
                        state.rejoin(id);
                    }
                });
            }
            GroupAnswer::Removed => {
                self.revoke();
                self.client(|client| client.id = None);
            }
            GroupAnswer::Share(generation, partitions) => {
                self.assign(group, generation, partitions).await;
            }
        }
        Ok(())
    }

    fn look_for_partitions(&self) -> Result<(), Fault> {
        let topic = self.membership.topic;
        let now = Instant::now();
        let (due, known) = self.client(|client| {
            let due = client.look_at.is_some_and(|at| at <= now);
            if due {
                client.look_at = Some(now + MORE_PARTITIONS);
            }
            (due, client.cursors.len())
        });
        self.broker(|broker, dice| {
            broker.advance(dice);
            let partitions = broker.topics.get(&topic).map_or(0, Vec::len);
            if due && partitions > known {
                return Err(Refusal::MorePartitions);
            }
            Ok(())
        })
    }

    /// The callback for partitions that are taken away.
    fn revoke(&self) {
        self.client(|client| {
            let partitions: Vec<i32> = std::mem::take(&mut client.cursors).into_keys().collect();
            client.held.clear();
            client.generation = None;
            if !partitions.is_empty() {
                let revoked = GroupEvent::Revoked(partitions);
                client.notices.push_back(Notice::Event(revoked));
            }
        });
    }

    /// The callback for partitions that are given: looks up the committed positions and starts
    /// reading there.
    async fn assign(&self, group: &str, generation: u64, partitions: Vec<i32>) {
        let deadline = Instant::now() + COMMITTED_TIMEOUT;
        let positions = loop {
            let stable = self.log.with(|broker, dice| {
                broker.advance(dice);
                let group = broker.groups.get(group)?;
                group.stable_positions(&partitions)
            });
            if stable.is_some() || Instant::now() >= deadline {
                break stable;
            }
            tokio::time::sleep(STEP).await;
            self.process.run().await;
        };
        let topic = self.membership.topic;
        let Some(positions) = positions else {
            self.client(|client| {
                client.generation = Some(generation);
                let failed = Notice::Failed(Refusal::UnstableOffsets);
                client.notices.push_back(failed);
            });
            return;
        };
        let mut assigned = Vec::new();
        let mut cursors = BTreeMap::new();
        for (partition, committed) in positions {
            let first = self.log.with(|broker, _| {
                let log = broker.partition(topic, partition);
                log.map_or(0, PartitionLog::first)
            });
            let next = match self.membership.from {
                ReadFrom::Beginning => first,
                ReadFrom::BeforeCommitted(records) => committed.position.saturating_sub(records),
            };
            cursors.insert(
                partition,
                ReadCursor {
                    next,
                    reported_end: None,
                },
            );
            assigned.push(Assigned {
                partition,
                position: committed.position,
                metadata: committed.metadata,
            });
        }
        self.client(|client| {
            client.generation = Some(generation);
            client.cursors = cursors;
            let assigned = GroupEvent::Assigned(assigned);
            client.notices.push_back(Notice::Event(assigned));
        });
    }

    /// The oldest change of the assignment that was not reported. From the moment an assignment is
    /// reported, the member holds its partitions, unless they were taken away since.
    fn notice(&self) -> Result<Option<GroupEvent>, Fault> {
        self.client(|client| match client.notices.pop_front() {
            None => Ok(None),
            Some(Notice::Failed(refusal)) => Err(Fault::new(refusal)),
            Some(Notice::Event(event)) => {
                if let GroupEvent::Assigned(assigned) = &event {
                    let still = |partition: &i32| {
                        !client.notices.iter().any(|notice| match notice {
                            Notice::Event(GroupEvent::Revoked(gone)) => gone.contains(partition),
                            _ => false,
                        })
                    };
                    let partitions = assigned.iter().map(|assigned| assigned.partition);
                    let held: Vec<i32> = partitions.filter(still).collect();
                    client.held.extend(held);
                }
                Ok(Some(event))
            }
        })
    }

    /// The next record or end of any partition.
    fn fetch(&self) -> Result<Option<GroupEvent>, Fault> {
        let topic = self.membership.topic;
        let event = self.client(|client| {
            self.log.with(|broker, dice| {
                let mut partitions: Vec<i32> = client.cursors.keys().copied().collect();
                dice.shuffle(&mut partitions);
                for partition in partitions {
                    let Some(cursor) = client.cursors.get_mut(&partition) else {
                        continue;
                    };
                    let Some(log) = broker.partition(topic, partition) else {
                        continue;
                    };
                    match log.read(cursor.next) {
                        ReadStep::Record(record) => {
                            cursor.next = record.raw.offset + 1;
                            cursor.reported_end = None;
                            return Some(Fetched::Record(record));
                        }
                        ReadStep::End(end) => {
                            cursor.next = end;
                            if cursor.reported_end != Some(end) {
                                cursor.reported_end = Some(end);
                                return Some(Fetched::End(partition));
                            }
                        }
                        ReadStep::Beyond => {}
                    }
                }
                None
            })
        });
        Ok(match event {
            Some(Fetched::Record(record)) => Some(GroupEvent::Record(read_record(topic, &record)?)),
            Some(Fetched::End(partition)) => Some(GroupEvent::End(partition)),
            None => None,
        })
    }

    pub(super) fn check_held(&self, partition: i32) -> Result<(), Fault> {
        let lenient = self.log.with(|broker, _| broker.accepts_stale_commits);
        if lenient || self.client(|client| client.held.contains(&partition)) {
            return Ok(());
        }
        Err(Fault::new(Refusal::NotHeld(partition)))
    }

    fn commit(&self, partition: i32, position: u64, metadata: String) -> Result<(), Fault> {
        let group = self.membership.group.as_deref().unwrap_or_default();
        let (id, generation) = self.client(|client| (client.id, client.generation));
        self.broker(|broker, dice| {
            broker.advance_group(group, dice);
            let lenient = broker.accepts_stale_commits;
            let (Some(state), Some(id)) = (broker.groups.get_mut(group), id) else {
                return Err(Refusal::UnknownMember);
            };
            if !lenient {
                state.check(id, generation)?;
            }
            state.commit(partition, position, metadata);
            Ok(())
        })
    }
}

enum Fetched {
    Record(Box<StoredRecord>),
    End(i32),
}

/// Reads a record with its headers, as the connector's caller does.
pub(super) fn read_record(
    topic: crate::kafka::Topic,
    stored: &StoredRecord,
) -> Result<LogRecord, Fault> {
    LogRecord::read(topic, stored.raw.clone(), |name| {
        let found = stored.headers.iter().find(|(header, _)| *header == name);
        found.map(|(_, text)| text.as_str())
    })
}

impl Group for MemoryMember {
    fn next(&self, wait: Duration) -> BoxFuture<'_, Result<GroupEvent, Fault>> {
        async move {
            let deadline = Instant::now() + wait;
            loop {
                self.process.run().await;
                self.poll().await?;
                if let Some(event) = self.notice()? {
                    self.process.pause().await;
                    return Ok(event);
                }
                if let Some(event) = self.fetch()? {
                    return Ok(event);
                }
                let now = Instant::now();
                if now >= deadline {
                    return Ok(GroupEvent::Idle);
                }
                tokio::time::sleep(POLL.min(deadline - now)).await;
            }
        }
        .boxed()
    }

    fn partitions(&self) -> usize {
        self.client(|client| client.cursors.len())
    }

    fn save(
        &self,
        partition: i32,
        position: u64,
        metadata: String,
    ) -> BoxFuture<'_, Result<(), Fault>> {
        async move {
            self.check_held(partition)?;
            let commit = || self.commit(partition, position, metadata);
            self.process.call("log.commit", commit).await
        }
        .boxed()
    }

    fn seek(&self, partition: i32, offset: u64) -> BoxFuture<'_, Result<(), Fault>> {
        async move {
            let seek = || {
                self.client(|client| match client.cursors.get_mut(&partition) {
                    Some(cursor) => {
                        cursor.next = offset;
                        cursor.reported_end = None;
                        Ok(())
                    }
                    None => Err(Fault::new(Refusal::NotAssigned)),
                })
            };
            self.process.call("log.seek", seek).await
        }
        .boxed()
    }

    fn keep_alive(&self) -> BoxFuture<'_, Fault> {
        async move {
            loop {
                self.process.run().await;
                if let Err(fault) = self.poll().await {
                    return fault;
                }
                tokio::time::sleep(KEEP_ALIVE).await;
            }
        }
        .boxed()
    }

    fn begin(&self) -> BoxFuture<'_, Result<(), Fault>> {
        self.start_producer().boxed()
    }

    fn transact<'a>(
        &'a self,
        records: Vec<OutRecord>,
        consumed: &'a [(i32, u64)],
    ) -> BoxFuture<'a, Result<(), Fault>> {
        self.write(records, consumed).boxed()
    }
}
