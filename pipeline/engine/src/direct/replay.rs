//! Opens store records again and delivers them once, whatever dies.
//!
//! | step | what is durable | killed after it |
//! |---|---|---|
//! | [`prepare`] | `replay.json`: what is about to be delivered, under which name | delivered at the next start |
//! | [`deliver`] | the rows, in every sink | delivered again under the same name: a no-op |
//! | [`finish`] | the events | `replay.json` is removed at the next start |
//!
//! The name is made of the letters and their attempts ([`BatchRange::name`]), so that what is repeated has
//! the same name, and the next attempt at the same letters another. From the moment at which
//! `replay.json` is there, the messages in it count as opened: the archive's repeats of them are
//! repeats. A letter whose message the archive has given again, where that is not delivered yet, is
//! left alone until it is.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::{DeadLetter, DeadLetterEvent, Reason};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::dead_letter_store::DeadLetterStore;
use super::{StateError, write_whole};
use crate::batch::{Batch, BatchRange};
use crate::dead_letter_index::DeadLetterKey;
use crate::dead_letter_requests::Requester;
use crate::fault::{Backoff, Fault};
use crate::metrics::Metrics;
use crate::ports::{BatchWriter, WriteAttempt};
use crate::sink::Sink;
use crate::stages::{Processed, Tools, process};
use crate::window::{MsgHash, Window, msg_hash};

/// File that says what is about to be delivered, below the corp's folder.
pub const REPLAY_FILE: &str = "replay.json";
const VERSION: u32 = 1;

/// What is about to be delivered.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ReplayPlan {
    version: u32,
    #[serde(rename = "cut")]
    range: BatchRange,
    events: Vec<DeadLetterEvent>,
}

/// What is written down and has to be delivered.
#[derive(Debug)]
pub struct Prepared {
    range: BatchRange,
    batch: Arc<Batch>,
    /// Whether a sink may hold it already.
    attempt: WriteAttempt,
}

impl Prepared {
    /// What becomes of the letters.
    pub fn events(&self) -> &[DeadLetterEvent] {
        &self.batch.events
    }
}

/// Why what is written down cannot be delivered.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The state folder cannot be used.
    #[error("state")]
    State(#[from] StateError),
    /// What opened before does not open now: a key is missing that was there.
    #[error(
        "the replay that was interrupted cannot be taken up: the record of seq {seq} does not open \
         any more ({reason}); bring back the private key of version {key_version}"
    )]
    Closed {
        /// Its position.
        seq: u64,
        /// Why it does not open.
        reason: Reason,
        /// Its key.
        key_version: u32,
    },
}

/// DeadLetterIndex that were looked at.
#[derive(Default)]
pub struct Look {
    /// What has to be delivered; `None` if nothing has.
    pub prepared: Option<Prepared>,
    /// DeadLetterIndex that were left alone because their message is under way.
    pub waiting: usize,
    /// What the stages made of the rest, for the counts.
    pub processed: Option<Processed>,
}

/// Opens letters and writes down what is to be delivered. `behind` are messages of the ledger that
/// are neither in every sink nor in the window.
///
/// # Errors
/// The state folder cannot be used; nothing has been decided then.
pub(super) fn prepare(
    tools: &Tools<'_>,
    folder: &Path,
    store: &DeadLetterStore,
    window: &mut Window,
    behind: &HashSet<MsgHash>,
    chosen: &[DeadLetterKey],
    requester: &Requester,
) -> Result<Look, StateError> {
    let mut look = Look::default();
    let mut events = Vec::new();
    let mut letters = HashMap::new();
    let mut pulled = Vec::new();
    for key in chosen {
        let Some(letter) = store.letter(key)? else {
            continue;
        };
        let named = !letter.msgid.is_empty();
        if named && window.has_opened(key.msg) {
            events.push(requester.event(&letter, Event::Duplicate, letter.attempts + 1));
        } else if named && behind.contains(&key.msg) {
            look.waiting += 1;
        } else {
            pulled.push(requester.again(&letter));
            letters.insert(key.clone(), letter);
        }
    }
    // A window of its own: what it learns counts only once it is written down.
    let mut own = Window::new(pulled.len().max(1));
    let processed = process(tools, pulled, &mut own, |_| {});
    let (mut messages, mut violations) = (Vec::new(), Vec::new());
    if let Some(processed) = &processed {
        events.extend(processed.batch.events.iter().cloned());
        messages.clone_from(&processed.batch.messages);
        violations.clone_from(&processed.batch.violations);
    }
    look.processed = processed;
    let Some(range) = range(&events) else {
        return Ok(look);
    };
    let plan = ReplayPlan {
        version: VERSION,
        range,
        events,
    };
    save(folder, &plan)?;
    for msg in opened(&plan) {
        window.opened(msg);
    }
    let dead_letters = still_closed(&plan.events, letters.into_values());
    look.prepared = Some(Prepared {
        attempt: WriteAttempt::First,
        range,
        batch: Arc::new(Batch {
            range,
            messages,
            violations,
            dead_letters,
            anchors: Vec::new(),
            events: plan.events,
        }),
    });
    Ok(look)
}

/// Writes down that letters are done without. `None` if there are none.
///
/// # Errors
/// The state folder cannot be used; nothing has been decided then.
pub fn drop_letters(
    folder: &Path,
    store: &DeadLetterStore,
    chosen: &[DeadLetterKey],
    requester: &Requester,
    because: &str,
) -> Result<Option<Prepared>, StateError> {
    let mut events = Vec::new();
    for key in chosen {
        if let Some(letter) = store.letter(key)? {
            let mut event = requester.event(&letter, Event::Dropped, letter.attempts + 1);
            event.attempt = letter.attempts;
            because.clone_into(&mut event.because);
            events.push(event);
        }
    }
    let Some(range) = range(&events) else {
        return Ok(None);
    };
    let plan = ReplayPlan {
        version: VERSION,
        range,
        events,
    };
    save(folder, &plan)?;
    Ok(Some(prepared(
        plan,
        Batch::empty(range),
        WriteAttempt::First,
    )))
}

/// Takes up what an earlier process has written down and not finished. Messages in it count as
/// opened from now on; see [`under_way`].
///
/// # Errors
/// The state folder cannot be used, or a record does not open any more.
pub fn resume(
    tools: &Tools<'_>,
    folder: &Path,
    store: &DeadLetterStore,
) -> Result<Option<Prepared>, ResumeError> {
    let Some(plan) = load(folder)? else {
        return Ok(None);
    };
    let mut letters = Vec::new();
    let mut pulled = Vec::new();
    let tried = |event: &&DeadLetterEvent| matches!(event.event, Event::Replayed | Event::Failed);
    for event in plan.events.iter().filter(tried) {
        let requester = Requester {
            actor: event.actor.clone(),
            at: event.at,
        };
        let msg = msg_hash(&event.msgid);
        for key in store.index().named(&event.corp_id, event.seq, msg) {
            let Some(letter) = store.letter(&key)? else {
                continue;
            };
            if event.event == Event::Replayed {
                pulled.push(requester.again(&letter));
            } else {
                letters.push(letter);
            }
        }
    }
    let mut batch = Batch::empty(plan.range);
    let mut own = Window::new(pulled.len().max(1));
    if let Some(processed) = process(tools, pulled, &mut own, |_| {}) {
        if let Some(letter) = processed.batch.dead_letters.first() {
            return Err(ResumeError::Closed {
                seq: letter.seq,
                reason: letter.reason,
                key_version: letter.key_version,
            });
        }
        batch.messages = processed.batch.messages;
        batch.violations = processed.batch.violations;
    }
    batch.dead_letters = still_closed(&plan.events, letters);
    Ok(Some(prepared(plan, batch, WriteAttempt::Repeat)))
}

/// Messages that an earlier process has written down for delivery.
///
/// # Errors
/// The state folder cannot be used.
pub fn under_way(folder: &Path) -> Result<Vec<MsgHash>, StateError> {
    Ok(load(folder)?.iter().flat_map(opened).collect())
}

/// Notes what was delivered; every sink must hold it.
///
/// # Errors
/// The disk refuses; it may be done again.
pub fn finish(
    folder: &Path,
    store: &mut DeadLetterStore,
    prepared: &Prepared,
) -> Result<(), StateError> {
    store.record(&prepared.batch.events)?;
    let path = folder.join(REPLAY_FILE);
    std::fs::remove_file(&path).map_err(StateError::io(&path))?;
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(StateError::io(folder))
}

/// A sink and how replays are written to it.
pub struct ReplaySink {
    /// Its name, also the metric label.
    pub sink: &'static str,
    /// Its writing end, beside that of the lane.
    pub writer: Box<dyn BatchWriter>,
}

impl ReplaySink {
    /// A writing end of a sink for replays.
    pub fn new(sink: &Sink) -> Self {
        Self {
            sink: sink.name,
            writer: sink.writer(),
        }
    }
}

/// Writes what is prepared to every sink, and again until each has it; false if the process is
/// stopping before that. `log` names the corp's replays.
///
/// # Errors
/// Rows cannot be gathered for a sink.
pub async fn deliver(
    prepared: &Prepared,
    log: &str,
    replay_sinks: &mut [ReplaySink],
    metrics: &Metrics,
    cancel: &CancellationToken,
) -> Result<bool, Fault> {
    for ReplaySink { sink, writer } in replay_sinks {
        writer.append(Arc::clone(&prepared.batch)).await?;
        let mut backoff = Backoff::default();
        let mut attempt = prepared.attempt;
        while let Err(fault) = writer.write(log, &prepared.range, attempt).await {
            attempt = WriteAttempt::Repeat;
            metrics.sink_failed(sink, fault.class);
            let pause = backoff.pause(&fault, rand::random());
            let class = fault.class.as_str();
            warn!(sink, class, error = %fault, ?pause, "replay not written; it is kept");
            tokio::select! {
                () = cancel.cancelled() => return Ok(false),
                () = tokio::time::sleep(pause) => {}
            }
        }
        metrics.sink_wrote(sink, prepared.batch.rows());
    }
    Ok(true)
}

fn prepared(plan: ReplayPlan, mut batch: Batch, attempt: WriteAttempt) -> Prepared {
    batch.events = plan.events;
    Prepared {
        attempt,
        range: plan.range,
        batch: Arc::new(batch),
    }
}

/// DeadLetterIndex that could not be opened this time either, as they stand now.
fn still_closed(
    events: &[DeadLetterEvent],
    letters: impl IntoIterator<Item = DeadLetter>,
) -> Vec<DeadLetter> {
    let failed: HashMap<(u64, &str), &DeadLetterEvent> = events
        .iter()
        .filter(|event| event.event == Event::Failed)
        .map(|event| ((event.seq, event.msgid.as_str()), event))
        .collect();
    let now = |letter: DeadLetter| {
        let event = failed.get(&(letter.seq, letter.msgid.as_str()))?;
        Some(DeadLetter {
            reason: event.reason,
            error: event.error.clone(),
            attempts: event.attempt,
            ..letter
        })
    };
    let mut letters: Vec<DeadLetter> = letters.into_iter().filter_map(now).collect();
    letters.sort_by(|a, b| (a.seq, &a.msgid, &a.sealed).cmp(&(b.seq, &b.msgid, &b.sealed)));
    letters
}

/// What is delivered: which letters, at which attempt, with which outcome.
fn range(events: &[DeadLetterEvent]) -> Option<BatchRange> {
    let one = |event: &DeadLetterEvent| {
        let (id, attempt, what) = (&event.msgid, event.attempt, event.event.as_str());
        BatchRange::of(event.seq, &format!("{id}#{attempt}#{what}"))
    };
    events.iter().map(one).reduce(|whole, one| BatchRange {
        first: whole.first.min(one.first),
        last: whole.last.max(one.last),
        records: whole.records + one.records,
        digest: whole.digest.wrapping_add(one.digest),
    })
}

fn opened(plan: &ReplayPlan) -> impl Iterator<Item = MsgHash> {
    let replayed = plan.events.iter();
    replayed
        .filter(|event| event.event == Event::Replayed && !event.msgid.is_empty())
        .map(|event| msg_hash(&event.msgid))
}

fn save(folder: &Path, plan: &ReplayPlan) -> Result<(), StateError> {
    let path = folder.join(REPLAY_FILE);
    let text =
        serde_json::to_vec(plan).map_err(|error| StateError::damaged(&path, error.to_string()))?;
    write_whole(&path, &text).map_err(StateError::io(&path))
}

fn load(folder: &Path) -> Result<Option<ReplayPlan>, StateError> {
    let path: PathBuf = folder.join(REPLAY_FILE);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StateError::io(&path)(error)),
    };
    let plan: ReplayPlan = serde_json::from_slice(&text)
        .map_err(|error| StateError::damaged(&path, format!("at column {}", error.column())))?;
    if plan.version == VERSION {
        Ok(Some(plan))
    } else {
        let what = format!("version {}", plan.version);
        Err(StateError::damaged(&path, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter_index::DeadLetterFilter;
    use crate::dead_letter_index::tests::letter;
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

    fn outcomes(prepared: &Prepared) -> Vec<(u64, &'static str, u32)> {
        let mut events: Vec<_> = prepared
            .events()
            .iter()
            .map(|event| (event.seq, event.event.as_str(), event.attempt))
            .collect();
        events.sort_unstable();
        events
    }

    #[test]
    fn replay_is_written_down_before_it_is_delivered_and_taken_up_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DeadLetterStore::open(folder.path(), 0).unwrap();
        let letters: Vec<_> = (1..=4).map(|seq| letter(seq, 0)).collect();
        store.append(&letters).unwrap();
        let chosen = store.index().select(None, &DeadLetterFilter::default(), 10);
        let mut window = Window::new(10);
        window.opened(msg_hash("m2"));
        let behind = HashSet::from([msg_hash("m3")]);

        let look = with_tools(|tools| {
            let (folder, at) = (folder.path(), requester(7));
            prepare(tools, folder, &store, &mut window, &behind, &chosen, &at).unwrap()
        });
        assert_eq!(
            look.waiting, 1,
            "its message comes again and is not delivered yet"
        );
        let prepared = look.prepared.unwrap();
        let expected = [(1, "failed", 1), (2, "duplicate", 1), (4, "failed", 1)];
        assert_eq!(outcomes(&prepared), expected);

        // Died here: the next process delivers the same under the same name.
        let parked_again = DeadLetterStore::open(folder.path(), 0).unwrap();
        let resume =
            |store: &DeadLetterStore| with_tools(|t| resume(t, folder.path(), store).unwrap());
        let resumed = resume(&parked_again).unwrap();
        assert_eq!(resumed.range.name("x"), prepared.range.name("x"));
        assert_eq!(resumed.batch, prepared.batch);

        // Died after the events were noted: they may be noted again.
        store.record(prepared.events()).unwrap();
        let mut store = DeadLetterStore::open(folder.path(), 0).unwrap();
        let resumed = resume(&store).unwrap();
        assert_eq!(outcomes(&resumed), expected);
        finish(folder.path(), &mut store, &resumed).unwrap();
        assert!(resume(&store).is_none());
        let store = DeadLetterStore::open(folder.path(), 0).unwrap();
        let open = store.index().open().iter();
        let open: Vec<_> = open.map(|(key, s)| (key.seq, s.attempts)).collect();
        assert_eq!(open, [(1, 1), (3, 0), (4, 1)]);

        // The next attempt at the same letters has another name.
        let chosen = store.index().select(None, &DeadLetterFilter::default(), 10);
        let again = with_tools(|tools| {
            let (folder, at) = (folder.path(), requester(8));
            prepare(tools, folder, &store, &mut window, &behind, &chosen, &at).unwrap()
        });
        assert_ne!(
            again.prepared.unwrap().range.name("x"),
            prepared.range.name("x")
        );
    }

    #[test]
    fn dropping_leaves_who_and_why_and_a_damaged_journal_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DeadLetterStore::open(folder.path(), 0).unwrap();
        store.append(&[letter(1, 0)]).unwrap();
        let chosen = store.index().select(None, &DeadLetterFilter::default(), 10);
        let prepared = drop_letters(folder.path(), &store, &chosen, &requester(7), "why");
        let prepared = prepared.unwrap().unwrap();
        let event = &prepared.events()[0];
        assert_eq!(
            (event.actor.as_str(), event.because.as_str()),
            ("test", "why")
        );
        assert_eq!(outcomes(&prepared), [(1, "dropped", 0)]);
        finish(folder.path(), &mut store, &prepared).unwrap();
        assert!(store.index().open().is_empty());
        for text in ["{", "{\"version\":2}"] {
            std::fs::write(folder.path().join(REPLAY_FILE), text).unwrap();
            assert!(under_way(folder.path()).is_err(), "{text}");
        }
    }
}
