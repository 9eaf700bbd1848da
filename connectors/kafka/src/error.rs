//! Errors of Kafka and their classes.

use chatledger_schemas::{Classified, FaultClass};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client cannot be built from its properties.
    #[error("kafka client cannot be set up")]
    Setup(#[source] KafkaError),
    /// The brokers reject this client because of its certificate or login.
    #[error("the kafka brokers reject this client: {reason}")]
    Rejected {
        /// The client's reason; it contains addresses but no password.
        reason: String,
    },
    /// The list of topics cannot be read, or the brokers refuse to create topics.
    #[error("kafka topics cannot be listed or created")]
    Topics(#[source] KafkaError),
    /// A topic could not be created.
    #[error("kafka topic {topic} cannot be created: {code}")]
    Create {
        /// The topic.
        topic: String,
        /// The broker's answer.
        code: RDKafkaErrorCode,
    },
    /// Reading failed.
    #[error("kafka topic {topic} cannot be read")]
    Read {
        /// The topic.
        topic: String,
        /// The client's error.
        #[source]
        source: KafkaError,
    },
    /// A transaction has been open for longer than its timeout.
    #[error("kafka topic {topic}: a transaction does not end")]
    TransactionOpen {
        /// The topic.
        topic: String,
    },
    /// A position cannot be committed.
    #[error("kafka group {group} cannot commit")]
    Commit {
        /// The group.
        group: String,
        /// The client's error.
        #[source]
        source: KafkaError,
    },
    /// The partition is no longer assigned to the member.
    #[error("partition {partition} is no longer assigned to this member of kafka group {group}")]
    NotAssigned {
        /// The group.
        group: String,
        /// The partition.
        partition: i32,
    },
    /// The connection to a broker was lost while this producer was in use: join again.
    #[error("the connection to a broker was lost; transactions are cleaned up first")]
    BrokerLost,
    /// Partitions have been added to a topic that is read outside any group.
    #[error("partitions have been added to kafka topic {topic}")]
    PartitionsAdded {
        /// The topic.
        topic: String,
    },
    /// Seeking in a partition failed.
    #[error("cannot seek in kafka topic {topic}")]
    Seek {
        /// The topic.
        topic: String,
        /// The client's error.
        #[source]
        source: KafkaError,
    },
    /// A transaction cannot be begun, written to or committed.
    #[error("kafka transaction {step} failed")]
    Transaction {
        /// The step.
        step: &'static str,
        /// The client's error.
        #[source]
        source: KafkaError,
    },
    /// The group has not accepted the member yet.
    #[error("kafka member of group {group} has not joined yet")]
    NotJoined {
        /// The group.
        group: String,
    },
    /// The member has no producer.
    #[error("this member of kafka group {group} has no producer")]
    ReadOnly {
        /// The group.
        group: String,
    },
}

impl Classified for Error {
    fn class(&self) -> FaultClass {
        use RDKafkaErrorCode as Code;
        let source = match self {
            Self::ReadOnly { .. } | Self::NotJoined { .. } | Self::Rejected { .. } => {
                return FaultClass::Stop;
            }
            Self::NotAssigned { .. } | Self::PartitionsAdded { .. } | Self::BrokerLost => {
                return FaultClass::Refresh;
            }
            Self::TransactionOpen { .. } => return FaultClass::Retry,
            Self::Create { code, .. } => return class_of(*code),
            Self::Setup(source)
            | Self::Topics(source)
            | Self::Read { source, .. }
            | Self::Commit { source, .. }
            | Self::Seek { source, .. }
            | Self::Transaction { source, .. } => source,
        };
        match source {
            KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => FaultClass::Stop,
            KafkaError::Transaction(error) => class_of(error.code()),
            other => class_of(other.rdkafka_error_code().unwrap_or(Code::Unknown)),
        }
    }
}

fn class_of(code: RDKafkaErrorCode) -> FaultClass {
    use RDKafkaErrorCode as Code;
    match code {
        // Another member owns what this one believed to own: join again.
        Code::IllegalGeneration
        | Code::UnknownMemberId
        | Code::FencedInstanceId
        | Code::FencedMemberEpoch
        | Code::StaleMemberEpoch
        | Code::RebalanceInProgress
        | Code::ProducerFenced
        | Code::InvalidProducerEpoch
        | Code::Fenced
        | Code::Fatal
        | Code::AssignmentLost => FaultClass::Refresh,
        // Needs an operator.
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::InvalidReplicationFactor
        | Code::InvalidPartitions
        | Code::MessageSizeTooLarge => FaultClass::Stop,
        Code::ThrottlingQuotaExceeded => FaultClass::SlowDown,
        _ => FaultClass::Retry,
    }
}
