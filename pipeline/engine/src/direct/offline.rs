//! Replays of one corp while no pipeline runs. The lock of the state folder must be held.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use chatledger_crypto::KeyRing;
use chatledger_directory::Directory;
use chatledger_rules::RuleSet;
use chatledger_schemas::CorpId;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use super::StateError;
use super::open_request::{CorpTools, DeadLetterOpener};
use super::replay_sink::ReplaySink;
use super::replayer::Replayer;
use super::state::CorpState;
use crate::metrics::Metrics;
use crate::shared::Current;
use crate::sink::Sink;

/// One corp, without its archive.
pub struct Corp {
    /// The corp.
    pub corp_id: CorpId,
    /// Its keys.
    pub keys: Arc<Current<KeyRing>>,
    /// Its directory as it was last stored.
    pub directory: Arc<Current<Directory>>,
    /// The rules.
    pub rules: Arc<Current<RuleSet>>,
    /// Folder for its state.
    pub state_dir: PathBuf,
    /// The sinks.
    pub sinks: Vec<Sink>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Ends a replay that is under way.
    pub stop: CancellationToken,
}

/// Opens a corp's state as the pipeline does and returns what replays its dead letters.
///
/// # Errors
/// The state folder cannot be used.
pub fn replayer(corp: Corp) -> Result<Replayer, StateError> {
    let sinks: Vec<&'static str> = corp.sinks.iter().map(|sink| sink.name).collect();
    let state = CorpState::open(&corp.state_dir, &corp.corp_id, &sinks)?;
    let keys = Arc::clone(&corp.keys);
    let tools = CorpTools {
        corp_id: corp.corp_id.clone(),
        opener: keys,
        directory: corp.directory,
        rules: corp.rules,
    };
    let opener = Arc::new(DeadLetterOpener {
        tools: Arc::new(tools),
        replay_file: state.replay_file.clone(),
        dead_letters: state.dead_letters.clone(),
    });
    let shared = Arc::new(Mutex::new((state.known, state.ledger)));
    let submit = Box::new(move |request| {
        let (opener, shared) = (Arc::clone(&opener), Arc::clone(&shared));
        let work = move || {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (known, ledger) = &mut *shared;
            opener.answer(
                request,
                known,
                &mut |records| ledger.append_again(records),
                |_| {},
            );
        };
        async move { tokio::task::spawn_blocking(work).await.is_ok() }.boxed()
    });
    Ok(Replayer {
        corp_id: corp.corp_id,
        keys: corp.keys,
        dead_letters: state.dead_letters,
        folder: state.folder,
        replay_file: state.replay_file,
        submit,
        sinks: corp.sinks.iter().map(ReplaySink::new).collect(),
        metrics: corp.metrics,
        nothing_to_do_at: None,
        stop: corp.stop.clone(),
        abandon: corp.stop,
    })
}
