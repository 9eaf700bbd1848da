//! What happens to records: drop duplicates, open, decode, join, match. One function over a batch.
//!
//! Pure: the same records with the same keys, directory, rules and window give the same rows. Times are
//! part of the input. The caller is notified at the end of each stage and measures it.

use std::collections::HashMap;

use chatledger_crypto::{OpenError, OpenedRecord, Opener};
use chatledger_decode::decode;
use chatledger_directory::{Directory, Unresolved};
use chatledger_rules::RuleSet;
use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::ledger::{
    Digest128, Outcome, RecordOutcome, RowParts, Settlement, combined,
};
use chatledger_schemas::{
    CorpId, DeadLetter, DeadLetterEvent, Message, Reason, RetryRequest, SealedRecord, Violation,
};

use crate::batch::{Batch, BatchRange};
use crate::window::{MsgHash, Window, body_hash, msg_hash};

/// Maximum size of a message as JSON with its key. Sealed it is a third longer, and with names and
/// headers it still fits into the 16 MiB of a value on a topic.
const MAX_ROW_BYTES: usize = 11 << 20;
/// A payload up to this size cannot give a larger row: each of the seven texts taken from it is no
/// longer than the payload, and at most six times as long as JSON.
const SURELY_SMALL: usize = MAX_ROW_BYTES / (7 * 6) - 1024;

/// The stages, in order; the metric label `stage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// RSA and AES.
    Open,
    /// JSON to rows.
    Decode,
    /// Names, departments, rooms.
    Join,
    /// Rules.
    Match,
}

impl Stage {
    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Decode => "decode",
            Self::Join => "join",
            Self::Match => "match",
        }
    }
}

/// What the stages need, for one corp.
pub struct Tools<'a> {
    /// The corp.
    pub corp_id: &'a CorpId,
    /// Its keys.
    pub opener: &'a dyn Opener,
    /// Its directory.
    pub directory: &'a Directory,
    /// The rules.
    pub rules: &'a RuleSet,
}

/// A record and when it was pulled (milliseconds since the epoch, UTC). A violation in it counts as
/// found and a dead letter as first seen at this time, also when the record is processed again.
#[derive(Debug, Clone)]
pub struct PulledRecord {
    /// The record.
    pub record: SealedRecord,
    /// When it was pulled first.
    pub at: i64,
    /// Set if it is the record of a dead letter that is tried again.
    pub retry: Option<RetryRequest>,
    /// Whether it was dead-lettered before a crash. It is dead-lettered again, so that a sink receives
    /// the same rows; it is no duplicate, although its message may have been opened since.
    pub dead_lettered: bool,
}

impl PulledRecord {
    /// A record from the archive, and when it was pulled first.
    pub fn new(record: SealedRecord, at: i64) -> Self {
        Self {
            record,
            at,
            retry: None,
            dead_lettered: false,
        }
    }
}

/// What became of one record, for the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessedRecord {
    /// Position of the record.
    pub seq: u64,
    /// Hash of its msgid.
    pub hash: MsgHash,
    /// When it was pulled.
    pub at: i64,
    /// What became of it.
    pub settlement: Settlement,
}

impl ProcessedRecord {
    /// The outcome of a record unless opening it or the window changes it.
    fn of(pulled: &PulledRecord) -> Self {
        Self {
            seq: pulled.record.seq,
            hash: msg_hash(&pulled.record.msgid),
            at: pulled.at,
            settlement: Settlement::without_rows(Outcome::Message),
        }
    }

    /// Its item in the ledger.
    pub fn outcome(&self) -> RecordOutcome {
        RecordOutcome {
            seq: self.seq,
            msgid: self.hash.to_le_bytes(),
            settlement: self.settlement,
        }
    }
}

/// A processed batch.
pub struct Processed {
    /// The rows.
    pub batch: Batch,
    /// What became of each record, in order.
    pub outcomes: Vec<ProcessedRecord>,
    /// Ids the directory does not know.
    pub unresolved: Unresolved,
}

impl Processed {
    /// Number of records whose message was opened before.
    pub fn duplicates(&self) -> u64 {
        self.outcomes
            .iter()
            .filter(|record| record.settlement.outcome == Outcome::Duplicate)
            .count() as u64
    }
}

/// Takes consecutive records, ascending by `seq`, through all stages; `None` if there are none. Calls
/// `done` at the end of each stage.
pub fn process(
    tools: &Tools<'_>,
    pulled: Vec<PulledRecord>,
    window: &mut Window,
    mut done: impl FnMut(Stage),
) -> Option<Processed> {
    let ids = pulled.iter().map(|pulled| &pulled.record);
    let range = BatchRange::over(ids.map(|record| (record.seq, &*record.msgid)))?;
    let mut outcomes: Vec<ProcessedRecord> = pulled.iter().map(ProcessedRecord::of).collect();
    let mut rows = Rows::default();

    let remaining = drop_duplicates(pulled, window, &mut outcomes, &mut rows.events);
    let opened = tools.opener.open(&remaining.sealed);
    done(Stage::Open);
    for ((record, opened), index) in remaining.sealed.iter().zip(opened).zip(&remaining.indices) {
        let retry = remaining.retries.get(index).cloned();
        rows.add(record, opened, retry, window, &mut outcomes[*index]);
    }
    done(Stage::Decode);

    let Rows {
        mut messages,
        dead_letters,
        events,
    } = rows;
    let unresolved = tools.directory.join(&mut messages);
    done(Stage::Join);

    let mut violations = tools.rules.check(
        &messages,
        |member| tools.directory.departments_above(member),
        0,
    );
    settle_violations(&mut violations, &mut outcomes);
    done(Stage::Match);

    Some(Processed {
        batch: Batch {
            range,
            messages,
            violations,
            dead_letters,
            anchors: Vec::new(),
            events,
        },
        outcomes,
        unresolved,
    })
}

/// Sets the time of each violation, and adds the digest of a record's violations to its settlement.
fn settle_violations(violations: &mut [Violation], outcomes: &mut [ProcessedRecord]) {
    if violations.is_empty() {
        return;
    }
    let messages = outcomes.iter().enumerate();
    let messages = messages.filter(|(_, record)| record.settlement.outcome == Outcome::Message);
    let indices: HashMap<(u64, MsgHash), usize> = messages
        .map(|(index, record)| ((record.seq, record.hash), index))
        .collect();
    let mut digests: HashMap<usize, Vec<Digest128>> = HashMap::new();
    for violation in violations {
        let key = (violation.seq, msg_hash(&violation.msgid));
        if let Some(index) = indices.get(&key) {
            violation.detected_at = outcomes[*index].at;
            digests.entry(*index).or_default().push(violation.digest());
        }
    }
    for (index, mut digests) in digests {
        let settlement = &mut outcomes[index].settlement;
        settlement.violations = digests.len() as u32;
        settlement.violation_rows = combined(&mut digests);
    }
}

/// The records of a batch that are not duplicates.
struct Remaining {
    sealed: Vec<SealedRecord>,
    /// The index of each in the batch.
    indices: Vec<usize>,
    /// Which of them are dead letters being replayed, by index in the batch.
    retries: HashMap<usize, RetryRequest>,
}

/// Drops records whose message was opened before: they are not worth an RSA operation. A record
/// without an id is never a duplicate.
fn drop_duplicates(
    pulled: Vec<PulledRecord>,
    window: &Window,
    outcomes: &mut [ProcessedRecord],
    events: &mut Vec<DeadLetterEvent>,
) -> Remaining {
    let mut remaining = Remaining {
        sealed: Vec::with_capacity(pulled.len()),
        indices: Vec::with_capacity(pulled.len()),
        retries: HashMap::new(),
    };
    for (index, pulled) in pulled.into_iter().enumerate() {
        let hash = outcomes[index].hash;
        // The dead letter's own record precedes its replay in the log; that alone does not make the
        // replay a duplicate.
        let is_duplicate = || match &pulled.retry {
            Some(_) => window.has_opened(hash),
            None => {
                !pulled.dead_lettered && window.is_duplicate(hash, || body_hash(&pulled.record))
            }
        };
        if !pulled.record.msgid.is_empty() && is_duplicate() {
            outcomes[index].settlement.outcome = Outcome::Duplicate;
            if let Some(retry) = pulled.retry {
                events.push(settled(&pulled.record, retry, Event::Duplicate, 0));
            }
        } else {
            if let Some(retry) = pulled.retry {
                remaining.retries.insert(index, retry);
            }
            remaining.sealed.push(pulled.record);
            remaining.indices.push(index);
        }
    }
    remaining
}

/// The rows of a batch while it is decoded.
#[derive(Default)]
struct Rows {
    messages: Vec<Message>,
    dead_letters: Vec<DeadLetter>,
    events: Vec<DeadLetterEvent>,
}

impl Rows {
    /// Decodes an opened record and adds its row.
    fn add(
        &mut self,
        record: &SealedRecord,
        opened: Result<OpenedRecord, OpenError>,
        retry: Option<RetryRequest>,
        window: &mut Window,
        outcome: &mut ProcessedRecord,
    ) {
        let decoded = opened.and_then(|opened| {
            let version = opened.key_version;
            let (corp, seq, msgid) = (&record.corp_id, record.seq, &record.msgid);
            decode(corp, seq, msgid, version, opened.plaintext)
                .map_err(|error| OpenError {
                    reason: error.reason,
                    error: error.error,
                    key_version: version,
                })
                .and_then(|message| bounded(message, version))
        });
        let is_replay = retry.is_some();
        let mut is_new = || {
            if is_replay {
                window.replayed(outcome.hash)
            } else {
                window.opened(outcome.hash)
            }
        };
        match decoded {
            // A message may occur twice within one batch; the first is kept.
            Ok(message) if !record.msgid.is_empty() && !is_new() => {
                outcome.settlement.outcome = Outcome::Duplicate;
                let event =
                    retry.map(|r| settled(record, r, Event::Duplicate, message.key_version));
                self.events.extend(event);
            }
            Ok(message) => {
                let event = retry.map(|r| settled(record, r, Event::Replayed, message.key_version));
                self.events.extend(event);
                outcome.settlement.row = RowParts::from(&message).digest();
                self.messages.push(message);
            }
            Err(rejected) => {
                outcome.settlement.outcome = Outcome::DeadLetter;
                let attempts = retry.as_ref().map_or(0, |retry| retry.attempt);
                let dead_letter = dead_letter(record, rejected, outcome.at, attempts);
                outcome.settlement.row = dead_letter.digest();
                self.events
                    .extend(retry.map(|retry| failed(&dead_letter, retry)));
                self.dead_letters.push(dead_letter);
            }
        }
    }
}

/// Rejects a message whose row would be larger than a topic or sink takes.
fn bounded(message: Message, key_version: u32) -> Result<Message, OpenError> {
    if message.payload.len() <= SURELY_SMALL {
        return Ok(message);
    }
    let mut bytes = ByteCounter(message.conversation_id.len());
    let written = serde_json::to_writer(&mut bytes, &message);
    if written.is_ok() && bytes.0 <= MAX_ROW_BYTES {
        return Ok(message);
    }
    Err(OpenError {
        reason: Reason::TooLarge,
        error: format!(
            "the message has {} bytes as a row; the limit is {MAX_ROW_BYTES}",
            bytes.0
        ),
        key_version,
    })
}

/// Counts the bytes written to it.
struct ByteCounter(usize);

impl std::io::Write for ByteCounter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Makes the event that settles a dead letter.
fn settled(
    record: &SealedRecord,
    retry: RetryRequest,
    event: Event,
    key_version: u32,
) -> DeadLetterEvent {
    DeadLetterEvent {
        event,
        corp_id: record.corp_id.clone(),
        seq: record.seq,
        msgid: record.msgid.to_string(),
        attempt: retry.attempt,
        at: retry.at,
        actor: retry.actor,
        because: String::new(),
        reason: retry.reason,
        error: String::new(),
        key_version,
        first_seen: retry.first_seen,
    }
}

/// Makes the event of an attempt that failed.
fn failed(dead_letter: &DeadLetter, retry: RetryRequest) -> DeadLetterEvent {
    DeadLetterEvent {
        event: Event::Failed,
        corp_id: dead_letter.corp_id.clone(),
        seq: dead_letter.seq,
        msgid: dead_letter.msgid.clone(),
        attempt: retry.attempt,
        at: retry.at,
        actor: retry.actor,
        because: String::new(),
        reason: dead_letter.reason,
        error: dead_letter.error.clone(),
        key_version: dead_letter.key_version,
        first_seen: dead_letter.first_seen,
    }
}

fn dead_letter(
    record: &SealedRecord,
    rejected: OpenError,
    first_seen: i64,
    attempts: u32,
) -> DeadLetter {
    // A record on a log may be older than the bound and exceed it.
    let record = record.clone().bounded();
    DeadLetter {
        sealed: record.json_text().into_owned(),
        corp_id: record.corp_id,
        seq: record.seq,
        msgid: record.msgid.into(),
        reason: rejected.reason,
        error: rejected.error,
        key_version: rejected.key_version,
        first_seen,
        attempts,
    }
}

/// Returns the reasons for which records of a batch were dead-lettered the first time, with the number
/// of records each.
pub fn reasons(batch: &Batch) -> impl Iterator<Item = (Reason, u64)> {
    Reason::ALL.into_iter().filter_map(|reason| {
        let count = batch
            .dead_letters
            .iter()
            .filter(|dead_letter| dead_letter.attempts == 0 && dead_letter.reason == reason)
            .count();
        (count > 0).then_some((reason, count as u64))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn decoded(json: String) -> Message {
        decode(&"ww1".into(), 1, "m", 3, json.into_bytes()).unwrap()
    }

    #[test]
    fn million_receivers_are_too_large_and_ten_thousand_are_not() {
        let to = |count: usize| {
            let ids: Vec<String> = (0..count).map(|n| format!("member-{n}")).collect();
            decoded(serde_json::json!({"from": "a", "tolist": ids, "msgtype": "text"}).to_string())
        };
        let refused = bounded(to(1_000_000), 3).unwrap_err();
        assert_eq!((refused.reason, refused.key_version), (Reason::TooLarge, 3));
        assert_eq!(bounded(to(10_000), 3).unwrap().to_ids.len(), 10_000);
    }

    #[test]
    fn largest_payload_that_skips_the_check_is_within_the_limit_at_its_worst() {
        // Stray control bytes are the longest as JSON: six bytes each.
        let frame = r#"{"from":"a","msgtype":"text","text":{"content":""}}"#.len();
        let content = "\u{1}".repeat(SURELY_SMALL - frame);
        let json = format!(r#"{{"from":"a","msgtype":"text","text":{{"content":"{content}"}}}}"#);
        let message = decoded(json);
        assert_eq!(message.payload.len(), SURELY_SMALL);
        assert!(serde_json::to_vec(&message).unwrap().len() < MAX_ROW_BYTES);
    }

    #[test]
    fn message_that_is_much_longer_as_json_counts_with_its_written_length() {
        let of = |filling: &str, bytes: usize| {
            let filling = filling.repeat(bytes / filling.len());
            decoded(format!(r#"{{"from":"a","msgtype":"x","x":"{filling}"}}"#))
        };
        // A quote and its backslash take four bytes in a row, a stray control byte takes six.
        assert!(bounded(of("\\\"", 3 << 20), 3).is_ok());
        let refused = bounded(of("\u{1}", 3 << 20), 3).unwrap_err();
        assert_eq!(refused.reason, Reason::TooLarge);
        assert!(refused.error.contains("18"), "{}", refused.error);
    }
}
