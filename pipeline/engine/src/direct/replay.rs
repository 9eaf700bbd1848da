//! Opens parked records again and delivers them once, whatever dies.
//!
//! | step | what is durable | killed after it |
//! |---|---|---|
//! | [`prepare`] | `replay.json`: what is about to be delivered, under which name | delivered at the next start |
//! | [`deliver`] | the rows, in every sink | delivered again under the same name: a no-op |
//! | [`finish`] | the events | `replay.json` is removed at the next start |
//!
//! The name is made of the letters and their attempts ([`Cut::name`]), so that what is repeated has
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

use super::parked::Parked;
use super::{StateError, write_whole};
use crate::batch::{Batch, Extent};
use crate::fault::{Backoff, Fault};
use crate::lane::Cut;
use crate::letters::Key;
use crate::metrics::Metrics;
use crate::ports::{Attempt, CutWriter};
use crate::requests::Asked;
use crate::stages::{Processed, Tools, process};
use crate::window::{MsgHash, Window, msg_hash};

/// File that says what is about to be delivered, below the corp's folder.
pub const JOURNAL: &str = "replay.json";
const VERSION: u32 = 1;

/// What is about to be delivered.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Journal {
    version: u32,
    cut: Cut,
    events: Vec<DeadLetterEvent>,
}

/// What is written down and has to be delivered.
#[derive(Debug)]
pub struct Prepared {
    cut: Cut,
    batch: Arc<Batch>,
    /// Whether a sink may hold it already.
    attempt: Attempt,
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

/// Letters that were looked at.
#[derive(Default)]
pub struct Look {
    /// What has to be delivered; `None` if nothing has.
    pub prepared: Option<Prepared>,
    /// Letters that were left alone because their message is under way.
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
    parked: &Parked,
    window: &mut Window,
    behind: &HashSet<MsgHash>,
    chosen: &[Key],
    asked: &Asked,
) -> Result<Look, StateError> {
    let mut look = Look::default();
    let mut events = Vec::new();
    let mut letters = HashMap::new();
    let mut pulled = Vec::new();
    for key in chosen {
        let Some(letter) = parked.letter(key)? else {
            continue;
        };
        let named = !letter.msgid.is_empty();
        if named && window.has_opened(key.msg) {
            events.push(asked.event(&letter, Event::Duplicate, letter.attempts + 1));
        } else if named && behind.contains(&key.msg) {
            look.waiting += 1;
        } else {
            pulled.push(asked.again(&letter));
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
    let Some(cut) = cut(&events) else {
        return Ok(look);
    };
    let journal = Journal {
        version: VERSION,
        cut,
        events,
    };
    save(folder, &journal)?;
    for msg in opened(&journal) {
        window.opened(msg);
    }
    let dead_letters = still_closed(&journal.events, letters.into_values());
    look.prepared = Some(Prepared {
        attempt: Attempt::First,
        cut,
        batch: Arc::new(Batch {
            extent: cut,
            messages,
            violations,
            dead_letters,
            anchors: Vec::new(),
            events: journal.events,
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
    parked: &Parked,
    chosen: &[Key],
    asked: &Asked,
    because: &str,
) -> Result<Option<Prepared>, StateError> {
    let mut events = Vec::new();
    for key in chosen {
        if let Some(letter) = parked.letter(key)? {
            let mut event = asked.event(&letter, Event::Dropped, letter.attempts + 1);
            event.attempt = letter.attempts;
            because.clone_into(&mut event.because);
            events.push(event);
        }
    }
    let Some(cut) = cut(&events) else {
        return Ok(None);
    };
    let journal = Journal {
        version: VERSION,
        cut,
        events,
    };
    save(folder, &journal)?;
    Ok(Some(prepared(journal, Batch::empty(cut), Attempt::First)))
}

/// Takes up what an earlier process has written down and not finished. Messages in it count as
/// opened from now on; see [`under_way`].
///
/// # Errors
/// The state folder cannot be used, or a record does not open any more.
pub fn resume(
    tools: &Tools<'_>,
    folder: &Path,
    parked: &Parked,
) -> Result<Option<Prepared>, ResumeError> {
    let Some(journal) = load(folder)? else {
        return Ok(None);
    };
    let mut letters = Vec::new();
    let mut pulled = Vec::new();
    let tried = |event: &&DeadLetterEvent| matches!(event.event, Event::Replayed | Event::Failed);
    for event in journal.events.iter().filter(tried) {
        let asked = Asked {
            actor: event.actor.clone(),
            at: event.at,
        };
        let msg = msg_hash(&event.msgid);
        for key in parked.index().named(&event.corp_id, event.seq, msg) {
            let Some(letter) = parked.letter(&key)? else {
                continue;
            };
            if event.event == Event::Replayed {
                pulled.push(asked.again(&letter));
            } else {
                letters.push(letter);
            }
        }
    }
    let mut batch = Batch::empty(journal.cut);
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
    batch.dead_letters = still_closed(&journal.events, letters);
    Ok(Some(prepared(journal, batch, Attempt::Again)))
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
pub fn finish(folder: &Path, parked: &mut Parked, prepared: &Prepared) -> Result<(), StateError> {
    parked.record(&prepared.batch.events)?;
    let path = folder.join(JOURNAL);
    std::fs::remove_file(&path).map_err(StateError::io(&path))?;
    let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(StateError::io(folder))
}

/// A sink and how replays are written to it.
pub struct Outlet {
    /// Its name, also the metric label.
    pub sink: &'static str,
    /// Its writing end, beside that of the lane.
    pub writer: Box<dyn CutWriter>,
}

/// Writes what is prepared to every sink, and again until each has it; false if the process is
/// stopping before that. `log` names the corp's replays.
///
/// # Errors
/// Rows cannot be gathered for a sink.
pub async fn deliver(
    prepared: &Prepared,
    log: &str,
    outlets: &mut [Outlet],
    metrics: &Metrics,
    cancel: &CancellationToken,
) -> Result<bool, Fault> {
    for Outlet { sink, writer } in outlets {
        writer.append(Arc::clone(&prepared.batch)).await?;
        let mut backoff = Backoff::default();
        let mut attempt = prepared.attempt;
        while let Err(fault) = writer.write(log, &prepared.cut, attempt).await {
            attempt = Attempt::Again;
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

fn prepared(journal: Journal, mut batch: Batch, attempt: Attempt) -> Prepared {
    batch.events = journal.events;
    Prepared {
        attempt,
        cut: journal.cut,
        batch: Arc::new(batch),
    }
}

/// Letters that could not be opened this time either, as they stand now.
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
fn cut(events: &[DeadLetterEvent]) -> Option<Cut> {
    let one = |event: &DeadLetterEvent| {
        let (id, attempt, what) = (&event.msgid, event.attempt, event.event.as_str());
        Extent::of(event.seq, &format!("{id}#{attempt}#{what}"))
    };
    events.iter().map(one).reduce(|whole, one| Extent {
        first: whole.first.min(one.first),
        last: whole.last.max(one.last),
        records: whole.records + one.records,
        digest: whole.digest.wrapping_add(one.digest),
    })
}

fn opened(journal: &Journal) -> impl Iterator<Item = MsgHash> {
    let replayed = journal.events.iter();
    replayed
        .filter(|event| event.event == Event::Replayed && !event.msgid.is_empty())
        .map(|event| msg_hash(&event.msgid))
}

fn save(folder: &Path, journal: &Journal) -> Result<(), StateError> {
    let path = folder.join(JOURNAL);
    let text = serde_json::to_vec(journal)
        .map_err(|error| StateError::damaged(&path, error.to_string()))?;
    write_whole(&path, &text).map_err(StateError::io(&path))
}

fn load(folder: &Path) -> Result<Option<Journal>, StateError> {
    let path: PathBuf = folder.join(JOURNAL);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StateError::io(&path)(error)),
    };
    let journal: Journal = serde_json::from_slice(&text)
        .map_err(|error| StateError::damaged(&path, format!("at column {}", error.column())))?;
    if journal.version == VERSION {
        Ok(Some(journal))
    } else {
        let what = format!("version {}", journal.version);
        Err(StateError::damaged(&path, what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::letters::Choice;
    use crate::letters::tests::letter;
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

    fn asked(at: i64) -> Asked {
        Asked {
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
        let mut parked = Parked::open(folder.path(), 0).unwrap();
        let letters: Vec<_> = (1..=4).map(|seq| letter(seq, 0)).collect();
        parked.append(&letters).unwrap();
        let chosen = parked.index().choose(None, &Choice::default(), 10);
        let mut window = Window::new(10);
        window.opened(msg_hash("m2"));
        let behind = HashSet::from([msg_hash("m3")]);

        let look = with_tools(|tools| {
            let (folder, at) = (folder.path(), asked(7));
            prepare(tools, folder, &parked, &mut window, &behind, &chosen, &at).unwrap()
        });
        assert_eq!(
            look.waiting, 1,
            "its message comes again and is not delivered yet"
        );
        let prepared = look.prepared.unwrap();
        let expected = [(1, "failed", 1), (2, "duplicate", 1), (4, "failed", 1)];
        assert_eq!(outcomes(&prepared), expected);

        // Died here: the next process delivers the same under the same name.
        let parked_again = Parked::open(folder.path(), 0).unwrap();
        let resume = |parked: &Parked| with_tools(|t| resume(t, folder.path(), parked).unwrap());
        let resumed = resume(&parked_again).unwrap();
        assert_eq!(resumed.cut.name("x"), prepared.cut.name("x"));
        assert_eq!(resumed.batch, prepared.batch);

        // Died after the events were noted: they may be noted again.
        parked.record(prepared.events()).unwrap();
        let mut parked = Parked::open(folder.path(), 0).unwrap();
        let resumed = resume(&parked).unwrap();
        assert_eq!(outcomes(&resumed), expected);
        finish(folder.path(), &mut parked, &resumed).unwrap();
        assert!(resume(&parked).is_none());
        let parked = Parked::open(folder.path(), 0).unwrap();
        let open = parked.index().open().iter();
        let open: Vec<_> = open.map(|(key, s)| (key.seq, s.attempts)).collect();
        assert_eq!(open, [(1, 1), (3, 0), (4, 1)]);

        // The next attempt at the same letters has another name.
        let chosen = parked.index().choose(None, &Choice::default(), 10);
        let again = with_tools(|tools| {
            let (folder, at) = (folder.path(), asked(8));
            prepare(tools, folder, &parked, &mut window, &behind, &chosen, &at).unwrap()
        });
        assert_ne!(
            again.prepared.unwrap().cut.name("x"),
            prepared.cut.name("x")
        );
    }

    #[test]
    fn dropping_leaves_who_and_why_and_a_damaged_journal_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut parked = Parked::open(folder.path(), 0).unwrap();
        parked.append(&[letter(1, 0)]).unwrap();
        let chosen = parked.index().choose(None, &Choice::default(), 10);
        let prepared = drop_letters(folder.path(), &parked, &chosen, &asked(7), "why");
        let prepared = prepared.unwrap().unwrap();
        let event = &prepared.events()[0];
        assert_eq!(
            (event.actor.as_str(), event.because.as_str()),
            ("test", "why")
        );
        assert_eq!(outcomes(&prepared), [(1, "dropped", 0)]);
        finish(folder.path(), &mut parked, &prepared).unwrap();
        assert!(parked.index().open().is_empty());
        for text in ["{", "{\"version\":2}"] {
            std::fs::write(folder.path().join(JOURNAL), text).unwrap();
            assert!(under_way(folder.path()).is_err(), "{text}");
        }
    }
}
