//! Speaks Kafka: consumer groups with their commits' metadata, transactions, topics.
//!
//! It does not know what travels in the records: keys, values and headers are bytes and texts.
//!
//! Guarantees: consumers read committed records only; a commit is refused to a member that has not
//! held the partition without a break since it was told of it; a transaction is whole or not there, and a producer whose
//! transactional id has been taken over can no longer write.

mod error;
mod member;
mod rebalance;
mod session;
mod topics;
mod writer;

pub use error::Error;
pub use member::{Member, Membership};
pub use rebalance::{Event, From, Taken};
pub use session::{Header, Out, Record};
pub use topics::{TopicSpec, ensure_topics, settled};
pub use writer::Writes;

use std::collections::BTreeMap;

use chatledger_schemas::Secret;
use rdkafka::ClientConfig;

/// Where the brokers are.
#[derive(Debug, Clone)]
pub struct Brokers {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    /// Passed to librdkafka as they are; they win over what this crate sets.
    pub properties: BTreeMap<String, String>,
    /// Further ones that are secrets: passwords, passphrases.
    pub secrets: BTreeMap<String, Secret>,
}

impl Brokers {
    fn client(&self, own: &[(&str, &str)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.bootstrap);
        config.set("client.id", "chatledger");
        for (key, value) in own {
            config.set(*key, *value);
        }
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        for (key, value) in &self.secrets {
            config.set(key, value.expose());
        }
        config
    }
}
