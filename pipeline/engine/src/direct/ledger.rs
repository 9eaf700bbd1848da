//! The ledger of the direct driver: a file, written before any sink is.
//!
//! Format (version 2): 16 bytes of header, then [`Line::BYTES`] a line: a [`LedgerEntry`] of the chain,
//! what became of its record, the digest of its row ([`chatledger_schemas::ledger`]). Lines ascend
//! by `seq`.
//!
//! What was pulled stays: when records behind the lowest lane come again after a crash, they are
//! found in it, and keep their place and the time at which they were pulled first. A record that
//! the archive does not give again keeps its line too, so that it can be missed. From the ledger
//! the window that recognises repeats is rebuilt after a start.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chatledger_schemas::ledger::{Digest128, LedgerEntry, Outcome};
use tracing::error;

use super::StateError;
use crate::chain::{Chain, ChainInput};
use crate::failpoint;
use crate::stages::ProcessedRecord;
use crate::window::{MsgHash, Window};

const HEADER: &[u8; 16] = b"chatledger led\0\x02";

/// A line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The record's place in the chain.
    pub entry: LedgerEntry,
    /// What became of it; `None` for a gap.
    pub outcome: Option<Outcome>,
    /// Digest of the message's row; zeros if it is none.
    pub row: Digest128,
}

impl Line {
    /// Bytes of a line.
    pub const BYTES: usize = LedgerEntry::BYTES + 24;

    fn encode(&self, out: &mut Vec<u8>) {
        let outcome: u64 = match self.outcome {
            None => 0,
            Some(Outcome::Message) => 1,
            Some(Outcome::DeadLetter) => 2,
            Some(Outcome::Duplicate) => 3,
        };
        self.entry.encode(out);
        out.extend(outcome.to_le_bytes());
        out.extend(self.row);
    }

    /// `None` for bytes that no append wrote.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (entry, rest) = bytes.split_at_checked(LedgerEntry::BYTES)?;
        let (outcome, row) = rest.split_first_chunk::<8>()?;
        Some(Self {
            entry: LedgerEntry::decode(entry)?,
            outcome: match u64::from_le_bytes(*outcome) {
                0 => None,
                1 => Some(Outcome::Message),
                2 => Some(Outcome::DeadLetter),
                3 => Some(Outcome::Duplicate),
                _ => return None,
            },
            row: row.try_into().ok()?,
        })
    }
}

/// The ledger of one corp.
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// Lines whose records the sinks have, or which have come again.
    lines: u64,
    chain: Chain,
    last: u64,
    /// Lines behind these, whose records are to come again.
    expected: VecDeque<Line>,
}

/// What a ledger knew when it was opened.
pub struct Recovered {
    /// The last messages at or before the position requester for.
    pub window: Window,
    /// When the records behind that position were pulled.
    pub pulled: HashMap<u64, i64>,
    /// When the last of all was, milliseconds since the epoch, UTC; `None` if there is none.
    pub newest: Option<i64>,
    /// Messages behind that position: they come again.
    pub behind: HashSet<MsgHash>,
}

impl Recovered {
    /// When the oldest record was pulled that is not delivered; `None` if all are.
    pub fn waiting_since(&self) -> Option<i64> {
        self.pulled.values().copied().min()
    }
}

impl Ledger {
    /// Opens the ledger of a corp, ready to go on behind `position` (the lowest of the lanes).
    ///
    /// # Errors
    /// The file cannot be read, is not a ledger, or is shorter than the lanes say it must be.
    pub fn open(
        path: &Path,
        corp: &str,
        position: u64,
        window: usize,
    ) -> Result<(Self, Recovered), StateError> {
        let io = || StateError::io(path);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io())?;
        let length = file.metadata().map_err(io())?.len();
        if length < HEADER.len() as u64 {
            file.set_len(0).map_err(io())?;
            file.write_all(HEADER).map_err(io())?;
            file.sync_all().map_err(io())?;
        } else {
            check_header(path, &mut file)?;
        }
        let mut ledger = Self {
            path: path.to_owned(),
            file,
            lines: 0,
            chain: Chain::genesis(corp),
            last: position,
            expected: VecDeque::new(),
        };
        let recovered = ledger.recover(position, window)?;
        Ok((ledger, recovered))
    }

    fn recover(&mut self, position: u64, capacity: usize) -> Result<Recovered, StateError> {
        let length = self
            .file
            .metadata()
            .map_err(StateError::io(&self.path))?
            .len();
        let whole = (length - HEADER.len() as u64) / Line::BYTES as u64;
        let kept = self.count_up_to(position, whole)?;
        if kept == 0 && position > 0 {
            return Err(self.too_short(position));
        }
        let start = kept.saturating_sub(capacity.max(1) as u64);

        let mut window = Window::new(capacity);
        let (mut pulled, mut newest) = (HashMap::new(), None);
        let mut behind = HashSet::new();
        self.seek(start)?;
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut chain = self.chain;
        for index in start..whole {
            let mut bytes = [0; Line::BYTES];
            reader
                .read_exact(&mut bytes)
                .map_err(StateError::io(&self.path))?;
            let line = Line::decode(&bytes);
            if index < kept {
                let Some(line) = line else {
                    return Err(self.too_short(position));
                };
                if line.outcome == Some(Outcome::Message) {
                    window.opened(u128::from_le_bytes(line.entry.msgid));
                }
                chain = Chain::at(&line.entry);
                newest = Some(line.entry.at);
                if index + 1 == kept {
                    if line.entry.seq != position {
                        return Err(self.too_short(position));
                    }
                    self.chain = chain;
                }
                continue;
            }
            // The tail of an append that was interrupted does not follow.
            let Some(line) = line.filter(|line| line.entry.follows(&chain.link)) else {
                break;
            };
            chain = Chain::at(&line.entry);
            newest = Some(line.entry.at);
            if !line.entry.gap {
                pulled.insert(line.entry.seq, line.entry.at);
            }
            if line.outcome == Some(Outcome::Message) {
                behind.insert(u128::from_le_bytes(line.entry.msgid));
            }
            self.expected.push_back(line);
        }
        self.lines = kept;
        let end = HEADER.len() as u64 + self.len() * Line::BYTES as u64;
        self.file.set_len(end).map_err(StateError::io(&self.path))?;
        Ok(Recovered {
            window,
            pulled,
            newest,
            behind,
        })
    }

    fn too_short(&self, position: u64) -> StateError {
        let what = format!("it ends before position {position}, which the sinks have reached");
        StateError::damaged(&self.path, what)
    }

    /// Lines with a `seq` of at most `position`, found by halving.
    fn count_up_to(&mut self, position: u64, whole: u64) -> Result<u64, StateError> {
        let (mut low, mut high) = (0, whole);
        while low < high {
            let middle = low + (high - low) / 2;
            self.seek(middle)?;
            let mut bytes = [0; 16];
            self.file
                .read_exact(&mut bytes)
                .map_err(StateError::io(&self.path))?;
            let seq = bytes
                .last_chunk::<8>()
                .map_or(0, |seq| u64::from_le_bytes(*seq));
            if seq <= position {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn seek(&mut self, line: u64) -> Result<(), StateError> {
        let at = HEADER.len() as u64 + line * Line::BYTES as u64;
        self.file
            .seek(SeekFrom::Start(at))
            .map(drop)
            .map_err(StateError::io(&self.path))
    }

    /// Appends records and what became of each, and waits until the disk has it.
    ///
    /// # Errors
    /// The disk refuses; the ledger then stands where it stood.
    pub fn append(
        &mut self,
        seen: &[ChainInput],
        outcomes: &[ProcessedRecord],
    ) -> Result<(), StateError> {
        let mut chain = self.chain;
        let mut expected = self.expected.iter().copied().peekable();
        let mut lines = Vec::with_capacity(seen.len());
        let mut not_given_again: u64 = 0;
        for (seen, record) in seen.iter().zip(outcomes) {
            while let Some(line) = expected.next_if(|line| {
                // What stands before it, or under its position with another content.
                line.entry.seq < seen.seq
                    || (line.entry.seq == seen.seq && line.entry.sealed != seen.sealed)
            }) {
                not_given_again += u64::from(!line.entry.gap);
                let entry = chain.again(&line.entry);
                lines.push(Line { entry, ..line });
            }
            let entry = match expected.next_if(|line| line.entry.seq == seen.seq) {
                Some(line) => chain.again(&line.entry),
                None => chain.record(seen),
            };
            lines.push(Line {
                entry,
                outcome: Some(record.outcome),
                row: record.row,
            });
        }
        if not_given_again > 0 {
            error!(
                ledger = %self.path.display(),
                records = not_given_again,
                "the archive does not give records again that it gave before; they stay in the ledger"
            );
        }
        let (count, next) = (lines.len() as u64, chain);
        // A record that had not been there moves what follows it.
        let rest: Vec<Line> = expected
            .map(|line| {
                let entry = chain.again(&line.entry);
                Line { entry, ..line }
            })
            .collect();
        let moved = !rest.is_empty() && count != self.expected.len() as u64 - rest.len() as u64;
        let known = self.expected.len() - rest.len();
        let same = lines.len() == known && lines.iter().eq(self.expected.iter().take(known));
        if !same {
            let written = lines.iter().chain(rest.iter().filter(|_| moved));
            self.write(self.lines, written)?;
        }
        failpoint::pass("process", "ledger_written")?;
        self.lines += count;
        self.chain = next;
        self.expected = rest.into();
        if let Some(record) = outcomes.last() {
            self.last = record.seq;
        }
        Ok(())
    }

    /// Appends a gap that was accepted: what came after `silent_since` and behind the last record
    /// may be missing. Times are in milliseconds since the epoch, UTC.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn append_gap(&mut self, silent_since: i64, now: i64) -> Result<(), StateError> {
        let last = self.expected.back().map(|line| line.entry);
        let mut chain = last.as_ref().map_or(self.chain, Chain::at);
        let seq = last.map_or(self.last, |entry| entry.seq);
        let line = Line {
            entry: chain.gap(seq, silent_since, now),
            outcome: None,
            row: [0; 16],
        };
        self.write(self.len(), std::iter::once(&line))?;
        self.expected.push_back(line);
        Ok(())
    }

    fn write<'a>(
        &mut self,
        at: u64,
        lines: impl Iterator<Item = &'a Line>,
    ) -> Result<(), StateError> {
        let mut bytes = Vec::new();
        for line in lines {
            line.encode(&mut bytes);
        }
        self.seek(at)?;
        self.file
            .write_all(&bytes)
            .and_then(|()| self.file.sync_data())
            .map_err(StateError::io(&self.path))
    }

    /// Lines it holds.
    pub fn len(&self) -> u64 {
        self.lines + self.expected.len() as u64
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The last `seq` that has come.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The chain up to the last record that has come.
    pub fn chain(&self) -> Chain {
        self.chain
    }
}

fn check_header(path: &Path, file: &mut File) -> Result<(), StateError> {
    let mut header = [0; HEADER.len()];
    file.read_exact(&mut header).map_err(StateError::io(path))?;
    if &header == HEADER {
        Ok(())
    } else {
        Err(StateError::damaged(path, "not a ledger of this version"))
    }
}

/// Reads a ledger from its beginning, also one that is being written.
pub struct Reader {
    path: PathBuf,
    reader: BufReader<File>,
}

impl Reader {
    /// Opens a ledger.
    ///
    /// # Errors
    /// The file cannot be read or is not a ledger.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut file = File::open(path).map_err(StateError::io(path))?;
        check_header(path, &mut file)?;
        Ok(Self {
            path: path.to_owned(),
            reader: BufReader::with_capacity(1 << 20, file),
        })
    }

    /// The next line; `None` at the end, and before a line that is only half there.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn next_line(&mut self) -> Result<Option<Result<Line, Unreadable>>, StateError> {
        let mut bytes = [0; Line::BYTES];
        match self.reader.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(Line::decode(&bytes).ok_or(Unreadable))),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(StateError::io(&self.path)(error)),
        }
    }
}

/// A line that no program of this version wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

#[cfg(test)]
mod tests {
    use super::*;
    use chatledger_schemas::ledger::digest_of;

    fn record(seq: u64, at: i64) -> (ChainInput, ProcessedRecord) {
        let id = seq.to_string();
        let seen = ChainInput {
            seq,
            at,
            msgid: digest_of(id.as_bytes()),
            sealed: digest_of(format!("{{{id}}}").as_bytes()),
        };
        let record = ProcessedRecord {
            seq,
            hash: u128::from_le_bytes(seen.msgid),
            at,
            outcome: Outcome::Message,
            row: [7; 16],
        };
        (seen, record)
    }

    fn append(ledger: &mut Ledger, records: &[(u64, i64)]) {
        let (seen, outcomes): (Vec<_>, Vec<_>) =
            records.iter().map(|(seq, at)| record(*seq, *at)).unzip();
        ledger.append(&seen, &outcomes).unwrap();
    }

    fn open(path: &Path, position: u64) -> (Ledger, Recovered) {
        Ledger::open(path, "ww1", position, 100).unwrap()
    }

    /// Every line, each of which has to follow the one before.
    fn lines(path: &Path) -> Vec<Line> {
        let mut reader = Reader::open(path).unwrap();
        let mut chain = Chain::genesis("ww1");
        let mut lines = Vec::new();
        while let Some(line) = reader.next_line().unwrap() {
            let line = line.unwrap();
            assert!(line.entry.follows(&chain.link), "{line:?}");
            assert_eq!(line.entry.number, chain.number + 1);
            chain = Chain::at(&line.entry);
            lines.push(line);
        }
        lines
    }

    fn seqs(path: &Path) -> Vec<u64> {
        lines(path).iter().map(|line| line.entry.seq).collect()
    }

    #[test]
    fn ledger_rebuilds_the_window_up_to_the_position_and_the_times_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let (mut ledger, _) = open(&path, 0);
        let records: Vec<(u64, i64)> = (1..=10).map(|n| (n * 2, 1000 + n as i64)).collect();
        append(&mut ledger, &records);

        let hash = |seq| record(seq, 0).1.hash;
        let (mut ledger, found) = open(&path, 12);
        assert!(found.window.repeats(hash(12), || 0) && !found.window.repeats(hash(14), || 0));
        assert_eq!(found.pulled.get(&14), Some(&1007));
        assert!(found.behind.contains(&hash(14)) && !found.behind.contains(&hash(12)));
        assert_eq!(
            (ledger.len(), found.pulled.len(), found.newest),
            (10, 4, Some(1010))
        );

        // What comes again is found again, at the time at which it came first.
        append(&mut ledger, &[(14, 5000), (16, 5000)]);
        assert_eq!(ledger.last(), 16);
        append(&mut ledger, &[(18, 5000), (20, 5000), (22, 5000)]);
        let at: Vec<i64> = lines(&path).iter().map(|line| line.entry.at).collect();
        assert_eq!(at[6..], [1007, 1008, 1009, 1010, 5000]);
        assert_eq!(seqs(&path), (1..=11).map(|n| n * 2).collect::<Vec<_>>());
    }

    #[test]
    fn torn_tail_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let (mut ledger, _) = open(&path, 0);
        append(&mut ledger, &[(1, 5), (2, 5), (9, 5)]);
        let whole = std::fs::read(&path).unwrap();
        for (cut, left) in [(1, 2), (Line::BYTES - 1, 2), (Line::BYTES + 20, 1)] {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(open(&path, 1).1.pulled.len() + 1, left);
        }
        let mut torn = whole.clone();
        torn[16 + 2 * Line::BYTES..].fill(0);
        std::fs::write(&path, torn).unwrap();
        let (mut ledger, found) = open(&path, 1);
        assert_eq!(found.pulled, HashMap::from([(2, 5)]));
        append(&mut ledger, &[(2, 5), (9, 6)]);
        assert_eq!(seqs(&path), [1, 2, 9]);
    }

    #[test]
    fn records_that_are_not_given_again_stay_and_new_ones_find_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let (mut ledger, _) = open(&path, 0);
        append(&mut ledger, &[(1, 5), (3, 5), (5, 5), (7, 5), (9, 5)]);
        let before = lines(&path);

        let (mut ledger, _) = open(&path, 1);
        append(&mut ledger, &[(5, 6)]);
        assert_eq!(lines(&path), before, "nothing new was told");
        append(&mut ledger, &[(6, 6), (7, 6)]);
        assert_eq!(seqs(&path), [1, 3, 5, 6, 7, 9]);
        append(&mut ledger, &[(11, 6)]);
        assert_eq!(seqs(&path), [1, 3, 5, 6, 7, 9, 11]);

        // The same position with another content: both have been given.
        let (mut ledger, _) = open(&path, 9);
        let (mut seen, record) = record(11, 7);
        seen.sealed = [1; 16];
        ledger.append(&[seen], &[record]).unwrap();
        assert_eq!(seqs(&path), [1, 3, 5, 6, 7, 9, 11, 11]);
    }

    #[test]
    fn gap_stands_behind_what_was_pulled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let (mut ledger, _) = open(&path, 0);
        append(&mut ledger, &[(1, 5), (3, 5)]);
        let (mut ledger, _) = open(&path, 1);
        ledger.append_gap(5, 900).unwrap();
        append(&mut ledger, &[(40, 901)]);
        let found = lines(&path);
        assert_eq!(seqs(&path), [1, 3, 3, 40]);
        assert_eq!(
            (
                found[2].entry.silent_since(),
                found[2].entry.at,
                found[2].outcome
            ),
            (Some(5), 900, None)
        );
        let (ledger, found) = open(&path, 40);
        assert_eq!((ledger.len(), found.newest), (4, Some(901)));
    }

    #[test]
    fn ledger_that_is_shorter_than_the_lanes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let refused = |position| {
            let opened = Ledger::open(&path, "ww1", position, 10);
            matches!(opened, Err(StateError::Damaged { .. }))
        };
        assert!(refused(7));
        append(&mut open(&path, 0).0, &[(5, 1)]);
        assert!(refused(7) && refused(4) && !refused(5));
        std::fs::write(&path, b"something else entirely").unwrap();
        assert!(refused(0));
    }
}
