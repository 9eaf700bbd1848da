//! Which dead letters are open, folded from dead letters and their events.
//!
//! Adding the same dead letter or event twice changes nothing: a settled dead letter stays settled,
//! and of two versions of an open one, the one with more attempts is the newer. A dead letter must be
//! added before its events. Pure: the caller decides where dead letters come from (a file, a topic)
//! and what to retain of each.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::{CorpId, DeadLetter, DeadLetterEvent, Reason};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::window::{MsgHash, msg_hash};

/// Identifies a dead letter. Malformed records may share `seq` and msgid; then their sealed form
/// distinguishes them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeadLetterKey {
    /// The corp.
    pub corp_id: CorpId,
    /// Position in its archive.
    pub seq: u64,
    /// Hash of the msgid.
    pub msg: MsgHash,
    /// Hash of the sealed record.
    pub body: u64,
}

impl DeadLetterKey {
    /// Returns the key of a dead letter.
    pub fn of(dead_letter: &DeadLetter) -> Self {
        let DeadLetter {
            corp_id,
            seq,
            msgid,
            sealed,
            ..
        } = dead_letter;
        Self::new(corp_id, *seq, msgid, sealed)
    }

    /// Makes the key of a dead letter from its parts.
    pub fn new(corp_id: &CorpId, seq: u64, msgid: &str, sealed: &str) -> Self {
        Self {
            corp_id: corp_id.clone(),
            seq,
            msg: msg_hash(msgid),
            body: xxh3_64(sealed.as_bytes()),
        }
    }
}

/// The status of an open dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterStatus<P> {
    /// Why it is a dead letter, by the newest attempt.
    pub reason: Reason,
    /// `publickey_ver` of its record; 0 if it could not be read.
    pub key_version: u32,
    /// When it was first dead-lettered, milliseconds since the epoch, UTC.
    pub first_seen: i64,
    /// Number of failed replays.
    pub attempts: u32,
    /// The attempt that is under way.
    pub retrying: Option<u32>,
    /// What the caller retains of it.
    pub retained: P,
}

/// What a caller retains of a dead letter.
pub trait Retained {
    /// Takes in an attempt that failed.
    fn failed(&mut self, _event: &DeadLetterEvent) {}
}

impl Retained for u64 {}

/// The dead letters of a log.
#[derive(Debug)]
pub struct DeadLetterIndex<P> {
    open: BTreeMap<DeadLetterKey, DeadLetterStatus<P>>,
    settled: HashSet<(CorpId, u64, MsgHash)>,
    replayed: HashSet<(CorpId, MsgHash)>,
    revision: u64,
}

impl<P> Default for DeadLetterIndex<P> {
    fn default() -> Self {
        Self {
            open: BTreeMap::new(),
            settled: HashSet::new(),
            replayed: HashSet::new(),
            revision: 0,
        }
    }
}

impl<P: Retained> DeadLetterIndex<P> {
    /// Adds a dead letter, or the newer version of one after an attempt that failed.
    pub fn add(&mut self, dead_letter: &DeadLetter, retained: P) {
        self.revision += 1;
        let key = DeadLetterKey::of(dead_letter);
        if self.is_settled(&key) {
            return;
        }
        let newer = self
            .open
            .get(&key)
            .is_none_or(|known| known.attempts < dead_letter.attempts);
        if newer {
            let retrying = self.open.get(&key).and_then(|known| known.retrying);
            let status = DeadLetterStatus {
                reason: dead_letter.reason,
                key_version: dead_letter.key_version,
                first_seen: dead_letter.first_seen,
                attempts: dead_letter.attempts,
                retrying: retrying.filter(|attempt| *attempt > dead_letter.attempts),
                retained,
            };
            self.open.insert(key, status);
        }
    }

    /// Applies an event of a dead letter.
    pub fn apply(&mut self, event: &DeadLetterEvent) {
        self.revision += 1;
        let msg = msg_hash(&event.msgid);
        let keys: Vec<DeadLetterKey> = self.named(&event.corp_id, event.seq, msg);
        if event.event.settles() {
            for key in keys {
                self.open.remove(&key);
            }
            let corp_id = event.corp_id.clone();
            if event.event == Event::Replayed {
                self.replayed.insert((corp_id.clone(), msg));
            }
            self.settled.insert((corp_id, event.seq, msg));
            return;
        }
        for key in keys {
            let Some(status) = self.open.get_mut(&key) else {
                continue;
            };
            match event.event {
                Event::Retried if event.attempt > status.attempts => {
                    status.retrying = Some(event.attempt);
                }
                Event::Failed if event.attempt >= status.attempts => {
                    status.attempts = event.attempt;
                    status.reason = event.reason;
                    status.retrying = status.retrying.filter(|n| *n > event.attempt);
                    status.retained.failed(event);
                }
                _ => {}
            }
        }
    }

    /// Returns the open dead letters with a position and msgid.
    pub fn named(&self, corp_id: &CorpId, seq: u64, msg: MsgHash) -> Vec<DeadLetterKey> {
        let bound = |body| DeadLetterKey {
            corp_id: corp_id.clone(),
            seq,
            msg,
            body,
        };
        let range = self.open.range(bound(0)..=bound(u64::MAX));
        range.map(|(key, _)| key.clone()).collect()
    }

    /// A counter that changes whenever the index changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Adds the dead letters of another corp.
    pub fn append(&mut self, mut other: Self) {
        self.open.append(&mut other.open);
        self.settled.extend(other.settled);
        self.replayed.extend(other.replayed);
    }

    /// The open dead letters, by corp and position.
    pub fn open(&self) -> &BTreeMap<DeadLetterKey, DeadLetterStatus<P>> {
        &self.open
    }

    /// Whether a dead letter is settled.
    pub fn is_settled(&self, key: &DeadLetterKey) -> bool {
        let named = (key.corp_id.clone(), key.seq, key.msg);
        self.settled.contains(&named)
    }

    /// Whether a dead letter is known, open or settled.
    pub fn knows(&self, key: &DeadLetterKey) -> bool {
        self.open.contains_key(key) || self.is_settled(key)
    }

    /// Whether a dead letter with this msgid was replayed, so that its message is delivered.
    pub fn was_replayed(&self, corp_id: &CorpId, msg: MsgHash) -> bool {
        self.replayed.contains(&(corp_id.clone(), msg))
    }

    /// Returns the messages that were replayed.
    pub fn replayed(&self) -> impl Iterator<Item = MsgHash> {
        self.replayed.iter().map(|(_, msg)| *msg)
    }

    /// Selects open dead letters after a key, at most `most` of them.
    pub fn select(
        &self,
        after: Option<&DeadLetterKey>,
        filter: &DeadLetterFilter,
        most: usize,
    ) -> Vec<DeadLetterKey> {
        use std::ops::Bound::{Excluded, Unbounded};
        let range = (after.map_or(Unbounded, Excluded), Unbounded);
        self.open
            .range(range)
            .filter(|(key, status)| filter.matches(key, status))
            .take(most)
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// Selects open dead letters that match every field; an empty field matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterFilter {
    /// Their corp.
    pub corp: Option<String>,
    /// Their reasons.
    #[serde(default)]
    pub reasons: BTreeSet<Reason>,
    /// The versions of their keys.
    pub key_versions: Option<BTreeSet<u32>>,
    /// Their first position.
    pub from_seq: Option<u64>,
    /// Their last position.
    pub to_seq: Option<u64>,
    /// First dead-lettered at this time or later, milliseconds since the epoch, UTC.
    pub since: Option<i64>,
    /// First dead-lettered before this time.
    pub until: Option<i64>,
    /// Their msgid.
    pub msgid: Option<String>,
}

impl DeadLetterFilter {
    /// Matches dead letters that lacked only a private key of one of these versions.
    pub fn lacking(versions: &[u32]) -> Self {
        Self {
            reasons: BTreeSet::from([Reason::UnknownKeyVersion]),
            key_versions: Some(versions.iter().copied().collect()),
            ..Self::default()
        }
    }

    /// Whether a dead letter matches.
    pub fn matches<P>(&self, key: &DeadLetterKey, status: &DeadLetterStatus<P>) -> bool {
        let Self {
            corp,
            reasons,
            key_versions,
            from_seq,
            to_seq,
            since,
            until,
            msgid,
        } = self;
        corp.as_ref().is_none_or(|c| c == key.corp_id.as_str())
            && (reasons.is_empty() || reasons.contains(&status.reason))
            && key_versions
                .as_ref()
                .is_none_or(|versions| versions.contains(&status.key_version))
            && from_seq.is_none_or(|from| key.seq >= from)
            && to_seq.is_none_or(|to| key.seq <= to)
            && since.is_none_or(|since| status.first_seen >= since)
            && until.is_none_or(|until| status.first_seen < until)
            && msgid
                .as_ref()
                .is_none_or(|msgid| msg_hash(msgid) == key.msg)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn dead_letter(seq: u64, attempts: u32) -> DeadLetter {
        DeadLetter {
            corp_id: "ww1".into(),
            seq,
            msgid: format!("m{seq}"),
            reason: Reason::UnknownKeyVersion,
            error: "no private key of version 3".into(),
            key_version: 3,
            sealed: format!("{{\"seq\":{seq}}}"),
            first_seen: 9,
            attempts,
        }
    }

    pub(crate) fn event(seq: u64, attempt: u32, event: Event) -> DeadLetterEvent {
        DeadLetterEvent {
            event,
            corp_id: "ww1".into(),
            seq,
            msgid: format!("m{seq}"),
            attempt,
            at: 10,
            actor: "test".into(),
            because: String::new(),
            reason: Reason::WrongKey,
            error: "the private key does not open it".into(),
            key_version: 3,
            first_seen: 9,
        }
    }

    fn seqs(index: &DeadLetterIndex<u64>, filter: &DeadLetterFilter) -> Vec<u64> {
        let selected = index.select(None, filter, 100);
        selected.iter().map(|key| key.seq).collect()
    }

    #[test]
    fn settled_dead_letter_stays_settled_whatever_is_added_again() {
        let mut index = DeadLetterIndex::default();
        for (seq, done) in [
            (1, Event::Replayed),
            (2, Event::Duplicate),
            (3, Event::Dropped),
        ] {
            index.add(&dead_letter(seq, 0), seq);
            index.apply(&event(seq, 1, done));
            index.add(&dead_letter(seq, 0), seq);
            index.add(&dead_letter(seq, 5), seq);
            index.apply(&event(seq, 6, Event::Failed));
        }
        assert!(index.open().is_empty());
        assert!(index.was_replayed(&"ww1".into(), msg_hash("m1")));
        assert!(!index.was_replayed(&"ww1".into(), msg_hash("m3")));
        assert!(index.knows(&DeadLetterKey::of(&dead_letter(3, 0))));
    }

    #[test]
    fn newest_attempt_counts_and_one_under_way_ends_with_its_event() {
        let mut index = DeadLetterIndex::default();
        index.add(&dead_letter(1, 0), 0);
        index.apply(&event(1, 1, Event::Retried));
        let status = |index: &DeadLetterIndex<u64>| {
            index.open()[&DeadLetterKey::of(&dead_letter(1, 0))].clone()
        };
        assert_eq!(status(&index).retrying, Some(1));
        index.apply(&event(1, 1, Event::Failed));
        let now = status(&index);
        assert_eq!((now.attempts, now.retrying), (1, None));
        assert_eq!(now.reason, Reason::WrongKey);
        // A late event.
        index.apply(&event(1, 1, Event::Retried));
        index.add(&dead_letter(1, 0), 0);
        assert_eq!(status(&index), now);
        // The kafka driver adds the dead letter itself again.
        index.apply(&event(1, 2, Event::Retried));
        index.add(&dead_letter(1, 2), 7);
        let now = status(&index);
        assert_eq!((now.attempts, now.retrying, now.retained), (2, None, 7));
    }

    #[test]
    fn malformed_records_of_one_seq_without_msgid_are_separate_dead_letters() {
        let mut index = DeadLetterIndex::default();
        for body in ["a", "b"] {
            let twin = DeadLetter {
                msgid: String::new(),
                sealed: body.into(),
                ..dead_letter(4, 0)
            };
            index.add(&twin, 0);
        }
        assert_eq!(index.open().len(), 2);
        let dropped = DeadLetterEvent {
            msgid: String::new(),
            ..event(4, 0, Event::Dropped)
        };
        index.apply(&dropped);
        assert!(index.open().is_empty());
    }

    #[test]
    fn filter_selects_what_every_field_allows() {
        let mut index = DeadLetterIndex::default();
        for seq in 1..=4 {
            let own = DeadLetter {
                first_seen: seq as i64 * 10,
                key_version: seq as u32,
                ..dead_letter(seq, 0)
            };
            index.add(&own, seq);
        }
        index.apply(&event(4, 1, Event::Failed));
        let all = DeadLetterFilter::default();
        assert_eq!(seqs(&index, &all), [1, 2, 3, 4]);
        let cases: [(DeadLetterFilter, &[u64]); 7] = [
            (
                DeadLetterFilter {
                    corp: Some("ww2".into()),
                    ..all.clone()
                },
                &[],
            ),
            (
                DeadLetterFilter {
                    reasons: BTreeSet::from([Reason::WrongKey]),
                    ..all.clone()
                },
                &[4],
            ),
            (
                DeadLetterFilter {
                    from_seq: Some(2),
                    to_seq: Some(3),
                    ..all.clone()
                },
                &[2, 3],
            ),
            (
                DeadLetterFilter {
                    since: Some(20),
                    until: Some(40),
                    ..all.clone()
                },
                &[2, 3],
            ),
            (
                DeadLetterFilter {
                    msgid: Some("m3".into()),
                    ..all.clone()
                },
                &[3],
            ),
            (DeadLetterFilter::lacking(&[1, 3, 4]), &[1, 3]),
            (DeadLetterFilter::lacking(&[]), &[]),
        ];
        for (filter, expected) in cases {
            assert_eq!(seqs(&index, &filter), expected, "{filter:?}");
        }
        let first = index.select(None, &all, 1);
        assert_eq!(index.select(first.last(), &all, 2).len(), 2);
    }
}
