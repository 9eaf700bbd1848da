//! Creates the topics a deployment needs; what is there already is left as it is. As the first to
//! ask the brokers anything, it also tells why they turn this client away.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::MetadataTopic;
use tracing::{debug, info};

use crate::{Brokers, Error};

const TIMEOUT: Duration = Duration::from_secs(10);
/// How long one question about the topics may take before it is looked at why.
const ASK: Duration = Duration::from_secs(1);
/// How long to wait for the client to say why.
const LISTEN: Duration = Duration::from_millis(50);
/// Longer than the brokers leave the transaction of a dead producer open.
const SETTLED: Duration = Duration::from_secs(45);

/// A topic and its settings.
#[derive(Debug, Clone)]
pub struct TopicSpec {
    /// Full name.
    pub name: String,
    /// Partitions, if it has to be created.
    pub partitions: u32,
    /// Replication factor, if it has to be created.
    pub replication: u16,
    /// Topic settings as Kafka names them.
    pub settings: Vec<(&'static str, String)>,
}

/// Waits until everything that was written to a topic before this call can be read by readers of
/// committed records, or has been rolled back: transactions that are open now have ended then.
///
/// # Errors
/// The brokers do not answer, or a transaction stays open for longer than its producer may.
pub async fn settled(brokers: &Brokers, topic: &str) -> Result<(), Error> {
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
        let deadline = Instant::now() + SETTLED;
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
        Ok(false) => Err(Error::Unsettled {
            topic: topic.to_owned(),
        }),
        Err(source) => Err(Error::Read {
            topic: topic.to_owned(),
            source,
        }),
    }
}

/// Creates those topics that are not there. Fails if no broker answers within ten seconds.
///
/// # Errors
/// See [`Error`].
pub async fn ensure_topics(brokers: &Brokers, topics: &[TopicSpec]) -> Result<(), Error> {
    let asking = brokers.clone();
    let known = tokio::task::spawn_blocking(move || known_topics(&asking))
        .await
        .map_err(|_| Error::Topics(KafkaError::Canceled))??;
    let missing: Vec<NewTopic<'_>> = topics
        .iter()
        .filter(|topic| !known.contains(&topic.name))
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

/// Names of the topics there are.
fn known_topics(brokers: &Brokers) -> Result<HashSet<String>, Error> {
    let client: BaseConsumer<Ear> = brokers
        .client(&[])
        .create_with_context(Ear::default())
        .map_err(Error::Setup)?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match client.fetch_metadata(None, ASK) {
            Ok(metadata) => {
                let topics = metadata.topics().iter();
                return Ok(topics.map(|topic| topic.name().to_owned()).collect());
            }
            Err(source) => {
                // Only a client that is polled says why a broker turns it away.
                client.poll(LISTEN);
                if let Some(reason) = client.context().refusal() {
                    return Err(Error::Refused { reason });
                }
                if Instant::now() >= deadline {
                    return Err(Error::Topics(source));
                }
            }
        }
    }
}

/// Keeps why a broker has turned the client away: certificates that do not fit, a login refused.
#[derive(Default)]
struct Ear(Mutex<Option<String>>);

impl Ear {
    fn refusal(&self) -> Option<String> {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.take()
    }
}

impl ClientContext for Ear {
    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "kafka client");
        let code = error.rdkafka_error_code();
        if let Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) = code {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Ear {}
