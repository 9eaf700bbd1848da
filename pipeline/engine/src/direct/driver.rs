//! Runs one corp in one process: a puller, a processor, a replayer and a task for each lane, joined by
//! bounded queues.
//!
//! Queues close from the source on, so tasks end in that order. After a failure the others are
//! stopped where they are, as if the process had died there; the next start continues from the files.

use std::sync::Arc;

use chatledger_crypto::Opener;
use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::lane_task::LaneTask;
use super::open_request::CorpTools;
use super::processor::{Counters, Processor, Queues};
use super::pull_task::PullTask;
use super::replay_sink::ReplaySink;
use super::replayer::Replayer;
pub use super::setup::{Context, CorpSetup, DriverError};
use super::state::{CorpState, GapCheck};

/// Pages between the puller and the processor.
const PAGES: usize = 2;
/// Batches between the processor and a lane.
const BATCHES: usize = 4;

/// Runs one corp until it is stopped, drained or fails.
///
/// # Errors
/// See [`DriverError`]. The next start delivers what the sinks have not acknowledged.
pub async fn run(corp: CorpSetup, context: Context) -> Result<(), DriverError> {
    let keys = Arc::clone(&corp.keys);
    run_with(corp, keys, context).await
}

/// [`run`] with another opener than the corp's keys.
pub(super) async fn run_with(
    corp: CorpSetup,
    opener: Arc<dyn Opener>,
    mut context: Context,
) -> Result<(), DriverError> {
    // This corp can be stopped alone.
    context.stop = context.stop.child_token();
    let stop = context.stop.clone();
    let corp_id = corp.corp_id;
    let sinks: Vec<&'static str> = corp.sinks.iter().map(|sink| sink.name).collect();
    let mut state = CorpState::open(&corp.state_dir, &corp_id, &sinks)?;
    let silent = match state.check_gap(context.accept_gap.covers(&corp_id))? {
        GapCheck::Passed { silent } => silent,
        GapCheck::Refused(source) => {
            return Err(DriverError::ArchiveGap {
                corp: corp_id,
                source,
            });
        }
    };
    let open = state.dead_letters.lock().index().open().len();
    context.metrics.dead_letters_open(corp_id.as_str(), open);
    info!(corp = %corp_id, position = state.start, ledger = state.ledger.len(), "corp started");

    let mut tasks = JoinSet::new();
    let mut lanes = Vec::new();
    for (sink, opened) in corp.sinks.iter().zip(std::mem::take(&mut state.journals)) {
        let (lane, queue) = mpsc::channel(BATCHES);
        lanes.push(lane);
        let progress = Arc::clone(&corp.puller.progress);
        let task = LaneTask::new(sink, &corp_id, opened, queue, progress, &context);
        tasks.spawn(task.run());
    }
    let (requests, request_queue) = mpsc::channel(1);
    let replayer = Replayer {
        corp_id: corp_id.clone(),
        keys: corp.keys,
        dead_letters: state.dead_letters.clone(),
        folder: state.folder.clone(),
        replay_file: state.replay_file.clone(),
        submit: Box::new(move |request| {
            let requests = requests.clone();
            async move { requests.send(request).await.is_ok() }.boxed()
        }),
        sinks: corp.sinks.iter().map(ReplaySink::new).collect(),
        metrics: Arc::clone(&context.metrics),
        nothing_to_do_at: None,
        stop: context.stop.clone(),
        abandon: context.abandon.clone(),
    };
    let pulling_ended = CancellationToken::new();
    let replays = replayer.run(pulling_ended.clone(), context.drain);
    tasks.spawn(async move { Ok(replays.await?) });

    let (pages, page_queue) = mpsc::channel(PAGES);
    let pull = PullTask {
        puller: corp.puller,
        start: state.start,
        silent,
        contact: state.contact.clone(),
        pages,
        context: context.clone(),
    };
    tasks.spawn(pull.run());

    // The processor cannot be aborted. Its waits end at the latest when this guard is dropped.
    let abandon = context.abandon.child_token();
    let _ends_waits = abandon.clone().drop_guard();
    let tools = CorpTools {
        corp_id,
        opener,
        directory: corp.directory,
        rules: corp.rules,
    };
    let counters = Counters {
        metrics: context.metrics,
        totals: context.totals,
        wanted: corp.wanted,
    };
    let processor = Processor::new(state, Arc::new(tools), counters, abandon.clone());
    let queues = Queues {
        pages: page_queue,
        requests: request_queue,
        lanes,
        pulling: pulling_ended.drop_guard(),
    };
    let runtime = Handle::current();
    tasks.spawn_blocking(move || {
        processor.run(queues, &runtime);
        Ok(())
    });
    join(tasks, &stop, &abandon).await
}

/// Joins the tasks. If the archive cannot be read any further, the others deliver what was pulled, as when the process is
/// told to stop. After any other failure they are stopped where they are.
async fn join(
    mut tasks: JoinSet<Result<(), DriverError>>,
    stop: &CancellationToken,
    abandon: &CancellationToken,
) -> Result<(), DriverError> {
    let mut result = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let Err(error) = ended.map_err(DriverError::from).flatten() else {
            continue;
        };
        let is_reading = matches!(
            error,
            DriverError::ArchiveGap { .. } | DriverError::Source { .. }
        );
        if is_reading {
            stop.cancel();
            result = Err(error);
            continue;
        }
        abandon.cancel();
        tasks.shutdown().await;
        return Err(error);
    }
    result
}

#[cfg(test)]
mod tests;
