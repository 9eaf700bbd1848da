//! A deployment's consumer groups and topics, as whoever runs the brokers sees and changes them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::groups::GroupInfo;

use crate::waiting::until_true;

/// Longest wait for the brokers.
const PATIENCE: Duration = Duration::from_secs(60);

fn admin(brokers: &str) -> Result<AdminClient<DefaultClientContext>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.create().context("set the Kafka client up")
}

fn reader(brokers: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.create().context("set the Kafka client up")
}

/// The groups whose names begin with `prefix` and a dot.
fn named(brokers: &str, prefix: &str) -> Result<Vec<String>> {
    let consumer = reader(brokers)?;
    let list = consumer.fetch_group_list(None, PATIENCE);
    let list = list.context("list the groups")?;
    let names = list.groups().iter().map(GroupInfo::name);
    let ours = names.filter(|name| name.starts_with(&format!("{prefix}.")));
    Ok(ours.map(str::to_owned).collect())
}

/// Sets every group of a deployment back to the beginning, by removing what it has committed. Waits
/// until the brokers no longer count members that have ended; returns the groups' names.
///
/// # Errors
/// The brokers do not answer, or a member lives on.
pub async fn set_back(brokers: &str, prefix: &str) -> Result<Vec<String>> {
    let names = named(brokers, prefix)?;
    let admin = admin(brokers)?;
    for name in &names {
        until_true(&format!("{name} has no members"), PATIENCE, async || {
            let removed = admin.delete_groups(&[name], &AdminOptions::new()).await;
            let removed = removed.context("remove a group")?;
            match removed.into_iter().next().context("no answer")? {
                Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => Ok(true),
                Err((_, RDKafkaErrorCode::NonEmptyGroup)) => Ok(false),
                Err((_, code)) => anyhow::bail!("{name}: {code}"),
            }
        })
        .await?;
    }
    Ok(names)
}

/// Whether there are records in every one of these partitions of a topic.
///
/// # Errors
/// The brokers do not answer.
pub fn used(brokers: &str, topic: &str, partitions: std::ops::Range<i32>) -> Result<bool> {
    let consumer = reader(brokers)?;
    for partition in partitions {
        let ends = consumer.fetch_watermarks(topic, partition, PATIENCE);
        let (_, end) = ends.with_context(|| format!("look at {topic}/{partition}"))?;
        if end == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives a topic more partitions.
///
/// # Errors
/// The brokers refuse.
pub async fn widen(brokers: &str, topic: &str, partitions: usize) -> Result<()> {
    let more = NewPartitions::new(topic, partitions);
    let admin = admin(brokers)?;
    let done = admin.create_partitions([&more], &AdminOptions::new()).await;
    let done = done.context("ask for partitions")?;
    ensure!(done.iter().all(Result::is_ok), "{topic}: {done:?}");
    Ok(())
}
