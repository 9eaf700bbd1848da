//! How far a log has been read, as its reader stores it beside its output, and whether to trust it.
//!
//! The positions of a consumer group can be reset by hand or lost, while the reader's output is
//! still there. So the reader stores a [`SinkCheckpoint`] beside its output: the position and a
//! fingerprint of the last record. A reader resumes at the checkpoint if it is ahead of the group.
//! Sinks store one for each lane; the stage `process` stores one for each partition of `[raw]`.
//!
//! # The guarantee
//! A checkpoint is trusted only if the log still holds the record it names at that position. A topic
//! that was deleted and created again starts at offset 0 with other records, and none of those may
//! be skipped: a duplicate can be removed later, a skipped record is lost.
//!
//! Pure: decides what to do about a record. The caller reads and seeks.

use serde::{Deserialize, Serialize};

/// How far a log has been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkCheckpoint {
    /// Records up to here are written: offset of the last one + 1.
    pub position: u64,
    /// Fingerprint of the last one, see [`fingerprint`]. The written name is part of the format.
    #[serde(rename = "witness")]
    pub fingerprint: u64,
}

/// Digest of a record in a log: of its position, its value and the time the log accepted it.
pub fn fingerprint(position: u64, value: &[u8], timestamp: i64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(value, position ^ (timestamp as u64).rotate_left(32))
}

/// A checkpoint ahead of the group's position that has not been compared with the log yet.
#[derive(Debug)]
pub struct UnverifiedCheckpoint {
    checkpoint: SinkCheckpoint,
    /// Records before the checkpoint that must be read again.
    read_back: u64,
    sought: bool,
}

/// What to do about a record while a checkpoint is unverified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verification {
    /// Continue reading at this offset.
    Seek(u64),
    /// Already written, if the checkpoint is right. Continue with the next record.
    Pass,
    /// The checkpoint is right and this is the record it names. Continue after it.
    Confirmed,
    /// The log is another one. Go back to the group's position.
    Refuted,
}

impl UnverifiedCheckpoint {
    /// Returns the checkpoint to verify, if it is ahead of the group's `position`. `read_back`
    /// records before the end of the checkpoint will be read.
    pub fn new(checkpoint: Option<SinkCheckpoint>, position: u64, read_back: u64) -> Option<Self> {
        let checkpoint = checkpoint.filter(|checkpoint| checkpoint.position > position)?;
        Some(Self {
            checkpoint,
            read_back: read_back.max(1),
            sought: false,
        })
    }

    /// The checkpoint to verify.
    pub fn checkpoint(&self) -> SinkCheckpoint {
        self.checkpoint
    }

    /// Decides about the next record. `position` is its offset + 1; `record` computes its
    /// fingerprint.
    pub fn compare(&mut self, position: u64, record: impl FnOnce() -> u64) -> Verification {
        let checkpoint = self.checkpoint;
        if position == checkpoint.position && record() == checkpoint.fingerprint {
            return Verification::Confirmed;
        }
        if position >= checkpoint.position {
            return Verification::Refuted;
        }
        let from = checkpoint.position.saturating_sub(self.read_back);
        if !self.sought && position < from {
            self.sought = true;
            return Verification::Seek(from);
        }
        Verification::Pass
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKPOINT: SinkCheckpoint = SinkCheckpoint {
        position: 100,
        fingerprint: 7,
    };

    fn unverified(position: u64, read_back: u64) -> UnverifiedCheckpoint {
        UnverifiedCheckpoint::new(Some(CHECKPOINT), position, read_back).unwrap()
    }

    #[test]
    fn checkpoint_that_is_not_ahead_needs_no_verification() {
        let new = UnverifiedCheckpoint::new;
        assert!(new(None, 0, 1).is_none());
        assert!(new(Some(CHECKPOINT), 100, 1).is_none());
        assert!(new(Some(CHECKPOINT), 101, 1).is_none());
        assert!(new(Some(CHECKPOINT), 99, 1).is_some());
    }

    #[test]
    fn checkpoint_is_trusted_if_the_log_holds_its_record() {
        let mut far = unverified(0, 1);
        assert_eq!(far.compare(1, || 0), Verification::Seek(99));
        assert_eq!(far.compare(100, || 7), Verification::Confirmed);
        let mut near = unverified(97, 10);
        assert_eq!(near.compare(98, || 0), Verification::Pass);
        assert_eq!(near.compare(99, || 7), Verification::Pass);
        assert_eq!(near.compare(100, || 7), Verification::Confirmed);
    }

    #[test]
    fn checkpoint_of_another_log_is_refuted_and_nothing_is_skipped() {
        assert_eq!(unverified(0, 1).compare(100, || 8), Verification::Refuted);
        // Its record is gone: nothing shows that the records after it were written.
        assert_eq!(unverified(0, 1).compare(101, || 7), Verification::Refuted);
        let mut truncated = unverified(0, 5);
        assert_eq!(truncated.compare(3, || 7), Verification::Seek(95));
        // A truncated log answers with its beginning; it is not sought a second time.
        assert_eq!(truncated.compare(3, || 7), Verification::Pass);
    }

    #[test]
    fn fingerprint_depends_on_position_value_and_time() {
        let one = fingerprint(5, b"value", 1_700_000_000_000);
        assert_eq!(one, fingerprint(5, b"value", 1_700_000_000_000));
        assert_ne!(one, fingerprint(6, b"value", 1_700_000_000_000));
        assert_ne!(one, fingerprint(5, b"valve", 1_700_000_000_000));
        assert_ne!(one, fingerprint(5, b"value", 1_700_000_000_001));
    }

    #[test]
    fn written_form_is_stable() {
        let text = serde_json::to_string(&CHECKPOINT).unwrap();
        assert_eq!(text, r#"{"position":100,"witness":7}"#);
    }
}
