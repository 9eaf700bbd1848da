//! The counts of the truth.

use std::collections::BTreeMap;

use serde::Serialize;

/// Counts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TruthSummary {
    /// The corp.
    pub corp_id: String,
    /// Valid messages, without duplicates.
    pub messages: u64,
    /// Violations: one for each rule that a message breaks.
    pub violations: u64,
    /// Records that cannot be opened or decoded.
    pub dead_letters: u64,
    /// Records that hold a message that an earlier record holds.
    pub duplicates: u64,
    /// All records.
    pub records: u64,
    /// `seq` of the first record; 0 if there are no records.
    pub first_seq: u64,
    /// `seq` of the last record; 0 if there are no records.
    pub last_seq: u64,
    /// `msgtime` of the first and the last message, milliseconds since the epoch.
    pub msgtime: (i64, i64),
    /// Messages by type.
    pub by_msgtype: BTreeMap<String, u64>,
    /// Messages by kind of conversation.
    pub by_conversation_kind: BTreeMap<String, u64>,
    /// Messages by kind of sender.
    pub by_from_kind: BTreeMap<String, u64>,
    /// Messages by key version.
    pub by_key_version: BTreeMap<u32, u64>,
    /// Violations by rule.
    pub by_rule: BTreeMap<String, u64>,
    /// Violations by severity.
    pub by_severity: BTreeMap<String, u64>,
    /// Dead letters by reason.
    pub by_reason: BTreeMap<String, u64>,
    /// Results that are added once the withheld key is known.
    pub withheld: Withheld,
}

/// Counts of the results that are added once the withheld key is known.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Withheld {
    /// Messages.
    pub messages: u64,
    /// Violations.
    pub violations: u64,
}

pub(super) fn count<K: Ord>(counts: &mut BTreeMap<K, u64>, key: K) {
    *counts.entry(key).or_default() += 1;
}

impl TruthSummary {
    pub(super) fn add(&mut self, more: Self) {
        fn all<K: Ord>(counts: &mut BTreeMap<K, u64>, more: BTreeMap<K, u64>) {
            for (key, count) in more {
                *counts.entry(key).or_default() += count;
            }
        }
        self.messages += more.messages;
        self.violations += more.violations;
        self.dead_letters += more.dead_letters;
        self.withheld.messages += more.withheld.messages;
        self.withheld.violations += more.withheld.violations;
        if self.msgtime.0 == 0 {
            self.msgtime.0 = more.msgtime.0;
        }
        self.msgtime.1 = self.msgtime.1.max(more.msgtime.1);
        all(&mut self.by_msgtype, more.by_msgtype);
        all(&mut self.by_conversation_kind, more.by_conversation_kind);
        all(&mut self.by_from_kind, more.by_from_kind);
        all(&mut self.by_key_version, more.by_key_version);
        all(&mut self.by_rule, more.by_rule);
        all(&mut self.by_severity, more.by_severity);
        all(&mut self.by_reason, more.by_reason);
    }
}
