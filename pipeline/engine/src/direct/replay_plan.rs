//! What a replay is about to deliver, in a file: a process that dies delivers exactly that at the next
//! start.

use std::path::Path;

use chatledger_schemas::DeadLetterEvent;
use chatledger_schemas::dead_letter::Event;
use serde::{Deserialize, Serialize};

use super::StateError;
use super::state_file::{FormVersion, StateFile};
use crate::batch::BatchRange;
use crate::window::{MsgHash, msg_hash};

const VERSION: FormVersion = FormVersion::Required(1);

/// The events a replay is about to deliver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReplayPlan {
    /// The range of the events; the replay is named after it. The written name is part of the format.
    #[serde(rename = "cut")]
    pub(super) range: BatchRange,
    /// What happens to each dead letter.
    pub(super) events: Vec<DeadLetterEvent>,
}

impl ReplayPlan {
    /// Plans events; `None` if there are none.
    ///
    /// The range is made of the dead letters, their attempts and their outcomes, so the same plan
    /// has the same name and the next attempt at the same dead letters has another.
    pub(super) fn new(events: Vec<DeadLetterEvent>) -> Option<Self> {
        let one = |event: &DeadLetterEvent| {
            let (id, attempt, outcome) = (&event.msgid, event.attempt, event.event.as_str());
            BatchRange::of(event.seq, &format!("{id}#{attempt}#{outcome}"))
        };
        // Events of one position are no range in ascending order.
        let range = events.iter().map(one).reduce(|whole, one| BatchRange {
            first: whole.first.min(one.first),
            last: whole.last.max(one.last),
            records: whole.records + one.records,
            digest: whole.digest.wrapping_add(one.digest),
            ..whole
        })?;
        Some(Self { range, events })
    }

    /// Messages that the plan delivers. They count as opened as soon as the plan is stored.
    pub(super) fn opened(&self) -> impl Iterator<Item = MsgHash> {
        self.events
            .iter()
            .filter(|event| event.event == Event::Replayed && !event.msgid.is_empty())
            .map(|event| msg_hash(&event.msgid))
    }
}

/// `state_dir/<corp>/replay.json`.
#[derive(Debug, Clone)]
pub(super) struct ReplayFile(StateFile<ReplayPlan>);

impl ReplayFile {
    /// The file in a corp's folder.
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self(StateFile::new(folder.join("replay.json"), VERSION))
    }

    /// Whether a replay has been planned and not finished.
    pub(super) fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Returns the plan of a replay that is not finished.
    ///
    /// # Errors
    /// The file cannot be read or is of another form.
    pub(super) fn read(&self) -> Result<Option<ReplayPlan>, StateError> {
        self.0.read()
    }

    /// Stores a plan.
    ///
    /// # Errors
    /// The file cannot be written; nothing has been decided then.
    pub(super) fn write(&self, plan: &ReplayPlan) -> Result<(), StateError> {
        self.0.write(plan)
    }

    /// Forgets a plan that is finished.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub(super) fn remove(&self) -> Result<(), StateError> {
        self.0.remove()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter_index::tests::event;

    #[test]
    fn plan_of_an_earlier_release_is_read_and_written_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("replay.json");
        let text = r#"{"version":1,"cut":{"first":4,"last":4,"records":1,"digest":11},"events":[{"event":"replayed","corp_id":"ww1","seq":4,"msgid":"m4","attempt":1,"at":10,"actor":"test","because":"","reason":"wrong_key","error":"the private key does not open it","key_version":3,"first_seen":9}]}"#;
        std::fs::write(&path, text).unwrap();
        let file = ReplayFile::in_folder(folder.path());
        let plan = file.read().unwrap().unwrap();
        assert_eq!(plan.events, [event(4, 1, Event::Replayed)]);
        assert_eq!((plan.range.first, plan.range.digest), (4, 11));
        assert_eq!(plan.opened().collect::<Vec<_>>(), [msg_hash("m4")]);
        file.write(&plan).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn damaged_plan_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = ReplayFile::in_folder(folder.path());
        for text in ["{", "{\"version\":2}"] {
            std::fs::write(folder.path().join("replay.json"), text).unwrap();
            assert!(file.read().is_err(), "{text}");
        }
    }

    #[test]
    fn name_depends_on_attempt_and_outcome() {
        let digest = |attempt, outcome| {
            let plan = ReplayPlan::new(vec![event(1, attempt, outcome)]).unwrap();
            plan.range.digest
        };
        let first = digest(1, Event::Failed);
        assert_eq!(first, digest(1, Event::Failed));
        assert_ne!(first, digest(2, Event::Failed));
        assert_ne!(first, digest(1, Event::Replayed));
        assert_eq!(ReplayPlan::new(Vec::new()), None);
    }
}
