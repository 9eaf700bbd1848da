//! Rows of the table `messages` as the ledger and the audits see them: a key and a digest.

use sha2::{Digest, Sha256};

use super::{Digest128, digest_of, truncated};
use crate::{DeadLetter, Message, Violation};

/// Identifies a record of a corp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey {
    /// Position in the corp's archive.
    pub seq: u64,
    /// Digest of the msgid.
    pub msgid: Digest128,
}

/// A row in a sink: the record it belongs to and the digest of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowDigest {
    /// The record of the row.
    pub key: RecordKey,
    /// Digest of the row: [`RowParts::digest`], [`Violation::digest`] or [`DeadLetter::digest`].
    pub digest: Digest128,
}

impl<Id: AsRef<str>> From<&RowParts<'_, Id>> for RowDigest {
    fn from(parts: &RowParts<'_, Id>) -> Self {
        Self {
            key: RecordKey {
                seq: parts.seq,
                msgid: digest_of(parts.msgid.as_bytes()),
            },
            digest: parts.digest(),
        }
    }
}

/// The columns of a message row that depend on the sealed record alone. Names, departments and
/// kinds are excluded because they come from the directory and can change with a later snapshot.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the columns of the table `messages`")]
pub struct RowParts<'a, Id> {
    pub seq: u64,
    pub msgid: &'a str,
    pub action: &'a str,
    pub msgtype: &'a str,
    pub msgtime: i64,
    pub conversation_id: &'a str,
    pub room_id: &'a str,
    pub from_id: &'a str,
    pub to_ids: &'a [Id],
    pub content: &'a str,
    pub payload: &'a str,
    pub key_version: u32,
}

impl<'a> From<&'a Message> for RowParts<'a, String> {
    fn from(message: &'a Message) -> Self {
        Self {
            seq: message.seq,
            msgid: &message.msgid,
            action: &message.action,
            msgtype: &message.msgtype,
            msgtime: message.msgtime,
            conversation_id: &message.conversation_id,
            room_id: &message.room_id,
            from_id: &message.from_id,
            to_ids: &message.to_ids,
            content: &message.content,
            payload: &message.payload,
            key_version: message.key_version,
        }
    }
}

/// Digests the columns of a row.
struct RowHasher(Sha256);

impl RowHasher {
    fn of(table: &[u8]) -> Self {
        Self(Sha256::new_with_prefix(table))
    }

    fn text(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
    }

    fn texts<Text: AsRef<str>>(&mut self, texts: &[Text]) {
        for text in texts {
            self.text(text.as_ref());
        }
        self.number(texts.len() as u64);
    }

    fn number(&mut self, number: u64) {
        self.0.update(number.to_le_bytes());
    }

    fn finish(self) -> Digest128 {
        truncated(self.0.finalize().into())
    }
}

impl<Id: AsRef<str>> RowParts<'_, Id> {
    /// Returns the digest of the row that the ledger stores.
    pub fn digest(&self) -> Digest128 {
        let mut hasher = RowHasher::of(b"");
        for text in [
            self.msgid,
            self.action,
            self.msgtype,
            self.conversation_id,
            self.room_id,
            self.from_id,
            self.content,
            self.payload,
        ] {
            hasher.text(text);
        }
        hasher.texts(self.to_ids);
        hasher.number(self.seq);
        hasher.number(self.msgtime as u64);
        hasher.0.update(self.key_version.to_le_bytes());
        hasher.finish()
    }
}

impl Violation {
    /// Returns the digest of all columns of the row.
    pub fn digest(&self) -> Digest128 {
        let mut hasher = RowHasher::of(b"violation\0");
        for text in [
            self.corp_id.as_str(),
            &self.violation_id,
            &self.msgid,
            &self.conversation_id,
            &self.from_id,
            &self.rule_id,
            &self.rule_name,
            &self.rule_version,
            &self.category,
            self.severity.as_str(),
        ] {
            hasher.text(text);
        }
        hasher.texts(&self.matched);
        for (start, end) in &self.spans {
            hasher.number(u64::from(*start) << 32 | u64::from(*end));
        }
        hasher.number(self.spans.len() as u64);
        hasher.number(self.seq);
        hasher.number(self.msgtime as u64);
        hasher.number(self.detected_at as u64);
        hasher.finish()
    }
}

impl From<&Violation> for RowDigest {
    fn from(violation: &Violation) -> Self {
        Self {
            key: RecordKey {
                seq: violation.seq,
                msgid: digest_of(violation.msgid.as_bytes()),
            },
            digest: violation.digest(),
        }
    }
}

impl DeadLetter {
    /// Returns the digest of the row, without the number of attempts: an attempt that fails again
    /// for the same reason leaves the digest as it is.
    pub fn digest(&self) -> Digest128 {
        let mut hasher = RowHasher::of(b"dead letter\0");
        for text in [
            self.corp_id.as_str(),
            &self.msgid,
            self.reason.as_str(),
            &self.error,
            &self.sealed,
        ] {
            hasher.text(text);
        }
        hasher.number(self.seq);
        hasher.number(u64::from(self.key_version));
        hasher.number(self.first_seen as u64);
        hasher.finish()
    }
}

impl From<&DeadLetter> for RowDigest {
    fn from(dead_letter: &DeadLetter) -> Self {
        Self {
            key: RecordKey {
                seq: dead_letter.seq,
                msgid: digest_of(dead_letter.msgid.as_bytes()),
            },
            digest: dead_letter.digest(),
        }
    }
}

/// Returns the digest of several rows together, whatever their order; zeros for none.
pub fn combined(digests: &mut [Digest128]) -> Digest128 {
    if digests.is_empty() {
        return [0; 16];
    }
    digests.sort_unstable();
    digest_of(digests.concat().as_slice())
}
