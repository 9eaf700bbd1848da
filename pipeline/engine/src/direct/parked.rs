//! Dead letters on this machine's disk: written before any sink is, one JSON object a line.
//!
//! They hold the sealed record as the archive gave it, and never plaintext.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use chatledger_schemas::DeadLetter;

use super::StateError;
use crate::failpoint;

/// The local dead-letter store of one corp.
pub struct Parked {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Parked {
    /// Opens the store, ready to append behind `position`: letters behind it, and a line that was
    /// interrupted, are cut off, because their records come again.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(path: &Path, position: u64) -> Result<Self, StateError> {
        let io = || StateError::io(path);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io())?;
        let mut parked = Self {
            path: path.to_owned(),
            file,
            length: 0,
        };
        parked.cut_back(position)?;
        Ok(parked)
    }

    /// Cuts off what stands behind `position`.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn cut_back(&mut self, position: u64) -> Result<(), StateError> {
        let io = || StateError::io(&self.path);
        let mut length = 0;
        let mut line = Vec::new();
        self.file.rewind().map_err(io())?;
        let mut reader = BufReader::new(&self.file);
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(io())?;
            let letter: Option<DeadLetter> = if line.ends_with(b"\n") {
                serde_json::from_slice(&line).ok()
            } else {
                None
            };
            if letter.is_none_or(|letter| letter.seq > position) {
                break;
            }
            length += read as u64;
        }
        self.file.set_len(length).map_err(io())?;
        self.length = length;
        Ok(())
    }

    /// Appends letters and waits until the disk has them.
    ///
    /// # Errors
    /// The disk refuses; the store then stands where it stood.
    pub fn append(&mut self, letters: &[DeadLetter]) -> Result<(), StateError> {
        if letters.is_empty() {
            return Ok(());
        }
        let io = || StateError::io(&self.path);
        self.file.seek(SeekFrom::Start(self.length)).map_err(io())?;
        let mut out = BufWriter::new(&self.file);
        for letter in letters {
            serde_json::to_writer(&mut out, letter).map_err(|error| io()(error.into()))?;
            out.write_all(b"\n").map_err(io())?;
        }
        out.flush().map_err(io())?;
        drop(out);
        self.file.sync_data().map_err(io())?;
        failpoint::pass("process", "dead_letters_written")?;
        self.length = self.file.stream_position().map_err(io())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatledger_schemas::Reason;

    fn letter(seq: u64) -> DeadLetter {
        DeadLetter {
            corp_id: "ww1".into(),
            seq,
            msgid: seq.to_string(),
            reason: Reason::BadJson,
            error: "at column 3".into(),
            key_version: 1,
            sealed: "{\"seq\":1}".into(),
            first_seen: 9,
        }
    }

    #[test]
    fn letters_behind_the_position_and_torn_lines_are_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dead_letters.jsonl");
        let mut parked = Parked::open(&path, 0).unwrap();
        parked.append(&[letter(1), letter(2)]).unwrap();
        parked.append(&[letter(5)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();

        let mut parked = Parked::open(&path, 1).unwrap();
        parked.append(&[letter(2)]).unwrap();
        let lines = std::fs::read_to_string(&path).unwrap();
        let seqs: Vec<u64> = lines
            .lines()
            .map(|line| serde_json::from_str::<DeadLetter>(line).unwrap().seq)
            .collect();
        assert_eq!(seqs, [1, 2]);
    }
}
