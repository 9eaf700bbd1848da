//! A member of a consumer group on one topic, with a transactional producer where it writes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::debug;

use crate::rebalance::{Context, Event, From};
use crate::writer::{RETRY, Writer, Writes};
use crate::{Brokers, Error, Out, Record};

/// Longest wait for the brokers in one call.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How often it is looked whether a topic that is read outside any group has got more partitions.
const WIDENED: Duration = Duration::from_secs(30);
/// How long a broker may take to say so.
const ASK: Duration = Duration::from_secs(1);

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
    /// What the member writes, if it does.
    pub writes: Option<Writes>,
}

/// A live membership. Dropping it leaves the partitions to others once the session has run out.
pub struct Member {
    topic: String,
    /// Of a reader outside any group: how many partitions it reads, and when that was looked at.
    followed: Mutex<(usize, Instant)>,
    group: String,
    consumer: StreamConsumer<Context>,
    writer: Option<Writer>,
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
        let writer = match &membership.writes {
            Some(writes) => Some(Writer::new(&membership.brokers, writes, group.as_deref())?),
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
                    *lock(&self.followed) = (all.count(), Instant::now());
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

    /// Looks from time to time whether a topic that is read outside any group has got more
    /// partitions; a group is told by its broker.
    fn still_whole(&self) -> Result<(), Error> {
        let mut followed = lock(&self.followed);
        let (count, looked) = *followed;
        if !self.group.is_empty() || looked.elapsed() < WIDENED {
            return Ok(());
        }
        followed.1 = Instant::now();
        drop(followed);
        let fetch = || self.consumer.fetch_metadata(Some(&self.topic), ASK);
        // A broker that does not answer, or does not know the topic for a moment, is looked after elsewhere.
        let Ok(metadata) = tokio::task::block_in_place(fetch) else {
            return Ok(());
        };
        let topics = metadata.topics().iter();
        let now: usize = topics.map(|topic| topic.partitions().len()).sum();
        if now > count {
            let topic = self.topic.clone();
            return Err(Error::Widened { topic });
        }
        Ok(())
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
    /// The client has failed in a way it does not mend by itself; or a topic read outside any group
    /// has got more partitions (class refresh: join anew).
    pub async fn next(&self, wait: Duration) -> Result<Event, Error> {
        self.still_whole()?;
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
    /// The member does not write, or the coordinator does not answer.
    pub fn begin(&self) -> Result<(), Error> {
        let writer = self.writer()?;
        tokio::task::block_in_place(|| writer.begin(&self.topic))
    }

    fn writer(&self) -> Result<&Writer, Error> {
        self.writer.as_ref().ok_or_else(|| Error::ReadOnly {
            group: self.group.clone(),
        })
    }

    /// Writes records and commits positions of this group, all or nothing.
    ///
    /// # Errors
    /// The transaction has been rolled back, or its producer has been fenced. Join anew and go on
    /// from the committed positions.
    pub fn transact(&self, records: &[Out], consumed: &[(i32, u64)]) -> Result<(), Error> {
        let writer = self.writer()?;
        for (partition, _) in consumed {
            self.held(*partition)?;
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
