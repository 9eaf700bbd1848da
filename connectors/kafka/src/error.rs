//! What can go wrong with Kafka, classified once.

use chatledger_schemas::{Classified, FaultClass};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client cannot be made from its properties.
    #[error("kafka client cannot be set up")]
    Setup(#[source] KafkaError),
    /// The brokers turn this client away: certificates do not fit, or the login is refused.
    #[error("the kafka brokers turn this client away: {reason}")]
    Refused {
        /// What the client says of it; it names addresses, no password.
        reason: String,
    },
    /// The brokers cannot be asked about topics, or refuse to create them.
    #[error("kafka topics cannot be looked up or created")]
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
    /// A transaction has been open for longer than its producer may take.
    #[error("kafka topic {topic}: a transaction does not come to its end")]
    Unsettled {
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
    /// A partition has been taken away from the member.
    #[error("kafka member of group {group} does not hold partition {partition} any more")]
    NotHeld {
        /// The group.
        group: String,
        /// The partition.
        partition: i32,
    },
    /// A broker went away while this producer was in use: join anew.
    #[error("a broker went away; what was written last is looked after first")]
    Disturbed,
    /// A topic that is read outside any group has got more partitions.
    #[error("kafka topic {topic} has got more partitions")]
    Widened {
        /// The topic.
        topic: String,
    },
    /// A partition cannot be read from another offset.
    #[error("kafka topic {topic} cannot be read from another offset")]
    Seek {
        /// The topic.
        topic: String,
        /// The client's error.
        #[source]
        source: KafkaError,
    },
    /// A transaction cannot be begun, filled or committed.
    #[error("kafka transaction {step} failed")]
    Transaction {
        /// Which step.
        step: &'static str,
        /// The client's error.
        #[source]
        source: KafkaError,
    },
    /// The member has never been given its place in the group.
    #[error("kafka member of group {group} has not joined yet")]
    NotJoined {
        /// The group.
        group: String,
    },
    /// The member has no producer.
    #[error("kafka member of group {group} was not set up to write")]
    ReadOnly {
        /// The group.
        group: String,
    },
}

impl Classified for Error {
    fn class(&self) -> FaultClass {
        use RDKafkaErrorCode as Code;
        let source = match self {
            Self::ReadOnly { .. } | Self::NotJoined { .. } | Self::Refused { .. } => {
                return FaultClass::Stop;
            }
            Self::NotHeld { .. } | Self::Widened { .. } | Self::Disturbed => {
                return FaultClass::Refresh;
            }
            Self::Unsettled { .. } => return FaultClass::Retry,
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
        // Somebody else owns what this member believed to own: it has to join anew.
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
        // Somebody has to act.
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
