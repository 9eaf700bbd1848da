//! The ground floor of chatledger: every format that outlives a process.
//!
//! This crate knows the shapes of records, tables, files, topics and the configuration. It does
//! not know how any of them is produced, moved or stored: no I/O, no clock, no vendor client.
//!
//! | module | format | read by |
//! |---|---|---|
//! | [`sealed`] | a record as the archive API gave it | `.raw`, crypto, dead letters |
//! | [`message`] | an opened, joined message | `messages` table, Parquet, `.messages` |
//! | [`violation`] | a message that broke a rule | `violations` table, Parquet, `.violations` |
//! | [`dead_letter`] | a record that could not be opened, what was done about it | `dead_letters`, `dead_letter_events`, `.deadletter` |
//! | [`ledger`] | what was pulled, chained by hash | the ledger's file or topic, Parquet metadata |
//! | [`directory`] | who is who | the directory tables, `.directory` |
//! | [`migrations`] | the ClickHouse tables | every deployment, for ever |
//! | [`columns`] | the Arrow form of the tables | Parquet files |
//! | [`sealed_value`] | a value under the deployment's seal key | `.messages`, `.violations` |
//! | [`config`] | the configuration file | operators |
//!
//! JSON Schemas of the topics and of the configuration are generated from these types into
//! `schemas/json/`; a test keeps them fresh.

pub mod columns;
pub mod config;
pub mod dead_letter;
pub mod directory;
pub mod fault;
pub mod ids;
pub mod ledger;
pub mod message;
pub mod migrations;
pub mod sealed;
pub mod sealed_value;
pub mod secret;
pub mod violation;

pub use dead_letter::{DeadLetter, DeadLetterEvent, DeadLetterRecord, Reason, Retry};
pub use fault::{Classified, FaultClass};
pub use ids::CorpId;
pub use message::{ConversationKind, Message, PartyKind};
pub use sealed::SealedRecord;
pub use sealed_value::SealedValue;
pub use secret::Secret;
pub use violation::{Severity, Violation};

/// Version of the record formats on the topics; the header `schema` of every record carries it.
pub const TOPIC_SCHEMA: u32 = 1;
