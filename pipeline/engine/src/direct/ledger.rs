//! The ledger of the direct driver: what was pulled is on disk before any sink sees it, and stays.
//!
//! The file is a header and one line for each record ([`LedgerLine`]): an [`LedgerEntry`] of the hash chain
//! and what became of the record, with the digests of its rows ([`chatledger_schemas::ledger`]). The
//! chain covers both. Lines ascend by `seq`.
//!
//! A line is not changed when its record is settled again: with another result, because the program or
//! the rules have changed since a crash, or because a dead letter was replayed. That adds a line at the
//! end.
//!
//! Records after the lowest lane are read from the archive again after a crash. They are found in the
//! ledger and keep their entry and the time they were pulled first. A record that the archive no longer
//! returns keeps its line, so an audit reports it. After a start the window that recognises
//! duplicates is rebuilt from the ledger.

mod line;
mod reader;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chatledger_schemas::ledger::{
    Destruction, EntryKind, LedgerEntry, RecordKey, RecordOutcome, Settlement,
};
use tracing::{error, warn};

use super::StateError;
use crate::chain::{Chain, ChainInput};
use crate::failpoint;
use crate::stages::ProcessedRecord;
use crate::window::{MsgHash, Window};
use line::{HEADER, check_header};

pub use line::LedgerLine;
pub use reader::{NextLine, Reader};

/// The ledger of one corp.
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// Number of lines whose records every sink holds or the archive has returned again.
    lines: u64,
    /// The chain after these lines.
    chain: Chain,
    /// The `seq` of the last of these lines.
    last: u64,
    /// Lines after these. The archive is expected to return their records again.
    expected: VecDeque<LedgerLine>,
    /// The last further settlement of records, as far as it is known since the start.
    resettled: HashMap<RecordKey, Settlement>,
}

/// What a ledger holds when it is opened at a position.
pub(super) struct RecoveredLedger {
    /// The last messages up to the position.
    pub(super) window: Window,
    /// When the records after the position were pulled, by `seq`.
    pub(super) pulled_at: HashMap<u64, i64>,
    /// When the last record of all was pulled, milliseconds since the epoch, UTC; `None` if there is
    /// none.
    pub(super) last_pulled_at: Option<i64>,
    /// When the oldest of the records after the position and after the last accepted gap was pulled, milliseconds since
    /// the epoch, UTC. What was lost in a gap is accepted with it.
    pub(super) oldest_undelivered: Option<i64>,
    /// Messages after the position. The archive returns them again.
    pub(super) undelivered: HashSet<MsgHash>,
}

/// Lines for a batch, merged with the lines whose records were expected.
struct Merged {
    /// Lines up to the end of the batch.
    lines: Vec<LedgerLine>,
    /// The chain after them.
    chain: Chain,
    /// Expected lines after the batch, as they are after these.
    rest: Vec<LedgerLine>,
    /// Number of expected records that the archive no longer returns.
    missing: u64,
    /// Records whose settlement is not the one of their line.
    differing: Vec<ProcessedRecord>,
}

impl Ledger {
    /// Opens the ledger of a corp to continue after `position`, the lowest of all lanes. `window` is
    /// the number of messages to remember.
    ///
    /// # Errors
    /// The file cannot be read, is not a ledger, or ends before `position`.
    pub(super) fn open(
        path: &Path,
        corp: &str,
        position: u64,
        window: usize,
    ) -> Result<(Self, RecoveredLedger), StateError> {
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
            resettled: HashMap::new(),
        };
        let recovered = ledger.recover(position, window)?;
        Ok((ledger, recovered))
    }

    fn recover(&mut self, position: u64, capacity: usize) -> Result<RecoveredLedger, StateError> {
        let length = self
            .file
            .metadata()
            .map_err(StateError::io(&self.path))?
            .len();
        let whole = (length - HEADER.len() as u64) / LedgerLine::BYTES as u64;
        let kept = self.count_up_to(position, whole)?;
        if kept == 0 && position > 0 {
            return Err(self.too_short(position));
        }
        let start = kept.saturating_sub(capacity.max(1) as u64);

        let mut recovered = RecoveredLedger {
            window: Window::new(capacity),
            pulled_at: HashMap::new(),
            last_pulled_at: None,
            oldest_undelivered: None,
            undelivered: HashSet::new(),
        };
        self.seek(start)?;
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut chain = self.chain;
        for index in start..whole {
            let mut bytes = [0; LedgerLine::BYTES];
            reader
                .read_exact(&mut bytes)
                .map_err(StateError::io(&self.path))?;
            let line = LedgerLine::decode(&bytes);
            if index < kept {
                let Some(line) = line else {
                    return Err(self.too_short(position));
                };
                if line.is_message() {
                    recovered
                        .window
                        .opened(u128::from_le_bytes(line.entry.msgid));
                }
                chain = Chain::at(&line.entry);
                if matches!(line.entry.kind, EntryKind::Record | EntryKind::Gap) {
                    recovered.last_pulled_at = Some(line.entry.at);
                }
                if index + 1 == kept {
                    if line.entry.seq != position {
                        return Err(self.too_short(position));
                    }
                    self.chain = chain;
                }
                continue;
            }
            // The tail of an append that was interrupted does not continue the chain.
            let Some(line) = line.filter(|line| line.follows(&chain.link)) else {
                break;
            };
            chain = Chain::at(&line.entry);
            recovered.expect(&line);
            learn(&mut self.resettled, &line);
            self.expected.push_back(line);
        }
        self.lines = kept;
        let end = HEADER.len() as u64 + self.len() * LedgerLine::BYTES as u64;
        self.file.set_len(end).map_err(StateError::io(&self.path))?;
        Ok(recovered)
    }

    fn too_short(&self, position: u64) -> StateError {
        let what = format!("it ends before position {position}, which every sink has reached");
        StateError::damaged(&self.path, what)
    }

    /// Counts the lines with a `seq` of at most `position`, by binary search.
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
        let at = HEADER.len() as u64 + line * LedgerLine::BYTES as u64;
        self.file
            .seek(SeekFrom::Start(at))
            .map(drop)
            .map_err(StateError::io(&self.path))
    }

    /// Appends records and what became of each, and waits until the disk has them.
    ///
    /// # Errors
    /// The disk refuses. The ledger is then unchanged, and the call may be repeated.
    pub(super) fn append(
        &mut self,
        inputs: &[ChainInput],
        outcomes: &[ProcessedRecord],
    ) -> Result<(), StateError> {
        let merged = self.merge(inputs, outcomes);
        if merged.missing > 0 {
            error!(
                ledger = %self.path.display(),
                records = merged.missing,
                "the archive no longer returns records that it returned before; they stay in the ledger"
            );
        }
        let Merged {
            lines,
            chain,
            mut rest,
            differing,
            ..
        } = merged;
        let replaced = self.expected.len() - rest.len();
        // A record that was not in the ledger moves the lines after it.
        let moved = lines.len() != replaced;
        let last = outcomes.last().map_or(self.last, |record| record.seq);
        let end = (rest.last().map(|line| line.entry), last, chain);
        let further = self.further(end, &differing);
        if !further.is_empty() {
            warn!(
                ledger = %self.path.display(),
                records = further.len(),
                "records were processed again with another result, because the rules or the program \
                 have changed; the ledger has both"
            );
        }
        let differs = !lines.iter().eq(self.expected.iter().take(replaced));
        if moved || differs || !further.is_empty() {
            let all = moved || !further.is_empty();
            let written = lines.iter().chain(rest.iter().filter(|_| all));
            self.write(self.lines, written.chain(&further))?;
        }
        failpoint::pass("process", "ledger_written")?;
        for line in &further {
            learn(&mut self.resettled, line);
        }
        rest.extend(further);
        self.lines += lines.len() as u64;
        self.chain = chain;
        self.expected = rest.into();
        self.last = last;
        Ok(())
    }

    /// Merges records with the expected lines. A record that is expected keeps its line.
    fn merge(&self, inputs: &[ChainInput], outcomes: &[ProcessedRecord]) -> Merged {
        let mut chain = self.chain;
        let mut expected = self.expected.iter().copied().peekable();
        let mut merged = Merged {
            lines: Vec::with_capacity(inputs.len()),
            chain,
            rest: Vec::new(),
            missing: 0,
            differing: Vec::new(),
        };
        for (input, record) in inputs.iter().zip(outcomes) {
            let is_record = |line: &LedgerLine| {
                line.entry.kind == EntryKind::Record
                    && line.entry.seq == input.seq
                    && line.entry.sealed == input.sealed
            };
            // Lines before the record, and at its position with another content.
            while let Some(line) =
                expected.next_if(|line| line.entry.seq <= input.seq && !is_record(line))
            {
                merged.missing += u64::from(line.entry.kind == EntryKind::Record);
                merged.lines.push(line.again(&mut chain));
            }
            let line = match expected.next_if(is_record) {
                Some(line) => {
                    if line.settlement != Some(record.settlement) {
                        merged.differing.push(*record);
                    }
                    line.again(&mut chain)
                }
                None => LedgerLine {
                    entry: chain.record(input, Some(&record.settlement)),
                    settlement: Some(record.settlement),
                },
            };
            merged.lines.push(line);
        }
        merged.chain = chain;
        merged.rest = expected.map(|line| line.again(&mut chain)).collect();
        merged
    }

    /// The lines of further settlements, as far as they are not in the ledger, after `end`: the last
    /// entry, or if there is none, the position and the chain.
    fn further(
        &self,
        end: (Option<LedgerEntry>, u64, Chain),
        records: &[ProcessedRecord],
    ) -> Vec<LedgerLine> {
        let (entry, seq, chain) = end;
        let mut chain = entry.as_ref().map_or(chain, Chain::at);
        let seq = entry.map_or(seq, |entry| entry.seq);
        let new = records.iter().filter(|record| {
            let RecordOutcome { seq, msgid, .. } = record.outcome();
            let known = self.resettled.get(&RecordKey { seq, msgid });
            known != Some(&record.settlement)
        });
        let line = |record: &ProcessedRecord| LedgerLine {
            entry: chain.resettled(seq, record.at, &record.outcome()),
            settlement: Some(record.settlement),
        };
        new.map(line).collect()
    }

    /// The last entry, the position and the chain before the next one.
    fn end(&self) -> (Option<LedgerEntry>, u64, Chain) {
        let last = self.expected.back().map(|line| line.entry);
        (last, self.last, self.chain)
    }

    /// Appends what became of dead letters that were opened again, and waits until the disk has it.
    ///
    /// # Errors
    /// The disk refuses. The ledger is then unchanged, and the call may be repeated.
    pub(super) fn append_again(&mut self, records: &[ProcessedRecord]) -> Result<(), StateError> {
        let further = self.further(self.end(), records);
        self.append_lines(further)
    }

    /// Appends a gap that was accepted: records after the last one that the archive received after
    /// `silent_since` may be missing, and those after `delivered`, the position of the lowest lane, may be
    /// lost. Times are in milliseconds since the epoch, UTC.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn append_gap(
        &mut self,
        delivered: u64,
        silent_since: i64,
        now: i64,
    ) -> Result<(), StateError> {
        let (entry, seq, chain) = self.end();
        let mut chain = entry.as_ref().map_or(chain, Chain::at);
        let seq = entry.map_or(seq, |entry| entry.seq);
        self.append_lines(vec![LedgerLine {
            entry: chain.gap(seq, delivered, silent_since, now),
            settlement: None,
        }])
    }

    /// Appends that records were destroyed deliberately. The text goes to `destructions.jsonl` beside the
    /// ledger, which has its digest.
    ///
    /// # Errors
    /// The disk refuses. The ledger is then unchanged.
    pub fn append_destroyed(&mut self, destruction: &Destruction) -> Result<(), StateError> {
        let path = self.path.with_file_name("destructions.jsonl");
        let text = destruction.text() + "\n";
        File::options()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            })
            .map_err(StateError::io(&path))?;
        let (entry, seq, chain) = self.end();
        let mut chain = entry.as_ref().map_or(chain, Chain::at);
        let seq = entry.map_or(seq, |entry| entry.seq);
        self.append_lines(vec![LedgerLine {
            entry: chain.destroyed(seq, destruction),
            settlement: None,
        }])
    }

    fn append_lines(&mut self, lines: Vec<LedgerLine>) -> Result<(), StateError> {
        if lines.is_empty() {
            return Ok(());
        }
        self.write(self.len(), lines.iter())?;
        for line in lines {
            learn(&mut self.resettled, &line);
            self.expected.push_back(line);
        }
        Ok(())
    }

    fn write<'a>(
        &mut self,
        at: u64,
        lines: impl Iterator<Item = &'a LedgerLine>,
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

    /// Number of lines.
    pub(super) fn len(&self) -> u64 {
        self.lines + self.expected.len() as u64
    }

    /// The last `seq` that was appended, or the position at which the ledger was opened.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The chain up to that record.
    pub(super) fn chain(&self) -> Chain {
        self.chain
    }
}

/// Remembers a further settlement.
fn learn(resettled: &mut HashMap<RecordKey, Settlement>, line: &LedgerLine) {
    if let (EntryKind::Resettled, Some(seq), Some(settlement)) =
        (line.entry.kind, line.entry.subject(), line.settlement)
    {
        let msgid = line.entry.msgid;
        resettled.insert(RecordKey { seq, msgid }, settlement);
    }
}

impl RecoveredLedger {
    /// Takes in a line after the position.
    fn expect(&mut self, line: &LedgerLine) {
        let LedgerEntry { seq, at, kind, .. } = line.entry;
        match kind {
            EntryKind::Gap => {
                self.last_pulled_at = Some(at);
                self.oldest_undelivered = None;
            }
            EntryKind::Record => {
                self.last_pulled_at = Some(at);
                self.pulled_at.insert(seq, at);
                let oldest = self.oldest_undelivered.map_or(at, |oldest| oldest.min(at));
                self.oldest_undelivered = Some(oldest);
            }
            EntryKind::Resettled | EntryKind::Destroyed => {}
        }
        if line.is_message() {
            self.undelivered
                .insert(u128::from_le_bytes(line.entry.msgid));
        }
    }
}

#[cfg(test)]
mod tests;
