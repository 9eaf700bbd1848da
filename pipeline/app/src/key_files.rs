//! Adds new private keys while the program runs: reads the key files again on SIGHUP and when the
//! configuration file or a key file changes.
//!
//! Never removes or replaces a key that is in use, so that the records sealed for it stay readable.
//! If a file is wrong, no key is added, and the error is reported once.

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

/// Editors write a file in several steps. Wait until nothing has changed for this long.
const QUIET: Duration = Duration::from_millis(300);
/// Time between two reads without a notification, which network file systems may not send.
const REREAD_INTERVAL: Duration = Duration::from_secs(60);

/// The key rings in use, by corp.
pub type Rings = BTreeMap<CorpId, Arc<Current<KeyRing>>>;

/// Adds new keys until `stop` is cancelled. `file` is the configuration file.
pub async fn watch(file: PathBuf, rings: Rings, metrics: Arc<Metrics>, stop: CancellationToken) {
    let (wake, mut changes) = mpsc::channel(1);
    let mut watched = WatchedFolders::new(wake);
    watched.add(config_folder(&file));
    if let Ok(keys) = config::load_keys(&file) {
        watched.extend(keys.folders);
    }
    let mut hangup = signal(SignalKind::hangup()).ok();
    let mut reported = String::new();
    loop {
        let requested = tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.recv() => false,
            () = received(&mut hangup) => true,
            () = tokio::time::sleep(REREAD_INTERVAL) => false,
        };
        if !requested {
            while let Ok(Some(())) = tokio::time::timeout(QUIET, changes.recv()).await {}
        }
        let path = file.clone();
        let Ok(loaded) = tokio::task::spawn_blocking(move || config::load_keys(&path)).await else {
            continue;
        };
        match loaded {
            Ok(keys) => {
                reported.clear();
                watched.extend(keys.folders);
                add_new_keys(&rings, &keys.rings);
            }
            Err(problems) => {
                let problems = problems.to_string();
                if requested || problems != reported {
                    metrics.keys_reload_failed();
                    error!(error = %problems, "keys not reloaded; the keys in use are unchanged");
                }
                reported = problems;
            }
        }
    }
}

fn add_new_keys(rings: &Rings, loaded: &BTreeMap<CorpId, KeyRing>) {
    for (corp, ring) in rings {
        let Some(loaded) = loaded.get(corp) else {
            continue;
        };
        let joined = ring.get().merged_with(loaded);
        if !joined.differing.is_empty() {
            let versions = joined.differing;
            warn!(
                %corp,
                ?versions,
                "the key files of versions in use have changed; restart to use them"
            );
        }
        if !joined.added.is_empty() {
            ring.set(joined.ring);
            info!(%corp, versions = ?joined.added, "keys added");
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

/// Watches folders, not files: a file is usually replaced by another one of the same name.
struct WatchedFolders {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
}

impl WatchedFolders {
    fn new(wake: mpsc::Sender<()>) -> Self {
        let notify = move |event: notify::Result<Event>| {
            // Reading the files causes events too.
            let read_only =
                matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_)));
            if !read_only {
                // If a message is waiting already, one is enough.
                let _ = wake.try_send(());
            }
        };
        Self {
            watcher: notify::recommended_watcher(notify).ok(),
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
                seconds = REREAD_INTERVAL.as_secs(),
                "the folder of the keys cannot be watched; reading it at intervals and on SIGHUP"
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
    async fn new_keys_are_added_and_wrong_files_change_nothing() {
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
            // Watching begins some time after the task; write again until it is noticed.
            while !done() {
                assert!(tokio::time::Instant::now() < deadline, "timeout: {what}");
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
        // A version without its file: no key is added, not even the others.
        until("missing file", &config(&[1, 2]), &|| failed(1)).await;
        assert_eq!(ring.get().versions(), [1]);
        write(&key(2), &pem());
        until("second key", &config(&[1, 2]), &|| {
            ring.get().versions() == [1, 2]
        })
        .await;
        // A key that the configuration no longer names stays in use.
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
