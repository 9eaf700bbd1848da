//! Copies topics, so that sinks can read the same offsets repeatedly, and deletes topics.
//!
//! When a transaction ends depends on time, and its marker uses an offset. So in two runs of the whole
//! pipeline, records have different offsets and the batches of a sink have different names. In a copy,
//! whose offsets have no gaps, they are the same.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::metadata::MetadataTopic;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(60);
/// The topics that sinks read.
const READ_BY_SINKS: [&str; 3] = ["messages", "violations", "deadletter"];

/// The contents of the topics that sinks read.
pub struct TopicCopy {
    partitions: i32,
    records: Vec<(&'static str, OwnedMessage)>,
}

fn client(broker: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker);
    config
}

/// Reads the topics that sinks read.
///
/// # Errors
/// The broker does not return them within a minute.
pub fn read(broker: &str, prefix: &str) -> Result<TopicCopy> {
    let mut records = Vec::new();
    let mut partitions = 0;
    for topic in READ_BY_SINKS {
        let name = format!("{prefix}.{topic}");
        let consumer: BaseConsumer = client(broker)
            .set("group.id", format!("{prefix}.copy"))
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .create()?;
        let metadata = consumer.fetch_metadata(Some(&name), PATIENCE)?;
        let mut all = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(MetadataTopic::partitions) {
            all.add_partition_offset(&name, partition.id(), Offset::Beginning)?;
        }
        partitions = all.count() as i32;
        ensure!(partitions > 0, "topic {name} does not exist");
        consumer.assign(&all)?;
        let deadline = Instant::now() + PATIENCE;
        let mut open = partitions;
        while open > 0 {
            ensure!(Instant::now() < deadline, "{name} was not read completely");
            match consumer.poll(Duration::from_millis(200)) {
                None => {}
                Some(Ok(message)) => records.push((topic, message.detach())),
                Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
                Some(Err(error)) => bail!("{name}: {error}"),
            }
        }
    }
    Ok(TopicCopy {
        partitions,
        records,
    })
}

/// Writes the records to topics with another prefix, each to its partition.
///
/// # Errors
/// The broker returns an error.
pub async fn write(broker: &str, prefix: &str, copy: &TopicCopy) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(broker).create()?;
    let names: Vec<String> = READ_BY_SINKS
        .iter()
        .map(|topic| format!("{prefix}.{topic}"))
        .collect();
    let new_topics = names
        .iter()
        .map(|name| NewTopic::new(name, copy.partitions, TopicReplication::Fixed(1)));
    let new_topics: Vec<NewTopic<'_>> = new_topics.collect();
    for created in admin
        .create_topics(&new_topics, &AdminOptions::new())
        .await?
    {
        created.map_err(|(name, code)| anyhow::anyhow!("{name}: {code}"))?;
    }
    let producer: ThreadedProducer<DefaultProducerContext> =
        client(broker).set("enable.idempotence", "true").create()?;
    for (topic, record) in &copy.records {
        let name = format!("{prefix}.{topic}");
        let mut out = BaseRecord::to(&name)
            .partition(record.partition())
            .key(record.key().unwrap_or_default())
            .payload(record.payload().unwrap_or_default());
        if let Some(headers) = record.headers() {
            out = out.headers(headers.clone());
        }
        producer
            .send(out)
            .map_err(|(error, _)| error)
            .context("copy a record")?;
    }
    producer.flush(PATIENCE).context("copy the records")
}

/// Deletes every topic of a prefix.
///
/// # Errors
/// The broker returns an error.
pub async fn delete(broker: &str, prefix: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(broker).create()?;
    let metadata = admin.inner().fetch_metadata(None, PATIENCE)?;
    let start = format!("{prefix}.");
    let names: Vec<&str> = metadata
        .topics()
        .iter()
        .map(MetadataTopic::name)
        .filter(|name| name.starts_with(&start))
        .collect();
    admin.delete_topics(&names, &AdminOptions::new()).await?;
    Ok(())
}
