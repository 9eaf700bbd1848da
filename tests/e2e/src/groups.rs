//! Reads and changes consumer groups and topics of a deployment like an operator of the brokers.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::groups::GroupInfo;

use crate::waiting::until_true;

/// Maximum wait for the brokers.
const PATIENCE: Duration = Duration::from_secs(60);

fn admin(brokers: &str) -> Result<AdminClient<DefaultClientContext>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.create().context("create the Kafka client")
}

fn reader(brokers: &str) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config.create().context("create the Kafka client")
}

/// Returns the groups whose names begin with `prefix` and a dot.
fn named(brokers: &str, prefix: &str) -> Result<Vec<String>> {
    let consumer = reader(brokers)?;
    let list = consumer.fetch_group_list(None, PATIENCE);
    let list = list.context("list the groups")?;
    let names = list.groups().iter().map(GroupInfo::name);
    let ours = names.filter(|name| name.starts_with(&format!("{prefix}.")));
    Ok(ours.map(str::to_owned).collect())
}

/// Resets every group of a deployment to the beginning by deleting its committed offsets. Waits until
/// the brokers have removed the members of ended processes; returns the names of the groups.
///
/// # Errors
/// The brokers do not respond, or a group still has members.
pub async fn reset(brokers: &str, prefix: &str) -> Result<Vec<String>> {
    let names = named(brokers, prefix)?;
    let admin = admin(brokers)?;
    for name in &names {
        until_true(
            &format!("group {name} has no members"),
            PATIENCE,
            async || {
                let removed = admin.delete_groups(&[name], &AdminOptions::new()).await;
                let removed = removed.context("delete a group")?;
                match removed
                    .into_iter()
                    .next()
                    .context("the response is empty")?
                {
                    Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => Ok(true),
                    Err((_, RDKafkaErrorCode::NonEmptyGroup)) => Ok(false),
                    Err((_, code)) => anyhow::bail!("{name}: {code}"),
                }
            },
        )
        .await?;
    }
    Ok(names)
}

/// Returns whether all of these partitions of a topic contain records.
///
/// # Errors
/// The brokers do not respond.
pub fn have_records(brokers: &str, topic: &str, partitions: std::ops::Range<i32>) -> Result<bool> {
    let consumer = reader(brokers)?;
    for partition in partitions {
        let ends = consumer.fetch_watermarks(topic, partition, PATIENCE);
        let (_, end) = ends.with_context(|| format!("read the offsets of {topic}/{partition}"))?;
        if end == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Increases the number of partitions of a topic.
///
/// # Errors
/// The brokers return an error.
pub async fn add_partitions(brokers: &str, topic: &str, partitions: usize) -> Result<()> {
    let more = NewPartitions::new(topic, partitions);
    let admin = admin(brokers)?;
    let done = admin.create_partitions([&more], &AdminOptions::new()).await;
    let done = done.context("add partitions")?;
    ensure!(done.iter().all(Result::is_ok), "{topic}: {done:?}");
    Ok(())
}
