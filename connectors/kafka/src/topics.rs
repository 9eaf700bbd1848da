//! Creates the topics a deployment needs; what is there already is left as it is.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use tracing::info;

use crate::{Brokers, Error};

const TIMEOUT: Duration = Duration::from_secs(10);

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

/// Creates those topics that are not there. Fails if no broker answers within ten seconds.
///
/// # Errors
/// See [`Error`].
pub async fn ensure_topics(brokers: &Brokers, topics: &[TopicSpec]) -> Result<(), Error> {
    let admin: AdminClient<DefaultClientContext> =
        brokers.client(&[]).create().map_err(Error::Setup)?;
    let (admin, known) = tokio::task::spawn_blocking(move || {
        let known = admin.inner().fetch_metadata(None, TIMEOUT);
        (admin, known)
    })
    .await
    .map_err(|_| Error::Topics(rdkafka::error::KafkaError::Canceled))?;
    let known = known.map_err(Error::Topics)?;
    let missing: Vec<NewTopic<'_>> = topics
        .iter()
        .filter(|topic| {
            !known
                .topics()
                .iter()
                .any(|there| there.name() == topic.name)
        })
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
