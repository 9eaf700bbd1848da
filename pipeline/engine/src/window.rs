//! Recognises a message that the source gives a second time under a later position.
//!
//! WeCom asks readers to drop repeats by `msgid` (`wecom-api` in short, 3). The window remembers the
//! last messages that were opened, by a 128-bit hash of their ids, and forgets the oldest. A repeat
//! from further back is caught by the tables' sorting key, which is a function of the message alone.
//!
//! After a start a driver may have to fill the window from a log that does not say what became of a
//! record. Such a record is remembered together with a hash of its sealed body: the same body again
//! is a repeat whatever became of the first, another body under the same id is not.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

use chatledger_schemas::SealedRecord;
use chatledger_schemas::ledger::digest_of;
use xxhash_rust::xxh3::xxh3_64;

/// Hash of a msgid, as remembered and as the ledger holds it.
pub type MsgHash = u128;

/// Hashes a msgid.
pub fn msg_hash(msgid: &str) -> MsgHash {
    u128::from_le_bytes(digest_of(msgid.as_bytes()))
}

/// Hashes what is sealed in a record, without its position; 0 if the record is broken.
pub fn body_hash(record: &SealedRecord) -> u64 {
    record
        .fields()
        .map_or(0, |fields| xxh3_64(fields.encrypt_chat_msg.as_bytes()))
}

/// The hashes are uniform already; hashing them again would be waste.
#[derive(Default)]
struct Uniform(u64);

impl Hasher for Uniform {
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
enum Remembered {
    /// It was opened.
    Opened,
    /// It was in the log, with this body; what became of it is not known.
    Logged(u64),
}

/// The last messages that were opened.
pub struct Window {
    capacity: usize,
    order: VecDeque<MsgHash>,
    seen: HashMap<MsgHash, Remembered, BuildHasherDefault<Uniform>>,
}

impl Window {
    /// An empty window for `capacity` messages.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            order: VecDeque::new(),
            seen: HashMap::default(),
        }
    }

    /// Whether a record repeats one that was there before.
    pub fn repeats(&self, hash: MsgHash, body: impl FnOnce() -> u64) -> bool {
        match self.seen.get(&hash) {
            None => false,
            Some(Remembered::Opened) => true,
            Some(Remembered::Logged(logged)) => *logged == body(),
        }
    }

    /// Whether a message is known to have been opened.
    pub fn has_opened(&self, hash: MsgHash) -> bool {
        self.seen.get(&hash) == Some(&Remembered::Opened)
    }

    /// Remembers a message that was opened; false if it had been opened before.
    pub fn opened(&mut self, hash: MsgHash) -> bool {
        self.remember(hash, Remembered::Opened) != Some(Remembered::Opened)
    }

    /// Remembers a record of which only the log is known.
    pub fn logged(&mut self, hash: MsgHash, body: u64) {
        if self.seen.get(&hash) != Some(&Remembered::Opened) {
            self.remember(hash, Remembered::Logged(body));
        }
    }

    fn remember(&mut self, hash: MsgHash, seen: Remembered) -> Option<Remembered> {
        let before = self.seen.insert(hash, seen);
        if before.is_none() {
            self.order.push_back(hash);
            if self.order.len() > self.capacity
                && let Some(oldest) = self.order.pop_front()
            {
                self.seen.remove(&oldest);
            }
        }
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_knows_the_last_messages_and_forgets_the_oldest() {
        let mut window = Window::new(2);
        let [a, b, c] = ["a", "b", "c"].map(msg_hash);
        assert!(window.opened(a) && window.opened(b));
        assert!(!window.opened(a));
        assert!(window.opened(c));
        assert!(!window.repeats(a, || 0) && window.repeats(b, || 0) && window.repeats(c, || 0));
    }

    #[test]
    fn logged_record_is_repeated_only_by_the_same_body() {
        let mut window = Window::new(2);
        let a = msg_hash("a");
        window.logged(a, 7);
        assert!(window.repeats(a, || 7) && !window.repeats(a, || 8));
        assert!(window.opened(a), "another body under its id was opened");
        assert!(window.repeats(a, || 8));
    }
}
