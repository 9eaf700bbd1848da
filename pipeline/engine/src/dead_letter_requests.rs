//! Requests about dead letters, and the counts of what became of them. Pure; both drivers carry them
//! out.

use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::{DeadLetter, DeadLetterEvent, RetryRequest, SealedRecord};
use serde::{Deserialize, Serialize};

use crate::dead_letter_index::DeadLetterFilter;
use crate::stages::PulledRecord;

/// A request about dead letters. The written names are part of the control inbox's format.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum DeadLetterRequest {
    /// Open dead letters again.
    Replay {
        /// Which ones.
        filter: DeadLetterFilter,
        /// The user who requests it.
        actor: String,
    },
    /// Discard dead letters permanently.
    Drop {
        /// Which ones.
        filter: DeadLetterFilter,
        /// The user who requests it.
        actor: String,
        /// Why.
        because: String,
    },
}

/// Number of dead letters by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayCounts {
    /// Opened and delivered.
    pub replayed: u64,
    /// RecordOutcome because their message was delivered before.
    pub duplicates: u64,
    /// Failed again.
    pub failed: u64,
    /// Discarded.
    pub dropped: u64,
    /// Left alone because their message or an earlier attempt is not delivered yet.
    pub waiting: u64,
}

impl ReplayCounts {
    /// Counts an event.
    pub fn count(&mut self, event: Event) {
        match event {
            Event::Replayed => self.replayed += 1,
            Event::Duplicate => self.duplicates += 1,
            Event::Failed => self.failed += 1,
            Event::Dropped => self.dropped += 1,
            Event::Retried => self.waiting += 1,
        }
    }

    /// Adds other counts.
    pub fn add(&mut self, other: Self) {
        self.replayed += other.replayed;
        self.duplicates += other.duplicates;
        self.failed += other.failed;
        self.dropped += other.dropped;
        self.waiting += other.waiting;
    }
}

/// Who requests an attempt, and when.
#[derive(Debug, Clone)]
pub struct Requester {
    /// Who.
    pub actor: String,
    /// When, milliseconds since the epoch, UTC.
    pub at: i64,
}

impl Requester {
    /// Makes the event of an attempt at a dead letter.
    pub fn event(&self, dead_letter: &DeadLetter, event: Event, attempt: u32) -> DeadLetterEvent {
        DeadLetterEvent {
            event,
            corp_id: dead_letter.corp_id.clone(),
            seq: dead_letter.seq,
            msgid: dead_letter.msgid.clone(),
            attempt,
            at: self.at,
            actor: self.actor.clone(),
            because: String::new(),
            reason: dead_letter.reason,
            error: dead_letter.error.clone(),
            key_version: dead_letter.key_version,
            first_seen: dead_letter.first_seen,
        }
    }

    /// Marks a record that is tried again.
    pub fn retry(&self, dead_letter: &DeadLetter, attempt: u32) -> RetryRequest {
        RetryRequest {
            attempt,
            first_seen: dead_letter.first_seen,
            at: self.at,
            actor: self.actor.clone(),
            reason: dead_letter.reason,
        }
    }

    /// Returns the record of a dead letter, to be opened as if for the first time.
    pub fn again(&self, dead_letter: &DeadLetter) -> PulledRecord {
        PulledRecord {
            record: SealedRecord {
                corp_id: dead_letter.corp_id.clone(),
                seq: dead_letter.seq,
                msgid: dead_letter.msgid.as_str().into(),
                json: dead_letter.sealed.clone().into(),
            },
            at: dead_letter.first_seen,
            retry: Some(self.retry(dead_letter, dead_letter.attempts + 1)),
            dead_lettered: false,
        }
    }
}
