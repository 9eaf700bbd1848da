//! Opens dead letters again and delivers the outcome to every sink once, wherever the process dies.
//!
//! | step | what is durable after it | a crash after it |
//! |---|---|---|
//! | [`prepare`] | the ledger: what became of the records | they are opened again, and the ledger is left as it is |
//! | [`prepare`], [`discard`] | `replay.json`: what is about to be delivered, under which name | the next start delivers it |
//! | [`deliver`](super::replay_sink::deliver) | the rows, in every sink | they are written again under the same name, which changes nothing |
//! | [`finish`] | the events | the next start removes `replay.json` |
//!
//! From the moment `replay.json` exists, the messages in it count as opened: if the archive returns
//! one of them again, that is a duplicate. A dead letter whose message the archive has returned again,
//! and that not every sink holds yet, is left alone until they do.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::ledger::{Digest128, Outcome, Settlement};
use chatledger_schemas::{DeadLetter, DeadLetterEvent, Message, Reason, Violation};

use super::StateError;
use super::dead_letter_store::DeadLetterStore;
use super::replay_plan::{ReplayFile, ReplayPlan};
use super::state::KnownMessages;
use crate::batch::Batch;
use crate::dead_letter_index::DeadLetterKey;
use crate::dead_letter_requests::Requester;
use crate::ports::WriteAttempt;
use crate::stages::{Processed, ProcessedRecord, Tools, process};
use crate::window::{Window, msg_hash};

/// A replay whose plan is stored and that must be delivered.
#[derive(Debug)]
pub(super) struct PreparedReplay {
    /// The rows, under the range of the plan.
    pub(super) batch: Arc<Batch>,
    /// Whether a sink may hold them already.
    pub(super) attempt: WriteAttempt,
}

/// Rows of a replay beside its events.
#[derive(Default)]
struct ReplayRows {
    messages: Vec<Message>,
    violations: Vec<Violation>,
    /// Dead letters that failed again.
    dead_letters: Vec<DeadLetter>,
}

impl PreparedReplay {
    fn new(plan: ReplayPlan, rows: ReplayRows, attempt: WriteAttempt) -> Self {
        let batch = Arc::new(Batch {
            range: plan.range,
            messages: rows.messages,
            violations: rows.violations,
            dead_letters: rows.dead_letters,
            anchors: Vec::new(),
            events: plan.events,
        });
        Self { batch, attempt }
    }

    /// What happens to each dead letter.
    pub(super) fn events(&self) -> &[DeadLetterEvent] {
        &self.batch.events
    }
}

/// Why a replay that was interrupted cannot be delivered.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The state folder cannot be used.
    #[error("state")]
    State(#[from] StateError),
    /// A record that opened before does not open now: its key is gone.
    #[error(
        "cannot resume the interrupted replay: the record of seq {seq} no longer opens ({reason}); \
         restore the private key of version {key_version}"
    )]
    DoesNotOpen {
        /// Its position.
        seq: u64,
        /// Why it does not open.
        reason: Reason,
        /// The version of its key.
        key_version: u32,
    },
}

/// What [`prepare`] made of the dead letters that were selected.
#[derive(Default)]
pub(super) struct OpenedDeadLetters {
    /// What must be delivered; `None` if there is nothing.
    pub(super) replay: Option<PreparedReplay>,
    /// Number of dead letters left alone because not every sink holds their message yet.
    pub(super) waiting: usize,
    /// What the stages made of the others, for the counts.
    pub(super) processed: Option<Processed>,
}

/// What a replay reads and writes beside the rows.
pub(super) struct ReplayFiles<'a> {
    /// Where it is planned.
    pub(super) plan: &'a ReplayFile,
    /// The dead letters.
    pub(super) store: &'a DeadLetterStore,
    /// What became of them is in the ledger before a sink sees it.
    pub(super) settle: &'a mut dyn FnMut(&[ProcessedRecord]) -> Result<(), StateError>,
}

/// Opens dead letters and stores what is to be delivered.
///
/// # Errors
/// The state folder cannot be used; nothing has been decided then.
pub(super) fn prepare(
    tools: &Tools<'_>,
    files: &mut ReplayFiles<'_>,
    known: &mut KnownMessages,
    selected: &[DeadLetterKey],
    requester: &Requester,
) -> Result<OpenedDeadLetters, StateError> {
    let mut opened = OpenedDeadLetters::default();
    let mut events = Vec::new();
    let mut retried = HashMap::new();
    let mut records = Vec::new();
    let mut settled = Vec::new();
    for key in selected {
        let Some(dead_letter) = files.store.get(key)? else {
            continue;
        };
        let has_msgid = !dead_letter.msgid.is_empty();
        if has_msgid && known.window.has_opened(key.msg) {
            let attempt = dead_letter.attempts + 1;
            events.push(requester.event(&dead_letter, Event::Duplicate, attempt));
            settled.push(ProcessedRecord {
                seq: dead_letter.seq,
                hash: key.msg,
                at: dead_letter.first_seen,
                settlement: Settlement::without_rows(Outcome::Duplicate),
            });
        } else if has_msgid && known.undelivered.contains(&key.msg) {
            opened.waiting += 1;
        } else {
            records.push(requester.again(&dead_letter));
            retried.insert(key.clone(), dead_letter);
        }
    }
    // A separate window: what it learns counts only once the plan is stored.
    let mut window = Window::new(records.len().max(1));
    let mut rows = ReplayRows::default();
    opened.processed = process(tools, records, &mut window, |_| {});
    if let Some(processed) = &opened.processed {
        events.extend(processed.batch.events.iter().cloned());
        rows.messages.clone_from(&processed.batch.messages);
        rows.violations.clone_from(&processed.batch.violations);
        // One that fails as it did at first is in the ledger already.
        let known: HashSet<Digest128> = retried.values().map(DeadLetter::digest).collect();
        let again = processed.outcomes.iter().filter(|record| {
            let is_dead_letter = record.settlement.outcome == Outcome::DeadLetter;
            !(is_dead_letter && known.contains(&record.settlement.row))
        });
        settled.extend(again);
    }
    (files.settle)(&settled)?;
    let Some(plan) = ReplayPlan::new(events) else {
        return Ok(opened);
    };
    files.plan.write(&plan)?;
    for msg in plan.opened() {
        known.window.replayed(msg);
    }
    rows.dead_letters = failed_again(&plan.events, retried.into_values());
    opened.replay = Some(PreparedReplay::new(plan, rows, WriteAttempt::First));
    Ok(opened)
}

/// Stores that dead letters are discarded; `None` if none is selected.
///
/// # Errors
/// The state folder cannot be used; nothing has been decided then.
pub(super) fn discard(
    file: &ReplayFile,
    store: &DeadLetterStore,
    selected: &[DeadLetterKey],
    requester: &Requester,
    because: &str,
) -> Result<Option<PreparedReplay>, StateError> {
    let mut events = Vec::new();
    for key in selected {
        if let Some(dead_letter) = store.get(key)? {
            let attempts = dead_letter.attempts;
            let mut event = requester.event(&dead_letter, Event::Dropped, attempts);
            because.clone_into(&mut event.because);
            events.push(event);
        }
    }
    let Some(plan) = ReplayPlan::new(events) else {
        return Ok(None);
    };
    file.write(&plan)?;
    let rows = ReplayRows::default();
    Ok(Some(PreparedReplay::new(plan, rows, WriteAttempt::First)))
}

/// Resumes the replay that an earlier process has planned and not finished; `None` if there is none.
///
/// # Errors
/// The state folder cannot be used, or a record no longer opens.
pub(super) fn resume(
    tools: &Tools<'_>,
    files: &mut ReplayFiles<'_>,
) -> Result<Option<PreparedReplay>, ResumeError> {
    let Some(plan) = files.plan.read()? else {
        return Ok(None);
    };
    let store = files.store;
    let mut failed = Vec::new();
    let mut records = Vec::new();
    let tried = |event: &&DeadLetterEvent| matches!(event.event, Event::Replayed | Event::Failed);
    for event in plan.events.iter().filter(tried) {
        let requester = Requester {
            actor: event.actor.clone(),
            at: event.at,
        };
        let msg = msg_hash(&event.msgid);
        for key in store.index().named(&event.corp_id, event.seq, msg) {
            let Some(dead_letter) = store.get(&key)? else {
                continue;
            };
            if event.event == Event::Replayed {
                records.push(requester.again(&dead_letter));
            } else {
                failed.push(dead_letter);
            }
        }
    }
    let mut rows = ReplayRows::default();
    let mut window = Window::new(records.len().max(1));
    if let Some(processed) = process(tools, records, &mut window, |_| {}) {
        if let Some(dead_letter) = processed.batch.dead_letters.first() {
            return Err(ResumeError::DoesNotOpen {
                seq: dead_letter.seq,
                reason: dead_letter.reason,
                key_version: dead_letter.key_version,
            });
        }
        // The rules may have changed.
        (files.settle)(&processed.outcomes)?;
        rows.messages = processed.batch.messages;
        rows.violations = processed.batch.violations;
    }
    rows.dead_letters = failed_again(&plan.events, failed);
    Ok(Some(PreparedReplay::new(plan, rows, WriteAttempt::Repeat)))
}

/// Stores the events of a replay that every sink holds, and forgets its plan.
///
/// # Errors
/// The disk refuses. It may be called again.
pub(super) fn finish(
    file: &ReplayFile,
    store: &mut DeadLetterStore,
    replay: &PreparedReplay,
) -> Result<(), StateError> {
    store.append_events(replay.events())?;
    file.remove()
}

/// The dead letters that failed again, with the outcome of this attempt.
fn failed_again(
    events: &[DeadLetterEvent],
    retried: impl IntoIterator<Item = DeadLetter>,
) -> Vec<DeadLetter> {
    let failed: HashMap<(u64, &str), &DeadLetterEvent> = events
        .iter()
        .filter(|event| event.event == Event::Failed)
        .map(|event| ((event.seq, event.msgid.as_str()), event))
        .collect();
    let updated = |dead_letter: DeadLetter| {
        let event = failed.get(&(dead_letter.seq, dead_letter.msgid.as_str()))?;
        Some(DeadLetter {
            reason: event.reason,
            error: event.error.clone(),
            attempts: event.attempt,
            ..dead_letter
        })
    };
    let mut dead_letters: Vec<DeadLetter> = retried.into_iter().filter_map(updated).collect();
    dead_letters.sort_by(|a, b| (a.seq, &a.msgid, &a.sealed).cmp(&(b.seq, &b.msgid, &b.sealed)));
    dead_letters
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::dead_letter_index::DeadLetterFilter;
    use crate::dead_letter_index::tests::dead_letter;
    use chatledger_crypto::KeyRing;
    use chatledger_directory::Directory;
    use chatledger_rules::RuleSet;
    use chatledger_schemas::CorpId;
    use chatledger_schemas::directory::Snapshot;

    /// Runs `work` with the tools of a corp without keys.
    fn with_tools<T>(work: impl FnOnce(&Tools<'_>) -> T) -> T {
        let corp_id = CorpId::from("ww1");
        work(&Tools {
            corp_id: &corp_id,
            opener: &KeyRing::new(),
            directory: &Directory::new(Snapshot::empty(corp_id.clone())),
            rules: &RuleSet::default(),
        })
    }

    fn requester(at: i64) -> Requester {
        Requester {
            actor: "test".into(),
            at,
        }
    }

    fn prepare_all(folder: &Path, store: &DeadLetterStore, at: i64) -> OpenedDeadLetters {
        let selected = store.index().select(None, &DeadLetterFilter::default(), 10);
        let mut window = Window::new(10);
        window.opened(msg_hash("m2"));
        let mut known = KnownMessages {
            window,
            undelivered: HashSet::from([msg_hash("m3")]),
        };
        let mut settled = Vec::new();
        let opened = with_files(folder, store, &mut settled, |tools, files| {
            prepare(tools, files, &mut known, &selected, &requester(at)).unwrap()
        });
        let settled: Vec<(u64, Outcome)> = settled
            .iter()
            .map(|record| (record.seq, record.settlement.outcome))
            .collect();
        let expected = [
            (2, Outcome::Duplicate),
            (1, Outcome::DeadLetter),
            (4, Outcome::DeadLetter),
        ];
        let open = |seq| selected.iter().any(|key| key.seq == seq);
        let expected = expected.into_iter().filter(|(seq, _)| open(*seq));
        assert_eq!(settled, expected.collect::<Vec<_>>());
        opened
    }

    fn with_files<T>(
        folder: &Path,
        store: &DeadLetterStore,
        settled: &mut Vec<ProcessedRecord>,
        work: impl FnOnce(&Tools<'_>, &mut ReplayFiles<'_>) -> T,
    ) -> T {
        let mut settle = |records: &[ProcessedRecord]| {
            settled.extend_from_slice(records);
            Ok(())
        };
        let mut files = ReplayFiles {
            plan: &ReplayFile::in_folder(folder),
            store,
            settle: &mut settle,
        };
        with_tools(|tools| work(tools, &mut files))
    }

    fn resume_in(folder: &Path, store: &DeadLetterStore) -> Option<PreparedReplay> {
        let mut settled = Vec::new();
        let resume = |tools: &Tools<'_>, files: &mut ReplayFiles<'_>| resume(tools, files).unwrap();
        with_files(folder, store, &mut settled, resume)
    }

    fn outcomes(replay: &PreparedReplay) -> Vec<(u64, &'static str, u32)> {
        let mut events: Vec<_> = replay
            .events()
            .iter()
            .map(|event| (event.seq, event.event.as_str(), event.attempt))
            .collect();
        events.sort_unstable();
        events
    }

    #[test]
    fn replay_is_stored_before_it_is_delivered_and_resumed_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut store = DeadLetterStore::open(folder, 0).unwrap();
        let dead_letters: Vec<_> = (1..=4).map(|seq| dead_letter(seq, 0)).collect();
        store.append(&dead_letters).unwrap();

        let opened = prepare_all(folder, &store, 7);
        assert_eq!(
            opened.waiting, 1,
            "its message was returned again and is not delivered yet"
        );
        let replay = opened.replay.unwrap();
        let expected = [(1, "failed", 1), (2, "duplicate", 1), (4, "failed", 1)];
        assert_eq!(outcomes(&replay), expected);

        // A crash here: the next process delivers the same under the same name.
        let reopened = DeadLetterStore::open(folder, 0).unwrap();
        let resumed = resume_in(folder, &reopened).unwrap();
        assert_eq!(resumed.batch, replay.batch);
        assert_eq!(resumed.attempt, WriteAttempt::Repeat);

        // A crash after the events were stored: they may be stored again.
        store.append_events(replay.events()).unwrap();
        let mut store = DeadLetterStore::open(folder, 0).unwrap();
        let resumed = resume_in(folder, &store).unwrap();
        assert_eq!(outcomes(&resumed), expected);
        finish(&ReplayFile::in_folder(folder), &mut store, &resumed).unwrap();
        assert!(resume_in(folder, &store).is_none());
        let store = DeadLetterStore::open(folder, 0).unwrap();
        let open = store.index().open().iter();
        let open: Vec<_> = open.map(|(key, s)| (key.seq, s.attempts)).collect();
        assert_eq!(open, [(1, 1), (3, 0), (4, 1)]);

        // The next attempt at the same dead letters has another name.
        let again = prepare_all(folder, &store, 8);
        assert_ne!(
            again.replay.unwrap().batch.range.name("x"),
            replay.batch.range.name("x")
        );
    }

    #[test]
    fn discarding_records_who_did_it_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = ReplayFile::in_folder(folder.path());
        let mut store = DeadLetterStore::open(folder.path(), 0).unwrap();
        store.append(&[dead_letter(1, 0)]).unwrap();
        let selected = store.index().select(None, &DeadLetterFilter::default(), 10);
        let replay = discard(&file, &store, &selected, &requester(7), "why");
        let replay = replay.unwrap().unwrap();
        let event = &replay.events()[0];
        assert_eq!(
            (event.actor.as_str(), event.because.as_str()),
            ("test", "why")
        );
        assert_eq!(outcomes(&replay), [(1, "dropped", 0)]);
        finish(&file, &mut store, &replay).unwrap();
        assert!(store.index().open().is_empty());
    }
}
