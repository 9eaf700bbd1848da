//! Compares existing topics with what a deployment needs. A topic that an administrator has made with the broker's defaults
//! can stop a stage permanently (a record larger than the topic accepts), lose its content (retention, compaction), or let two
//! processes read one archive (partitions).

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;

use crate::topics::{TIMEOUT, TopicSpec, partitions};
use crate::{Brokers, Error};

/// What is wrong with a topic, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicProblem {
    /// Its full name.
    pub topic: String,
    /// What was found and what is accepted.
    pub what: String,
    /// The command or the steps that mend it.
    pub mend: String,
}

impl fmt::Display for TopicProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. {}", self.topic, self.what, self.mend)
    }
}

/// Returns what is wrong with the topics that exist. Changes nothing.
///
/// # Errors
/// [`Error::Rejected`], [`Error::Topics`] or [`Error::Setup`]: the brokers cannot be asked, or do not let this client read the
/// settings of topics.
pub async fn topic_problems(
    brokers: &Brokers,
    topics: &[TopicSpec],
) -> Result<Vec<TopicProblem>, Error> {
    let asked = brokers.clone();
    let known = tokio::task::spawn_blocking(move || partitions(&asked))
        .await
        .map_err(|_| Error::Topics(KafkaError::Canceled))??;
    let existing: Vec<&TopicSpec> = topics
        .iter()
        .filter(|topic| known.contains_key(&topic.name))
        .collect();
    if existing.is_empty() {
        return Ok(Vec::new());
    }
    let client: ClientConfig = brokers.client(&[]);
    let admin: AdminClient<DefaultClientContext> = client.create().map_err(Error::Setup)?;
    let names: Vec<ResourceSpecifier<'_>> = existing
        .iter()
        .map(|topic| ResourceSpecifier::Topic(&topic.name))
        .collect();
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
    let answers = admin
        .describe_configs(&names, &options)
        .await
        .map_err(Error::Topics)?;
    let mut problems = Vec::new();
    for (topic, answer) in existing.iter().zip(answers) {
        let described = answer.map_err(|code| Error::Topics(KafkaError::AdminOp(code)))?;
        let settings: BTreeMap<String, String> = described
            .entries
            .into_iter()
            .filter_map(|entry| Some((entry.name, entry.value?)))
            .collect();
        let count = known.get(&topic.name).copied().unwrap_or_default();
        problems.extend(compare(topic, count, &settings, &brokers.bootstrap));
    }
    Ok(problems)
}

fn compare(
    topic: &TopicSpec,
    partitions: usize,
    settings: &BTreeMap<String, String>,
    bootstrap: &str,
) -> Vec<TopicProblem> {
    let name = &topic.name;
    let mut problems = Vec::new();
    if topic.one_partition && partitions != 1 {
        problems.push(TopicProblem {
            topic: name.clone(),
            what: format!("found {partitions} partitions; accepted: 1"),
            mend: format!(
                "Partitions cannot be removed. While the topic is empty, stop every process, run kafka-topics.sh \
                 --bootstrap-server {bootstrap} --delete --topic {name}, and start: chatledger creates the topic"
            ),
        });
    }
    let number = |text: &str| text.parse::<i64>().ok();
    let wanted = |key: &str| {
        topic
            .settings
            .iter()
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value.as_str())
    };
    let mut check = |key: &str, accepted: &str, is_fine: &dyn Fn(&str) -> bool, value: &str| {
        // A setting that the broker does not report is not known to be wrong.
        let Some(found) = settings.get(key).filter(|found| !is_fine(found)) else {
            return;
        };
        problems.push(TopicProblem {
            topic: name.clone(),
            what: format!("found {key}={found}; accepted: {accepted}"),
            mend: format!(
                "Run kafka-configs.sh --bootstrap-server {bootstrap} --alter --entity-type topics --entity-name {name} \
                 --add-config {key}={value}"
            ),
        });
    };
    if let Some(bytes) = wanted("max.message.bytes") {
        let at_least = |found: &str| number(found) >= number(bytes);
        check(
            "max.message.bytes",
            &format!("at least {bytes}"),
            &at_least,
            bytes,
        );
    }
    let policy = wanted("cleanup.policy").unwrap_or("delete");
    check("cleanup.policy", policy, &|found| found == policy, policy);
    // Other retention times are a decision of the operator; a ledger that expires is none.
    if wanted("retention.ms") == Some("-1") {
        check(
            "retention.ms",
            "-1, unlimited",
            &|found| found == "-1",
            "-1",
        );
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(one_partition: bool, settings: &[(&'static str, &str)]) -> TopicSpec {
        TopicSpec {
            name: "chatledger.x".into(),
            partitions: if one_partition { 1 } else { 4 },
            one_partition,
            replication: 1,
            settings: settings
                .iter()
                .map(|(key, value)| (*key, (*value).to_owned()))
                .collect(),
        }
    }

    fn found(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        settings
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn topic_with_the_defaults_of_a_broker_is_reported_with_the_command_that_mends_it() {
        let defaults = found(&[
            ("max.message.bytes", "1048588"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "604800000"),
        ]);
        let cursor = spec(
            true,
            &[
                ("max.message.bytes", "16777216"),
                ("cleanup.policy", "compact"),
            ],
        );
        let problems = compare(&cursor, 4, &defaults, "broker:9092");
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(
            texts[0].contains("found 4 partitions; accepted: 1"),
            "{}",
            texts[0]
        );
        for (text, setting) in texts[1..]
            .iter()
            .zip(["max.message.bytes=16777216", "cleanup.policy=compact"])
        {
            let command = format!("--entity-name chatledger.x --add-config {setting}");
            assert!(
                text.contains("broker:9092") && text.ends_with(&command),
                "{text}"
            );
        }
        let ledger = spec(
            true,
            &[("max.message.bytes", "16777216"), ("retention.ms", "-1")],
        );
        assert_eq!(compare(&ledger, 1, &defaults, "b").len(), 2);
    }

    #[test]
    fn topic_that_fits_and_settings_that_operators_may_choose_are_not_reported() {
        let settings = found(&[
            ("max.message.bytes", "20000000"),
            ("cleanup.policy", "delete"),
            ("retention.ms", "86400000"),
        ]);
        let raw = spec(
            false,
            &[
                ("max.message.bytes", "16777216"),
                ("retention.ms", "1209600000"),
            ],
        );
        for partitions in [1, 4, 32] {
            assert_eq!(compare(&raw, partitions, &settings, "b"), []);
        }
        assert_eq!(compare(&raw, 1, &found(&[]), "b"), []);
        let compacted = found(&[("cleanup.policy", "compact,delete")]);
        assert_eq!(compare(&raw, 1, &compacted, "b").len(), 1);
    }
}
