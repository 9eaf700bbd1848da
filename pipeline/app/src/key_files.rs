//! The private keys while running: looked at again on SIGHUP and when the configuration file or a
//! key file changes; versions that are new join the ring.
//!
//! A key that is there is never dropped or replaced by this: what it has sealed stays readable. If
//! anything is wrong with the files, nothing is taken over, and it is reported once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chatledger_crypto::KeyRing;
use chatledger_engine::metrics::Metrics;
use chatledger_engine::shared::Current;
use chatledger_schemas::CorpId;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config;

/// Files are written in several steps; wait until they have been quiet for so long.
const QUIET: Duration = Duration::from_millis(300);
/// Watching can miss changes (network file systems); look again after so long anyway.
const AT_LEAST: Duration = Duration::from_secs(60);

/// The rings in use, by corp.
pub type Rings = BTreeMap<CorpId, Arc<Current<KeyRing>>>;

/// Takes keys over while running, until stopped. `file` is the configuration file.
pub async fn watch(file: PathBuf, rings: Rings, metrics: Arc<Metrics>, stop: CancellationToken) {
    let (tell, mut changes) = mpsc::channel(1);
    let mut watched = Watched::new(tell);
    watched.add(config_folder(&file));
    if let Ok(keys) = config::load_keys(&file) {
        watched.extend(keys.folders);
    }
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut refused = String::new();
    loop {
        let asked = tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.recv() => false,
            () = received(&mut hangup) => true,
            () = tokio::time::sleep(AT_LEAST) => false,
        };
        if !asked {
            while let Ok(Some(())) = tokio::time::timeout(QUIET, changes.recv()).await {}
        }
        let path = file.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || config::load_keys(&path)).await else {
            continue;
        };
        match loaded {
            Ok(keys) => {
                refused.clear();
                watched.extend(keys.folders);
                take_over(&rings, &keys.rings);
            }
            Err(problems) => {
                let problems = problems.to_string();
                if asked || problems != refused {
                    metrics.keys_reload_failed();
                    error!(error = %problems, "keys not taken over; those in use stay");
                }
                refused = problems;
            }
        }
    }
}

fn take_over(rings: &Rings, found: &BTreeMap<CorpId, KeyRing>) {
    for (corp, ring) in rings {
        let Some(found) = found.get(corp) else {
            continue;
        };
        let joined = ring.get().merged_with(found);
        if !joined.differing.is_empty() {
            let versions = joined.differing;
            warn!(%corp, ?versions, "another key for a version in use; it takes a restart");
        }
        if !joined.added.is_empty() {
            ring.set(joined.ring);
            info!(%corp, versions = ?joined.added, "keys taken over");
        }
    }
}

async fn received(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => {
            hangup.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn config_folder(file: &Path) -> PathBuf {
    let folder = file.parent().filter(|path| !path.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

/// Folders being watched: files are replaced by others of their name, which only a folder tells.
struct Watched {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
}

impl Watched {
    fn new(tell: mpsc::Sender<()>) -> Self {
        let told = move |event: notify::Result<Event>| {
            // Reading the files is no reason to read them again.
            let read_only =
                matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_)));
            if !read_only {
                // One message waiting is enough.
                let _ = tell.try_send(());
            }
        };
        Self {
            watcher: notify::recommended_watcher(told).ok(),
            folders: BTreeSet::new(),
        }
    }

    fn add(&mut self, folder: PathBuf) {
        if self.folders.contains(&folder) {
            return;
        }
        let watching = self
            .watcher
            .as_mut()
            .map(|watcher| watcher.watch(&folder, RecursiveMode::NonRecursive));
        if !matches!(watching, Some(Ok(()))) {
            warn!(
                folder = %folder.display(),
                seconds = AT_LEAST.as_secs(),
                "keys cannot be watched; looking at intervals, and on SIGHUP"
            );
        }
        self.folders.insert(folder);
    }

    fn extend(&mut self, folders: BTreeSet<PathBuf>) {
        for folder in folders {
            self.add(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem() -> String {
        use rsa::pkcs8::{EncodePrivateKey, LineEnding};
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
        key.to_pkcs8_pem(LineEnding::LF).unwrap().to_string()
    }

    fn write(path: &Path, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn config(versions: &[u32]) -> String {
        let keys = versions
            .iter()
            .map(|v| format!("[[corp.archive.key]]\nversion = {v}\nfile = \"keys/{v}.pem\"\n"));
        format!(
            "[[corp]]\nid = \"ww1\"\n[corp.archive]\nbase_url = \"http://127.0.0.1:1\"\n\
             secret_file = \"secret\"\n{}[sink.parquet]\nurl = \"file:parquet\"\n",
            keys.collect::<String>()
        )
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn new_versions_join_the_ring_and_broken_files_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chatledger.toml");
        std::fs::create_dir(folder.path().join("keys")).unwrap();
        let key = |version: u32| folder.path().join(format!("keys/{version}.pem"));
        write(&folder.path().join("secret"), "s3cret\n");
        write(&key(1), &pem());
        write(&file, &config(&[1]));
        let corp = CorpId::from("ww1");
        let first = config::load_keys(&file).unwrap().rings.remove(&corp);
        let ring = Arc::new(Current::new(first.unwrap()));
        let metrics = Arc::new(Metrics::new("test").unwrap());
        let stop = CancellationToken::new();
        let rings = Rings::from([(corp, Arc::clone(&ring))]);
        let (watched, seen) = (file.clone(), Arc::clone(&metrics));
        let task = tokio::spawn(watch(watched, rings, seen, stop.clone()));
        let until = async |what: &str, text: &str, done: &dyn Fn() -> bool| {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
            // The watch begins some time after the task; write again until it is seen.
            while !done() {
                assert!(tokio::time::Instant::now() < deadline, "never: {what}");
                write(&file, text);
                tokio::time::timeout(Duration::from_millis(500), std::future::pending::<()>())
                    .await
                    .unwrap_err();
            }
        };
        let failed = |least: u32| {
            let text = metrics.render().unwrap();
            let mut lines = text.lines();
            let value = lines.find_map(|l| l.strip_prefix("chatledger_keys_reload_errors_total "));
            value.unwrap().parse::<u32>().unwrap() >= least
        };
        // A version without its file: nothing is taken over, also not the others.
        until("missing file", &config(&[1, 2]), &|| failed(1)).await;
        assert_eq!(ring.get().versions(), [1]);
        write(&key(2), &pem());
        until("second key", &config(&[1, 2]), &|| {
            ring.get().versions() == [1, 2]
        })
        .await;
        // One that is no longer named stays.
        write(&key(3), &pem());
        until("third key", &config(&[3]), &|| {
            ring.get().versions() == [1, 2, 3]
        })
        .await;
        until("broken file", "[[corp", &|| failed(2)).await;
        assert_eq!(ring.get().versions(), [1, 2, 3]);
        stop.cancel();
        task.await.unwrap();
    }
}
