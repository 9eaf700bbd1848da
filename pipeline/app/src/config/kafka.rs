//! `[kafka]`: reads seal keys and passwords from their files, and separates librdkafka's secret
//! properties from those that may be shown.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use chatledger_crypto::SealRing;
use chatledger_schemas::Secret;
use chatledger_schemas::config as raw;
use tracing::warn;

use super::validate::{Kafka, Validator};

/// Properties of librdkafka whose values are secrets.
const SECRET_PROPERTIES: [&str; 7] = [
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
];

/// Validates the section.
pub(super) fn settings(validator: &mut Validator<'_>, kafka: raw::KafkaSection) -> Kafka {
    let seal = seal_keys(validator, &kafka.seal_key, kafka.accept_unsealed);
    let mut properties = BTreeMap::new();
    let mut secrets = BTreeMap::new();
    for (name, value) in kafka.properties {
        if SECRET_PROPERTIES.contains(&name.as_str()) {
            warn!(
                key = format!("kafka.properties.{name}"),
                "the configuration file itself contains a secret; use a file for it"
            );
            secrets.insert(name, Secret::new(value));
        } else {
            properties.insert(name, value);
        }
    }
    for (key, name, file) in [
        (
            "sasl_password_file",
            "sasl.password",
            &kafka.sasl_password_file,
        ),
        (
            "ssl_key_password_file",
            "ssl.key.password",
            &kafka.ssl_key_password_file,
        ),
    ] {
        let Some(file) = file else { continue };
        let at = format!("kafka.{key}");
        if secrets.contains_key(name) {
            let what = format!(
                "found together with \"{name}\" in kafka.properties; accepted: one of the two"
            );
            validator.problem(at.as_str(), what);
        }
        if let Some(secret) = validator.secret(&at, file) {
            secrets.insert(name.to_owned(), secret);
        }
    }
    Kafka {
        brokers: chatledger_kafka::Brokers {
            bootstrap: kafka.brokers,
            properties,
            secrets,
        },
        prefix: kafka.topic_prefix,
        partitions: kafka.partitions,
        replication: kafka.replication,
        seal: Arc::new(seal),
    }
}

fn seal_keys(
    validator: &mut Validator<'_>,
    keys: &[raw::SealKeySetting],
    accept_unsealed: bool,
) -> SealRing {
    let mut ring = SealRing::new(accept_unsealed);
    let mut versions = HashSet::new();
    for (index, key) in keys.iter().enumerate() {
        let at = format!("kafka.seal_key[{index}]");
        let accepted = validator.new_version(&at, key.version, &mut versions);
        let file_at = format!("{at}.file");
        let Some(bytes) = validator.secret_bytes(&file_at, &key.file) else {
            continue;
        };
        // The file of a version that is not accepted is checked as well.
        let mut unused = SealRing::new(accept_unsealed);
        let ring = if accepted { &mut ring } else { &mut unused };
        if let Err(error) = ring.insert(key.version, &bytes) {
            validator.problem(file_at, format!("{}: {error}", key.file));
        }
    }
    ring
}
