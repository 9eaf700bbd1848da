//! What brokers, clients and the connector refuse, with the class the connector gives it.

use chatledger_schemas::{Classified, FaultClass};

/// A refusal by the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("another producer has taken over the transactional id")]
    ProducerFenced,
    #[error("the member does not hold partition {0}")]
    NotHeld(i32),
    #[error("another client has taken over the member's instance id")]
    InstanceFenced,
    #[error("the group does not know the member")]
    UnknownMember,
    #[error("the group has a newer generation")]
    StaleGeneration,
    #[error("the member did not poll in time")]
    PollExceeded,
    #[error("a broker restarted; the producer must start again")]
    Disturbed,
    #[error("the topic has more partitions than when reading began")]
    MorePartitions,
    #[error("the committed positions depend on a transaction that is open")]
    UnstableOffsets,
    #[error("the partition is not assigned to this member")]
    NotAssigned,
    #[error("the producer has not been started")]
    NotStarted,
    #[error("the member has not joined yet")]
    NotJoined,
    #[error("the member was not set up to write")]
    ReadOnly,
    #[error("the member does not write to topic {0}")]
    ForeignTopic(&'static str),
}

impl Classified for Refusal {
    fn class(&self) -> FaultClass {
        match self {
            Self::ProducerFenced
            | Self::NotHeld(_)
            | Self::InstanceFenced
            | Self::UnknownMember
            | Self::StaleGeneration
            | Self::Disturbed
            | Self::MorePartitions => FaultClass::Refresh,
            Self::PollExceeded | Self::UnstableOffsets | Self::NotAssigned | Self::NotStarted => {
                FaultClass::Retry
            }
            Self::NotJoined | Self::ReadOnly | Self::ForeignTopic(_) => FaultClass::Stop,
        }
    }
}
