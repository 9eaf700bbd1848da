//! A transactional producer: what it writes is whole or not there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{debug, error, warn};

use crate::{Brokers, Error, Out};

/// Longest wait for the brokers in one call.
const TIMEOUT: Duration = Duration::from_secs(30);
/// After this an open transaction of a dead producer no longer holds readers up.
const TRANSACTION_TIMEOUT_MS: &str = "30000";
/// Pause before a step is tried again that the client says may be.
pub(crate) const RETRY: Duration = Duration::from_millis(50);
/// Key of the records that are rolled back with what was left open.
const CLEARING: &[u8] = b"clearing";

/// What a member writes.
#[derive(Debug, Clone)]
pub struct Writes {
    /// Its transactional id.
    pub transactional_id: String,
    /// Full names of all topics that this id is used to write to.
    pub topics: Vec<String>,
}

/// Positions of a group's topic that go with a transaction.
pub(crate) type Positions<'a> = (&'a str, &'a [(i32, u64)], ConsumerGroupMetadata);

/// What the client tells beside its answers.
#[derive(Default)]
struct Deliveries {
    /// A record was not taken by its broker.
    failed: AtomicBool,
    /// A broker went away.
    disturbed: AtomicBool,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // The only word of it: librdkafka makes no error of a connection that ends, and is silent
        // about one that has idled.
        if facility == "FAIL" && message.contains("in state UP") {
            self.disturbed.store(true, Ordering::Relaxed);
        }
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                debug!(facility, message, "kafka producer");
            }
            RDKafkaLogLevel::Warning => warn!(facility, message, "kafka producer"),
            _ => error!(facility, message, "kafka producer"),
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
    }
}

pub(crate) struct Writer {
    producer: ThreadedProducer<Deliveries>,
    brokers: Brokers,
    topics: Vec<String>,
    /// The group whose positions go with the transactions.
    group: Option<String>,
}

/// A fail point of the crash matrix, named after the group's last word; nothing without the feature.
macro_rules! pass {
    ($self:ident, $step:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!(
            &format!(
                "{}.{}",
                $self
                    .group
                    .as_deref()
                    .and_then(|group| group.rsplit('.').next())
                    .unwrap_or(""),
                $step
            ),
            |_| Err(Error::Transaction {
                step: $step,
                source: KafkaError::Subscription("fail point".into())
            })
        );
    };
}

impl Writer {
    pub(crate) fn new(
        brokers: &Brokers,
        writes: &Writes,
        group: Option<&str>,
    ) -> Result<Self, Error> {
        let own = [
            ("transactional.id", writes.transactional_id.as_str()),
            ("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS),
            ("linger.ms", "5"),
            ("compression.type", "lz4"),
            ("message.max.bytes", "16777216"),
            ("queue.buffering.max.kbytes", "65536"),
        ];
        let producer = brokers
            .client(&own)
            // As much as tells of connections that end.
            .set_log_level(RDKafkaLogLevel::Info)
            .create_with_context(Deliveries::default())
            .map_err(Error::Setup)?;
        Ok(Self {
            producer,
            brokers: brokers.clone(),
            topics: writes.topics.clone(),
            group: group.map(str::to_owned),
        })
    }

    /// Fences every older holder of the transactional id and ends what it left open, wherever that
    /// is. `topic` is one the group has positions of.
    pub(crate) fn begin(&self, topic: &str) -> Result<(), Error> {
        let failed = |step| move |source| Error::Transaction { step, source };
        let disturbed = &self.producer.context().disturbed;
        disturbed.store(false, Ordering::Relaxed);
        let started = self.producer.init_transactions(TIMEOUT);
        started.map_err(failed("start"))?;
        let clearing = self.clear(topic);
        let aborted = self.producer.abort_transaction(TIMEOUT);
        clearing.and(aborted).map_err(failed("clear"))
    }

    /// Puts a record into every partition that this transactional id may ever have written to, and a
    /// position beside them, to be rolled back.
    ///
    /// Starting ends a transaction that the coordinator still knows to be open. But a coordinator
    /// that ends one while a partition has no leader takes the partition for deleted and writes no
    /// marker there (`TransactionMarkerChannelManager` of Kafka 4.3: "Couldn't find leader
    /// endpoint"); so it happens when a broker comes back and what was open has timed out meanwhile.
    /// Nobody reads on there, and the positions stay unstable, until this producer writes its next
    /// marker; were that one of a commit, it would bring to light what had been rolled back.
    fn clear(&self, topic: &str) -> Result<(), KafkaError> {
        let mut partitions = Vec::new();
        for topic in &self.topics {
            let metadata = self
                .producer
                .client()
                .fetch_metadata(Some(topic), TIMEOUT)?;
            let found = metadata.topics().iter().flat_map(MetadataTopic::partitions);
            partitions.extend(found.map(|partition| (topic, partition.id())));
        }
        self.producer.begin_transaction()?;
        self.producer
            .context()
            .failed
            .store(false, Ordering::Relaxed);
        for (topic, partition) in partitions {
            let record = BaseRecord::to(topic).partition(partition);
            self.send(record.key(CLEARING).payload(&[]))?;
        }
        self.producer.flush(TIMEOUT)?;
        if self.producer.context().failed.load(Ordering::Relaxed) {
            return Err(KafkaError::MessageProduction(RDKafkaErrorCode::Fail));
        }
        let Some(group) = &self.group else {
            return Ok(());
        };
        // A stranger to the group, who need not have been given a place to say where it stands.
        let stranger: BaseConsumer = self.brokers.client(&[("group.id", group)]).create()?;
        let mut positions = TopicPartitionList::with_capacity(1);
        positions.add_partition_offset(topic, 0, Offset::Offset(0))?;
        match stranger.group_metadata() {
            Some(group) => again(|| {
                self.producer
                    .send_offsets_to_transaction(&positions, &group, TIMEOUT)
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn transact(
        &self,
        records: &[Out],
        positions: Option<Positions<'_>>,
    ) -> Result<(), Error> {
        // Before it is begun, there is nothing to roll back.
        self.undisturbed()?;
        let result = self.transaction(records, positions);
        if result.is_err()
            && let Err(failure) = self.producer.abort_transaction(TIMEOUT)
        {
            error!(error = %failure, "kafka transaction could not be rolled back; its id will be taken over");
        }
        result
    }

    fn transaction(&self, records: &[Out], positions: Option<Positions<'_>>) -> Result<(), Error> {
        let failed = |step| move |source| Error::Transaction { step, source };
        self.producer.begin_transaction().map_err(failed("begin"))?;
        pass!(self, "begun");
        for record in records {
            self.send(record.record()).map_err(failed("write"))?;
        }
        pass!(self, "produced");
        if let Some((topic, consumed, group)) = positions {
            let mut list = TopicPartitionList::with_capacity(consumed.len());
            for (partition, position) in consumed {
                let offset = Offset::Offset(*position as i64);
                list.add_partition_offset(topic, *partition, offset)
                    .map_err(failed("offsets"))?;
            }
            again(|| {
                self.producer
                    .send_offsets_to_transaction(&list, &group, TIMEOUT)
            })
            .map_err(failed("offsets"))?;
            pass!(self, "offsets_sent");
        }
        // Once a broker has taken all of it, the transaction before it is over on every partition.
        self.producer.flush(TIMEOUT).map_err(failed("write"))?;
        self.undisturbed()?;
        again(|| self.producer.commit_transaction(TIMEOUT)).map_err(failed("commit"))?;
        pass!(self, "committed");
        Ok(())
    }

    /// Refuses to go on after a broker went away: what was committed last may hang there (see
    /// [`Writer::clear`]), and a commit on top of it would bring a part of it to light and move the
    /// positions on. Begun again, the whole of it is rolled back and done once more.
    fn undisturbed(&self) -> Result<(), Error> {
        if self.producer.context().disturbed.load(Ordering::Relaxed) {
            return Err(Error::Disturbed);
        }
        Ok(())
    }

    /// Hands a record over. The producer's queue is bounded; its own thread empties it.
    fn send(&self, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), KafkaError> {
        while let Err((source, back)) = self.producer.send(record) {
            if source.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(source);
            }
            std::thread::sleep(RETRY);
            record = back;
        }
        Ok(())
    }
}

/// Repeats a step as long as the client says that it may be repeated.
fn again(mut run: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    const ATTEMPTS: u32 = 10;
    let mut attempt = 1;
    loop {
        match run() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && attempt < ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(RETRY);
            }
            result => return result,
        }
    }
}
