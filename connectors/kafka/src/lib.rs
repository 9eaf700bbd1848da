//! Access to Kafka: consumer groups with commit metadata, transactions, topics.
//!
//! It does not know the content of records: keys, values and headers are bytes and texts.
//!
//! Guarantees
//! - Consumers read committed records only.
//! - A commit is refused unless the member has owned the partition without interruption since it was
//!   notified of the assignment.
//! - A transaction is visible as a whole or not at all. A producer whose transactional id has been
//!   taken over can no longer write.

mod error;
mod member;
mod rebalance;
mod record;
mod topic_check;
mod topics;
mod writer;

pub use error::Error;
pub use member::{Member, Membership};
pub use rebalance::{AssignedPartition, MemberEvent, StartOffset};
pub use record::{ConsumedRecord, Header, OutgoingRecord};
pub use topic_check::{TopicProblem, topic_problems};
pub use topics::{TopicSpec, ensure_topics, wait_for_open_transactions};
pub use writer::{TRANSACTION_FAIL_POINTS, WriterConfig};

use std::collections::BTreeMap;

use chatledger_schemas::Secret;
use rdkafka::ClientConfig;

/// Addresses and properties of the brokers.
#[derive(Debug, Clone)]
pub struct Brokers {
    /// `host:port`, several separated by commas.
    pub bootstrap: String,
    /// Passed to librdkafka unchanged; they take precedence over this crate's own settings.
    pub properties: BTreeMap<String, String>,
    /// Further properties that are secrets: passwords, passphrases.
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
