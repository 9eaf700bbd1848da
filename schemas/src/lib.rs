//! Defines every format of chatledger that outlives a process.
//!
//! This crate knows the formats of records, tables, files, topics and the configuration. It does
//! not know how any of them is produced, moved or stored: no I/O, no clock, no vendor client.
//!
//! | module | format | used in |
//! |---|---|---|
//! | [`sealed`] | a record as the archive API returned it, still encrypted | `.raw`, `pipeline/crypto`, dead letters |
//! | [`message`] | a message after opening, decoding and joining | `messages` table, Parquet, `.messages` |
//! | [`violation`] | a message that broke a rule | `violations` table, Parquet, `.violations` |
//! | [`dead_letter`] | a record that could not be opened or decoded, and its events | `dead_letters`, `dead_letter_events`, `.deadletter` |
//! | [`ledger`] | every pulled record in a hash chain, and its outcome | ledger file or topic, Parquet metadata |
//! | [`directory`] | members, departments, customers, rooms | the directory tables, `.directory` |
//! | [`migrations`] | the ClickHouse tables | every deployment |
//! | [`columns`] | Arrow schemas of the tables | Parquet files |
//! | [`sealed_value`] | a value encrypted with the deployment's seal key | `.messages`, `.violations` |
//! | [`config`] | the configuration file | operators |
//!
//! The JSON Schemas in `schemas/json/` are generated from these types; the test
//! `json_schemas_are_fresh` fails if they are stale.

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

pub use dead_letter::{DeadLetter, DeadLetterEvent, DeadLetterRecord, Reason, RetryRequest};
pub use fault::{Classified, FaultClass};
pub use ids::{CorpId, is_external_id, is_robot_id};
pub use message::{ConversationKind, Message, PartyKind};
pub use sealed::SealedRecord;
pub use sealed_value::SealedValue;
pub use secret::Secret;
pub use violation::{Severity, Violation};

/// Version of the record formats on the topics, sent in the header `schema` of every record.
pub const TOPIC_SCHEMA: u32 = 1;
