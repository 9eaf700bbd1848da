//! What the group gives and takes away, and what of it has been told.
//!
//! The client calls back in the middle of a poll; the answer has to be given there. What it did
//! waits here until [`crate::Member::next`] tells it. A partition is held only between the two: from
//! the moment its assignment is told until the moment it is taken away, told or not. A broker
//! checks a commit's member and generation, and not whether the member holds the partition; so a
//! commit for a partition that is not held is refused here.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::bindings::rd_kafka_resp_err_t as RespErr;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use tracing::debug;

use crate::Record;

/// Longest wait for committed positions while a rebalance waits for them.
const COMMITTED: Duration = Duration::from_secs(10);

/// Where reading an assigned partition starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At its first record, whatever was committed.
    Beginning,
    /// So many records before the committed position.
    BeforeCommitted(u64),
}

/// A partition that has been assigned.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The partition.
    pub partition: i32,
    /// The committed position; 0 if there is none.
    pub position: u64,
    /// What was committed with it.
    pub metadata: String,
}

/// What a member has to say.
#[derive(Debug)]
pub enum Event {
    /// These partitions are this member's now.
    Assigned(Vec<Taken>),
    /// These are no longer.
    Revoked(Vec<i32>),
    /// The next record.
    Record(Record),
    /// A partition has been read to its end for now.
    End(i32),
    /// Nothing within the time asked for.
    Idle,
}

/// What the rebalance callback leaves for [`crate::Member::next`].
enum Notice {
    Event(Event),
    Failed(KafkaError),
}

pub(crate) struct Context {
    from: From,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What happened to the assignment and has not been told.
    notices: VecDeque<Notice>,
    /// Records and ends read ahead, of partitions that are still assigned.
    stash: VecDeque<Event>,
    /// Partitions whose assignment has been told and that have not been taken away since.
    held: BTreeSet<i32>,
}

impl State {
    fn forget(&mut self, gone: impl Fn(i32) -> bool) {
        self.stash.retain(|event| match event {
            Event::Record(record) => !gone(record.partition),
            Event::End(partition) => !gone(*partition),
            _ => true,
        });
    }
}

impl Context {
    pub(crate) fn new(from: From) -> Self {
        Self {
            from,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The oldest change of the assignment that has not been told.
    pub(crate) fn notice(&self) -> Result<Option<Event>, KafkaError> {
        let mut state = self.state();
        let event = match state.notices.pop_front() {
            Some(Notice::Event(event)) => event,
            Some(Notice::Failed(source)) => return Err(source),
            None => return Ok(None),
        };
        if let Event::Assigned(taken) = &event {
            let gone_since = |partition: i32| {
                let mut later = state.notices.iter();
                later.any(|notice| {
                    matches!(notice, Notice::Event(Event::Revoked(gone)) if gone.contains(&partition))
                })
            };
            let told = taken.iter().map(|taken| taken.partition);
            let held: Vec<i32> = told.filter(|partition| !gone_since(*partition)).collect();
            state.held.extend(held);
        }
        Ok(Some(event))
    }

    /// Keeps an event for later.
    pub(crate) fn stash(&self, event: Event) {
        self.state().stash.push_back(event);
    }

    /// The oldest event kept.
    pub(crate) fn stashed(&self) -> Option<Event> {
        self.state().stash.pop_front()
    }

    /// Forgets what has been read ahead of a partition.
    pub(crate) fn forget(&self, partition: i32) {
        self.state().forget(|ahead| ahead == partition);
    }

    /// Whether a partition is held.
    pub(crate) fn holds(&self, partition: i32) -> bool {
        self.state().held.contains(&partition)
    }

    /// Looks the committed positions up and assigns the partitions at the offsets where reading is
    /// to start, so that no record is read from anywhere else first.
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &TopicPartitionList,
    ) -> Result<Event, KafkaError> {
        let mut taken = Vec::with_capacity(partitions.count());
        let mut start = TopicPartitionList::with_capacity(partitions.count());
        if partitions.count() > 0 {
            let committed = consumer.committed_offsets(partitions.clone(), COMMITTED)?;
            for element in committed.elements() {
                element.error()?;
                let position = match element.offset() {
                    Offset::Offset(offset) => u64::try_from(offset).unwrap_or_default(),
                    _ => 0,
                };
                let offset = match self.from {
                    From::Beginning => Offset::Beginning,
                    From::BeforeCommitted(records) => {
                        Offset::Offset(position.saturating_sub(records) as i64)
                    }
                };
                start.add_partition_offset(element.topic(), element.partition(), offset)?;
                taken.push(Taken {
                    partition: element.partition(),
                    position,
                    metadata: element.metadata().to_owned(),
                });
            }
        }
        consumer.assign(&start)?;
        Ok(Event::Assigned(taken))
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka client");
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        err: RespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let notice = if err == RespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, partitions)
        } else {
            let elements = partitions.elements();
            let revoked: Vec<i32> = elements
                .iter()
                .map(TopicPartitionListElem::partition)
                .collect();
            let mut state = self.state();
            state.held.retain(|held| !revoked.contains(held));
            // Whoever is given the partition next reads it again from the committed position.
            state.forget(|ahead| revoked.contains(&ahead));
            drop(state);
            consumer.unassign().map(|()| Event::Revoked(revoked))
        };
        self.state().notices.push_back(match notice {
            Ok(event) => Notice::Event(event),
            Err(failure) => {
                // The group believes that we hold the partitions; leave it rather than hold them
                // without reading.
                consumer.unassign().ok();
                Notice::Failed(failure)
            }
        });
    }
}
