//! A member of a consumer group on one topic, optionally with a transactional producer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;

use crate::rebalance::{MemberEvent, RebalanceContext, StartOffset};
use crate::writer::{RETRY_PAUSE, TransactionalWriter, WriterConfig};
use crate::{Brokers, ConsumedRecord, Error, OutgoingRecord};

/// Timeout of one request to the brokers.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often a topic that is read outside any group is checked for added partitions.
const PARTITION_CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Timeout of that check.
const PARTITION_CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// How a member joins.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The brokers.
    pub brokers: Brokers,
    /// The topic's full name.
    pub topic: String,
    /// The group; `None` reads every partition outside any group.
    pub group: Option<String>,
    /// Name of this member that outlives the process (`group.instance.id`): a member that died and comes
    /// back under its name gets its partitions back at once.
    pub instance: String,
    /// Where reading starts.
    pub start: StartOffset,
    /// The member's producer, if it writes.
    pub writer: Option<WriterConfig>,
}

/// A live membership. After dropping it, other members get the partitions once the session times out.
pub struct Member {
    topic: String,
    /// For a reader outside any group: how many partitions it reads, and when that was last checked.
    followed: Mutex<(usize, Instant)>,
    group: String,
    consumer: StreamConsumer<RebalanceContext>,
    writer: Option<TransactionalWriter>,
}

impl Member {
    /// Joins the group. [`MemberEvent::Assigned`] reports the partitions as the group assigns them.
    ///
    /// # Errors
    /// [`Error::Setup`] if the properties are invalid, [`Error::Read`] if the topic cannot be subscribed
    /// to.
    pub fn join(membership: &Membership) -> Result<Self, Error> {
        let group = membership.group.clone();
        let mut own = vec![
            ("enable.auto.commit", "false"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", "read_committed"),
            ("enable.partition.eof", "true"),
            ("session.timeout.ms", "10000"),
            ("heartbeat.interval.ms", "1000"),
            ("fetch.wait.max.ms", "100"),
            ("fetch.error.backoff.ms", "100"),
            ("topic.metadata.refresh.interval.ms", "30000"),
            // Limits what is buffered between the broker and the stage.
            ("queued.max.messages.kbytes", "16384"),
        ];
        match &group {
            Some(group) => {
                own.push(("group.id", group));
                own.push(("group.instance.id", &membership.instance));
            }
            None => own.push(("group.id", "none")),
        }
        let context = RebalanceContext::new(membership.start);
        let consumer: StreamConsumer<RebalanceContext> = membership
            .brokers
            .client(&own)
            .create_with_context(context)
            .map_err(Error::Setup)?;
        let writer = match &membership.writer {
            Some(config) => Some(TransactionalWriter::new(
                &membership.brokers,
                config,
                group.as_deref(),
            )?),
            None => None,
        };
        let member = Self {
            topic: membership.topic.clone(),
            followed: Mutex::new((0, Instant::now())),
            group: group.unwrap_or_default(),
            consumer,
            writer,
        };
        if membership.group.is_some() {
            let joined = member.consumer.subscribe(&[&member.topic]);
            joined.map_err(|source| member.read_error(source))?;
        } else {
            member.assign_all()?;
        }
        Ok(member)
    }

    /// Reads every partition from its beginning, outside any group. Waits until the topic has partitions:
    /// a broker that does not know a new topic yet reports none, and then nothing would ever be read.
    fn assign_all(&self) -> Result<(), Error> {
        let deadline = Instant::now() + TIMEOUT;
        let assigned = tokio::task::block_in_place(|| {
            loop {
                let metadata = self.consumer.fetch_metadata(Some(&self.topic), TIMEOUT)?;
                let mut all = TopicPartitionList::new();
                for topic in metadata.topics() {
                    for partition in topic.partitions() {
                        all.add_partition_offset(topic.name(), partition.id(), Offset::Beginning)?;
                    }
                }
                if all.count() > 0 {
                    *lock(&self.followed) = (all.count(), Instant::now());
                    return self.consumer.assign(&all);
                }
                if Instant::now() >= deadline {
                    return Err(KafkaError::MetadataFetch(
                        RDKafkaErrorCode::UnknownTopicOrPartition,
                    ));
                }
                std::thread::sleep(RETRY_PAUSE);
            }
        });
        assigned.map_err(|source| self.read_error(source))
    }

    /// Checks from time to time whether partitions have been added to a topic that is read outside any
    /// group; members of a group are notified by the broker.
    fn check_partitions(&self) -> Result<(), Error> {
        let mut followed = lock(&self.followed);
        let (count, checked) = *followed;
        if !self.group.is_empty() || checked.elapsed() < PARTITION_CHECK_INTERVAL {
            return Ok(());
        }
        followed.1 = Instant::now();
        drop(followed);
        let fetch = || {
            self.consumer
                .fetch_metadata(Some(&self.topic), PARTITION_CHECK_TIMEOUT)
        };
        // Errors are ignored here: reading reports them.
        let Ok(metadata) = tokio::task::block_in_place(fetch) else {
            return Ok(());
        };
        let topics = metadata.topics().iter();
        let now: usize = topics.map(|topic| topic.partitions().len()).sum();
        if now > count {
            let topic = self.topic.clone();
            return Err(Error::PartitionsAdded { topic });
        }
        Ok(())
    }

    /// Returns the number of partitions assigned to this member.
    pub fn partitions(&self) -> usize {
        self.consumer.assignment().map_or(0, |list| list.count())
    }

    fn read_error(&self, source: KafkaError) -> Error {
        Error::Read {
            topic: self.topic.clone(),
            source,
        }
    }

    fn next_change(&self) -> Result<Option<MemberEvent>, Error> {
        let change = self.consumer.context().next_change();
        change.map_err(|source| self.read_error(source))
    }

    /// Fails if this member does not own the partition.
    fn check_owned(&self, partition: i32) -> Result<(), Error> {
        if self.consumer.context().owns(partition) {
            return Ok(());
        }
        Err(Error::NotAssigned {
            group: self.group.clone(),
            partition,
        })
    }

    /// Returns the next event; waits at most `wait`. An assignment is returned before its first record.
    ///
    /// # Errors
    /// [`Error::Read`] if the client has failed permanently; [`Error::PartitionsAdded`] (class refresh:
    /// join again) if partitions have been added to a topic that is read outside any group.
    pub async fn next(&self, wait: Duration) -> Result<MemberEvent, Error> {
        self.check_partitions()?;
        if let Some(event) = self.next_change()? {
            return Ok(event);
        }
        if let Some(event) = self.consumer.context().next_read_ahead() {
            return Ok(event);
        }
        let received = tokio::time::timeout(wait, self.consumer.recv()).await;
        let change = self.next_change()?;
        let event = match received {
            Ok(Ok(message)) => MemberEvent::Record(ConsumedRecord::read(&message)),
            Ok(Err(KafkaError::PartitionEOF(partition))) => MemberEvent::End(partition),
            Ok(Err(source)) if is_transient(&source) => {
                debug!(topic = self.topic, error = %source, "kafka client");
                MemberEvent::Idle
            }
            Ok(Err(source)) => return Err(self.read_error(source)),
            Err(_elapsed) => MemberEvent::Idle,
        };
        let Some(change) = change else {
            return Ok(event);
        };
        if !matches!(event, MemberEvent::Idle) {
            self.consumer.context().keep_read_ahead(event);
        }
        Ok(change)
    }

    /// Commits a position with metadata and waits for the broker's answer.
    ///
    /// # Errors
    /// [`Error::NotAssigned`] (class refresh: join again) if the partition has been revoked, also if it
    /// has been assigned to this member again; [`Error::Commit`] if the commit fails.
    pub fn commit(&self, partition: i32, position: u64, metadata: &str) -> Result<(), Error> {
        self.check_owned(partition)?;
        let result = tokio::task::block_in_place(|| {
            let mut list = TopicPartitionList::with_capacity(1);
            {
                let mut element = list.add_partition(&self.topic, partition);
                element.set_offset(Offset::Offset(position as i64))?;
                element.set_metadata(metadata);
            }
            self.consumer.commit(&list, CommitMode::Sync)
        });
        result.map_err(|source| Error::Commit {
            group: self.group.clone(),
            source,
        })
    }

    /// Continues reading a partition at an offset. Its end will be reported again.
    ///
    /// # Errors
    /// [`Error::Seek`] if the partition is not assigned to this member, or its broker does not answer.
    pub fn seek(&self, partition: i32, offset: u64) -> Result<(), Error> {
        let offset = Offset::Offset(offset as i64);
        // Records that were read ahead will be read again.
        self.consumer.context().drop_read_ahead(partition);
        let result = tokio::task::block_in_place(|| {
            self.consumer.seek(&self.topic, partition, offset, TIMEOUT)
        });
        result.map_err(|source| Error::Seek {
            topic: self.topic.clone(),
            source,
        })
    }

    /// Stays in the group without reading while the future is polled; reading continues when the future
    /// is dropped. Returns only if the client has failed permanently.
    pub async fn keep_alive(&self) -> Error {
        let _paused = PausedPartitions::all(&self.consumer);
        loop {
            let event = match self.consumer.recv().await {
                Ok(message) => MemberEvent::Record(ConsumedRecord::read(&message)),
                Err(KafkaError::PartitionEOF(partition)) => MemberEvent::End(partition),
                Err(source) if is_transient(&source) => {
                    debug!(topic = self.topic, error = %source, "kafka client");
                    continue;
                }
                Err(source) => return self.read_error(source),
            };
            // Records that were already fetched are kept; the pause limits their number.
            self.consumer.context().keep_read_ahead(event);
            // The record may be from a partition assigned in the meantime: pause that one too.
            if let Some(paused) = PausedPartitions::all(&self.consumer) {
                std::mem::forget(paused);
            }
        }
    }

    /// Fences every older producer with the transactional id and rolls back what it left open.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] if the member has no producer, [`Error::Transaction`] if the coordinator does
    /// not answer.
    pub fn begin(&self) -> Result<(), Error> {
        let writer = self.writer()?;
        tokio::task::block_in_place(|| writer.begin(&self.topic))
    }

    fn writer(&self) -> Result<&TransactionalWriter, Error> {
        self.writer.as_ref().ok_or_else(|| Error::ReadOnly {
            group: self.group.clone(),
        })
    }

    /// Writes records and commits positions of this group in one transaction.
    ///
    /// # Errors
    /// The transaction has been rolled back, or the producer has been fenced. Join again and continue from
    /// the committed positions.
    pub fn transact(
        &self,
        records: &[OutgoingRecord],
        consumed: &[(i32, u64)],
    ) -> Result<(), Error> {
        let writer = self.writer()?;
        for (partition, _) in consumed {
            self.check_owned(*partition)?;
        }
        let positions = if consumed.is_empty() {
            None
        } else {
            let joined = self.consumer.group_metadata();
            let group = joined.ok_or_else(|| Error::NotJoined {
                group: self.group.clone(),
            })?;
            Some((&self.topic[..], consumed, group))
        };
        tokio::task::block_in_place(|| writer.transact(records, positions))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether the client recovers from an error without help.
fn is_transient(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::NotCoordinator
                | Code::CoordinatorNotAvailable
                | Code::CoordinatorLoadInProgress
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
        )
    )
}

/// Pauses the assigned partitions until it is dropped.
struct PausedPartitions<'a> {
    consumer: &'a StreamConsumer<RebalanceContext>,
    partitions: TopicPartitionList,
}

impl<'a> PausedPartitions<'a> {
    fn all(consumer: &'a StreamConsumer<RebalanceContext>) -> Option<Self> {
        let partitions = consumer.assignment().ok()?;
        consumer.pause(&partitions).ok()?;
        Some(Self {
            consumer,
            partitions,
        })
    }
}

impl Drop for PausedPartitions<'_> {
    fn drop(&mut self) {
        // The assignment may have changed in the meantime.
        let now = self
            .consumer
            .assignment()
            .unwrap_or_else(|_| self.partitions.clone());
        if let Err(failure) = self.consumer.resume(&now) {
            debug!(error = %failure, "kafka partitions not resumed; they are no longer assigned");
        }
    }
}
