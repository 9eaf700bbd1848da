//! A lane's checkpoint in a file.

use std::path::{Path, PathBuf};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{StateError, write_whole};
use crate::fault::Fault;
use crate::lane::Checkpoint;
use crate::ports::Journal;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    #[serde(flatten)]
    checkpoint: Checkpoint,
}

/// `state_dir/<corp>/<sink>.json`, replaced as a whole and synced at every save.
#[derive(Debug)]
pub struct JournalFile {
    path: PathBuf,
}

impl JournalFile {
    /// Opens a journal; one that is not there yet says that nothing is in the sink.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn open(folder: &Path, sink: &str) -> Result<(Self, Checkpoint), StateError> {
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
                form.checkpoint
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Checkpoint::default(),
            Err(error) => return Err(StateError::io(&path)(error)),
        };
        Ok((Self { path }, checkpoint))
    }
}

impl Journal for JournalFile {
    fn save(&mut self, checkpoint: Checkpoint) -> BoxFuture<'_, Result<(), Fault>> {
        let path = self.path.clone();
        async move {
            tokio::task::spawn_blocking(move || {
                let text = serde_json::to_vec(&Form {
                    version: VERSION,
                    checkpoint,
                })
                .map_err(Fault::local)?;
                write_whole(&path, &text)
                    .map_err(|error| Fault::local(StateError::io(&path)(error)))
            })
            .await
            .map_err(Fault::local)?
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Extent;

    #[tokio::test]
    async fn journal_gives_back_what_was_saved_last() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, first) = JournalFile::open(folder.path(), "clickhouse").unwrap();
        assert_eq!(first, Checkpoint::default());
        let saved = Checkpoint {
            position: u64::MAX,
            cut: Some(Extent::of(u64::MAX, "m")),
        };
        journal.save(saved).await.unwrap();
        assert_eq!(
            JournalFile::open(folder.path(), "clickhouse").unwrap().1,
            saved
        );
    }

    #[test]
    fn journal_of_another_form_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["{", r#"{"version":2,"position":1,"cut":null}"#, "{}"] {
            std::fs::write(folder.path().join("x.json"), text).unwrap();
            let error = JournalFile::open(folder.path(), "x").unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{text}");
        }
    }
}
