//! A message after opening, decoding and joining: one row of the table `messages`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::CorpId;

/// One message. Field names are the column names of the table and the keys on the topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// The corp whose archive it came from.
    pub corp_id: CorpId,
    /// Position in the corp's archive.
    pub seq: u64,
    /// WeCom's id of the message; the key by which repeats are recognised.
    pub msgid: String,
    /// `send`, `recall` or `switch`; kept as received.
    pub action: String,
    /// Message type as received (`wecom-api` §4.2); `switch` for a switch-company log.
    pub msgtype: String,
    /// When it was sent, milliseconds since the epoch, UTC.
    pub msgtime: i64,
    /// The room id, or the two ids sorted and joined with `|`: a function of the message alone.
    pub conversation_id: String,
    /// Single or group, internal or external.
    pub conversation_kind: ConversationKind,
    /// The room id; empty in a single chat.
    pub room_id: String,
    /// Name of the room; empty if not known.
    pub room_name: String,
    /// Who sent it: userid, external_userid or robot id.
    pub from_id: String,
    /// What the sender is.
    pub from_kind: PartyKind,
    /// Name of the sender; empty if not known.
    pub from_name: String,
    /// Main department of the sender; 0 if none or not known.
    pub from_department_id: u32,
    /// Names from the root department down, joined with `/`; empty if not known.
    pub from_department_path: String,
    /// Who received it, in the order given, each once; for a room its members at that time.
    pub to_ids: Vec<String>,
    /// What a person would search for: text, titles, file names.
    pub content: String,
    /// The message's JSON as received.
    pub payload: String,
    /// `publickey_ver` of the key that opened it.
    pub key_version: u32,
}

/// The four kinds of conversation.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, PartialOrd, Ord,
)]
#[serde(rename_all = "snake_case")]
pub enum ConversationKind {
    /// Two members.
    SingleInternal,
    /// A member and somebody outside.
    SingleExternal,
    /// A room of members only.
    GroupInternal,
    /// A room with somebody from outside.
    GroupExternal,
}

impl ConversationKind {
    /// The value in the column `conversation_kind`.
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

/// What a party of a conversation is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, PartialOrd, Ord,
)]
#[serde(rename_all = "snake_case")]
pub enum PartyKind {
    /// A member of the corp, present or past.
    Member,
    /// Somebody outside (`wm…` a WeChat user, `wo…` a WeCom user).
    Customer,
    /// A robot (`wb…`).
    Robot,
    /// An id that neither its form nor the directory explains.
    Unknown,
}

impl PartyKind {
    /// The value in the column `from_kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Customer => "customer",
            Self::Robot => "robot",
            Self::Unknown => "unknown",
        }
    }
}
