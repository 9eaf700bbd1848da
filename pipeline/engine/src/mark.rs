//! How far a log's reader has come, as kept beside what it has written, and whether to believe it.
//!
//! A consumer group's positions can be set back by hand, or be lost. What a reader has written is
//! still there then, so beside it stands a [`Mark`]: how far the log has been written, and what the
//! last record was. A reader starts at its mark if that is further than its group's position.
//!
//! # The guarantee
//! A mark is believed only if the very record it names stands in the log where the mark says. A log
//! that was made anew begins at 0 again; its records are another's and must not be skipped. Two of
//! a row can be told apart later, a skipped one is lost.
//!
//! Pure: what to do about a record comes out, reading and seeking are the caller's.

use serde::{Deserialize, Serialize};

/// How far a log has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Records up to here are written: the last one's offset + 1.
    pub position: u64,
    /// Digest of the last one, see [`witness`].
    pub witness: u64,
}

/// Digest of a record of a log: of its place, its value and when the log took it.
pub fn witness(ordinal: u64, value: &[u8], timestamp: i64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(value, ordinal ^ (timestamp as u64).rotate_left(32))
}

/// A mark that is further than the group's position, until the log has shown what it is worth.
#[derive(Debug)]
pub struct Claim {
    mark: Mark,
    /// Records before it that have to be read again.
    before: u64,
    sought: bool,
}

/// What to do about a record while a claim is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read on from this offset.
    Seek(u64),
    /// Written already, if the mark is right; read on.
    Pass,
    /// The mark is right, and this is its record: go on behind it.
    Confirmed,
    /// The log is not the one that was marked: go back to the group's position.
    Refuted,
}

impl Claim {
    /// A claim, if the mark is further than the group's `position`. `before` records ahead of the
    /// mark's end will be read.
    pub fn new(mark: Option<Mark>, position: u64, before: u64) -> Option<Self> {
        let mark = mark.filter(|mark| mark.position > position)?;
        Some(Self {
            mark,
            before: before.max(1),
            sought: false,
        })
    }

    /// The mark it is about.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Decides about the next record, by its offset + 1.
    pub fn meet(&mut self, ordinal: u64, witness: impl FnOnce() -> u64) -> Step {
        let Mark {
            position,
            witness: named,
        } = self.mark;
        if ordinal == position && witness() == named {
            return Step::Confirmed;
        }
        if ordinal >= position {
            return Step::Refuted;
        }
        let from = position.saturating_sub(self.before);
        if !self.sought && ordinal < from {
            self.sought = true;
            return Step::Seek(from);
        }
        Step::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark {
        position: 100,
        witness: 7,
    };

    #[test]
    fn mark_that_is_not_further_claims_nothing() {
        assert!(Claim::new(None, 0, 1).is_none());
        assert!(Claim::new(Some(MARK), 100, 1).is_none());
        assert!(Claim::new(Some(MARK), 101, 1).is_none());
        assert!(Claim::new(Some(MARK), 99, 1).is_some());
    }

    #[test]
    fn mark_is_believed_when_its_record_stands_in_its_place() {
        let mut claim = Claim::new(Some(MARK), 0, 1).unwrap();
        assert_eq!(claim.meet(1, || 0), Step::Seek(99));
        assert_eq!(claim.meet(100, || 7), Step::Confirmed);
        // Close by there is nothing to seek.
        let mut claim = Claim::new(Some(MARK), 97, 10).unwrap();
        assert_eq!(claim.meet(98, || 0), Step::Pass);
        assert_eq!(claim.meet(99, || 7), Step::Pass);
        assert_eq!(claim.meet(100, || 7), Step::Confirmed);
    }

    #[test]
    fn mark_of_another_log_is_refuted_and_nothing_is_skipped() {
        let mut claim = Claim::new(Some(MARK), 0, 1).unwrap();
        assert_eq!(claim.meet(100, || 8), Step::Refuted);
        // The record is gone: whatever stands behind it has not been written by this account.
        let mut claim = Claim::new(Some(MARK), 0, 1).unwrap();
        assert_eq!(claim.meet(101, || 7), Step::Refuted);
        let mut claim = Claim::new(Some(MARK), 0, 5).unwrap();
        assert_eq!(claim.meet(3, || 7), Step::Seek(95));
        // A log that was cut back answers with its beginning; that is not sought twice.
        assert_eq!(claim.meet(3, || 7), Step::Pass);
    }

    #[test]
    fn witness_tells_place_value_and_time_apart() {
        let one = witness(5, b"value", 1_700_000_000_000);
        assert_eq!(one, witness(5, b"value", 1_700_000_000_000));
        assert_ne!(one, witness(6, b"value", 1_700_000_000_000));
        assert_ne!(one, witness(5, b"valve", 1_700_000_000_000));
        assert_ne!(one, witness(5, b"value", 1_700_000_000_001));
    }
}
