//! Creates the topics a deployment needs; existing topics are not changed. Because this is the first
//! request to the brokers, it also reports why they reject this client.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use tracing::{debug, info};

use crate::{Brokers, Error};

pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of one metadata request, after which the reason of the delay is checked.
const METADATA_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to poll the client for the reason.
const REASON_TIMEOUT: Duration = Duration::from_millis(50);
/// Longer than brokers keep the transaction of a dead producer open.
const TRANSACTION_END_TIMEOUT: Duration = Duration::from_secs(45);

/// A topic and its settings.
#[derive(Debug, Clone)]
pub struct TopicSpec {
    /// Full name.
    pub name: String,
    /// Partitions, if it has to be created.
    pub partitions: u32,
    /// Whether it must have exactly one partition.
    pub one_partition: bool,
    /// Replication factor, if it has to be created.
    pub replication: u16,
    /// Topic settings by their names in Kafka.
    pub settings: Vec<(&'static str, String)>,
}

/// Waits until all transactions that are open on a topic have ended: everything written before this
/// call can then be read by readers of committed records, or has been rolled back.
///
/// # Errors
/// [`Error::Read`] if the brokers do not answer, [`Error::TransactionOpen`] if a transaction stays open
/// for longer than its timeout.
pub async fn wait_for_open_transactions(brokers: &Brokers, topic: &str) -> Result<(), Error> {
    let client = |isolation| -> Result<BaseConsumer, Error> {
        let own = [("isolation.level", isolation), ("group.id", "none")];
        brokers.client(&own).create().map_err(Error::Setup)
    };
    let (all, committed) = (client("read_uncommitted")?, client("read_committed")?);
    let name = topic.to_owned();
    let waited = tokio::task::spawn_blocking(move || {
        let metadata = all.fetch_metadata(Some(&name), TIMEOUT)?;
        let partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
        let mut ends = Vec::new();
        for partition in partitions {
            let (_, end) = all.fetch_watermarks(&name, partition.id(), TIMEOUT)?;
            ends.push((partition.id(), end));
        }
        let deadline = Instant::now() + TRANSACTION_END_TIMEOUT;
        for (partition, end) in ends {
            while committed.fetch_watermarks(&name, partition, TIMEOUT)?.1 < end {
                if Instant::now() > deadline {
                    return Ok(false);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(true)
    })
    .await
    .unwrap_or(Err(KafkaError::Canceled));
    match waited {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::TransactionOpen {
            topic: topic.to_owned(),
        }),
        Err(source) => Err(Error::Read {
            topic: topic.to_owned(),
            source,
        }),
    }
}

/// Creates the topics that do not exist. Fails if no broker answers within ten seconds.
///
/// # Errors
/// [`Error::Rejected`], [`Error::Topics`], or [`Error::Create`].
pub async fn ensure_topics(brokers: &Brokers, topics: &[TopicSpec]) -> Result<(), Error> {
    let brokers_to_list = brokers.clone();
    let known = tokio::task::spawn_blocking(move || partitions(&brokers_to_list))
        .await
        .map_err(|_| Error::Topics(KafkaError::Canceled))??;
    let missing: Vec<NewTopic<'_>> = topics
        .iter()
        .filter(|topic| !known.contains_key(&topic.name))
        .map(|topic| {
            let new = NewTopic::new(
                &topic.name,
                topic.partitions as i32,
                TopicReplication::Fixed(i32::from(topic.replication)),
            );
            topic
                .settings
                .iter()
                .fold(new, |new, (key, value)| new.set(key, value))
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let admin: AdminClient<DefaultClientContext> =
        brokers.client(&[]).create().map_err(Error::Setup)?;
    let options = AdminOptions::new()
        .operation_timeout(Some(TIMEOUT))
        .request_timeout(Some(TIMEOUT));
    let results = admin
        .create_topics(&missing, &options)
        .await
        .map_err(Error::Topics)?;
    for result in results {
        match result {
            Ok(topic) => info!(topic, "topic created"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(Error::Create { topic, code }),
        }
    }
    Ok(())
}

/// Returns the existing topics with their numbers of partitions.
pub(crate) fn partitions(brokers: &Brokers) -> Result<HashMap<String, usize>, Error> {
    let client: BaseConsumer<RejectionListener> = brokers
        .client(&[])
        .create_with_context(RejectionListener::default())
        .map_err(Error::Setup)?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match client.fetch_metadata(None, METADATA_TIMEOUT) {
            Ok(metadata) => {
                let topics = metadata.topics().iter();
                let count =
                    |topic: &MetadataTopic| (topic.name().to_owned(), topic.partitions().len());
                return Ok(topics.map(count).collect());
            }
            Err(source) => {
                // The client reports why a broker rejects it only while it is polled.
                client.poll(REASON_TIMEOUT);
                if let Some(reason) = client.context().reason() {
                    return Err(Error::Rejected { reason });
                }
                if Instant::now() >= deadline {
                    return Err(Error::Topics(source));
                }
            }
        }
    }
}

/// Keeps the reason why a broker has rejected the client: its certificate or its login.
#[derive(Default)]
struct RejectionListener(Mutex<Option<String>>);

impl RejectionListener {
    fn reason(&self) -> Option<String> {
        let mut reason = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reason.take()
    }
}

impl ClientContext for RejectionListener {
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka client");
        let code = error.rdkafka_error_code();
        if let Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) = code {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for RejectionListener {}
