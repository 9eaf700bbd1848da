//! The dead letters of a corp, and what was done about them, on this machine's disk.
//!
//! `dead_letters.jsonl` holds each dead letter once, one JSON object a line, and is written before any
//! sink sees the record. `dead_letter_events.jsonl` holds what was done since, and is written after
//! every sink has it. Both only grow. They hold sealed records as the archive gave them, and never
//! plaintext.
//!
//! A record that is pulled again after a crash, and was dead-lettered before, is dead-lettered again
//! and not opened ([`KnownRejections`]), even if its key has been added since: a sink that receives it
//! a second time must receive the same rows. The new key opens it afterwards, in a replay.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chatledger_crypto::{OpenError, OpenedRecord, Opener};
use chatledger_schemas::{CorpId, DeadLetter, DeadLetterEvent, SealedRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StateError;
use crate::dead_letter_index::{DeadLetterIndex, DeadLetterKey, Retained};
use crate::failpoint;
use crate::stages::PulledRecord;

/// File of the dead letters, below the corp's folder.
pub const DEAD_LETTERS: &str = "dead_letters.jsonl";
/// File of what was done about them.
pub const EVENTS: &str = "dead_letter_events.jsonl";

/// The local dead-letter store of one corp.
pub struct DeadLetterStore {
    dead_letters: JsonLines,
    events: JsonLines,
    /// Remembers the offset of each open dead letter.
    index: DeadLetterIndex<u64>,
    rejections: HashMap<DeadLetterKey, OpenError>,
}

/// A store that several parts of a pipeline use.
#[derive(Clone)]
pub(super) struct SharedDeadLetterStore(Arc<Mutex<DeadLetterStore>>);

impl SharedDeadLetterStore {
    pub(super) fn new(store: DeadLetterStore) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }

    /// Locks the store. After a panic elsewhere it is usable: each append is whole or not at all.
    pub(super) fn lock(&self) -> MutexGuard<'_, DeadLetterStore> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeadLetterStore {
    /// Opens the store, ready to append. Removes a line whose append was interrupted. The rejections
    /// of dead letters after `position`, which every sink has reached, are remembered, because the
    /// archive gives their records again.
    ///
    /// # Errors
    /// A file cannot be read or written, or holds something else.
    pub fn open(folder: &Path, position: u64) -> Result<Self, StateError> {
        let mut index = DeadLetterIndex::default();
        let mut rejections = HashMap::new();
        let path = folder.join(DEAD_LETTERS);
        let dead_letters = JsonLines::open(&path, |offset, dead_letter: DeadLetter| {
            index.add(&dead_letter, offset);
            if dead_letter.seq > position {
                let rejected = OpenError {
                    reason: dead_letter.reason,
                    error: dead_letter.error.clone(),
                    key_version: dead_letter.key_version,
                };
                rejections.insert(DeadLetterKey::of(&dead_letter), rejected);
            }
        })?;
        let events = JsonLines::open(&folder.join(EVENTS), |_, event| index.apply(&event))?;
        Ok(Self {
            dead_letters,
            events,
            index,
            rejections,
        })
    }

    /// Appends the dead letters that the store does not hold yet and waits until the disk has them.
    ///
    /// # Errors
    /// The disk refuses; the store is then unchanged.
    pub fn append(&mut self, dead_letters: &[DeadLetter]) -> Result<(), StateError> {
        let new: Vec<&DeadLetter> = dead_letters
            .iter()
            .filter(|dead_letter| !self.index.knows(&DeadLetterKey::of(dead_letter)))
            .collect();
        let offsets = self.dead_letters.append(&new)?;
        let written = !offsets.is_empty();
        for (dead_letter, offset) in new.into_iter().zip(offsets) {
            self.index.add(dead_letter, offset);
        }
        if written {
            failpoint::pass("process", "dead_letters_written")?;
        }
        Ok(())
    }

    /// Appends what was done and waits until the disk has it.
    ///
    /// # Errors
    /// The disk refuses; the store is then unchanged.
    pub fn append_events(&mut self, events: &[DeadLetterEvent]) -> Result<(), StateError> {
        self.events.append(&events.iter().collect::<Vec<_>>())?;
        for event in events {
            self.index.apply(event);
        }
        Ok(())
    }

    /// What is open and what is settled.
    pub fn index(&self) -> &DeadLetterIndex<u64> {
        &self.index
    }

    /// Reads an open dead letter with its record, as of its last attempt; `None` if it is not open.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&self, key: &DeadLetterKey) -> Result<Option<DeadLetter>, StateError> {
        let Some(status) = self.index.open().get(key) else {
            return Ok(None);
        };
        let mut dead_letter: DeadLetter = self.dead_letters.read(status.retained)?;
        dead_letter.attempts = status.attempts;
        dead_letter.reason = status.reason;
        Ok(Some(dead_letter))
    }

    /// Marks the records that were dead-lettered before a crash and are given again.
    pub fn mark_known(&self, run: &mut [PulledRecord]) {
        if self.rejections.is_empty() {
            return;
        }
        for pulled in run {
            let record = &pulled.record;
            let (corp, text) = (&record.corp_id, record.json_text());
            let key = DeadLetterKey::new(corp, record.seq, &record.msgid, &text);
            pulled.dead_lettered = self.rejections.contains_key(&key);
        }
    }

    /// Why records that the archive gives again were dead-lettered.
    pub fn rejections(&self) -> &HashMap<DeadLetterKey, OpenError> {
        &self.rejections
    }
}

/// Reads a corp's dead letters and events without changing the files, also while they are being
/// written. A line that is not whole yet is left out. `retained` is what to remember of each.
///
/// # Errors
/// A file cannot be read, or holds something else.
pub fn read<P: Retained>(
    folder: &Path,
    mut retained: impl FnMut(&DeadLetter) -> P,
) -> Result<DeadLetterIndex<P>, StateError> {
    let mut index = DeadLetterIndex::default();
    for_each_line(&folder.join(DEAD_LETTERS), |_, dead_letter| {
        index.add(&dead_letter, retained(&dead_letter));
    })?;
    for_each_line(&folder.join(EVENTS), |_, event| index.apply(&event))?;
    Ok(index)
}

/// A file of JSON lines that only grows.
struct JsonLines {
    path: PathBuf,
    file: File,
    length: u64,
}

impl JsonLines {
    fn open<T: DeserializeOwned>(
        path: &Path,
        line: impl FnMut(u64, T),
    ) -> Result<Self, StateError> {
        let length = for_each_line(path, line)?;
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(StateError::io(path))?;
        file.set_len(length).map_err(StateError::io(path))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            length,
        })
    }

    /// Appends rows and returns the offset of each.
    fn append<T: Serialize>(&mut self, rows: &[&T]) -> Result<Vec<u64>, StateError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let io = || StateError::io(&self.path);
        let mut offsets = Vec::with_capacity(rows.len());
        let mut at = self.length;
        self.file.seek(SeekFrom::Start(at)).map_err(io())?;
        let mut out = BufWriter::new(&self.file);
        for row in rows {
            let mut line = serde_json::to_vec(row).map_err(|error| io()(error.into()))?;
            line.push(b'\n');
            out.write_all(&line).map_err(io())?;
            offsets.push(at);
            at += line.len() as u64;
        }
        out.flush().map_err(io())?;
        drop(out);
        self.file.sync_data().map_err(io())?;
        self.length = at;
        Ok(offsets)
    }

    fn read<T: DeserializeOwned>(&self, offset: u64) -> Result<T, StateError> {
        let io = || StateError::io(&self.path);
        let mut file = File::open(&self.path).map_err(io())?;
        file.seek(SeekFrom::Start(offset)).map_err(io())?;
        let mut line = Vec::new();
        let mut reader = BufReader::new(file.take(self.length - offset));
        reader.read_until(b'\n', &mut line).map_err(io())?;
        parse(&self.path, offset, &line)
    }
}

/// Reads a file of JSON lines, each with its offset, and returns the length of its whole lines. What
/// an interrupted append has left at the end is not a line.
fn for_each_line<T: DeserializeOwned>(
    path: &Path,
    mut line: impl FnMut(u64, T),
) -> Result<u64, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(StateError::io(path)(error)),
    };
    let mut reader = BufReader::new(file);
    let (mut offset, mut bytes) = (0, Vec::new());
    loop {
        bytes.clear();
        let read = reader.read_until(b'\n', &mut bytes);
        let read = read.map_err(StateError::io(path))? as u64;
        if !bytes.ends_with(b"\n") {
            return Ok(offset);
        }
        match parse(path, offset, &bytes) {
            Ok(row) => line(offset, row),
            Err(damaged) => {
                // After a power failure the end of an append may be on disk without its middle.
                let at_end = reader.fill_buf().map_err(StateError::io(path))?.is_empty();
                return if at_end { Ok(offset) } else { Err(damaged) };
            }
        }
        offset += read;
    }
}

fn parse<T: DeserializeOwned>(path: &Path, offset: u64, line: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(line).map_err(|error| {
        // The text of the error may quote the line.
        let column = error.column();
        let what = format!("no dead letter at byte {offset}, column {column}");
        StateError::damaged(path, what)
    })
}

/// Opens records, except those that were dead-lettered before: these are rejected again for the same
/// reason.
pub struct KnownRejections<'a> {
    /// The corp.
    pub corp_id: &'a CorpId,
    /// Opens the others.
    pub opener: &'a dyn Opener,
    /// Why records were rejected before.
    pub rejections: &'a HashMap<DeadLetterKey, OpenError>,
}

impl Opener for KnownRejections<'_> {
    fn open(&self, batch: &[SealedRecord]) -> Vec<Result<OpenedRecord, OpenError>> {
        if self.rejections.is_empty() {
            return self.opener.open(batch);
        }
        let rejections: Vec<Option<&OpenError>> = batch
            .iter()
            .map(|r| DeadLetterKey::new(self.corp_id, r.seq, &r.msgid, &r.json_text()))
            .map(|key| self.rejections.get(&key))
            .collect();
        let unknown = batch.iter().zip(&rejections).filter(|(_, r)| r.is_none());
        let unknown: Vec<SealedRecord> = unknown.map(|(record, _)| record.clone()).collect();
        let mut opened = self.opener.open(&unknown).into_iter();
        let one = |rejected: Option<&OpenError>| match rejected {
            Some(rejected) => Some(Err(rejected.clone())),
            None => opened.next(),
        };
        rejections.into_iter().map_while(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter_index::tests::{dead_letter, event};
    use chatledger_crypto::KeyRing;
    use chatledger_schemas::dead_letter::Event;

    fn seqs(store: &DeadLetterStore) -> Vec<u64> {
        store.index().open().keys().map(|key| key.seq).collect()
    }

    #[test]
    fn dead_letters_are_kept_once_and_a_torn_line_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DEAD_LETTERS);
        let mut store = DeadLetterStore::open(folder.path(), 0).unwrap();
        store
            .append(&[dead_letter(1, 0), dead_letter(2, 0)])
            .unwrap();
        store.append(&[dead_letter(5, 0)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();

        let mut store = DeadLetterStore::open(folder.path(), 1).unwrap();
        assert_eq!(seqs(&store), [1, 2]);
        assert_eq!(store.rejections().len(), 1);
        store
            .append(&[dead_letter(2, 0), dead_letter(5, 0)])
            .unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let key = DeadLetterKey::of(&dead_letter(5, 0));
        assert_eq!(store.get(&key).unwrap(), Some(dead_letter(5, 0)));
    }

    #[test]
    fn events_settle_dead_letters_for_this_process_the_next_one_and_readers() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DeadLetterStore::open(folder.path(), 0).unwrap();
        let dead_letters: Vec<_> = (1..=3).map(|seq| dead_letter(seq, 0)).collect();
        store.append(&dead_letters).unwrap();
        let events = [event(1, 1, Event::Replayed), event(2, 1, Event::Failed)];
        store.append_events(&events).unwrap();
        for store in [store, DeadLetterStore::open(folder.path(), 0).unwrap()] {
            assert_eq!(seqs(&store), [2, 3]);
            let tried = store
                .get(&DeadLetterKey::of(&dead_letter(2, 0)))
                .unwrap()
                .unwrap();
            assert_eq!(
                (tried.attempts, tried.reason),
                (1, event(2, 1, Event::Failed).reason)
            );
        }
        let index = read(folder.path(), |_| 0).unwrap();
        assert_eq!(index.open().len(), 2);
        assert!(
            read(&folder.path().join("nowhere"), |_| 0)
                .unwrap()
                .open()
                .is_empty()
        );
    }

    #[test]
    fn damage_in_the_middle_is_refused_without_quoting_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DeadLetterStore::open(folder.path(), 0).unwrap();
        store
            .append(&[dead_letter(1, 0), dead_letter(2, 0)])
            .unwrap();
        let path = folder.path().join(DEAD_LETTERS);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replacen("\"seq\":1", "\"seq\":\"secret\"", 1)).unwrap();
        let error = DeadLetterStore::open(folder.path(), 0)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("byte 0") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn record_that_was_dead_lettered_is_dead_lettered_again_and_others_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DeadLetterStore::open(folder.path(), 0).unwrap();
        store.append(&[dead_letter(2, 0)]).unwrap();
        let store = DeadLetterStore::open(folder.path(), 0).unwrap();
        let record = |seq: u64| SealedRecord {
            corp_id: "ww1".into(),
            seq,
            msgid: format!("m{seq}").into(),
            json: dead_letter(seq, 0).sealed.into(),
        };
        let corp_id = "ww1".into();
        let ring = KeyRing::new();
        let opener = KnownRejections {
            corp_id: &corp_id,
            opener: &ring,
            rejections: store.rejections(),
        };
        let reasons: Vec<_> = opener
            .open(&[record(1), record(2), record(3)])
            .into_iter()
            .map(|opened| opened.unwrap_err().reason.as_str())
            .collect();
        assert_eq!(
            reasons,
            ["bad_envelope", "unknown_key_version", "bad_envelope"]
        );
    }
}
