//! Assignments and revocations of partitions, and which of them the stage has been notified of.
//!
//! The client calls back in the middle of a poll and needs the answer at once. The change is queued
//! here until [`crate::Member::next`] returns it. A partition counts as owned from the time when its
//! assignment is returned until it is revoked, even if the revocation has not been returned yet. A
//! broker checks a commit's member and generation but not whether the partition is assigned to the
//! member, so a commit for a partition that is not owned is refused here.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::bindings::rd_kafka_resp_err_t as RespErr;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use tracing::debug;

use crate::ConsumedRecord;

/// Timeout for reading committed positions during a rebalance.
const COMMITTED_TIMEOUT: Duration = Duration::from_secs(10);

/// Where reading an assigned partition starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartOffset {
    /// At the first record, regardless of the committed position.
    Beginning,
    /// This many records before the committed position.
    BeforeCommitted(u64),
}

/// A partition assigned to the member.
#[derive(Debug, Clone)]
pub struct AssignedPartition {
    /// The partition.
    pub partition: i32,
    /// The committed position; 0 if there is none.
    pub position: u64,
    /// The metadata committed with the position.
    pub metadata: String,
}

/// What [`crate::Member::next`] returns.
#[derive(Debug)]
pub enum MemberEvent {
    /// These partitions have been assigned to the member.
    Assigned(Vec<AssignedPartition>),
    /// These partitions have been revoked.
    Revoked(Vec<i32>),
    /// The next record.
    Record(ConsumedRecord),
    /// The current end of a partition has been reached.
    End(i32),
    /// Nothing happened within the time limit.
    Idle,
}

/// What the rebalance callback queues for [`crate::Member::next`].
enum RebalanceNotice {
    Changed(MemberEvent),
    Failed(KafkaError),
}

pub(crate) struct RebalanceContext {
    start: StartOffset,
    state: Mutex<AssignmentState>,
}

#[derive(Default)]
struct AssignmentState {
    /// Changes of the assignment that have not been returned.
    notices: VecDeque<RebalanceNotice>,
    /// Records and ends that were read ahead, of partitions that are still assigned.
    read_ahead: VecDeque<MemberEvent>,
    /// Partitions whose assignment has been returned and that have not been revoked since.
    owned: BTreeSet<i32>,
}

impl AssignmentState {
    fn drop_read_ahead(&mut self, of: impl Fn(i32) -> bool) {
        self.read_ahead.retain(|event| match event {
            MemberEvent::Record(record) => !of(record.partition),
            MemberEvent::End(partition) => !of(*partition),
            _ => true,
        });
    }
}

impl RebalanceContext {
    pub(crate) fn new(start: StartOffset) -> Self {
        Self {
            start,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, AssignmentState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the oldest change of the assignment that has not been returned.
    pub(crate) fn next_change(&self) -> Result<Option<MemberEvent>, KafkaError> {
        let mut state = self.state();
        let event = match state.notices.pop_front() {
            Some(RebalanceNotice::Changed(event)) => event,
            Some(RebalanceNotice::Failed(source)) => return Err(source),
            None => return Ok(None),
        };
        if let MemberEvent::Assigned(assigned) = &event {
            let revoked_since = |partition: i32| {
                let mut later = state.notices.iter();
                later.any(|notice| {
                    matches!(notice, RebalanceNotice::Changed(MemberEvent::Revoked(revoked)) if revoked.contains(&partition))
                })
            };
            let assigned = assigned.iter().map(|assigned| assigned.partition);
            let owned: Vec<i32> = assigned
                .filter(|partition| !revoked_since(*partition))
                .collect();
            state.owned.extend(owned);
        }
        Ok(Some(event))
    }

    /// Keeps an event that was read ahead.
    pub(crate) fn keep_read_ahead(&self, event: MemberEvent) {
        self.state().read_ahead.push_back(event);
    }

    /// Returns the oldest event that was read ahead.
    pub(crate) fn next_read_ahead(&self) -> Option<MemberEvent> {
        self.state().read_ahead.pop_front()
    }

    /// Drops what was read ahead of a partition.
    pub(crate) fn drop_read_ahead(&self, partition: i32) {
        self.state().drop_read_ahead(|ahead| ahead == partition);
    }

    /// Returns whether a partition is owned.
    pub(crate) fn owns(&self, partition: i32) -> bool {
        self.state().owned.contains(&partition)
    }

    /// Reads the committed positions and assigns the partitions at the offsets where reading starts, so
    /// that no other record is read first.
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &TopicPartitionList,
    ) -> Result<MemberEvent, KafkaError> {
        let mut assigned = Vec::with_capacity(partitions.count());
        let mut start = TopicPartitionList::with_capacity(partitions.count());
        if partitions.count() > 0 {
            let committed = consumer.committed_offsets(partitions.clone(), COMMITTED_TIMEOUT)?;
            for element in committed.elements() {
                element.error()?;
                let position = match element.offset() {
                    Offset::Offset(offset) => u64::try_from(offset).unwrap_or_default(),
                    _ => 0,
                };
                let offset = match self.start {
                    StartOffset::Beginning => Offset::Beginning,
                    StartOffset::BeforeCommitted(records) => {
                        Offset::Offset(position.saturating_sub(records) as i64)
                    }
                };
                start.add_partition_offset(element.topic(), element.partition(), offset)?;
                assigned.push(AssignedPartition {
                    partition: element.partition(),
                    position,
                    metadata: element.metadata().to_owned(),
                });
            }
        }
        consumer.assign(&start)?;
        Ok(MemberEvent::Assigned(assigned))
    }
}

impl ClientContext for RebalanceContext {
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka client");
    }
}

impl ConsumerContext for RebalanceContext {
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
            state.owned.retain(|owned| !revoked.contains(owned));
            // The partition's next owner reads them again from the committed position.
            state.drop_read_ahead(|ahead| revoked.contains(&ahead));
            drop(state);
            consumer.unassign().map(|()| MemberEvent::Revoked(revoked))
        };
        self.state().notices.push_back(match notice {
            Ok(event) => RebalanceNotice::Changed(event),
            Err(failure) => {
                // The group counts the partitions as assigned to this member: give them up instead of
                // keeping them without reading.
                consumer.unassign().ok();
                RebalanceNotice::Failed(failure)
            }
        });
    }
}
