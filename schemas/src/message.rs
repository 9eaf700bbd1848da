//! A message after opening, decoding and joining; one row of the table `messages`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::CorpId;

/// A message. The field names are the column names of the table and the JSON keys on the topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// The corp whose archive returned the message.
    pub corp_id: CorpId,
    /// Position in the corp's archive.
    pub seq: u64,
    /// WeCom's message id; duplicates are recognised by it.
    pub msgid: String,
    /// `send`, `recall` or `switch`, as received.
    pub action: String,
    /// Message type as received (`connectors/wecom/WECOM.md` §4); `switch` if a member switched to
    /// another corp.
    pub msgtype: String,
    /// When the message was sent, milliseconds since the epoch, UTC.
    pub msgtime: i64,
    /// Room id; in a single chat, the ids of both parties, sorted and joined with `|`.
    pub conversation_id: String,
    /// Whether the conversation is a single chat or a group, and internal or external.
    pub conversation_kind: ConversationKind,
    /// Room id; empty in a single chat.
    pub room_id: String,
    /// Name of the room; empty if unknown.
    pub room_name: String,
    /// Sender: `userid`, `external_userid` or robot id.
    pub from_id: String,
    /// Kind of the sender.
    pub from_kind: PartyKind,
    /// Name of the sender when the message was processed; empty if unknown.
    pub from_name: String,
    /// Id of the sender's main department; 0 if none or unknown.
    pub from_department_id: u32,
    /// Path of that department: names from the root department down, joined with `/`; empty if
    /// unknown.
    pub from_department_path: String,
    /// Ids of the recipients, in the order received, without repetitions; in a room, its members at
    /// that time.
    pub to_ids: Vec<String>,
    /// Searchable text of the message: text, titles, descriptions, file names.
    pub content: String,
    /// The decrypted message: its JSON as received.
    pub payload: String,
    /// `publickey_ver` of the private key that opened the record.
    pub key_version: u32,
}

/// Kind of conversation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, PartialOrd, Ord,
)]
#[serde(rename_all = "snake_case")]
pub enum ConversationKind {
    /// Single chat between two members.
    SingleInternal,
    /// Single chat between a member and an external contact.
    SingleExternal,
    /// Room with members only.
    GroupInternal,
    /// Room with at least one external contact.
    GroupExternal,
}

impl ConversationKind {
    /// Returns the value in the column `conversation_kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SingleInternal => "single_internal",
            Self::SingleExternal => "single_external",
            Self::GroupInternal => "group_internal",
            Self::GroupExternal => "group_external",
        }
    }
}

impl fmt::Display for ConversationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Kind of a party in a conversation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, PartialOrd, Ord,
)]
#[serde(rename_all = "snake_case")]
pub enum PartyKind {
    /// A member of the corp, current or former.
    Member,
    /// An external contact (`wm…`: WeChat user, `wo…`: WeCom user).
    Customer,
    /// A robot (`wb…`).
    Robot,
    /// Neither the prefix of the id nor the directory identifies the party.
    Unknown,
}

impl PartyKind {
    /// Returns the value in the column `from_kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Customer => "customer",
            Self::Robot => "robot",
            Self::Unknown => "unknown",
        }
    }
}
