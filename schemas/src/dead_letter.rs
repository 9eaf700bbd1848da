//! Dead letters: records that could not be opened or decoded, and the events that settle them.
//!
//! A dead letter is *open* until an event settles it. Dead letters and events may be delivered more
//! than once and in any order: a settled dead letter stays settled, and of two copies of an open
//! one the copy with more attempts is newer. A value on the topic `.deadletter` is a
//! [`DeadLetterRecord`]: one or the other.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::CorpId;

/// A record that could not be opened or decoded; one row of the table `dead_letters`. It contains
/// the sealed record, so that it can be replayed, and never plaintext.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// The corp whose archive returned the record.
    pub corp_id: CorpId,
    /// Position in the corp's archive.
    pub seq: u64,
    /// WeCom's message id; empty if the record has none.
    pub msgid: String,
    /// Why the record was dead-lettered.
    pub reason: Reason,
    /// Details of the failure; never contains message content.
    pub error: String,
    /// `publickey_ver` of the record; 0 if it could not be read.
    pub key_version: u32,
    /// The sealed record: its JSON as received.
    pub sealed: String,
    /// When the record was first dead-lettered, milliseconds since the epoch, UTC.
    pub first_seen: i64,
    /// Number of failed replay attempts.
    #[serde(default)]
    pub attempts: u32,
}

/// An event in the life of a dead letter; one row of the table `dead_letter_events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterEvent {
    /// What happened.
    pub event: Event,
    /// Corp of the dead letter.
    pub corp_id: CorpId,
    /// Position of the dead letter in the corp's archive.
    pub seq: u64,
    /// `msgid` of the dead letter.
    pub msgid: String,
    /// Number of this replay attempt, starting at 1; for `dropped`, the number of attempts made
    /// before.
    pub attempt: u32,
    /// When it happened, milliseconds since the epoch, UTC.
    pub at: i64,
    /// Who caused it: the user who ran the command, or `chatledger` if a new key triggered the
    /// replay.
    pub actor: String,
    /// The operator's explanation; set for `dropped`, otherwise empty.
    #[serde(default)]
    pub because: String,
    /// Why the record was dead-lettered; for `failed`, why this attempt failed.
    pub reason: Reason,
    /// Details of the failure; never contains message content.
    pub error: String,
    /// `publickey_ver` of the record; 0 if it could not be read.
    pub key_version: u32,
    /// When the record was first dead-lettered, milliseconds since the epoch, UTC.
    pub first_seen: i64,
}

/// What can happen to a dead letter; a closed set.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, PartialOrd, Ord,
)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The record was sent through the stages again (kafka driver only).
    Retried,
    /// The record was opened and delivered. Settles the dead letter.
    Replayed,
    /// The message had already been delivered. Settles the dead letter.
    Duplicate,
    /// The record still cannot be opened or decoded.
    Failed,
    /// An operator discarded it. Settles the dead letter.
    Dropped,
}

impl Event {
    /// Returns the value in the column `event`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::Replayed => "replayed",
            Self::Duplicate => "duplicate",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }

    /// Whether the event settles the dead letter permanently.
    pub fn settles(self) -> bool {
        matches!(self, Self::Replayed | Self::Duplicate | Self::Dropped)
    }
}

/// A value on the topic `.deadletter`. An event has the field `event`; a dead letter has `sealed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum DeadLetterRecord {
    /// An event of a dead letter.
    Event(DeadLetterEvent),
    /// A dead letter, new or after another failed attempt.
    DeadLetter(DeadLetter),
}

/// Marks a sealed record as a replay of a dead letter, so that it is not treated as a duplicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryRequest {
    /// Number of this attempt, starting at 1.
    pub attempt: u32,
    /// When the record was first dead-lettered, milliseconds since the epoch, UTC.
    pub first_seen: i64,
    /// When the replay was requested, milliseconds since the epoch, UTC.
    pub at: i64,
    /// Who requested the replay.
    pub actor: String,
    /// The reason of the dead letter before this attempt.
    pub reason: Reason,
}

/// Why a record is a dead letter; a closed set. Also the metric label `reason`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, PartialOrd, Ord,
)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The record lacks a field of the archive API's record format, or a field has the wrong type
    /// (`connectors/wecom/WECOM.md` §2).
    BadEnvelope,
    /// No private key of this `publickey_ver` is configured. Can be replayed once the key is added.
    UnknownKeyVersion,
    /// The private key of this version does not decrypt the record.
    WrongKey,
    /// `encrypt_random_key` or `encrypt_chat_msg` is not valid base64.
    BadBase64,
    /// The ciphertext is truncated: its length is not a whole number of cipher blocks.
    TruncatedCiphertext,
    /// The decrypted content has no valid padding.
    BadPadding,
    /// The plaintext is not valid UTF-8.
    BadUtf8,
    /// The plaintext is not valid JSON, even after stray control bytes were removed
    /// (`connectors/wecom/WECOM.md` §3).
    BadJson,
    /// The plaintext is JSON but not a message: it is not an object, or a field has an unusable
    /// type.
    BadMessage,
    /// The record or its message exceeds the size limit, which is far above what WeCom sends. For
    /// an oversized record only its size and SHA-256 are kept; for an oversized message the sealed
    /// record is kept as usual.
    TooLarge,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::BadEnvelope,
        Self::UnknownKeyVersion,
        Self::WrongKey,
        Self::BadBase64,
        Self::TruncatedCiphertext,
        Self::BadPadding,
        Self::BadUtf8,
        Self::BadJson,
        Self::BadMessage,
        Self::TooLarge,
    ];

    /// Returns the value in the column `reason`, also used as the metric label `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadEnvelope => "bad_envelope",
            Self::UnknownKeyVersion => "unknown_key_version",
            Self::WrongKey => "wrong_key",
            Self::BadBase64 => "bad_base64",
            Self::TruncatedCiphertext => "truncated_ciphertext",
            Self::BadPadding => "bad_padding",
            Self::BadUtf8 => "bad_utf8",
            Self::BadJson => "bad_json",
            Self::BadMessage => "bad_message",
            Self::TooLarge => "too_large",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
