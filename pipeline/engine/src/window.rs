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

/// Messages and what is known of them, up to a number; the oldest is forgotten first.
#[derive(Default)]
struct Recent {
    order: VecDeque<MsgHash>,
    outcomes: HashMap<MsgHash, KnownOutcome, BuildHasherDefault<IdentityHasher>>,
}

impl Recent {
    fn remember(&mut self, hash: MsgHash, outcome: KnownOutcome, capacity: usize) {
        if self.outcomes.insert(hash, outcome).is_none() {
            self.order.push_back(hash);
            if self.order.len() > capacity
                && let Some(oldest) = self.order.pop_front()
            {
                self.outcomes.remove(&oldest);
            }
        }
    }
}

/// The last messages that were opened, and the last dead letters that were replayed. The two are kept
/// apart: replays are old, and must not displace the newest messages.
pub struct Window {
    capacity: usize,
    /// The corp that is selected; 0 if the window serves only one.
    corp: MsgHash,
    /// In the order of the archive.
    pulled: Recent,
    replayed: Recent,
}

impl Window {
    /// Creates an empty window for `capacity` messages and as many replays.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            corp: 0,
            pulled: Recent::default(),
            replayed: Recent::default(),
        }
    }

    /// Selects the corp that the next calls are about. Corps share the window's capacity, but the same
    /// msgid in two corps is two messages.
    pub fn of_corp(&mut self, corp: &str) -> &mut Self {
        self.corp = msg_hash(corp);
        self
    }

    /// Whether a record is a duplicate of one before. `body` computes its [`body_hash`].
    pub fn is_duplicate(&self, hash: MsgHash, body: impl FnOnce() -> u64) -> bool {
        let key = self.key(hash);
        match self.pulled.outcomes.get(&key) {
            Some(KnownOutcome::Opened) => true,
            Some(KnownOutcome::Logged(logged)) if *logged == body() => true,
            Some(KnownOutcome::Logged(_)) | None => self.replayed.outcomes.contains_key(&key),
        }
    }

    /// Whether a message is known to have been opened.
    pub fn has_opened(&self, hash: MsgHash) -> bool {
        let key = self.key(hash);
        self.pulled.outcomes.get(&key) == Some(&KnownOutcome::Opened)
            || self.replayed.outcomes.contains_key(&key)
    }

    fn key(&self, hash: MsgHash) -> MsgHash {
        hash ^ self.corp
    }

    /// Remembers a message that was opened; false if it had been opened before.
    pub fn opened(&mut self, hash: MsgHash) -> bool {
        let is_new = !self.has_opened(hash);
        self.pulled
            .remember(self.key(hash), KnownOutcome::Opened, self.capacity);
        is_new
    }

    /// Remembers a message that was opened when its dead letter was replayed; false if it had been
    /// opened before.
    pub fn replayed(&mut self, hash: MsgHash) -> bool {
        let is_new = !self.has_opened(hash);
        self.replayed
            .remember(self.key(hash), KnownOutcome::Opened, self.capacity);
        is_new
    }

    /// Remembers a record whose outcome is unknown, with its [`body_hash`].
    pub fn logged(&mut self, hash: MsgHash, body: u64) {
        if !self.has_opened(hash) {
            self.pulled
                .remember(self.key(hash), KnownOutcome::Logged(body), self.capacity);
        }
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
    fn replays_do_not_displace_the_newest_messages() {
        let mut window = Window::new(2);
        let [a, b] = ["a", "b"].map(msg_hash);
        assert!(window.opened(a) && window.opened(b));
        for replay in 0..100 {
            assert!(window.replayed(msg_hash(&replay.to_string())));
        }
        assert!(window.has_opened(a) && window.has_opened(b));
        assert!(!window.opened(msg_hash("99")) && !window.replayed(msg_hash("98")));
        assert!(window.replayed(msg_hash("0")), "the oldest is forgotten");
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
