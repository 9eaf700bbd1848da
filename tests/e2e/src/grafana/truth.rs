//! The simulator's truth, and the aggregations of it that panels show.
//!
//! The aggregations implement the panels a second time, independently of their SQL. Not here: which
//! panel shows which aggregation ([`super::totals`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// One valid message of the truth, with the columns of `messages`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the columns of the table messages, which documents them"
)]
pub struct TruthMessage {
    pub seq: u64,
    pub msgid: String,
    pub action: String,
    pub msgtype: String,
    pub msgtime: i64,
    pub conversation_id: String,
    pub conversation_kind: String,
    pub room_id: String,
    pub from_id: String,
    pub from_kind: String,
    pub content: String,
    pub key_version: u32,
}

/// One violation of the truth, with the columns of `violations`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the columns of the table violations, which documents them"
)]
pub struct TruthViolation {
    pub msgid: String,
    pub rule_id: String,
    pub matched: Vec<String>,
}

/// One dead letter of the truth, with the columns of `dead_letters`.
#[derive(Clone, Debug, Deserialize)]
#[expect(
    missing_docs,
    reason = "the columns of the table dead_letters, which documents them"
)]
pub struct TruthDeadLetter {
    pub seq: u64,
    pub reason: String,
}

/// The truth about one corp.
#[derive(Clone, Debug, Default)]
pub struct PanelTruth {
    /// Every valid message once, in any order.
    pub messages: Vec<TruthMessage>,
    /// Every violation once.
    pub violations: Vec<TruthViolation>,
    /// Every dead letter once.
    pub dead_letters: Vec<TruthDeadLetter>,
}

impl PanelTruth {
    /// Reads `messages.jsonl`, `violations.jsonl` and `dead_letters.jsonl` of a truth folder.
    pub fn read(dir: &Path) -> Result<Self> {
        fn rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
            let text =
                fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            text.lines()
                .map(|line| serde_json::from_str(line))
                .collect::<Result<_, _>>()
                .with_context(|| format!("parse {}", path.display()))
        }
        Ok(Self {
            messages: rows(&dir.join("messages.jsonl"))?,
            violations: rows(&dir.join("violations.jsonl"))?,
            dead_letters: rows(&dir.join("dead_letters.jsonl"))?,
        })
    }

    pub(super) fn count(&self, keep: impl Fn(&TruthMessage) -> bool) -> f64 {
        self.messages.iter().filter(|m| keep(m)).count() as f64
    }

    pub(super) fn distinct<'a, K: Ord>(
        &'a self,
        key: impl Fn(&'a TruthMessage) -> Option<K>,
    ) -> f64 {
        self.messages
            .iter()
            .filter_map(key)
            .collect::<BTreeSet<K>>()
            .len() as f64
    }

    /// Returns the message of every violation; a message occurs once for each rule it breaks.
    pub(super) fn violating(&self) -> impl Iterator<Item = &TruthMessage> {
        let by_id: BTreeMap<&str, &TruthMessage> = self
            .messages
            .iter()
            .map(|m| (m.msgid.as_str(), m))
            .collect();
        self.violations
            .iter()
            .filter_map(move |v| by_id.get(v.msgid.as_str()).copied())
    }

    /// Returns the replies of members in single chats with customers.
    pub(super) fn replies(&self) -> Vec<MemberReply<'_>> {
        let mut chats: BTreeMap<&str, Vec<&TruthMessage>> = BTreeMap::new();
        for message in &self.messages {
            if message.conversation_kind == "single_external"
                && message.action == "send"
                && matches!(message.from_kind.as_str(), "member" | "customer")
            {
                chats
                    .entry(&message.conversation_id)
                    .or_default()
                    .push(message);
            }
        }
        let mut replies = Vec::new();
        for chat in chats.values_mut() {
            chat.sort_by_key(|m| (m.msgtime, m.seq));
            let mut asked_at = None;
            for message in chat {
                if message.from_kind == "customer" {
                    asked_at.get_or_insert(message.msgtime);
                } else if let Some(asked_at) = asked_at.take() {
                    replies.push(MemberReply {
                        member: &message.from_id,
                        asked_at,
                        wait_ms: message.msgtime - asked_at,
                    });
                }
            }
        }
        replies
    }

    /// Returns the number of single chats with customers whose last message is from the customer.
    pub(super) fn unanswered(&self) -> f64 {
        let mut last: BTreeMap<&str, &TruthMessage> = BTreeMap::new();
        for message in &self.messages {
            if message.conversation_kind == "single_external" && message.action == "send" {
                let newest = last.entry(&message.conversation_id).or_insert(message);
                if (message.msgtime, message.seq) > (newest.msgtime, newest.seq) {
                    *newest = message;
                }
            }
        }
        last.values().filter(|m| m.from_kind == "customer").count() as f64
    }

    /// Returns the number of messages of the conversation with the newest message.
    pub(super) fn newest_conversation(&self) -> f64 {
        let newest = self.messages.iter().max_by_key(|m| (m.msgtime, m.seq));
        newest.map_or(0.0, |n| {
            self.count(|m| m.conversation_id == n.conversation_id)
        })
    }

    /// Returns the messages sent by the fifty members with the most conversations, then messages.
    pub(super) fn sent_by_busiest_members(&self) -> f64 {
        let mut members: BTreeMap<&str, (BTreeSet<&str>, u64)> = BTreeMap::new();
        for message in self.messages.iter().filter(|m| m.from_kind == "member") {
            let member = members.entry(&message.from_id).or_default();
            member.0.insert(&message.conversation_id);
            member.1 += 1;
        }
        let mut order: Vec<(usize, u64)> = members.values().map(|(c, n)| (c.len(), *n)).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        order.iter().take(50).map(|(_, sent)| *sent as f64).sum()
    }
}

/// A member's first message after messages of a customer.
pub(super) struct MemberReply<'a> {
    pub(super) member: &'a str,
    /// Time of the first unanswered message of the customer, in milliseconds since the epoch.
    pub(super) asked_at: i64,
    pub(super) wait_ms: i64,
}

/// Returns the sum of the `limit` greatest counts of equal keys.
pub(super) fn top<K: Ord>(keys: impl Iterator<Item = K>, limit: usize) -> f64 {
    let mut counts: BTreeMap<K, u64> = BTreeMap::new();
    for key in keys {
        *counts.entry(key).or_default() += 1;
    }
    let mut counts: Vec<u64> = counts.into_values().collect();
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts.iter().take(limit).sum::<u64>() as f64
}

/// Returns the day in Shanghai, where the time has been UTC+8 all year since 1991.
pub(super) fn shanghai_day(msgtime: i64) -> i64 {
    (msgtime + 8 * 3_600_000).div_euclid(86_400_000)
}

pub(super) fn external(kind: &str) -> bool {
    matches!(kind, "single_external" | "group_external")
}
