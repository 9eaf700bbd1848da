//! Keeps the directory of one corp current: reads it, publishes it to the stages, stores it.
//!
//! The last snapshot stays in use for as long as the directory cannot be read.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chatledger_directory::{Directory, changes, merge};
use chatledger_schemas::CorpId;
use chatledger_schemas::directory::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clock::ClockReading;
use crate::direct::{FormVersion, StateFile};
use crate::fault::{Fault, error_chain, retry};
use crate::ports::{DirectorySink, DirectorySource};
use crate::shared::{Current, Progress, WantedRooms};

/// Everything one sync loop needs.
pub struct DirectorySync {
    /// The corp.
    pub corp_id: CorpId,
    /// Where the directory is read from.
    pub source: Arc<dyn DirectorySource>,
    /// Where its rows go. Each is retried until it has them.
    pub sinks: Vec<Arc<dyn DirectorySink>>,
    /// What the stages read.
    pub current: Arc<Current<Directory>>,
    /// Rooms that messages name and the directory does not know.
    pub wanted: Arc<WantedRooms>,
    /// Time between two syncs.
    pub interval: Duration,
    /// The last known snapshot, so that what is missing from the next one is recorded as gone.
    pub last: Snapshot,
    /// Where the last snapshot is kept, if the sinks cannot return it.
    pub file: Option<PathBuf>,
    /// Receives the time of each sync.
    pub progress: Arc<Progress>,
}

impl DirectorySync {
    /// Runs until stopped. `first` turns true after the first sync has been published to the stages.
    /// Before it ends, it looks up the rooms that messages have named since the last sync.
    pub async fn run(self, first: watch::Sender<bool>, stop: CancellationToken) {
        let mut latest = self.last.clone();
        if latest.taken_at > 0 {
            self.current.set(Directory::new(latest.clone()));
        }
        let mut stored = Snapshot::empty(self.corp_id.clone());
        loop {
            let Some(fresh) = self.read(&latest, &stop).await else {
                break;
            };
            latest = fresh;
            self.current.set(Directory::new(latest.clone()));
            self.progress.directory(ClockReading::now());
            first.send_replace(true);
            if self.store(&stored, &latest, &stop).await {
                stored = latest.clone();
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(self.interval) => {}
            }
        }
        if *first.borrow() && !self.wanted.is_empty() {
            self.sync_last_rooms(latest, &stored).await;
        }
    }

    async fn read(&self, latest: &Snapshot, stop: &CancellationToken) -> Option<Snapshot> {
        let report = |fault: &Fault, pause: Duration| {
            let class = fault.class.as_str();
            warn!(corp = %self.corp_id, class, error = %fault, ?pause, "cannot read the directory; retrying");
        };
        let wanted = self.wanted.list();
        let attempt = || self.source.sync(&wanted, &latest.rooms);
        let fresh = tokio::select! {
            fresh = retry(stop, report, attempt) => fresh?,
            () = stop.cancelled() => return None,
        };
        self.wanted.remove(&wanted);
        info!(
            corp = %self.corp_id,
            departments = fresh.departments.len(),
            members = fresh.members.len(),
            customers = fresh.customers.len(),
            rooms = fresh.rooms.len(),
            "directory read"
        );
        Some(merge(latest, fresh))
    }

    async fn store(&self, stored: &Snapshot, latest: &Snapshot, stop: &CancellationToken) -> bool {
        let rows = changes(stored, latest);
        for sink in &self.sinks {
            let report = |fault: &Fault, pause: Duration| {
                let class = fault.class.as_str();
                warn!(corp = %self.corp_id, class, error = %fault, ?pause, "cannot store the directory; retrying");
            };
            let attempt = || sink.store(&self.corp_id, latest.taken_at, &rows);
            if retry(stop, report, attempt).await.is_none() {
                return false;
            }
        }
        if let Some(file) = &self.file
            && let Err(error) = snapshot_file(file).write(latest)
        {
            let error = error_chain(&error);
            warn!(corp = %self.corp_id, error, "cannot keep the directory in the state folder");
        }
        true
    }

    async fn sync_last_rooms(&self, latest: Snapshot, stored: &Snapshot) {
        const BOUND: Duration = Duration::from_secs(20);
        let stop = CancellationToken::new();
        let attempt = async {
            if let Some(fresh) = self.read(&latest, &stop).await {
                self.store(stored, &fresh, &stop).await;
            }
        };
        if tokio::time::timeout(BOUND, attempt).await.is_err() {
            warn!(corp = %self.corp_id, "rooms named by the last messages are not resolved yet");
        }
    }
}

/// `directory.json`; files of release 0.1 have no version.
fn snapshot_file(file: &Path) -> StateFile<Snapshot> {
    StateFile::new(file.to_owned(), FormVersion::Optional(1))
}

/// Reads the snapshot kept in a file. Returns an empty one if there is none or it cannot be read; the
/// next sync replaces it.
pub fn remembered(file: &Path, corp_id: &CorpId) -> Snapshot {
    let empty = || Snapshot::empty(corp_id.clone());
    match snapshot_file(file).read() {
        Ok(snapshot) => snapshot.unwrap_or_else(empty),
        Err(error) => {
            let error = error_chain(&error);
            warn!(corp = %corp_id, error, "cannot use the directory kept in the state folder");
            empty()
        }
    }
}

/// Waits for the first directory, at most `bound`; false if it has not come. Names stay empty without
/// it.
pub async fn await_first(mut first: watch::Receiver<bool>, bound: Duration) -> bool {
    let arrived = first.wait_for(|arrived| *arrived);
    tokio::time::timeout(bound, arrived)
        .await
        .is_ok_and(|arrived| arrived.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_of_an_earlier_release_is_read_and_a_damaged_one_is_replaced_by_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("directory.json");
        let corp_id = CorpId::from("ww1");
        assert_eq!(remembered(&file, &corp_id).taken_at, 0);
        let text = r#"{"corp_id":"ww1","taken_at":1700000000123,"departments":[],"members":[],"customers":[],"follows":[],"rooms":[],"room_members":[],"consents":[]}"#;
        std::fs::write(&file, text).unwrap();
        let snapshot = remembered(&file, &corp_id);
        assert_eq!(snapshot.taken_at, 1_700_000_000_123);
        snapshot_file(&file).write(&snapshot).unwrap();
        assert_eq!(remembered(&file, &corp_id), snapshot);
        std::fs::write(&file, &text[..80]).unwrap();
        assert_eq!(remembered(&file, &corp_id), Snapshot::empty(corp_id));
    }
}
