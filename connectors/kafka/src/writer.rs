//! A transactional producer: a transaction is visible as a whole or not at all.

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

use crate::{Brokers, Error, OutgoingRecord};

/// Timeout of one request to the brokers.
const TIMEOUT: Duration = Duration::from_secs(30);
/// After this time an open transaction of a dead producer no longer blocks readers.
const TRANSACTION_TIMEOUT_MS: &str = "30000";
/// Pause before a retriable step is repeated.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Key of the records that are written to be rolled back, see [`TransactionalWriter::clear`].
const CLEARING: &[u8] = b"clearing";

/// The producer of a member.
#[derive(Debug, Clone)]
pub struct WriterConfig {
    /// The transactional id.
    pub transactional_id: String,
    /// Full names of all topics that are written to with this id.
    pub topics: Vec<String>,
}

/// A topic, positions on it and the group that commits them, as part of a transaction.
pub(crate) type GroupPositions<'a> = (&'a str, &'a [(i32, u64)], ConsumerGroupMetadata);

/// What the client reports through callbacks.
#[derive(Default)]
struct ProducerStatus {
    /// A broker has not accepted a record.
    failed: AtomicBool,
    /// The connection to a broker was lost.
    broker_lost: AtomicBool,
}

impl ClientContext for ProducerStatus {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // This log line is the only sign: librdkafka reports no error for a connection that ends, and
        // logs nothing for one that was idle.
        if facility == "FAIL" && message.contains("in state UP") {
            self.broker_lost.store(true, Ordering::Relaxed);
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

impl ProducerContext for ProducerStatus {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
    }
}

pub(crate) struct TransactionalWriter {
    producer: ThreadedProducer<ProducerStatus>,
    brokers: Brokers,
    topics: Vec<String>,
    /// The group whose positions are committed in the transactions.
    group: Option<String>,
}

/// Fail points of a transaction, in the order in which they are passed. The first part of a point's
/// name is the last part of the group's name, for example `process.begun`. `offsets_sent` is passed
/// only if positions are committed.
pub const TRANSACTION_FAIL_POINTS: &[&str] = &[BEGUN, PRODUCED, OFFSETS_SENT, COMMITTED];

const BEGUN: &str = "begun";
const PRODUCED: &str = "produced";
const OFFSETS_SENT: &str = "offsets_sent";
const COMMITTED: &str = "committed";

/// Passes a fail point of the crash tests. Does nothing without the feature.
macro_rules! pass {
    ($self:ident, $step:expr) => {
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

impl TransactionalWriter {
    pub(crate) fn new(
        brokers: &Brokers,
        config: &WriterConfig,
        group: Option<&str>,
    ) -> Result<Self, Error> {
        let own = [
            ("transactional.id", config.transactional_id.as_str()),
            ("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS),
            ("linger.ms", "5"),
            ("compression.type", "lz4"),
            ("message.max.bytes", "16777216"),
            ("queue.buffering.max.kbytes", "65536"),
        ];
        let producer = brokers
            .client(&own)
            // The level at which lost connections are logged.
            .set_log_level(RDKafkaLogLevel::Info)
            .create_with_context(ProducerStatus::default())
            .map_err(Error::Setup)?;
        Ok(Self {
            producer,
            brokers: brokers.clone(),
            topics: config.topics.clone(),
            group: group.map(str::to_owned),
        })
    }

    /// Fences every older producer with the transactional id and rolls back what it left open, on every
    /// partition. `topic` is a topic that the group has positions on.
    pub(crate) fn begin(&self, topic: &str) -> Result<(), Error> {
        let failed = |step| move |source| Error::Transaction { step, source };
        let broker_lost = &self.producer.context().broker_lost;
        broker_lost.store(false, Ordering::Relaxed);
        let started = self.producer.init_transactions(TIMEOUT);
        started.map_err(failed("start"))?;
        let clearing = self.clear(topic);
        let aborted = self.producer.abort_transaction(TIMEOUT);
        clearing.and(aborted).map_err(failed("clear"))
    }

    /// Writes a record to every partition that this transactional id may ever have written to, and
    /// sends a position, in a transaction that the caller rolls back.
    ///
    /// `init_transactions` ends a transaction that the coordinator knows to be open. But if the
    /// coordinator ends a transaction while a partition has no leader, it treats the partition as
    /// deleted and writes no marker there (`TransactionMarkerChannelManager` of Kafka 4.3: "Couldn't
    /// find leader endpoint"). This happens when a broker comes back after an open transaction has
    /// timed out. Readers of that partition are then blocked, and the positions stay unstable, until
    /// this producer writes its next marker. If that marker were a commit, it would make visible what
    /// had been rolled back.
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
        // A consumer outside the group can send positions without having joined.
        let outsider: BaseConsumer = self.brokers.client(&[("group.id", group)]).create()?;
        let mut positions = TopicPartitionList::with_capacity(1);
        positions.add_partition_offset(topic, 0, Offset::Offset(0))?;
        match outsider.group_metadata() {
            Some(group) => retry(|| {
                self.producer
                    .send_offsets_to_transaction(&positions, &group, TIMEOUT)
            }),
            None => Ok(()),
        }
    }

    pub(crate) fn transact(
        &self,
        records: &[OutgoingRecord],
        positions: Option<GroupPositions<'_>>,
    ) -> Result<(), Error> {
        // Before the transaction begins, there is nothing to roll back.
        self.check_brokers()?;
        let result = self.transaction(records, positions);
        if result.is_err()
            && let Err(failure) = self.producer.abort_transaction(TIMEOUT)
        {
            error!(error = %failure, "kafka transaction could not be rolled back; the next producer with its id will do so");
        }
        result
    }

    fn transaction(
        &self,
        records: &[OutgoingRecord],
        positions: Option<GroupPositions<'_>>,
    ) -> Result<(), Error> {
        let failed = |step| move |source| Error::Transaction { step, source };
        self.producer.begin_transaction().map_err(failed("begin"))?;
        pass!(self, BEGUN);
        for record in records {
            self.send(record.record()).map_err(failed("write"))?;
        }
        pass!(self, PRODUCED);
        if let Some((topic, consumed, group)) = positions {
            let mut list = TopicPartitionList::with_capacity(consumed.len());
            for (partition, position) in consumed {
                let offset = Offset::Offset(*position as i64);
                list.add_partition_offset(topic, *partition, offset)
                    .map_err(failed("offsets"))?;
            }
            retry(|| {
                self.producer
                    .send_offsets_to_transaction(&list, &group, TIMEOUT)
            })
            .map_err(failed("offsets"))?;
            pass!(self, OFFSETS_SENT);
        }
        // Once the brokers have accepted all records, the previous transaction has ended on every
        // partition.
        self.producer.flush(TIMEOUT).map_err(failed("write"))?;
        self.check_brokers()?;
        retry(|| self.producer.commit_transaction(TIMEOUT)).map_err(failed("commit"))?;
        pass!(self, COMMITTED);
        Ok(())
    }

    /// Fails if the connection to a broker was lost: the last commit may be incomplete (see
    /// [`TransactionalWriter::clear`]), and a further commit would make a part of it visible and advance
    /// the positions. After joining again, all of it is rolled back and repeated.
    fn check_brokers(&self) -> Result<(), Error> {
        if self.producer.context().broker_lost.load(Ordering::Relaxed) {
            return Err(Error::BrokerLost);
        }
        Ok(())
    }

    /// Queues a record. The producer's queue is bounded; its own thread empties it.
    fn send(&self, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), KafkaError> {
        while let Err((source, returned)) = self.producer.send(record) {
            if source.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(source);
            }
            std::thread::sleep(RETRY_PAUSE);
            record = returned;
        }
        Ok(())
    }
}

/// Repeats a step as long as its error is retriable.
fn retry(mut run: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    const ATTEMPTS: u32 = 10;
    let mut attempt = 1;
    loop {
        match run() {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && attempt < ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(RETRY_PAUSE);
            }
            result => return result,
        }
    }
}
