//! Everything below `state_dir/<corp>/`, opened in one place for the pipeline and for offline commands.
//!
//! Opening removes half-written tails: each file is truncated to its last whole line. Files that
//! contradict each other, such as a ledger that ends before a lane's position, are refused.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chatledger_schemas::CorpId;
use tracing::warn;

use super::StateError;
use super::contact::ContactFile;
use super::dead_letter_store::{DeadLetterStore, SharedDeadLetterStore};
use super::journal::{JournalFile, OpenedJournal};
use super::ledger::Ledger;
use super::replay_plan::{ReplayFile, ReplayPlan};
use crate::clock::{ClockReading, LastAnswer};
use crate::lane::Lane;
use crate::pull::{ArchiveGap, check_archive_gap};
use crate::window::{MsgHash, Window};

/// Messages among which a duplicate is recognised: 16 bytes each in memory, a few times over.
const WINDOW: usize = 500_000;

/// Which messages have been opened, or are about to be delivered.
pub(super) struct KnownMessages {
    /// The last messages that were opened.
    pub(super) window: Window,
    /// Messages of the ledger that some sink does not hold and the archive has not returned again yet.
    pub(super) undelivered: HashSet<MsgHash>,
}

/// The state of one corp.
pub(super) struct CorpState {
    /// The folder.
    pub(super) folder: PathBuf,
    /// The sinks' journals.
    pub(super) journals: Vec<OpenedJournal>,
    /// The lowest position of all lanes: every sink holds everything up to here.
    pub(super) start: u64,
    /// Positions at which batches must end, so that every lane takes a batch whole or not at all.
    pub(super) boundaries: BTreeSet<u64>,
    /// The ledger.
    pub(super) ledger: Ledger,
    /// When records after `start` were pulled first, by `seq`; milliseconds since the epoch, UTC.
    pub(super) pulled_at: HashMap<u64, i64>,
    /// Which messages are known.
    pub(super) known: KnownMessages,
    /// The dead letters.
    pub(super) dead_letters: SharedDeadLetterStore,
    /// A replay that is not finished.
    pub(super) replay_file: ReplayFile,
    /// When the archive answered last.
    pub(super) contact: ContactFile,
    /// When the last record of the ledger was pulled.
    last_pulled_at: Option<i64>,
    /// When the oldest record was pulled that some sink does not hold and that no accepted gap covers.
    oldest_undelivered: Option<i64>,
}

/// Whether the archive may have dropped records since it answered last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GapCheck {
    /// It has not, or the gap was accepted and is in the ledger.
    Passed {
        /// How long the archive has been silent.
        silent: Duration,
    },
    /// It may have.
    Refused(ArchiveGap),
}

impl CorpState {
    /// Opens the state of a corp and creates what is missing. The lock of the state folder must be
    /// held.
    ///
    /// # Errors
    /// A file cannot be read or written, is damaged, or contradicts another.
    pub(super) fn open(
        folder: &Path,
        corp_id: &CorpId,
        sinks: &[&'static str],
    ) -> Result<Self, StateError> {
        std::fs::create_dir_all(folder).map_err(StateError::io(folder))?;
        let journals = JournalFile::open_all(folder, sinks)?;
        let mut boundaries = BTreeSet::new();
        for opened in &journals {
            boundaries.extend(Lane::resume(opened.checkpoint).boundaries());
        }
        let positions = journals.iter().map(|opened| opened.checkpoint.position);
        let start = positions.min().unwrap_or(0);
        let (ledger, mut recovered) =
            Ledger::open(&folder.join("ledger"), corp_id.as_str(), start, WINDOW)?;
        let store = DeadLetterStore::open(folder, start)?;
        let replay_file = ReplayFile::in_folder(folder);
        let plan = replay_file.read()?;
        let planned = plan.iter().flat_map(ReplayPlan::opened);
        for msg in store.index().replayed().chain(planned) {
            recovered.window.replayed(msg);
        }
        Ok(Self {
            folder: folder.to_owned(),
            journals,
            start,
            boundaries,
            ledger,
            pulled_at: recovered.pulled_at,
            known: KnownMessages {
                window: recovered.window,
                undelivered: recovered.undelivered,
            },
            dead_letters: SharedDeadLetterStore::new(store),
            replay_file,
            contact: ContactFile::in_folder(folder),
            last_pulled_at: recovered.last_pulled_at,
            oldest_undelivered: recovered.oldest_undelivered,
        })
    }

    /// Checks whether the archive may have dropped records since it answered last. Records a gap in
    /// the ledger if it is accepted.
    ///
    /// # Errors
    /// The ledger or `contact.json` cannot be read or written.
    pub(super) fn check_gap(&mut self, accept: bool) -> Result<GapCheck, StateError> {
        let now = ClockReading::now();
        let position = self.start.max(self.ledger.len());
        let answered = self.contact.read()?;
        let answered = answered.or(self.last_pulled_at.map(LastAnswer::at_time_of_day));
        // Records that were pulled and not delivered must be read again, and may be older.
        let undelivered = self.oldest_undelivered.map(LastAnswer::at_time_of_day);
        let silences = [answered, undelivered.filter(|at| at.answered_at < now.wall)]
            .map(|since| check_archive_gap(position, since.as_ref(), now));
        let gap = match silences {
            [Ok(one), Ok(other)] => {
                return Ok(GapCheck::Passed {
                    silent: one.max(other),
                });
            }
            [Err(gap), Ok(_)] | [Ok(_), Err(gap)] => gap,
            [Err(one), Err(other)] if one.silent_since < other.silent_since => one,
            [Err(_), Err(other)] => other,
        };
        if !accept {
            return Ok(GapCheck::Refused(gap));
        }
        warn!(
            since = gap.silent_since,
            "gap accepted; recorded in the ledger"
        );
        self.ledger
            .append_gap(self.start, gap.silent_since, gap.now)?;
        self.contact.write(&LastAnswer::at(now))?;
        Ok(GapCheck::Passed {
            silent: Duration::ZERO,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::ChainInput;
    use crate::clock::now_ms;
    use crate::stages::ProcessedRecord;
    use chatledger_schemas::ledger::{Outcome, Settlement};

    const HOUR: i64 = 3_600_000;

    fn open(folder: &Path) -> CorpState {
        CorpState::open(folder, &"ww1".into(), &["table"]).unwrap()
    }

    /// Appends a record pulled `hours` ago that no sink holds.
    fn append(state: &mut CorpState, seq: u64, hours: i64) {
        let at = now_ms() - hours * HOUR;
        let input = ChainInput {
            seq,
            at,
            msgid: [seq as u8; 16],
            sealed: [0; 16],
        };
        let outcome = ProcessedRecord {
            seq,
            hash: u128::from_le_bytes(input.msgid),
            at,
            settlement: Settlement::without_rows(Outcome::Message),
        };
        state.ledger.append(&[input], &[outcome]).unwrap();
    }

    #[test]
    fn new_corp_has_no_gap() {
        let folder = tempfile::tempdir().unwrap();
        let checked = open(folder.path()).check_gap(false).unwrap();
        let silent = Duration::ZERO;
        assert_eq!(checked, GapCheck::Passed { silent });
    }

    #[test]
    fn undelivered_record_older_than_the_archive_keeps_is_a_gap_though_it_answered_since() {
        let folder = tempfile::tempdir().unwrap();
        append(&mut open(folder.path()), 1, 121);
        let mut state = open(folder.path());
        let now = LastAnswer::at(ClockReading::now());
        state.contact.write(&now).unwrap();
        let checked = state.check_gap(false).unwrap();
        assert!(matches!(checked, GapCheck::Refused(_)), "{checked:?}");
    }

    #[test]
    fn accepted_gap_is_recorded_in_the_ledger() {
        let folder = tempfile::tempdir().unwrap();
        append(&mut open(folder.path()), 1, 130);
        let mut state = open(folder.path());
        let before = state.ledger.len();
        let checked = state.check_gap(true).unwrap();
        assert!(matches!(checked, GapCheck::Passed { .. }), "{checked:?}");
        assert_eq!(state.ledger.len(), before + 1);
        assert!(state.contact.read().unwrap().is_some());
        // What was lost in the gap is never delivered. It does not have to be accepted again.
        let checked = open(folder.path()).check_gap(false).unwrap();
        assert!(matches!(checked, GapCheck::Passed { .. }), "{checked:?}");
        append(&mut state, 2, 121);
        let checked = open(folder.path()).check_gap(false).unwrap();
        assert!(matches!(checked, GapCheck::Refused(_)), "{checked:?}");
    }

    #[test]
    fn clock_that_was_wrong_for_a_moment_is_no_gap() {
        for wrong in [-144 * HOUR, 144 * HOUR] {
            let folder = tempfile::tempdir().unwrap();
            let mut state = open(folder.path());
            append(&mut state, 1, 0);
            let mut reading = ClockReading::now();
            reading.wall += wrong;
            state.contact.write(&LastAnswer::at(reading)).unwrap();
            let checked = state.check_gap(false).unwrap();
            assert!(matches!(checked, GapCheck::Passed { .. }), "{checked:?}");
        }
    }

    #[test]
    fn answer_dated_in_the_future_by_another_boot_is_refused_and_accepted_once() {
        let folder = tempfile::tempdir().unwrap();
        append(&mut open(folder.path()), 1, 0);
        let mut state = open(folder.path());
        let future = LastAnswer::at_time_of_day(now_ms() + 144 * HOUR);
        state.contact.write(&future).unwrap();
        let GapCheck::Refused(gap) = state.check_gap(false).unwrap() else {
            panic!("not refused");
        };
        assert!(gap.to_string().contains("clock"), "{gap}");
        let checked = state.check_gap(true).unwrap();
        assert!(matches!(checked, GapCheck::Passed { .. }), "{checked:?}");
        let checked = open(folder.path()).check_gap(false).unwrap();
        assert!(matches!(checked, GapCheck::Passed { .. }), "{checked:?}");
    }
}
