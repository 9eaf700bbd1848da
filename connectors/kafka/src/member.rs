//! A member of a consumer group on one topic, with a transactional producer where it writes.

use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{debug, error};

use crate::rebalance::{Context, Event, From};
use crate::{Brokers, Error, Out, Record};

/// Longest wait for the brokers in one call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// After this an open transaction of a dead producer no longer holds readers up.
const TRANSACTION_TIMEOUT_MS: &str = "30000";
/// Pause before a step is tried again that the client says may be.
const RETRY: Duration = Duration::from_millis(50);

/// How to join.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The brokers.
    pub brokers: Brokers,
    /// The topic's full name.
    pub topic: String,
    /// The group; `None` reads every partition outside any group.
    pub group: Option<String>,
    /// Name of this member that outlives the process: a member that died and comes back under its
    /// name takes its partitions up at once (`group.instance.id`).
    pub instance: String,
    /// Where reading starts.
    pub from: From,
    /// Transactional id, if the member writes.
    pub transactional_id: Option<String>,
}

/// A fail point of the crash matrix, named after the group's last word; nothing without the feature.
macro_rules! pass {
    ($self:ident, $step:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!(
            &format!("{}.{}", $self.group.rsplit('.').next().unwrap_or(""), $step),
            |_| Err(Error::Transaction {
                step: $step,
                source: KafkaError::Subscription("fail point".into())
            })
        );
    };
}

/// A live membership. Dropping it leaves the partitions to others once the session has run out.
pub struct Member {
    topic: String,
    group: String,
    consumer: StreamConsumer<Context>,
    producer: Option<ThreadedProducer<DefaultProducerContext>>,
}

impl Member {
    /// Joins; partitions are told by [`Event::Assigned`] as the group gives them.
    ///
    /// # Errors
    /// The properties are refused, or the topic cannot be subscribed to.
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
            // Bounds what is held between the broker and the stage.
            ("queued.max.messages.kbytes", "16384"),
        ];
        match &group {
            Some(group) => {
                own.push(("group.id", group));
                own.push(("group.instance.id", &membership.instance));
            }
            None => own.push(("group.id", "none")),
        }
        let context = Context::new(membership.from);
        let consumer: StreamConsumer<Context> = membership
            .brokers
            .client(&own)
            .create_with_context(context)
            .map_err(Error::Setup)?;
        let producer = match &membership.transactional_id {
            Some(id) => {
                let own = [
                    ("transactional.id", id.as_str()),
                    ("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS),
                    ("linger.ms", "5"),
                    ("compression.type", "lz4"),
                    ("message.max.bytes", "16777216"),
                    ("queue.buffering.max.kbytes", "65536"),
                ];
                Some(
                    membership
                        .brokers
                        .client(&own)
                        .create()
                        .map_err(Error::Setup)?,
                )
            }
            None => None,
        };
        let member = Self {
            topic: membership.topic.clone(),
            group: group.unwrap_or_default(),
            consumer,
            producer,
        };
        if membership.group.is_some() {
            let joined = member.consumer.subscribe(&[&member.topic]);
            joined.map_err(|source| member.unreadable(source))?;
        } else {
            member.follow_all()?;
        }
        Ok(member)
    }

    /// Reads every partition from its beginning, outside any group. A broker that has not heard yet
    /// of a topic just made says that it has no partitions, which must not be believed: nothing
    /// would ever be read.
    fn follow_all(&self) -> Result<(), Error> {
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
                    return self.consumer.assign(&all);
                }
                if Instant::now() >= deadline {
                    return Err(KafkaError::MetadataFetch(
                        RDKafkaErrorCode::UnknownTopicOrPartition,
                    ));
                }
                std::thread::sleep(RETRY);
            }
        });
        assigned.map_err(|source| self.unreadable(source))
    }

    /// How many partitions are this member's now.
    pub fn partitions(&self) -> usize {
        self.consumer.assignment().map_or(0, |list| list.count())
    }

    fn unreadable(&self, source: KafkaError) -> Error {
        Error::Read {
            topic: self.topic.clone(),
            source,
        }
    }

    fn notice(&self) -> Result<Option<Event>, Error> {
        let notice = self.consumer.context().notice();
        notice.map_err(|source| self.unreadable(source))
    }

    /// Refuses what belongs to a partition that this member does not hold any more.
    fn held(&self, partition: i32) -> Result<(), Error> {
        if self.consumer.context().holds(partition) {
            return Ok(());
        }
        Err(Error::NotHeld {
            group: self.group.clone(),
            partition,
        })
    }

    /// The next event, waiting at most `wait`. Assignments are told before their first record.
    ///
    /// # Errors
    /// The client has failed in a way it does not mend by itself.
    pub async fn next(&self, wait: Duration) -> Result<Event, Error> {
        if let Some(event) = self.notice()? {
            return Ok(event);
        }
        if let Some(event) = self.consumer.context().stashed() {
            return Ok(event);
        }
        let received = tokio::time::timeout(wait, self.consumer.recv()).await;
        let notice = self.notice()?;
        let event = match received {
            Ok(Ok(message)) => Event::Record(Record::read(&message)),
            Ok(Err(KafkaError::PartitionEOF(partition))) => Event::End(partition),
            Ok(Err(source)) if passing(&source) => {
                debug!(topic = self.topic, error = %source, "kafka client");
                Event::Idle
            }
            Ok(Err(source)) => return Err(self.unreadable(source)),
            Err(_elapsed) => Event::Idle,
        };
        let Some(notice) = notice else {
            return Ok(event);
        };
        if !matches!(event, Event::Idle) {
            self.consumer.context().stash(event);
        }
        Ok(notice)
    }

    /// Commits a position with metadata and waits for the broker's word.
    ///
    /// # Errors
    /// The partition has another owner (class refresh: join anew), also where it has been given
    /// back to this member meanwhile; or the broker does not answer.
    pub fn commit(&self, partition: i32, position: u64, metadata: &str) -> Result<(), Error> {
        self.held(partition)?;
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

    /// Goes on reading a partition at an offset; its end will be told again.
    ///
    /// # Errors
    /// The partition is not this member's, or its broker does not answer.
    pub fn seek(&self, partition: i32, offset: u64) -> Result<(), Error> {
        let offset = Offset::Offset(offset as i64);
        // What has been read ahead will be read again.
        self.consumer.context().forget(partition);
        let result = tokio::task::block_in_place(|| {
            self.consumer.seek(&self.topic, partition, offset, TIMEOUT)
        });
        result.map_err(|source| Error::Seek {
            topic: self.topic.clone(),
            source,
        })
    }

    /// Stays in the group without reading, for as long as it is polled; reading goes on when the
    /// future is dropped. Ends only if the client has failed in a way it does not mend by itself.
    pub async fn keep_alive(&self) -> Error {
        let _paused = Paused::all(&self.consumer);
        loop {
            let event = match self.consumer.recv().await {
                Ok(message) => Event::Record(Record::read(&message)),
                Err(KafkaError::PartitionEOF(partition)) => Event::End(partition),
                Err(source) if passing(&source) => {
                    debug!(topic = self.topic, error = %source, "kafka client");
                    continue;
                }
                Err(source) => return self.unreadable(source),
            };
            // What was on its way is kept for later; the pause bounds its number.
            self.consumer.context().stash(event);
            // It came from a partition assigned meanwhile: hold that one up too.
            if let Some(paused) = Paused::all(&self.consumer) {
                std::mem::forget(paused);
            }
        }
    }

    /// Fences every older holder of the transactional id and ends what it left open.
    ///
    /// # Errors
    /// The member has no producer, or the coordinator does not answer.
    pub fn begin(&self) -> Result<(), Error> {
        let producer = self.producer()?;
        tokio::task::block_in_place(|| producer.init_transactions(TIMEOUT)).map_err(|source| {
            Error::Transaction {
                step: "start",
                source,
            }
        })
    }

    fn producer(&self) -> Result<&ThreadedProducer<DefaultProducerContext>, Error> {
        self.producer.as_ref().ok_or_else(|| Error::ReadOnly {
            group: self.group.clone(),
        })
    }

    /// Writes records and commits positions of this group, all or nothing.
    ///
    /// # Errors
    /// The transaction has been rolled back, or its producer has been fenced. Join anew and go on
    /// from the committed positions.
    pub fn transact(&self, records: &[Out], consumed: &[(i32, u64)]) -> Result<(), Error> {
        let producer = self.producer()?;
        for (partition, _) in consumed {
            self.held(*partition)?;
        }
        tokio::task::block_in_place(|| {
            let result = self.transaction(producer, records, consumed);
            if result.is_err()
                && let Err(failure) = producer.abort_transaction(TIMEOUT)
            {
                error!(error = %failure, "kafka transaction could not be rolled back; its id will be taken over");
            }
            result
        })
    }

    fn transaction(
        &self,
        producer: &ThreadedProducer<DefaultProducerContext>,
        records: &[Out],
        consumed: &[(i32, u64)],
    ) -> Result<(), Error> {
        let failed = |step| move |source| Error::Transaction { step, source };
        producer.begin_transaction().map_err(failed("begin"))?;
        pass!(self, "begun");
        for record in records {
            let mut unsent = record.record();
            // The producer's queue is bounded; its own thread empties it.
            while let Err((source, back)) = producer.send(unsent) {
                if source.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(failed("write")(source));
                }
                std::thread::sleep(RETRY);
                unsent = back;
            }
        }
        pass!(self, "produced");
        if !consumed.is_empty() {
            let mut positions = TopicPartitionList::with_capacity(consumed.len());
            for (partition, position) in consumed {
                let offset = Offset::Offset(*position as i64);
                positions
                    .add_partition_offset(&self.topic, *partition, offset)
                    .map_err(failed("offsets"))?;
            }
            let group = self
                .consumer
                .group_metadata()
                .ok_or_else(|| Error::NotJoined {
                    group: self.group.clone(),
                })?;
            again("offsets", || {
                producer.send_offsets_to_transaction(&positions, &group, TIMEOUT)
            })?;
            pass!(self, "offsets_sent");
        }
        again("commit", || producer.commit_transaction(TIMEOUT))?;
        pass!(self, "committed");
        Ok(())
    }
}

/// Repeats a step as long as the client says that it may be repeated.
fn again(step: &'static str, mut run: impl FnMut() -> Result<(), KafkaError>) -> Result<(), Error> {
    const ATTEMPTS: u32 = 10;
    let mut attempt = 1;
    loop {
        match run() {
            Ok(()) => return Ok(()),
            Err(KafkaError::Transaction(error)) if error.is_retriable() && attempt < ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(RETRY);
            }
            Err(source) => return Err(Error::Transaction { step, source }),
        }
    }
}

/// Errors the client reports on its way and mends by itself.
fn passing(error: &KafkaError) -> bool {
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

/// Holds every assigned partition's reading up while it lives.
struct Paused<'a> {
    consumer: &'a StreamConsumer<Context>,
    partitions: TopicPartitionList,
}

impl<'a> Paused<'a> {
    fn all(consumer: &'a StreamConsumer<Context>) -> Option<Self> {
        let partitions = consumer.assignment().ok()?;
        consumer.pause(&partitions).ok()?;
        Some(Self {
            consumer,
            partitions,
        })
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        // Partitions may have come or gone meanwhile.
        let now = self
            .consumer
            .assignment()
            .unwrap_or_else(|_| self.partitions.clone());
        if let Err(failure) = self.consumer.resume(&now) {
            debug!(error = %failure, "kafka partitions not resumed; they are not ours any more");
        }
    }
}
