//! Which dead letters are open, folded from letters and from what was done about them.
//!
//! Facts may be told twice: a settled letter stays settled, and of two tellings of an open one that
//! with more attempts is the newer. A letter is told before what was done about it. Pure; where the
//! facts come from (a file, a topic) and what is remembered of a letter is the caller's.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::{CorpId, DeadLetter, DeadLetterEvent, Reason};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::window::{MsgHash, msg_hash};

/// One letter. Broken records may share `seq` and msgid; then what was sealed tells them apart.
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
    /// The key of a letter.
    pub fn of(letter: &DeadLetter) -> Self {
        Self::new(&letter.corp_id, letter.seq, &letter.msgid, &letter.sealed)
    }

    /// The key of a letter by what it is made of.
    pub fn new(corp_id: &CorpId, seq: u64, msgid: &str, sealed: &str) -> Self {
        Self {
            corp_id: corp_id.clone(),
            seq,
            msg: msg_hash(msgid),
            body: xxh3_64(sealed.as_bytes()),
        }
    }
}

/// What is known about an open letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterStatus<P> {
    /// Why it is parked, by the newest attempt.
    pub reason: Reason,
    /// `publickey_ver` of its record; 0 if it could not be read.
    pub key_version: u32,
    /// When it was first parked, milliseconds since the epoch, UTC.
    pub first_seen: i64,
    /// How often it has been replayed in vain.
    pub attempts: u32,
    /// An attempt that is under way.
    pub retrying: Option<u32>,
    /// What the caller remembers of it.
    pub retained: P,
}

/// What a caller remembers of a letter.
pub trait Retained {
    /// It could not be opened this time either.
    fn failed(&mut self, _event: &DeadLetterEvent) {}
}

impl Retained for u64 {}

/// The letters of a log.
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
    /// A letter was parked, or could not be opened again.
    pub fn add(&mut self, letter: &DeadLetter, retained: P) {
        self.revision += 1;
        let key = DeadLetterKey::of(letter);
        if self.is_settled(&key) {
            return;
        }
        let newer = self
            .open
            .get(&key)
            .is_none_or(|known| known.attempts < letter.attempts);
        if newer {
            let retrying = self.open.get(&key).and_then(|known| known.retrying);
            let standing = DeadLetterStatus {
                reason: letter.reason,
                key_version: letter.key_version,
                first_seen: letter.first_seen,
                attempts: letter.attempts,
                retrying: retrying.filter(|attempt| *attempt > letter.attempts),
                retained,
            };
            self.open.insert(key, standing);
        }
    }

    /// Something was done about a letter.
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
            let Some(standing) = self.open.get_mut(&key) else {
                continue;
            };
            match event.event {
                Event::Retried if event.attempt > standing.attempts => {
                    standing.retrying = Some(event.attempt);
                }
                Event::Failed if event.attempt >= standing.attempts => {
                    standing.attempts = event.attempt;
                    standing.reason = event.reason;
                    standing.retrying = standing.retrying.filter(|n| *n > event.attempt);
                    standing.retained.failed(event);
                }
                _ => {}
            }
        }
    }

    /// Open letters of one position and msgid.
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

    /// How often something was told: as long as it stays the same, so does everything here.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes in the letters of another corp.
    pub fn append(&mut self, mut other: Self) {
        self.open.append(&mut other.open);
        self.settled.extend(other.settled);
        self.replayed.extend(other.replayed);
    }

    /// The open letters, by corp and position.
    pub fn open(&self) -> &BTreeMap<DeadLetterKey, DeadLetterStatus<P>> {
        &self.open
    }

    /// Whether a letter is settled.
    pub fn is_settled(&self, key: &DeadLetterKey) -> bool {
        let named = (key.corp_id.clone(), key.seq, key.msg);
        self.settled.contains(&named)
    }

    /// Whether a letter is known, open or settled.
    pub fn knows(&self, key: &DeadLetterKey) -> bool {
        self.open.contains_key(key) || self.is_settled(key)
    }

    /// Whether a letter with this msgid was replayed: its message has been delivered.
    pub fn was_replayed(&self, corp_id: &CorpId, msg: MsgHash) -> bool {
        self.replayed.contains(&(corp_id.clone(), msg))
    }

    /// Messages that were replayed.
    pub fn replayed(&self) -> impl Iterator<Item = MsgHash> {
        self.replayed.iter().map(|(_, msg)| *msg)
    }

    /// Open letters behind a key that are chosen, at most `most` of them.
    pub fn select(
        &self,
        after: Option<&DeadLetterKey>,
        filter: &DeadLetterFilter,
        most: usize,
    ) -> Vec<DeadLetterKey> {
        use std::ops::Bound::{Excluded, Unbounded};
        let behind = (after.map_or(Unbounded, Excluded), Unbounded);
        self.open
            .range(behind)
            .filter(|(key, standing)| filter.matches(key, standing))
            .take(most)
            .map(|(key, _)| key.clone())
            .collect()
    }
}

/// Which open letters are meant; a field that says nothing takes all.
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
    /// First parked at this time or later, milliseconds since the epoch, UTC.
    pub since: Option<i64>,
    /// First parked before this time.
    pub until: Option<i64>,
    /// Their msgid.
    pub msgid: Option<String>,
}

impl DeadLetterFilter {
    /// DeadLetterIndex that only lacked a key which is there now.
    pub fn lacking(versions: &[u32]) -> Self {
        Self {
            reasons: BTreeSet::from([Reason::UnknownKeyVersion]),
            key_versions: Some(versions.iter().copied().collect()),
            ..Self::default()
        }
    }

    /// Whether a letter is meant.
    pub fn matches<P>(&self, key: &DeadLetterKey, standing: &DeadLetterStatus<P>) -> bool {
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
            && (reasons.is_empty() || reasons.contains(&standing.reason))
            && key_versions
                .as_ref()
                .is_none_or(|versions| versions.contains(&standing.key_version))
            && from_seq.is_none_or(|from| key.seq >= from)
            && to_seq.is_none_or(|to| key.seq <= to)
            && since.is_none_or(|since| standing.first_seen >= since)
            && until.is_none_or(|until| standing.first_seen < until)
            && msgid
                .as_ref()
                .is_none_or(|msgid| msg_hash(msgid) == key.msg)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn letter(seq: u64, attempts: u32) -> DeadLetter {
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

    fn seqs(letters: &DeadLetterIndex<u64>, filter: &DeadLetterFilter) -> Vec<u64> {
        let chosen = letters.select(None, filter, 100);
        chosen.iter().map(|key| key.seq).collect()
    }

    #[test]
    fn settled_letter_stays_settled_whatever_is_told_again() {
        let mut letters = DeadLetterIndex::default();
        for (seq, done) in [
            (1, Event::Replayed),
            (2, Event::Duplicate),
            (3, Event::Dropped),
        ] {
            letters.add(&letter(seq, 0), seq);
            letters.apply(&event(seq, 1, done));
            letters.add(&letter(seq, 0), seq);
            letters.add(&letter(seq, 5), seq);
            letters.apply(&event(seq, 6, Event::Failed));
        }
        assert!(letters.open().is_empty());
        assert!(letters.was_replayed(&"ww1".into(), msg_hash("m1")));
        assert!(!letters.was_replayed(&"ww1".into(), msg_hash("m3")));
        assert!(letters.knows(&DeadLetterKey::of(&letter(3, 0))));
    }

    #[test]
    fn newest_attempt_counts_and_one_under_way_ends_with_its_outcome() {
        let mut letters = DeadLetterIndex::default();
        letters.add(&letter(1, 0), 0);
        letters.apply(&event(1, 1, Event::Retried));
        let standing = |letters: &DeadLetterIndex<u64>| {
            letters.open()[&DeadLetterKey::of(&letter(1, 0))].clone()
        };
        assert_eq!(standing(&letters).retrying, Some(1));
        letters.apply(&event(1, 1, Event::Failed));
        let now = standing(&letters);
        assert_eq!((now.attempts, now.retrying), (1, None));
        assert_eq!(now.reason, Reason::WrongKey);
        // Told late.
        letters.apply(&event(1, 1, Event::Retried));
        letters.add(&letter(1, 0), 0);
        assert_eq!(standing(&letters), now);
        // The kafka driver tells the letter itself again.
        letters.apply(&event(1, 2, Event::Retried));
        letters.add(&letter(1, 2), 7);
        let now = standing(&letters);
        assert_eq!((now.attempts, now.retrying, now.retained), (2, None, 7));
    }

    #[test]
    fn broken_records_of_one_seq_without_msgid_are_letters_of_their_own() {
        let mut letters = DeadLetterIndex::default();
        for body in ["a", "b"] {
            let twin = DeadLetter {
                msgid: String::new(),
                sealed: body.into(),
                ..letter(4, 0)
            };
            letters.add(&twin, 0);
        }
        assert_eq!(letters.open().len(), 2);
        let dropped = DeadLetterEvent {
            msgid: String::new(),
            ..event(4, 0, Event::Dropped)
        };
        letters.apply(&dropped);
        assert!(letters.open().is_empty());
    }

    #[test]
    fn choice_takes_what_every_field_allows() {
        let mut letters = DeadLetterIndex::default();
        for seq in 1..=4 {
            let own = DeadLetter {
                first_seen: seq as i64 * 10,
                key_version: seq as u32,
                ..letter(seq, 0)
            };
            letters.add(&own, seq);
        }
        letters.apply(&event(4, 1, Event::Failed));
        let all = DeadLetterFilter::default();
        assert_eq!(seqs(&letters, &all), [1, 2, 3, 4]);
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
            assert_eq!(seqs(&letters, &filter), expected, "{filter:?}");
        }
        let first = letters.select(None, &all, 1);
        assert_eq!(letters.select(first.last(), &all, 2).len(), 2);
    }
}
