//! The ledger of the direct driver: what was pulled is on disk before any sink sees it, and stays.
//!
//! The file is a header and one line for each record ([`LedgerLine`]): an [`LedgerEntry`] of the hash chain,
//! what became of the record, and the digest of its row ([`chatledger_schemas::ledger`]). Lines
//! ascend by `seq`.
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

use chatledger_schemas::ledger::{LedgerEntry, Outcome};
use tracing::error;

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
                if line.outcome == Some(Outcome::Message) {
                    recovered
                        .window
                        .opened(u128::from_le_bytes(line.entry.msgid));
                }
                chain = Chain::at(&line.entry);
                recovered.last_pulled_at = Some(line.entry.at);
                if index + 1 == kept {
                    if line.entry.seq != position {
                        return Err(self.too_short(position));
                    }
                    self.chain = chain;
                }
                continue;
            }
            // The tail of an append that was interrupted does not continue the chain.
            let Some(line) = line.filter(|line| line.entry.follows(&chain.link)) else {
                break;
            };
            chain = Chain::at(&line.entry);
            recovered.expect(&line);
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
            lines, chain, rest, ..
        } = merged;
        let replaced = self.expected.len() - rest.len();
        // A record that was not in the ledger moves the lines after it.
        let moved = lines.len() != replaced;
        if moved || !lines.iter().eq(self.expected.iter().take(replaced)) {
            let written = lines.iter().chain(rest.iter().filter(|_| moved));
            self.write(self.lines, written)?;
        }
        failpoint::pass("process", "ledger_written")?;
        self.lines += lines.len() as u64;
        self.chain = chain;
        self.expected = rest.into();
        if let Some(record) = outcomes.last() {
            self.last = record.seq;
        }
        Ok(())
    }

    /// Merges records with the expected lines. A record that is expected keeps its entry.
    fn merge(&self, inputs: &[ChainInput], outcomes: &[ProcessedRecord]) -> Merged {
        let mut chain = self.chain;
        let mut expected = self.expected.iter().copied().peekable();
        let mut lines = Vec::with_capacity(inputs.len());
        let mut missing: u64 = 0;
        for (input, record) in inputs.iter().zip(outcomes) {
            // Lines before the record, and at its position with another content.
            while let Some(line) = expected.next_if(|line| {
                line.entry.seq < input.seq
                    || (line.entry.seq == input.seq && line.entry.sealed != input.sealed)
            }) {
                missing += u64::from(!line.entry.gap);
                let entry = chain.again(&line.entry);
                lines.push(LedgerLine { entry, ..line });
            }
            let entry = match expected.next_if(|line| line.entry.seq == input.seq) {
                Some(line) => chain.again(&line.entry),
                None => chain.record(input),
            };
            lines.push(LedgerLine {
                entry,
                outcome: Some(record.outcome),
                row: record.row,
            });
        }
        let end = chain;
        let rest = expected
            .map(|line| {
                let entry = chain.again(&line.entry);
                LedgerLine { entry, ..line }
            })
            .collect();
        Merged {
            lines,
            chain: end,
            rest,
            missing,
        }
    }

    /// Appends a gap that was accepted: records after the last one that the archive received after
    /// `silent_since` may be missing. Times are in milliseconds since the epoch, UTC.
    ///
    /// # Errors
    /// The disk refuses.
    pub(super) fn append_gap(&mut self, silent_since: i64, now: i64) -> Result<(), StateError> {
        let last = self.expected.back().map(|line| line.entry);
        let mut chain = last.as_ref().map_or(self.chain, Chain::at);
        let seq = last.map_or(self.last, |entry| entry.seq);
        let line = LedgerLine {
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

impl RecoveredLedger {
    /// Takes in a line after the position.
    fn expect(&mut self, line: &LedgerLine) {
        let LedgerEntry { seq, at, gap, .. } = line.entry;
        self.last_pulled_at = Some(at);
        if gap {
            self.oldest_undelivered = None;
        } else {
            self.pulled_at.insert(seq, at);
            self.oldest_undelivered =
                Some(self.oldest_undelivered.map_or(at, |oldest| oldest.min(at)));
        }
        if line.outcome == Some(Outcome::Message) {
            self.undelivered
                .insert(u128::from_le_bytes(line.entry.msgid));
        }
    }
}

#[cfg(test)]
mod tests;
