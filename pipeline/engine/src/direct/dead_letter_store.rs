//! Dead letters on this machine's disk, and what was done about them.
//!
//! `dead_letters.jsonl` holds each letter once, one JSON object a line, written before any sink is;
//! `dead_letter_events.jsonl` beside it what was done since, written after every sink knows it.
//! Both only grow. They hold sealed records as the archive gave them, and never plaintext.
//!
//! A record that is pulled again after a crash, and was store before, is store again rather than
//! opened ([`Remembering`]), even if its key has come meanwhile: what a sink is told a second time
//! must be what it was told the first time. The key's coming opens it afterwards, as a replay.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chatledger_crypto::{OpenError, OpenedRecord, Opener};
use chatledger_schemas::{CorpId, DeadLetter, DeadLetterEvent, SealedRecord};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StateError;
use crate::dead_letter_index::{DeadLetterIndex, DeadLetterKey, Retained};
use crate::failpoint;
use crate::stages::PulledRecord;

/// File of the letters, below the corp's folder.
pub const LETTERS: &str = "dead_letters.jsonl";
/// File of what was done about them.
pub const EVENTS: &str = "dead_letter_events.jsonl";

/// The local dead-letter store of one corp.
pub struct DeadLetterStore {
    letters: Lines,
    events: Lines,
    index: DeadLetterIndex<u64>,
    remembered: HashMap<DeadLetterKey, OpenError>,
}

impl DeadLetterStore {
    /// Opens the store, ready to append; a line that was interrupted is cut off. DeadLetterIndex behind
    /// `position`, which every sink has reached, are remembered, because their records come again.
    ///
    /// # Errors
    /// A file cannot be read or written, or holds something else.
    pub fn open(folder: &Path, position: u64) -> Result<Self, StateError> {
        let mut index = DeadLetterIndex::default();
        let mut remembered = HashMap::new();
        let letters = Lines::open(&folder.join(LETTERS), |offset, letter: DeadLetter| {
            index.add(&letter, offset);
            if letter.seq > position {
                let rejected = OpenError {
                    reason: letter.reason,
                    error: letter.error.clone(),
                    key_version: letter.key_version,
                };
                remembered.insert(DeadLetterKey::of(&letter), rejected);
            }
        })?;
        let events = Lines::open(&folder.join(EVENTS), |_, event| index.apply(&event))?;
        Ok(Self {
            letters,
            events,
            index,
            remembered,
        })
    }

    /// Appends letters that are not there yet and waits until the disk has them.
    ///
    /// # Errors
    /// The disk refuses; the store then stands where it stood.
    pub fn append(&mut self, letters: &[DeadLetter]) -> Result<(), StateError> {
        let index = &self.index;
        let fresh = letters
            .iter()
            .filter(|l| !index.knows(&DeadLetterKey::of(l)));
        let fresh: Vec<&DeadLetter> = fresh.collect();
        let offsets = self.letters.append(&fresh)?;
        let written = !offsets.is_empty();
        for (letter, offset) in fresh.into_iter().zip(offsets) {
            self.index.add(letter, offset);
        }
        if written {
            failpoint::pass("process", "dead_letters_written")?;
        }
        Ok(())
    }

    /// Appends what was done and waits until the disk has it.
    ///
    /// # Errors
    /// The disk refuses; the store then stands where it stood.
    pub fn record(&mut self, events: &[DeadLetterEvent]) -> Result<(), StateError> {
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

    /// An open letter as it stands now, with its record.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn letter(&self, key: &DeadLetterKey) -> Result<Option<DeadLetter>, StateError> {
        let Some(standing) = self.index.open().get(key) else {
            return Ok(None);
        };
        let mut letter: DeadLetter = self.letters.read(standing.retained)?;
        letter.attempts = standing.attempts;
        letter.reason = standing.reason;
        Ok(Some(letter))
    }

    /// CheckpointStore the records that were store and come again.
    pub fn mark(&self, run: &mut [PulledRecord]) {
        if self.remembered.is_empty() {
            return;
        }
        for pulled in run {
            let record = &pulled.record;
            let (corp, text) = (&record.corp_id, record.json_text());
            let key = DeadLetterKey::new(corp, record.seq, &record.msgid, &text);
            pulled.dead_lettered = self.remembered.contains_key(&key);
        }
    }

    /// What is remembered of letters whose records come again.
    pub fn remembered(&self) -> &HashMap<DeadLetterKey, OpenError> {
        &self.remembered
    }
}

/// Reads a corp's letters and what was done about them without holding or changing the files; a
/// line being written just now is left out.
///
/// # Errors
/// A file cannot be read, or holds something else.
pub fn read<P: Retained>(
    folder: &Path,
    mut retained: impl FnMut(&DeadLetter) -> P,
) -> Result<DeadLetterIndex<P>, StateError> {
    let mut letters = DeadLetterIndex::default();
    each(&folder.join(LETTERS), |_, letter| {
        letters.add(&letter, retained(&letter));
    })?;
    each(&folder.join(EVENTS), |_, event| letters.apply(&event))?;
    Ok(letters)
}

/// A file of JSON lines that grows.
struct Lines {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Lines {
    fn open<T: DeserializeOwned>(
        path: &Path,
        line: impl FnMut(u64, T),
    ) -> Result<Self, StateError> {
        let length = each(path, line)?;
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

    /// Gives the offset of each line.
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

/// Reads a file of JSON lines, each with its offset, and gives the length of its whole lines. What
/// an interrupted append has left at the end is not a line.
fn each<T: DeserializeOwned>(path: &Path, mut line: impl FnMut(u64, T)) -> Result<u64, StateError> {
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
                // A machine that lost power may have kept the end of an append and not its middle.
                let at_end = reader.fill_buf().map_err(StateError::io(path))?.is_empty();
                return if at_end { Ok(offset) } else { Err(damaged) };
            }
        }
        offset += read;
    }
}

fn parse<T: DeserializeOwned>(path: &Path, offset: u64, line: &[u8]) -> Result<T, StateError> {
    serde_json::from_slice(line).map_err(|error| {
        // The text of the error may quote what stands there.
        let column = error.column();
        let what = format!("no dead letter at byte {offset}, column {column}");
        StateError::damaged(path, what)
    })
}

/// Opens records, except those that were store before: these are store again, for their reason.
pub struct Remembering<'a> {
    /// The corp.
    pub corp_id: &'a CorpId,
    /// Its keys.
    pub opener: &'a dyn Opener,
    /// What was store.
    pub remembered: &'a HashMap<DeadLetterKey, OpenError>,
}

impl Opener for Remembering<'_> {
    fn open(&self, batch: &[SealedRecord]) -> Vec<Result<OpenedRecord, OpenError>> {
        if self.remembered.is_empty() {
            return self.opener.open(batch);
        }
        let store: Vec<Option<&OpenError>> = batch
            .iter()
            .map(|r| DeadLetterKey::new(self.corp_id, r.seq, &r.msgid, &r.json_text()))
            .map(|key| self.remembered.get(&key))
            .collect();
        let unknown = batch.iter().zip(&store).filter(|(_, p)| p.is_none());
        let unknown: Vec<SealedRecord> = unknown.map(|(record, _)| record.clone()).collect();
        let mut opened = self.opener.open(&unknown).into_iter();
        let one = |rejected: Option<&OpenError>| match rejected {
            Some(rejected) => Some(Err(rejected.clone())),
            None => opened.next(),
        };
        store.into_iter().map_while(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter_index::tests::{event, letter};
    use chatledger_crypto::KeyRing;
    use chatledger_schemas::dead_letter::Event;

    fn seqs(store: &DeadLetterStore) -> Vec<u64> {
        store.index().open().keys().map(|key| key.seq).collect()
    }

    #[test]
    fn letters_are_kept_once_and_a_torn_line_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(LETTERS);
        let mut store = DeadLetterStore::open(folder.path(), 0).unwrap();
        store.append(&[letter(1, 0), letter(2, 0)]).unwrap();
        store.append(&[letter(5, 0)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();

        let mut store = DeadLetterStore::open(folder.path(), 1).unwrap();
        assert_eq!(seqs(&store), [1, 2]);
        assert_eq!(store.remembered().len(), 1);
        store.append(&[letter(2, 0), letter(5, 0)]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let key = DeadLetterKey::of(&letter(5, 0));
        assert_eq!(store.letter(&key).unwrap(), Some(letter(5, 0)));
    }

    #[test]
    fn events_settle_letters_for_this_process_for_the_next_and_for_readers_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DeadLetterStore::open(folder.path(), 0).unwrap();
        let letters: Vec<_> = (1..=3).map(|seq| letter(seq, 0)).collect();
        store.append(&letters).unwrap();
        let events = [event(1, 1, Event::Replayed), event(2, 1, Event::Failed)];
        store.record(&events).unwrap();
        for store in [store, DeadLetterStore::open(folder.path(), 0).unwrap()] {
            assert_eq!(seqs(&store), [2, 3]);
            let tried = store
                .letter(&DeadLetterKey::of(&letter(2, 0)))
                .unwrap()
                .unwrap();
            assert_eq!(
                (tried.attempts, tried.reason),
                (1, event(2, 1, Event::Failed).reason)
            );
        }
        let beside = read(folder.path(), |_| 0).unwrap();
        assert_eq!(beside.open().len(), 2);
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
        store.append(&[letter(1, 0), letter(2, 0)]).unwrap();
        let path = folder.path().join(LETTERS);
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
    fn record_that_was_parked_is_parked_again_and_others_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = DeadLetterStore::open(folder.path(), 0).unwrap();
        store.append(&[letter(2, 0)]).unwrap();
        let store = DeadLetterStore::open(folder.path(), 0).unwrap();
        let record = |seq: u64| SealedRecord {
            corp_id: "ww1".into(),
            seq,
            msgid: format!("m{seq}").into(),
            json: letter(seq, 0).sealed.into(),
        };
        let corp_id = "ww1".into();
        let ring = KeyRing::new();
        let opener = Remembering {
            corp_id: &corp_id,
            opener: &ring,
            remembered: store.remembered(),
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
