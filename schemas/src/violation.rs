//! A message that broke a rule: one row of the table `violations`. It carries no message body.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::CorpId;

/// One rule broken by one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Violation {
    /// The corp of the message.
    pub corp_id: CorpId,
    /// A function of corp, msgid and rule id, so that finding it again gives the same row.
    pub violation_id: String,
    /// The message.
    pub msgid: String,
    /// Position of the message in the corp's archive.
    pub seq: u64,
    /// When the message was sent, milliseconds since the epoch, UTC.
    pub msgtime: i64,
    /// Conversation of the message.
    pub conversation_id: String,
    /// Sender of the message.
    pub from_id: String,
    /// The rule.
    pub rule_id: String,
    /// Its name when it matched.
    pub rule_name: String,
    /// Which wording of the rule matched: a hash over its definition, 16 hex digits.
    pub rule_version: String,
    /// The rule's category.
    pub category: String,
    /// The rule's severity.
    pub severity: Severity,
    /// The hits as written in the message, in the order of `spans`.
    pub matched: Vec<String>,
    /// Character offsets into `content`, end exclusive, ascending.
    pub spans: Vec<(u32, u32)>,
    /// When it was found, milliseconds since the epoch, UTC.
    pub detected_at: i64,
}

/// How bad a violation is, in ascending order.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, PartialOrd, Ord,
)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Worth a look.
    Medium,
    /// Needs handling.
    High,
    /// Needs handling now.
    Critical,
}

impl Severity {
    /// Every severity, ascending.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The value in the column and the metric label `severity`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}
