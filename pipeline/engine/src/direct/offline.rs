//! Replays of one corp while no pipeline runs: whoever holds the state folder's lock may do them.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chatledger_crypto::KeyRing;
use chatledger_directory::Directory;
use chatledger_rules::RuleSet;
use chatledger_schemas::CorpId;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::StateError;
use super::dead_letter_store::DeadLetterStore;
use super::driver::WINDOW;
use super::journal::JournalFile;
use super::ledger::Ledger;
use super::replay::{ReplaySink, under_way};
use super::replayer::{Replayer, answer, lock};
use crate::metrics::Metrics;
use crate::shared::Current;
use crate::sink::Sink;
use crate::stages::Tools;
use crate::window::{MsgHash, Window};

/// One corp, without its archive.
pub struct Corp {
    /// The corp.
    pub corp_id: CorpId,
    /// Its keys.
    pub keys: Arc<Current<KeyRing>>,
    /// Who is who there, as far as it is remembered.
    pub directory: Arc<Current<Directory>>,
    /// What is looked for.
    pub rules: Arc<Current<RuleSet>>,
    /// Folder for its state.
    pub state_dir: PathBuf,
    /// The sinks.
    pub sinks: Vec<Sink>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Ends what is under way.
    pub stop: CancellationToken,
}

struct Knowledge {
    window: Window,
    behind: HashSet<MsgHash>,
}

/// Prepares replays as the pipeline would. The state folder's lock must be held.
///
/// # Errors
/// The state folder cannot be used.
pub fn replayer(corp: Corp) -> Result<Replayer, StateError> {
    let folder = corp.state_dir;
    std::fs::create_dir_all(&folder).map_err(StateError::io(&folder))?;
    let sinks: Vec<&str> = corp.sinks.iter().map(|sink| sink.name).collect();
    let journals = JournalFile::open_all(&folder, &sinks)?;
    let positions = journals.iter().map(|(_, _, at)| at.position);
    let start = positions.min().unwrap_or(0);
    let (_, mut recovered) =
        Ledger::open(&folder.join("ledger"), corp.corp_id.as_str(), start, WINDOW)?;
    let store = DeadLetterStore::open(&folder, start)?;
    for msg in store.index().replayed().chain(under_way(&folder)?) {
        recovered.window.opened(msg);
    }
    let store = Arc::new(Mutex::new(store));
    let knowledge = Arc::new(Mutex::new(Knowledge {
        window: recovered.window,
        behind: recovered.behind,
    }));
    let (opener, letters, place) = (Arc::clone(&corp.keys), Arc::clone(&store), folder.clone());
    let (directory, rules, corp_id) = (corp.directory, corp.rules, corp.corp_id.clone());
    let opening = Box::new(move |ask| {
        let (opener, letters, place) = (Arc::clone(&opener), Arc::clone(&letters), place.clone());
        let (directory, rules, corp_id) = (directory.get(), rules.get(), corp_id.clone());
        let knowledge = Arc::clone(&knowledge);
        let work = move || {
            let tools = Tools {
                corp_id: &corp_id,
                opener: &*opener,
                directory: &directory,
                rules: &rules,
            };
            let mut known = knowledge.lock().unwrap_or_else(PoisonError::into_inner);
            let Knowledge { window, behind } = &mut *known;
            answer(ask, &tools, &place, &lock(&letters), window, behind, |_| {});
        };
        async move { tokio::task::spawn_blocking(work).await.is_ok() }.boxed()
    });
    Ok(Replayer {
        corp_id: corp.corp_id,
        keys: corp.keys,
        store,
        folder,
        opening,
        replay_sinks: corp.sinks.iter().map(ReplaySink::new).collect(),
        metrics: corp.metrics,
        looked_at: None,
        stop: corp.stop.clone(),
        abandon: corp.stop,
    })
}
