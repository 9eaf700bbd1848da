//! Remembers when the archive answered last, so that a start can tell a quiet company from one whose
//! messages were not read in time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::StateError;
use super::state_file::{FormVersion, StateFile};
use crate::clock::{ClockReading, LastAnswer};
use crate::fault::error_chain;
use crate::shared::Progress;

/// Files of release 0.1 have no version.
const VERSION: FormVersion = FormVersion::Optional(1);
/// Time between two writes. After a crash the file is older than the last answer by at most this.
const WRITE_INTERVAL: Duration = Duration::from_secs(60);

/// `state_dir/<corp>/contact.json`.
#[derive(Debug, Clone)]
pub(super) struct ContactFile(StateFile<LastAnswer>);

impl ContactFile {
    /// The file in a corp's folder.
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self(StateFile::new(folder.join("contact.json"), VERSION))
    }

    /// Returns when the archive answered last; `None` if there is no file.
    ///
    /// # Errors
    /// The file cannot be read or is of another form.
    pub(super) fn read(&self) -> Result<Option<LastAnswer>, StateError> {
        self.0.read()
    }

    /// Stores when the archive answered last.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&self, answer: &LastAnswer) -> Result<(), StateError> {
        self.0.write(answer)
    }

    /// Runs `reading` to its end and keeps the file current meanwhile, and once more after it.
    pub(super) async fn keep_current<T>(
        &self,
        progress: Arc<Progress>,
        reading: impl Future<Output = T>,
    ) -> T {
        let mut written = None;
        let mut reading = std::pin::pin!(reading);
        loop {
            let ended = tokio::select! {
                ended = &mut reading => Some(ended),
                () = tokio::time::sleep(WRITE_INTERVAL) => None,
            };
            if let Some(at) = progress.last_answer().filter(|at| written != Some(*at))
                && self.write_off_thread(at).await
            {
                written = Some(at);
            }
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    /// Writes without blocking an async thread; false if that failed, which is logged.
    async fn write_off_thread(&self, at: ClockReading) -> bool {
        let (file, answer) = (self.clone(), LastAnswer::at(at));
        let error = match tokio::task::spawn_blocking(move || file.write(&answer)).await {
            Ok(Ok(())) => return true,
            Ok(Err(error)) => error_chain(&error),
            Err(error) => error_chain(&error),
        };
        warn!(error, "cannot store the time of the archive's last answer");
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contact_file_of_an_earlier_release_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = ContactFile::in_folder(folder.path());
        assert_eq!(file.read().unwrap(), None);
        let path = folder.path().join("contact.json");
        std::fs::write(&path, r#"{"answered_at":1700000000123}"#).unwrap();
        let earlier = LastAnswer::at_time_of_day(1_700_000_000_123);
        assert_eq!(file.read().unwrap(), Some(earlier));
        let now = LastAnswer::at(ClockReading::now());
        file.write(&now).unwrap();
        assert_eq!(file.read().unwrap(), Some(now));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(r#"{"version":1,"answered_at":"#), "{text}");
    }
}
