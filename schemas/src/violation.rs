//! A rule broken by a message; one row of the table `violations`. Of the message's text it contains
//! only the matched words.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::CorpId;

/// One rule broken by one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Violation {
    /// Corp of the message.
    pub corp_id: CorpId,
    /// Id derived from corp, msgid and rule id: the same violation always has the same id.
    pub violation_id: String,
    /// WeCom's id of the message.
    pub msgid: String,
    /// Position of the message in the corp's archive.
    pub seq: u64,
    /// When the message was sent, milliseconds since the epoch, UTC.
    pub msgtime: i64,
    /// Conversation of the message; see the table `messages`.
    pub conversation_id: String,
    /// Sender of the message: `userid`, `external_userid` or robot id.
    pub from_id: String,
    /// Id of the rule.
    pub rule_id: String,
    /// Name of the rule when it matched.
    pub rule_name: String,
    /// Version of the rule that matched: a hash of its definition, 16 hexadecimal digits.
    pub rule_version: String,
    /// Category of the rule.
    pub category: String,
    /// Severity of the rule.
    pub severity: Severity,
    /// Matched text as written in the message, in the order of `spans`.
    pub matched: Vec<String>,
    /// Start and end of each match in the message's `content`: offsets in Unicode characters, end
    /// exclusive, ascending.
    pub spans: Vec<(u32, u32)>,
    /// When the violation was detected, milliseconds since the epoch, UTC.
    pub detected_at: i64,
}

/// Severity of a violation, in ascending order.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, PartialOrd, Ord,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// For information.
    Low,
    /// Should be reviewed.
    Medium,
    /// Requires action.
    High,
    /// Requires immediate action.
    Critical,
}

impl Severity {
    /// All severities, ascending.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// Returns the value in the column `severity`, also used as the metric label `severity`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}
