//! Keeps the directory of one corp fresh: reads it, publishes it to the stages, stores it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chatledger_directory::{Directory, changes, merge};
use chatledger_schemas::CorpId;
use chatledger_schemas::directory::Snapshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::direct::write_whole;
use crate::fault::{Fault, retry};
use crate::ports::{DirectorySink, DirectorySource};
use crate::shared::{Current, Progress, WantedRooms};

/// Everything one sync loop needs.
pub struct DirectorySync {
    /// The corp.
    pub corp_id: CorpId,
    /// Where the directory is read.
    pub source: Arc<dyn DirectorySource>,
    /// Where its rows go; each is requester until it has them.
    pub sinks: Vec<Arc<dyn DirectorySink>>,
    /// What the stages read.
    pub current: Arc<Current<Directory>>,
    /// Rooms that messages name and nobody knows.
    pub wanted: Arc<WantedRooms>,
    /// Time between two syncs.
    pub interval: Duration,
    /// The last snapshot known, so that what has gone is known as gone.
    pub last: Snapshot,
    /// Where the last snapshot is remembered, if the sinks cannot give it back.
    pub file: Option<PathBuf>,
    /// Told of each sync.
    pub progress: Arc<Progress>,
}

impl DirectorySync {
    /// Runs until stopped. `first` turns true after the first sync has been published to the
    /// stages. On the way out, rooms that messages have named meanwhile are requester for once more.
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
            self.progress.directory(latest.taken_at);
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
            self.last_words(latest, &stored).await;
        }
    }

    async fn read(&self, latest: &Snapshot, stop: &CancellationToken) -> Option<Snapshot> {
        let report = |fault: &Fault, pause: Duration| {
            let class = fault.class.as_str();
            warn!(corp = %self.corp_id, class, error = %fault, ?pause, "directory cannot be read");
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
                warn!(corp = %self.corp_id, class, error = %fault, ?pause, "directory not stored");
            };
            let attempt = || sink.store(&self.corp_id, latest.taken_at, &rows);
            if retry(stop, report, attempt).await.is_none() {
                return false;
            }
        }
        if let Some(file) = &self.file {
            let written = serde_json::to_vec(latest)
                .map_err(std::io::Error::from)
                .and_then(|text| write_whole(file, &text));
            if let Err(error) = written {
                warn!(corp = %self.corp_id, %error, "the directory cannot be remembered");
            }
        }
        true
    }

    async fn last_words(&self, latest: Snapshot, stored: &Snapshot) {
        const BOUND: Duration = Duration::from_secs(20);
        let stop = CancellationToken::new();
        let attempt = async {
            if let Some(fresh) = self.read(&latest, &stop).await {
                self.store(stored, &fresh, &stop).await;
            }
        };
        if tokio::time::timeout(BOUND, attempt).await.is_err() {
            warn!(corp = %self.corp_id, "rooms named by the last messages stay unresolved for now");
        }
    }
}

/// The snapshot remembered in a file; an empty one if there is none or it cannot be read, because
/// the next sync makes it good.
pub fn remembered(file: &Path, corp_id: &CorpId) -> Snapshot {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                warn!(corp = %corp_id, %error, "the remembered directory cannot be read");
            }
            return Snapshot::empty(corp_id.clone());
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        let (line, column) = (error.line(), error.column());
        warn!(corp = %corp_id, line, column, "the remembered directory is of another form");
        Snapshot::empty(corp_id.clone())
    })
}

/// Waits for the first directory, at most `bound`; without it names stay empty.
pub async fn await_first(mut first: watch::Receiver<bool>, bound: Duration) -> bool {
    let arrived = first.wait_for(|arrived| *arrived);
    tokio::time::timeout(bound, arrived)
        .await
        .is_ok_and(|arrived| arrived.is_ok())
}
