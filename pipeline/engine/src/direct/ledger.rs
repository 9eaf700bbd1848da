//! Every record that was ever pulled, one entry each, written before any sink is.
//!
//! The ledger says what became of each `seq`, independently of the sinks. From it the window that
//! recognises repeats is rebuilt after a start, and a record that is pulled again after a crash
//! keeps the time at which it was pulled first, so that its rows come out the same.
//!
//! Format: 16 bytes of header (`chatledger led` + version), then 32 bytes an entry, little endian:
//! `seq` u64 · xxh3-128 of msgid u128 · (outcome << 56 | milliseconds since the epoch) u64. Entries
//! ascend by `seq`. Entries behind the lowest lane are written again in place when their records
//! come again; a torn or stale tail is cut off when opened.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::StateError;
use crate::failpoint;
use crate::stages::{Fate, Outcome};
use crate::window::Window;

const HEADER: &[u8; 16] = b"chatledger led\0\x01";
const ENTRY: u64 = 32;

/// The ledger of one corp.
pub struct Ledger {
    path: PathBuf,
    file: File,
    /// Entries known to be followed by the next append.
    entries: u64,
    last: u64,
}

/// What a ledger knew when it was opened.
pub struct Recovered {
    /// The last messages at or before the position asked for.
    pub window: Window,
    /// When the records behind that position were pulled.
    pub pulled: HashMap<u64, i64>,
}

impl Ledger {
    /// Opens the ledger, ready to append behind `position` (the lowest of the lanes).
    ///
    /// # Errors
    /// The file cannot be read, is not a ledger, or is shorter than the lanes say it must be.
    pub fn open(
        path: &Path,
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
            let mut header = [0; HEADER.len()];
            file.read_exact(&mut header).map_err(io())?;
            if &header != HEADER {
                return Err(StateError::damaged(path, "not a ledger of this version"));
            }
        }
        let mut ledger = Self {
            path: path.to_owned(),
            file,
            entries: 0,
            last: 0,
        };
        let recovered = ledger.recover(position, window)?;
        Ok((ledger, recovered))
    }

    fn recover(&mut self, position: u64, capacity: usize) -> Result<Recovered, StateError> {
        let whole = (self.length()? - HEADER.len() as u64) / ENTRY;
        let kept = self.count_up_to(position, whole)?;
        let start = kept.saturating_sub(capacity as u64);

        let mut window = Window::new(capacity);
        let mut pulled = HashMap::new();
        let (mut entries, mut last) = (kept, 0);
        self.seek(start)?;
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        for index in start..whole {
            let mut bytes = [0; ENTRY as usize];
            reader
                .read_exact(&mut bytes)
                .map_err(StateError::io(&self.path))?;
            let Some(fate) = decode(&bytes).filter(|fate| fate.seq >= last) else {
                break;
            };
            if index < kept {
                if fate.outcome == Outcome::Message {
                    window.opened(fate.hash);
                }
            } else {
                pulled.insert(fate.seq, fate.at);
            }
            last = fate.seq;
            entries = index + 1;
        }
        if entries < kept || (kept == 0 && position > 0) {
            return Err(StateError::damaged(
                &self.path,
                format!("it ends before position {position}, which the sinks have reached"),
            ));
        }
        let end = HEADER.len() as u64 + entries * ENTRY;
        self.file.set_len(end).map_err(StateError::io(&self.path))?;
        // What comes again is written over; see the module's words on entries behind the lowest lane.
        self.entries = kept;
        self.last = position;
        Ok(Recovered { window, pulled })
    }

    /// Entries with a `seq` of at most `position`, found by halving.
    fn count_up_to(&mut self, position: u64, whole: u64) -> Result<u64, StateError> {
        let (mut low, mut high) = (0, whole);
        while low < high {
            let middle = low + (high - low) / 2;
            self.seek(middle)?;
            let mut bytes = [0; 8];
            self.file
                .read_exact(&mut bytes)
                .map_err(StateError::io(&self.path))?;
            if u64::from_le_bytes(bytes) <= position {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn length(&self) -> Result<u64, StateError> {
        Ok(self
            .file
            .metadata()
            .map_err(StateError::io(&self.path))?
            .len())
    }

    fn seek(&mut self, entry: u64) -> Result<(), StateError> {
        let at = HEADER.len() as u64 + entry * ENTRY;
        self.file
            .seek(SeekFrom::Start(at))
            .map(drop)
            .map_err(StateError::io(&self.path))
    }

    /// Appends what became of records and waits until the disk has it.
    ///
    /// # Errors
    /// The disk refuses; the ledger then stands where it stood.
    pub fn append(&mut self, fates: &[Fate]) -> Result<(), StateError> {
        let bytes: Vec<u8> = fates.iter().flat_map(encode).collect();
        self.seek(self.entries)?;
        self.file
            .write_all(&bytes)
            .map_err(StateError::io(&self.path))?;
        self.file.sync_data().map_err(StateError::io(&self.path))?;
        failpoint::pass("process", "ledger_written")?;
        self.entries += fates.len() as u64;
        if let Some(fate) = fates.last() {
            self.last = fate.seq;
        }
        Ok(())
    }

    /// Entries it holds.
    pub fn len(&self) -> u64 {
        self.entries
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The last `seq` in it.
    pub fn last(&self) -> u64 {
        self.last
    }
}

fn encode(fate: &Fate) -> [u8; ENTRY as usize] {
    let outcome: u64 = match fate.outcome {
        Outcome::Message => 1,
        Outcome::DeadLetter => 2,
        Outcome::Duplicate => 3,
    };
    let mut bytes = [0; ENTRY as usize];
    bytes[..8].copy_from_slice(&fate.seq.to_le_bytes());
    bytes[8..24].copy_from_slice(&fate.hash.to_le_bytes());
    let tagged = (outcome << 56) | (fate.at as u64 & ((1 << 56) - 1));
    bytes[24..].copy_from_slice(&tagged.to_le_bytes());
    bytes
}

/// `None` for bytes that no append wrote: the tail of one that was interrupted.
fn decode(bytes: &[u8; ENTRY as usize]) -> Option<Fate> {
    let (seq, rest) = bytes.split_first_chunk::<8>()?;
    let (hash, rest) = rest.split_first_chunk::<16>()?;
    let (tagged, _) = rest.split_first_chunk::<8>()?;
    let tagged = u64::from_le_bytes(*tagged);
    let outcome = match tagged >> 56 {
        1 => Outcome::Message,
        2 => Outcome::DeadLetter,
        3 => Outcome::Duplicate,
        _ => return None,
    };
    Some(Fate {
        seq: u64::from_le_bytes(*seq),
        hash: u128::from_le_bytes(*hash),
        at: (tagged & ((1 << 56) - 1)) as i64,
        outcome,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::msg_hash;

    fn fate(seq: u64, at: i64) -> Fate {
        Fate {
            seq,
            hash: msg_hash(&seq.to_string()),
            at,
            outcome: Outcome::Message,
        }
    }

    fn open(path: &Path, position: u64) -> (Ledger, Recovered) {
        Ledger::open(path, position, 100).unwrap()
    }

    #[test]
    fn ledger_rebuilds_the_window_up_to_the_position_and_the_times_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let (mut ledger, _) = open(&path, 0);
        ledger
            .append(
                &(1..=10)
                    .map(|n| fate(n * 2, 1000 + n as i64))
                    .collect::<Vec<_>>(),
            )
            .unwrap();

        let (mut ledger, found) = open(&path, 13);
        assert!(
            found.window.repeats(msg_hash("12"), || 0)
                && !found.window.repeats(msg_hash("14"), || 0)
        );
        assert_eq!(found.pulled.get(&14), Some(&1007));
        assert_eq!((ledger.len(), found.pulled.len()), (6, 4));

        // What comes again is written over, and what came before stays until then.
        ledger.append(&[fate(14, 1007), fate(16, 1008)]).unwrap();
        let (ledger, found) = open(&path, 16);
        assert_eq!((ledger.len(), found.pulled.len()), (8, 2));
    }

    #[test]
    fn torn_and_stale_tails_are_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let (mut ledger, _) = open(&path, 0);
        ledger
            .append(&[fate(1, 5), fate(2, 5), fate(9, 5)])
            .unwrap();
        // The archive now gives other records behind 1 than it gave before.
        let (mut ledger, _) = open(&path, 1);
        ledger.append(&[fate(20, 6)]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([7; 11]);
        std::fs::write(&path, bytes).unwrap();

        let (_, found) = open(&path, 1);
        assert_eq!(found.pulled, HashMap::from([(20, 6)]));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 16 + 2 * 32);
    }

    #[test]
    fn ledger_that_is_shorter_than_the_lanes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        assert!(matches!(
            Ledger::open(&path, 7, 10),
            Err(StateError::Damaged { .. })
        ));
        std::fs::write(&path, b"something else entirely").unwrap();
        assert!(matches!(
            Ledger::open(&path, 0, 10),
            Err(StateError::Damaged { .. })
        ));
    }
}
