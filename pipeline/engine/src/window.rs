//! Recognises a message that the archive returns a second time under a later position.
//!
//! The archive requires its readers to drop duplicates by `msgid` (`connectors/wecom/WECOM.md` §1).
//! The window remembers the last messages that were opened, by a 128-bit hash of their ids, and
//! forgets the oldest. A duplicate of an older message is replaced by the tables' sorting key,
//! which depends on the message alone.
//!
//! After a start a driver may have to fill the window from a log that does not hold the outcomes of
//! its records. Such a record is remembered with a hash of its sealed body: the same body again is a
//! duplicate whatever became of the first, another body under the same id is not.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use chatledger_schemas::SealedRecord;
use chatledger_schemas::ledger::digest_of;
use xxhash_rust::xxh3::xxh3_64;

/// Hash of a msgid, as in the window and in the ledger.
pub type MsgHash = u128;

/// Hashes a msgid.
pub fn msg_hash(msgid: &str) -> MsgHash {
    u128::from_le_bytes(digest_of(msgid.as_bytes()))
}

/// Hashes the sealed body of a record, without its position; 0 if the record has none.
pub fn body_hash(record: &SealedRecord) -> u64 {
    record
        .fields()
        .map_or(0, |fields| xxh3_64(fields.encrypt_chat_msg.as_bytes()))
}

/// Uses the keys as they are: they are uniform hashes already.
#[derive(Default)]
struct IdentityHasher(u64);

impl Hasher for IdentityHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_ne_bytes(word);
        }
    }
    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KnownOutcome {
    /// It was opened.
    Opened,
    /// Unknown: it was in the log, with this body.
    Logged(u64),
}

/// The last messages that were opened.
pub struct Window {
    capacity: usize,
    order: VecDeque<MsgHash>,
    outcomes: HashMap<MsgHash, KnownOutcome, BuildHasherDefault<IdentityHasher>>,
}

impl Window {
    /// Creates an empty window for `capacity` messages.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            order: VecDeque::new(),
            outcomes: HashMap::default(),
        }
    }

    /// Whether a record is a duplicate of one before. `body` computes its [`body_hash`].
    pub fn is_duplicate(&self, hash: MsgHash, body: impl FnOnce() -> u64) -> bool {
        match self.outcomes.get(&hash) {
            None => false,
            Some(KnownOutcome::Opened) => true,
            Some(KnownOutcome::Logged(logged)) => *logged == body(),
        }
    }

    /// Whether a message is known to have been opened.
    pub fn has_opened(&self, hash: MsgHash) -> bool {
        self.outcomes.get(&hash) == Some(&KnownOutcome::Opened)
    }

    /// Remembers a message that was opened; false if it had been opened before.
    pub fn opened(&mut self, hash: MsgHash) -> bool {
        self.remember(hash, KnownOutcome::Opened) != Some(KnownOutcome::Opened)
    }

    /// Remembers a record whose outcome is unknown, with its [`body_hash`].
    pub fn logged(&mut self, hash: MsgHash, body: u64) {
        if self.outcomes.get(&hash) != Some(&KnownOutcome::Opened) {
            self.remember(hash, KnownOutcome::Logged(body));
        }
    }

    fn remember(&mut self, hash: MsgHash, outcome: KnownOutcome) -> Option<KnownOutcome> {
        let before = self.outcomes.insert(hash, outcome);
        if before.is_none() {
            self.order.push_back(hash);
            if self.order.len() > self.capacity
                && let Some(oldest) = self.order.pop_front()
            {
                self.outcomes.remove(&oldest);
            }
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_remembers_the_last_messages_and_forgets_the_oldest() {
        let mut window = Window::new(2);
        let [a, b, c] = ["a", "b", "c"].map(msg_hash);
        assert!(window.opened(a) && window.opened(b));
        assert!(!window.opened(a));
        assert!(window.opened(c));
        assert!(
            !window.is_duplicate(a, || 0)
                && window.is_duplicate(b, || 0)
                && window.is_duplicate(c, || 0)
        );
    }

    #[test]
    fn logged_record_is_duplicated_only_by_the_same_body() {
        let mut window = Window::new(2);
        let a = msg_hash("a");
        window.logged(a, 7);
        assert!(window.is_duplicate(a, || 7) && !window.is_duplicate(a, || 8));
        assert!(
            window.opened(a),
            "another body under the same id was opened"
        );
        assert!(window.is_duplicate(a, || 8));
    }
}
