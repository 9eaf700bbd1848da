//! `[kafka]`: its keys and passwords from their files, and nothing secret where it would be shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use chatledger_crypto::SealRing;
use chatledger_schemas::Secret;
use chatledger_schemas::config as raw;
use tracing::warn;

use super::meaning::{Checker, Kafka};

/// Properties of librdkafka that are secrets themselves.
const SECRET_PROPERTIES: [&str; 7] = [
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
];

/// Checks the section; what is wrong is told to the checker.
pub(super) fn settings(checker: &mut Checker<'_>, kafka: raw::Kafka) -> Kafka {
    let mut seal = SealRing::new(kafka.accept_unsealed);
    for (index, key) in kafka.seal_key.iter().enumerate() {
        let at = format!("kafka.seal_key[{index}]");
        if seal.versions().contains(&key.version) {
            let what = format!("version {} is given twice", key.version);
            checker.problem(format!("{at}.version"), what);
            continue;
        }
        let Some(bytes) = checker.secret_bytes(&format!("{at}.file"), &key.file) else {
            continue;
        };
        if let Err(error) = seal.insert(key.version, &bytes) {
            checker.problem(format!("{at}.file"), format!("{}: {error}", key.file));
        }
    }
    let mut properties = BTreeMap::new();
    let mut secrets = BTreeMap::new();
    for (name, value) in kafka.properties {
        if SECRET_PROPERTIES.contains(&name.as_str()) {
            warn!(
                key = format!("kafka.properties.{name}"),
                "a secret stands in the configuration file itself; give it as a file"
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
            let what = format!("\"{name}\" stands in kafka.properties too; accepted: one of them");
            checker.problem(at.as_str(), what);
        }
        if let Some(secret) = checker.secret(&at, file) {
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
