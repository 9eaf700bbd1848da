//! A lane's checkpoint survives a crash at any moment: each save replaces the file as a whole and
//! syncs it.

use std::path::Path;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::StateError;
use super::state_file::{FormVersion, StateFile};
use crate::fault::Fault;
use crate::lane::LaneCheckpoint;
use crate::ports::Journal;

const VERSION: FormVersion = FormVersion::Required(1);

/// `state_dir/<corp>/<sink>.json`.
#[derive(Debug)]
pub struct JournalFile(StateFile<LaneCheckpoint>);

/// A sink's journal and the checkpoint in it.
#[derive(Debug)]
pub struct OpenedJournal {
    /// The sink.
    pub sink: &'static str,
    /// Its journal.
    pub journal: JournalFile,
    /// What the journal holds.
    pub checkpoint: LaneCheckpoint,
}

impl JournalFile {
    fn new(folder: &Path, sink: &str) -> Self {
        let path = folder.join(format!("{sink}.json"));
        Self(StateFile::new(path, VERSION))
    }

    /// Opens the journals of a corp's sinks.
    ///
    /// The first start creates all of them before any record is pulled. One that is missing later
    /// means that a sink was added or a file was lost. Only a person knows which, and where that
    /// sink continues.
    ///
    /// # Errors
    /// A file cannot be read, is of another form, or is missing while another sink has a position.
    pub fn open_all(
        folder: &Path,
        sinks: &[&'static str],
    ) -> Result<Vec<OpenedJournal>, StateError> {
        let mut found = Vec::new();
        for sink in sinks {
            let journal = Self::new(folder, sink);
            let checkpoint = journal.0.read()?;
            found.push((*sink, journal, checkpoint));
        }
        let started = found.iter().find(|(_, _, checkpoint)| {
            checkpoint.is_some_and(|checkpoint| checkpoint != LaneCheckpoint::default())
        });
        let missing = found.iter().find(|(_, _, checkpoint)| checkpoint.is_none());
        if let (Some((other, _, _)), Some((sink, journal, _))) = (started, missing) {
            return Err(StateError::NoPosition {
                path: journal.0.path().to_owned(),
                sink: (*sink).to_owned(),
                other: (*other).to_owned(),
            });
        }
        let mut opened = Vec::new();
        for (sink, journal, checkpoint) in found {
            if checkpoint.is_none() {
                journal.0.write(&LaneCheckpoint::default())?;
            }
            opened.push(OpenedJournal {
                sink,
                journal,
                checkpoint: checkpoint.unwrap_or_default(),
            });
        }
        Ok(opened)
    }

    /// Reads a sink's checkpoint without changing anything; `None` if it has none.
    ///
    /// # Errors
    /// The file cannot be read or is of another form.
    pub fn read(folder: &Path, sink: &str) -> Result<Option<LaneCheckpoint>, StateError> {
        Self::new(folder, sink).0.read()
    }
}

impl Journal for JournalFile {
    fn save(&mut self, checkpoint: LaneCheckpoint) -> BoxFuture<'_, Result<(), Fault>> {
        let file = self.0.clone();
        async move {
            let written = tokio::task::spawn_blocking(move || file.write(&checkpoint)).await;
            written.map_err(Fault::local)?.map_err(Fault::local)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchRange;

    fn open(folder: &Path) -> Result<Vec<LaneCheckpoint>, StateError> {
        let opened = JournalFile::open_all(folder, &["table", "files"])?;
        Ok(opened.into_iter().map(|opened| opened.checkpoint).collect())
    }

    async fn save(folder: &Path, sink: usize, checkpoint: LaneCheckpoint) {
        let mut all = JournalFile::open_all(folder, &["table", "files"]).unwrap();
        all[sink].journal.save(checkpoint).await.unwrap();
    }

    #[tokio::test]
    async fn journal_returns_what_was_saved_last() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(open(folder.path()).unwrap(), [LaneCheckpoint::default(); 2]);
        let saved = LaneCheckpoint {
            position: u64::MAX,
            pending: Some(BatchRange::of(u64::MAX, "m")),
        };
        save(folder.path(), 1, saved).await;
        assert_eq!(
            open(folder.path()).unwrap(),
            [LaneCheckpoint::default(), saved]
        );
    }

    #[tokio::test]
    async fn journal_of_an_earlier_release_is_read_and_written_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let pending = r#"{"version":1,"position":9,"cut":{"first":10,"last":14,"records":5,"digest":18446744073709551615}}"#;
        let plain = r#"{"version":1,"position":14,"cut":null}"#;
        std::fs::write(folder.path().join("table.json"), pending).unwrap();
        std::fs::write(folder.path().join("files.json"), plain).unwrap();
        let range = BatchRange {
            first: 10,
            last: 14,
            records: 5,
            digest: u64::MAX,
            content: None,
            layout: None,
        };
        let expected = [
            LaneCheckpoint {
                position: 9,
                pending: Some(range),
            },
            LaneCheckpoint::at(14),
        ];
        assert_eq!(open(folder.path()).unwrap(), expected);
        for (sink, checkpoint) in expected.into_iter().enumerate() {
            save(folder.path(), sink, checkpoint).await;
        }
        for (sink, text) in [("table", pending), ("files", plain)] {
            let path = folder.path().join(format!("{sink}.json"));
            assert_eq!(std::fs::read_to_string(path).unwrap(), text);
        }
    }

    #[tokio::test]
    async fn sink_without_a_position_is_refused_if_another_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let files = folder.path().join("files.json");
        open(folder.path()).unwrap();
        std::fs::remove_file(&files).unwrap();
        assert!(
            open(folder.path()).is_ok(),
            "nothing was delivered anywhere yet"
        );
        save(folder.path(), 0, LaneCheckpoint::at(7)).await;
        std::fs::remove_file(&files).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(matches!(error, StateError::NoPosition { .. }), "{error}");
    }

    #[test]
    fn journal_of_another_form_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["{", r#"{"version":2,"position":1,"cut":null}"#, "{}"] {
            std::fs::write(folder.path().join("files.json"), text).unwrap();
            let error = open(folder.path()).unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{text}");
        }
    }
}
