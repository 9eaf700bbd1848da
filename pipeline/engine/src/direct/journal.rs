//! A lane's checkpoint in a file.

use std::path::{Path, PathBuf};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{StateError, write_whole};
use crate::fault::Fault;
use crate::lane::LaneCheckpoint;
use crate::ports::Journal;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    #[serde(flatten)]
    checkpoint: LaneCheckpoint,
}

/// `state_dir/<corp>/<sink>.json`, replaced as a whole and synced at every save.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
}

impl JournalFile {
    /// Opens the journals of a corp's sinks. The first time all of them are created before any
    /// record is pulled; one that is missing later means that a sink has been added or a file has
    /// been lost, and only a person can tell where that sink stands.
    ///
    /// # Errors
    /// A file cannot be read, holds something else, or is missing beside others.
    pub fn open_all<'a>(
        folder: &Path,
        sinks: &[&'a str],
    ) -> Result<Vec<(&'a str, Self, LaneCheckpoint)>, StateError> {
        let mut found = Vec::new();
        for sink in sinks {
            let (journal, checkpoint) = Self::open(folder, sink)?;
            found.push((*sink, journal, checkpoint));
        }
        let begun = found
            .iter()
            .find(|(_, _, at)| at.is_some_and(|at| at != LaneCheckpoint::default()));
        let missing = found.iter().find(|(_, _, at)| at.is_none());
        if let (Some((other, _, _)), Some((sink, journal, _))) = (begun, missing) {
            return Err(StateError::Unplaced {
                path: journal.path.clone(),
                sink: (*sink).to_owned(),
                other: (*other).to_owned(),
            });
        }
        let mut opened = Vec::new();
        for (sink, journal, checkpoint) in found {
            if checkpoint.is_none() {
                journal.write(LaneCheckpoint::default())?;
            }
            opened.push((sink, journal, checkpoint.unwrap_or_default()));
        }
        Ok(opened)
    }

    /// Reads where a sink stands, without holding anything; `None` if it has no position.
    ///
    /// # Errors
    /// The file cannot be read or holds something else.
    pub fn read(folder: &Path, sink: &str) -> Result<Option<LaneCheckpoint>, StateError> {
        Ok(Self::open(folder, sink)?.1)
    }

    fn write(&self, checkpoint: LaneCheckpoint) -> Result<(), StateError> {
        let text = serde_json::to_vec(&Form {
            version: VERSION,
            checkpoint,
        })
        .map_err(|error| StateError::damaged(&self.path, error.to_string()))?;
        write_whole(&self.path, &text).map_err(StateError::io(&self.path))
    }

    /// One journal; `None` if it is not there.
    fn open(folder: &Path, sink: &str) -> Result<(Self, Option<LaneCheckpoint>), StateError> {
        let path = folder.join(format!("{sink}.json"));
        let checkpoint = match std::fs::read(&path) {
            Ok(text) => {
                let form: Form = serde_json::from_slice(&text)
                    .map_err(|error| StateError::damaged(&path, error.to_string()))?;
                if form.version != VERSION {
                    return Err(StateError::damaged(
                        &path,
                        format!("version {}", form.version),
                    ));
                }
                Some(form.checkpoint)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(StateError::io(&path)(error)),
        };
        Ok((Self { path }, checkpoint))
    }
}

impl Journal for JournalFile {
    fn save(&mut self, checkpoint: LaneCheckpoint) -> BoxFuture<'_, Result<(), Fault>> {
        let journal = Self {
            path: self.path.clone(),
        };
        async move {
            tokio::task::spawn_blocking(move || journal.write(checkpoint).map_err(Fault::local))
                .await
                .map_err(Fault::local)?
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchRange;

    fn open(folder: &Path) -> Result<Vec<LaneCheckpoint>, StateError> {
        let opened = JournalFile::open_all(folder, &["clickhouse", "parquet"])?;
        Ok(opened.into_iter().map(|(_, _, at)| at).collect())
    }

    #[tokio::test]
    async fn journal_gives_back_what_was_saved_last() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(open(folder.path()).unwrap(), [LaneCheckpoint::default(); 2]);
        let saved = LaneCheckpoint {
            position: u64::MAX,
            pending: Some(BatchRange::of(u64::MAX, "m")),
        };
        let mut all = JournalFile::open_all(folder.path(), &["clickhouse", "parquet"]).unwrap();
        all[1].1.save(saved).await.unwrap();
        assert_eq!(
            open(folder.path()).unwrap(),
            [LaneCheckpoint::default(), saved]
        );
    }

    #[tokio::test]
    async fn sink_without_a_position_beside_one_with_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let parquet = folder.path().join("parquet.json");
        open(folder.path()).unwrap();
        std::fs::remove_file(&parquet).unwrap();
        assert!(
            open(folder.path()).is_ok(),
            "nothing had been delivered anywhere"
        );
        let mut all = JournalFile::open_all(folder.path(), &["clickhouse", "parquet"]).unwrap();
        all[0]
            .1
            .save(LaneCheckpoint {
                position: 7,
                pending: None,
            })
            .await
            .unwrap();
        std::fs::remove_file(&parquet).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(matches!(error, StateError::Unplaced { .. }), "{error}");
    }

    #[test]
    fn journal_of_another_form_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["{", r#"{"version":2,"position":1,"cut":null}"#, "{}"] {
            std::fs::write(folder.path().join("parquet.json"), text).unwrap();
            let error = open(folder.path()).unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{text}");
        }
    }
}
