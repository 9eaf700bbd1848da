//! What is requester for about dead letters, and what became of them. Pure; both drivers carry it out.

use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::{DeadLetter, DeadLetterEvent, RetryRequest, SealedRecord};
use serde::{Deserialize, Serialize};

use crate::dead_letter_index::DeadLetterFilter;
use crate::stages::PulledRecord;

/// What somebody asks for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum DeadLetterRequest {
    /// Open letters again.
    Replay {
        /// Which.
        filter: DeadLetterFilter,
        /// Who asks.
        actor: String,
    },
    /// Do without letters.
    Drop {
        /// Which.
        filter: DeadLetterFilter,
        /// Who asks.
        actor: String,
        /// Why.
        because: String,
    },
}

/// What became of letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayCounts {
    /// Delivered.
    pub replayed: u64,
    /// RecordOutcome because their message had been delivered before.
    pub duplicates: u64,
    /// Still closed.
    pub failed: u64,
    /// Done without.
    pub dropped: u64,
    /// Left alone because their message or an earlier attempt is under way.
    pub waiting: u64,
}

impl ReplayCounts {
    /// Counts one more.
    pub fn count(&mut self, event: Event) {
        match event {
            Event::Replayed => self.replayed += 1,
            Event::Duplicate => self.duplicates += 1,
            Event::Failed => self.failed += 1,
            Event::Dropped => self.dropped += 1,
            Event::Retried => self.waiting += 1,
        }
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: Self) {
        self.replayed += other.replayed;
        self.duplicates += other.duplicates;
        self.failed += other.failed;
        self.dropped += other.dropped;
        self.waiting += other.waiting;
    }
}

/// Who asks, and when.
#[derive(Debug, Clone)]
pub struct Requester {
    /// Who.
    pub actor: String,
    /// When, milliseconds since the epoch, UTC.
    pub at: i64,
}

impl Requester {
    /// What is noted of an attempt at a letter.
    pub fn event(&self, letter: &DeadLetter, event: Event, attempt: u32) -> DeadLetterEvent {
        DeadLetterEvent {
            event,
            corp_id: letter.corp_id.clone(),
            seq: letter.seq,
            msgid: letter.msgid.clone(),
            attempt,
            at: self.at,
            actor: self.actor.clone(),
            because: String::new(),
            reason: letter.reason,
            error: letter.error.clone(),
            key_version: letter.key_version,
            first_seen: letter.first_seen,
        }
    }

    /// The mark of a record that is tried again.
    pub fn retry(&self, letter: &DeadLetter, attempt: u32) -> RetryRequest {
        RetryRequest {
            attempt,
            first_seen: letter.first_seen,
            at: self.at,
            actor: self.actor.clone(),
            reason: letter.reason,
        }
    }

    /// The record of a letter, to be opened as if for the first time.
    pub fn again(&self, letter: &DeadLetter) -> PulledRecord {
        PulledRecord {
            record: SealedRecord {
                corp_id: letter.corp_id.clone(),
                seq: letter.seq,
                msgid: letter.msgid.as_str().into(),
                json: letter.sealed.clone().into(),
            },
            at: letter.first_seen,
            retry: Some(self.retry(letter, letter.attempts + 1)),
            dead_lettered: false,
        }
    }
}
