//! A record that could not be opened or read: parked with its reason, and what became of it since.
//!
//! A letter is *open* until an event closes it. Letters and events are facts that may be told twice
//! and in any order: a closed letter stays closed, and of two tellings of an open one the one with
//! more attempts is the newer. [`DeadLetterRecord`] is either, as it stands on `.deadletter`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::CorpId;

/// One parked record: a row of the table `dead_letters`. It holds the sealed record, so that it can
/// be replayed, and never plaintext.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// The corp whose archive it came from.
    pub corp_id: CorpId,
    /// Position in the corp's archive.
    pub seq: u64,
    /// WeCom's id of the message; empty if the record carried none.
    pub msgid: String,
    /// Why it is here.
    pub reason: Reason,
    /// What exactly went wrong, without any content of the message.
    pub error: String,
    /// `publickey_ver` of the record; 0 if it could not be read.
    pub key_version: u32,
    /// The record's JSON as received.
    pub sealed: String,
    /// When it was first parked, milliseconds since the epoch, UTC.
    pub first_seen: i64,
    /// How often it has been replayed in vain.
    #[serde(default)]
    pub attempts: u32,
}

/// Something that was done about a letter; a row of the table `dead_letter_events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetterEvent {
    /// What was done.
    pub event: Event,
    /// The letter's corp.
    pub corp_id: CorpId,
    /// The letter's position in the corp's archive.
    pub seq: u64,
    /// The letter's msgid.
    pub msgid: String,
    /// Which attempt at it this was, from 1; for `dropped` how many there had been.
    pub attempt: u32,
    /// When, milliseconds since the epoch, UTC.
    pub at: i64,
    /// Who: the user who gave the command, or `chatledger` if a new key did.
    pub actor: String,
    /// Why; given for `dropped`.
    #[serde(default)]
    pub because: String,
    /// Why the letter was parked; for `failed` why it still is.
    pub reason: Reason,
    /// What exactly is wrong with it, without any content of the message.
    pub error: String,
    /// `publickey_ver` of the record; 0 if it could not be read.
    pub key_version: u32,
    /// When the letter was first parked, milliseconds since the epoch, UTC.
    pub first_seen: i64,
}

/// What can be done about a letter; a closed set.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, PartialOrd, Ord,
)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Its record is on its way through the stages again (kafka driver only).
    Retried,
    /// It was opened and delivered. Closes the letter.
    Replayed,
    /// It was opened, but its message had been delivered before. Closes the letter.
    Duplicate,
    /// It still cannot be opened or read.
    Failed,
    /// Somebody decided to do without it. Closes the letter.
    Dropped,
}

impl Event {
    /// The value in the column `event`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::Replayed => "replayed",
            Self::Duplicate => "duplicate",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }

    /// Whether the letter is settled by it, for ever.
    pub fn closes(self) -> bool {
        matches!(self, Self::Replayed | Self::Duplicate | Self::Dropped)
    }
}

/// A value on `.deadletter`: an event has a field `event`, a letter has `sealed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum DeadLetterRecord {
    /// Something was done about a letter.
    Event(DeadLetterEvent),
    /// A record was parked, or could not be opened again.
    Letter(DeadLetter),
}

/// Asks for a sealed record to be opened again, though it was seen before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// When the letter was first parked, milliseconds since the epoch, UTC.
    pub first_seen: i64,
    /// When it was asked for, milliseconds since the epoch, UTC.
    pub at: i64,
    /// Who asked.
    pub actor: String,
    /// Why the letter is parked until now.
    pub reason: Reason,
}

/// Why a record is a dead letter; a closed set, also the metric label `reason`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, PartialOrd, Ord,
)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The API's record is not of the envelope's form (`wecom-api` §2).
    BadEnvelope,
    /// No private key of this `publickey_ver` is configured. Replayable once it is.
    UnknownKeyVersion,
    /// The private key of this version does not open it.
    WrongKey,
    /// `encrypt_random_key` or `encrypt_chat_msg` is not base64.
    BadBase64,
    /// The ciphertext has been cut: its length is not a whole number of blocks.
    TruncatedCiphertext,
    /// The ciphertext opens to something without valid padding.
    BadPadding,
    /// The plaintext is not UTF-8.
    BadUtf8,
    /// The plaintext is not JSON, also after removing stray control bytes (`wecom-api` §3.4).
    BadJson,
    /// The plaintext is JSON but no message: not an object, or a field of it has an unusable type.
    BadMessage,
    /// The record or what it opens to is larger than anything WeCom sends. Of such a record only
    /// its size and SHA-256 are kept; of such a message the sealed record as always.
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

    /// The value in the column and the metric label `reason`.
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
