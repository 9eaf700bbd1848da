//! When the archive answered last, in a file: what tells a quiet company from one whose messages
//! were not fetched in time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::ledger::Ledger;
use super::{StateError, write_whole};
use crate::pull::{BehindWindow, within_window};
use crate::shared::{Progress, now_ms};

/// Time between two writes; a crash makes the file so much older than the truth at most.
const EVERY: Duration = Duration::from_secs(60);

#[derive(Serialize, Deserialize)]
struct Form {
    /// Milliseconds since the epoch, UTC.
    answered_at: i64,
}

/// `state_dir/<corp>/contact.json`.
#[derive(Debug, Clone)]
pub struct Contact(PathBuf);

impl Contact {
    /// The file in a corp's folder.
    pub fn in_folder(folder: &Path) -> Self {
        Self(folder.join("contact.json"))
    }

    /// When the archive answered last, milliseconds since the epoch, UTC; `None` if there is no
    /// file.
    ///
    /// # Errors
    /// The file cannot be read or holds something else.
    pub fn read(&self) -> Result<Option<i64>, StateError> {
        let text = match std::fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::io(&self.0)(error)),
        };
        let form: Form = serde_json::from_slice(&text)
            .map_err(|error| StateError::damaged(&self.0, error.to_string()))?;
        Ok(Some(form.answered_at))
    }

    /// Writes it down.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, answered_at: i64) -> Result<(), StateError> {
        let text = serde_json::to_vec(&Form { answered_at })
            .map_err(|error| StateError::damaged(&self.0, error.to_string()))?;
        write_whole(&self.0, &text).map_err(StateError::io(&self.0))
    }

    /// Looks whether the archive may have dropped records since it answered last. A gap that is
    /// accepted is written into the ledger; one that is not is given back.
    ///
    /// # Errors
    /// The ledger or the file cannot be written.
    pub(super) fn close_gap(
        &self,
        ledger: &mut Ledger,
        position: u64,
        answered: Option<i64>,
        accept: bool,
    ) -> Result<Option<BehindWindow>, StateError> {
        let Err(behind) = within_window(position.max(ledger.len()), answered, now_ms()) else {
            return Ok(None);
        };
        if !accept {
            return Ok(Some(behind));
        }
        warn!(since = behind.silent_since, "a gap is accepted and noted");
        ledger.append_gap(behind.silent_since, behind.now)?;
        self.write(behind.now)?;
        Ok(None)
    }

    /// Keeps the file fresh for as long as `reading` goes on, and once more after it.
    pub(super) async fn beside<T>(
        &self,
        progress: Arc<Progress>,
        reading: impl Future<Output = T>,
    ) -> T {
        let mut written = None;
        let mut reading = std::pin::pin!(reading);
        loop {
            let ended = tokio::select! {
                ended = &mut reading => Some(ended),
                () = tokio::time::sleep(EVERY) => None,
            };
            if let Some(at) = progress.last_answer().filter(|at| written != Some(*at)) {
                let file = self.clone();
                let kept = tokio::task::spawn_blocking(move || file.write(at)).await;
                match kept {
                    Ok(Ok(())) => written = Some(at),
                    Ok(Err(error)) => warn!(%error, "the time of the last answer cannot be kept"),
                    Err(error) => warn!(%error, "the time of the last answer cannot be kept"),
                }
            }
            if let Some(ended) = ended {
                return ended;
            }
        }
    }
}
