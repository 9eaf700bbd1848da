//! Rows of the table `messages` as the ledger and the audits see them: a key and a digest.

use sha2::{Digest, Sha256};

use super::{Digest128, digest_of, truncated};
use crate::Message;

/// Identifies a record of a corp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey {
    /// Position in the corp's archive.
    pub seq: u64,
    /// Digest of the msgid.
    pub msgid: Digest128,
}

/// A message row in a sink: the record it belongs to and the digest of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowDigest {
    /// The record of the message.
    pub key: RecordKey,
    /// Digest of the row, see [`RowParts::digest`].
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

impl<Id: AsRef<str>> RowParts<'_, Id> {
    /// Returns the digest of the row that the ledger stores.
    pub fn digest(&self) -> Digest128 {
        let mut hasher = Sha256::new();
        let mut text = |text: &str| {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        text(self.msgid);
        text(self.action);
        text(self.msgtype);
        text(self.conversation_id);
        text(self.room_id);
        text(self.from_id);
        text(self.content);
        text(self.payload);
        for id in self.to_ids {
            text(id.as_ref());
        }
        hasher.update((self.to_ids.len() as u64).to_le_bytes());
        hasher.update(self.seq.to_le_bytes());
        hasher.update(self.msgtime.to_le_bytes());
        hasher.update(self.key_version.to_le_bytes());
        truncated(hasher.finalize().into())
    }
}
