//! One corp in one process: puller, processor and a task for each lane, joined by bounded queues.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chatledger_crypto::{KeyRing, Opener};
use chatledger_directory::Directory;
use chatledger_rules::RuleSet;
use chatledger_schemas::ledger::ChainAnchor;
use chatledger_schemas::{CorpId, SealedRecord};
use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::StateError;
use super::contact::Contact;
use super::dead_letter_store::{DeadLetterStore, Remembering};
use super::journal::JournalFile;
use super::ledger::Ledger;
use super::replay::{ReplaySink, under_way};
use super::replayer::{OpenRequest, Replayer, answer, lock};
use crate::batch::Batch;
use crate::chain::ChainInput;
use crate::delivery::{Delivery, Flushed};
use crate::failpoint;
use crate::fault::{Backoff, Fault};
use crate::metrics::Metrics;
use crate::pull::{BehindWindow, PullError, Puller};
use crate::shared::{Current, Progress, Totals, WantedRooms, now_ms};
use crate::sink::Sink;
use crate::stages::{Processed, PulledRecord, Tools, process};
use crate::window::{MsgHash, Window};

/// Pages between the puller and the processor.
const PAGES: usize = 2;
/// Batches between the processor and a lane.
const BATCHES: usize = 4;
/// Messages among which a repeat is recognised: 16 bytes each in memory, a few times over.
pub(super) const WINDOW: usize = 500_000;

/// One corp, put together.
pub struct CorpSetup {
    /// The corp.
    pub corp_id: CorpId,
    /// Its archive.
    pub puller: Puller,
    /// Its keys.
    pub keys: Arc<Current<KeyRing>>,
    /// Who is who there.
    pub directory: Arc<Current<Directory>>,
    /// Rooms to ask about.
    pub wanted: Arc<WantedRooms>,
    /// What is looked for.
    pub rules: Arc<Current<RuleSet>>,
    /// Folder for its state.
    pub state_dir: PathBuf,
    /// The sinks.
    pub sinks: Vec<Sink>,
}

/// What a run shares over all corps.
#[derive(Clone)]
pub struct Context {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The counts.
    pub totals: Arc<Totals>,
    /// Whether to stop by itself when there is nothing more.
    pub drain: bool,
    /// Stop pulling, deliver what has been pulled, end.
    pub stop: CancellationToken,
    /// Do not wait for sinks any longer.
    pub abandon: CancellationToken,
    /// Go on though the archive may have dropped records that were not read in time.
    pub accept_gap: bool,
}

/// Why a corp's pipeline ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The state folder cannot be used.
    #[error("state")]
    State(#[from] StateError),
    /// The archive did not answer while draining.
    #[error("archive of {corp}: {fault}")]
    Source {
        /// The corp.
        corp: CorpId,
        /// Its last failure.
        fault: Fault,
    },
    /// The archive may have dropped records that were not read in time.
    #[error("corp {corp}")]
    BehindWindow {
        /// The corp.
        corp: CorpId,
        /// Since when.
        source: BehindWindow,
    },
    /// Rows could not be gathered for a sink.
    #[error("sink {sink}: {fault}")]
    Sink {
        /// The sink.
        sink: &'static str,
        /// The failure.
        fault: Fault,
    },
    /// Rows could not be gathered for a replay.
    #[error("replay")]
    Replay(#[from] Fault),
    /// A task panicked; the record it worked on will be seen again at the next start.
    #[error("a task of the pipeline died")]
    Died(#[from] tokio::task::JoinError),
}

/// Runs one corp until it is stopped, drained or fails.
///
/// # Errors
/// See [`DriverError`]; whatever had not been confirmed by the sinks comes again at the next start.
pub async fn run(corp: CorpSetup, context: Context) -> Result<(), DriverError> {
    let folder = corp.state_dir.clone();
    std::fs::create_dir_all(&folder).map_err(StateError::io(&folder))?;
    let progress = Arc::clone(&corp.puller.progress);
    let mut lanes = Vec::new();
    let names: Vec<&'static str> = corp.sinks.iter().map(|sink| sink.name).collect();
    let journals = JournalFile::open_all(&folder, &names)?;
    for (sink, (_, journal, checkpoint)) in corp.sinks.iter().zip(journals) {
        let log = corp.corp_id.to_string();
        let delivery = Delivery::resume(sink, log, checkpoint, Arc::clone(&context.metrics));
        progress.reached(sink.name, checkpoint.position, None);
        lanes.push((sink.name, delivery, journal));
    }
    let start = lanes
        .iter()
        .map(|(_, delivery, _)| delivery.lane().position())
        .min()
        .unwrap_or(0);
    let boundaries: BTreeSet<u64> = lanes
        .iter()
        .flat_map(|(_, delivery, _)| delivery.lane().boundaries())
        .collect();
    let (mut ledger, mut recovered) =
        Ledger::open(&folder.join("ledger"), corp.corp_id.as_str(), start, WINDOW)?;
    let contact = Contact::in_folder(&folder);
    let answered = contact.read()?.or(recovered.newest);
    // What was pulled and not delivered has to be given again, and may be older than that.
    let answered = answered.min(recovered.waiting_since().or(answered));
    let gap = contact.close_gap(&mut ledger, start, answered, context.accept_gap)?;
    if let Some(source) = gap {
        let corp = corp.corp_id;
        return Err(DriverError::BehindWindow { corp, source });
    }
    // A gap has been looked for up to now.
    let answered = answered.map(|_| now_ms());
    let store = DeadLetterStore::open(&folder, start)?;
    for msg in store.index().replayed().chain(under_way(&folder)?) {
        recovered.window.opened(msg);
    }
    let open = store.index().open().len();
    context
        .metrics
        .dead_letters_open(corp.corp_id.as_str(), open);
    let store = Arc::new(Mutex::new(store));
    info!(corp = %corp.corp_id, position = start, ledger = ledger.len(), "corp taken up");

    let (pages, page_queue) = mpsc::channel(PAGES);
    let mut tasks: JoinSet<Result<(), DriverError>> = JoinSet::new();
    let mut outlets = Vec::new();
    for (sink, delivery, journal) in lanes {
        let (outlet, queue) = mpsc::channel(BATCHES);
        outlets.push(outlet);
        let lane = LaneTask {
            sink,
            delivery,
            journal,
            queue,
            progress: Arc::clone(&progress),
            abandon: context.abandon.clone(),
        };
        tasks.spawn(lane.run());
    }
    let Context {
        metrics,
        totals,
        drain,
        stop,
        ..
    } = context.clone();
    let (puller, corp_id) = (corp.puller, corp.corp_id.clone());
    tasks.spawn(async move {
        let corp = corp_id.clone();
        let hand_over = move |records: Vec<SealedRecord>| {
            metrics.pulled(corp.as_str(), records.len() as u64);
            totals.pulled(records.len());
            let pages = pages.clone();
            async move { pages.send(records).await.is_ok() }.boxed()
        };
        let progress = Arc::clone(&puller.progress);
        let reading = puller.run(start, answered, drain, &stop, hand_over);
        let ended = contact.beside(progress, reading).await;
        ended.map_err(|error| match error {
            PullError::GaveUp(fault) => DriverError::Source {
                corp: corp_id,
                fault,
            },
            PullError::BehindWindow(source) => DriverError::BehindWindow {
                corp: corp_id,
                source,
            },
        })
    });
    let (asks, ask_queue) = mpsc::channel(1);
    let pulled_all = CancellationToken::new();
    let replayer = Replayer {
        corp_id: corp.corp_id.clone(),
        keys: Arc::clone(&corp.keys),
        store: Arc::clone(&store),
        folder: folder.clone(),
        opening: Box::new(move |ask| {
            let asks = asks.clone();
            async move { asks.send(ask).await.is_ok() }.boxed()
        }),
        replay_sinks: corp.sinks.iter().map(ReplaySink::new).collect(),
        metrics: Arc::clone(&context.metrics),
        looked_at: None,
        stop: context.stop.clone(),
        abandon: context.abandon.clone(),
    };
    let replays = replayer.run(pulled_all.clone(), drain);
    tasks.spawn(async move { Ok(replays.await?) });
    let processor = Processor {
        corp_id: corp.corp_id,
        folder,
        opener: corp.keys,
        directory: corp.directory,
        wanted: corp.wanted,
        rules: corp.rules,
        boundaries,
        pulled: recovered.pulled,
        context,
        state: Some(State {
            window: recovered.window,
            behind: recovered.behind,
            ledger,
            store,
        }),
    };
    let pulled_all = pulled_all.drop_guard();
    tasks.spawn(processor.run(page_queue, outlets, ask_queue, pulled_all));

    // Queues close from the source on, so the tasks end in order; after a failure the rest is
    // dropped where it stands, as if the process had died there.
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// What the processor changes on its way, moved to the worker thread and back.
struct State {
    window: Window,
    /// Messages of the ledger that were not in every sink at the start and have not come again.
    behind: HashSet<MsgHash>,
    ledger: Ledger,
    store: Arc<Mutex<DeadLetterStore>>,
}

struct Processor {
    corp_id: CorpId,
    folder: PathBuf,
    opener: Arc<dyn Opener>,
    directory: Arc<Current<Directory>>,
    wanted: Arc<WantedRooms>,
    rules: Arc<Current<RuleSet>>,
    boundaries: BTreeSet<u64>,
    pulled: HashMap<u64, i64>,
    context: Context,
    state: Option<State>,
}

impl Processor {
    async fn run(
        mut self,
        mut pages: mpsc::Receiver<Vec<SealedRecord>>,
        outlets: Vec<mpsc::Sender<Arc<Batch>>>,
        mut asks: mpsc::Receiver<OpenRequest>,
        pulled_all: DropGuard,
    ) -> Result<(), DriverError> {
        loop {
            let records = tokio::select! {
                page = pages.recv() => match page {
                    Some(records) => records,
                    None => break,
                },
                Some(ask) = asks.recv() => {
                    self.open_letters(ask).await?;
                    continue;
                }
            };
            let now = now_ms();
            let pulled = records.into_iter().map(|record| {
                let at = self.pulled.remove(&record.seq).unwrap_or(now);
                PulledRecord::new(record, at)
            });
            for run in split(pulled.collect(), &self.boundaries) {
                let Some(batch) = self.one(run).await? else {
                    continue;
                };
                for outlet in &outlets {
                    // A closed lane has failed; its task tells why.
                    if outlet.send(Arc::clone(&batch)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        // Lanes may end; replays that are under way do so too, and then nobody asks any more.
        drop((outlets, pulled_all));
        while let Some(ask) = asks.recv().await {
            self.open_letters(ask).await?;
        }
        Ok(())
    }

    /// Opens dead letters on behalf of a replay.
    async fn open_letters(&mut self, ask: OpenRequest) -> Result<(), DriverError> {
        let Some(mut state) = self.state.take() else {
            return Ok(());
        };
        let (directory, rules) = (self.directory.get(), self.rules.get());
        let (corp_id, opener) = (self.corp_id.clone(), Arc::clone(&self.opener));
        let (folder, wanted) = (self.folder.clone(), Arc::clone(&self.wanted));
        let Context {
            metrics, totals, ..
        } = self.context.clone();
        let state = tokio::task::spawn_blocking(move || {
            let tools = Tools {
                corp_id: &corp_id,
                opener: &*opener,
                directory: &directory,
                rules: &rules,
            };
            let (window, behind) = (&mut state.window, &state.behind);
            let store = lock(&state.store);
            answer(ask, &tools, &folder, &store, window, behind, |processed| {
                metrics.processed(corp_id.as_str(), processed);
                totals.processed(processed);
                wanted.add(processed.unresolved.room_ids.iter().cloned());
            });
            drop(store);
            state
        })
        .await?;
        self.state = Some(state);
        Ok(())
    }

    async fn one(&mut self, mut run: Vec<PulledRecord>) -> Result<Option<Arc<Batch>>, DriverError> {
        let Some(mut state) = self.state.take() else {
            return Ok(None);
        };
        let (directory, rules) = (self.directory.get(), self.rules.get());
        let (corp_id, opener) = (self.corp_id.clone(), Arc::clone(&self.opener));
        let metrics = Arc::clone(&self.context.metrics);
        let (state, seen, processed) = tokio::task::spawn_blocking(move || {
            let seen: Vec<ChainInput> = run
                .iter()
                .map(|pulled| ChainInput::of(&pulled.record, pulled.at))
                .collect();
            let store = lock(&state.store);
            store.mark(&mut run);
            let opener = Remembering {
                corp_id: &corp_id,
                opener: &*opener,
                remembered: store.remembered(),
            };
            let tools = Tools {
                corp_id: &corp_id,
                opener: &opener,
                directory: &directory,
                rules: &rules,
            };
            let mut since = Instant::now();
            let processed = process(&tools, run, &mut state.window, |stage| {
                metrics.stage(stage.as_str(), since.elapsed());
                since = Instant::now();
            });
            drop(store);
            if !state.behind.is_empty() {
                let come = processed.iter().flat_map(|processed| &processed.outcomes);
                for record in come {
                    state.behind.remove(&record.hash);
                }
            }
            (state, seen, processed)
        })
        .await?;
        let Some(mut processed) = processed else {
            self.state = Some(state);
            return Ok(None);
        };
        self.wanted
            .add(std::mem::take(&mut processed.unresolved.room_ids));
        let processed = self.write_ledger(state, seen, processed).await?;
        let Some(mut processed) = processed else {
            return Ok(None);
        };
        if let Some(state) = &self.state {
            processed.batch.anchors.push(ChainAnchor {
                corp_id: self.corp_id.clone(),
                seq: state.ledger.last(),
                link: state.ledger.chain().link,
            });
        }
        self.context
            .metrics
            .processed(self.corp_id.as_str(), &processed);
        self.context.totals.processed(&processed);
        Ok(Some(Arc::new(processed.batch)))
    }

    /// Parks the dead letters and writes the ledger; only then may a sink see the batch. Waits for
    /// a disk that is full. `None` if the process is told to stop meanwhile.
    async fn write_ledger(
        &mut self,
        mut state: State,
        mut seen: Vec<ChainInput>,
        mut processed: Processed,
    ) -> Result<Option<Processed>, DriverError> {
        let mut backoff = Backoff::default();
        loop {
            let written;
            (state, seen, processed, written) = tokio::task::spawn_blocking(move || {
                let written = failpoint::pass("process", "batch_opened")
                    .map_err(StateError::from)
                    .and_then(|()| lock(&state.store).append(&processed.batch.dead_letters))
                    .and_then(|()| state.ledger.append(&seen, &processed.outcomes));
                (state, seen, processed, written)
            })
            .await?;
            let Err(error) = written else {
                let open = lock(&state.store).index().open().len();
                let (metrics, corp) = (&self.context.metrics, self.corp_id.as_str());
                metrics.dead_letters_open(corp, open);
                self.state = Some(state);
                return Ok(Some(processed));
            };
            let fault = Fault::local(error);
            let pause = backoff.pause(&fault, rand::random());
            warn!(corp = %self.corp_id, error = %fault, ?pause, "the ledger cannot be written");
            tokio::select! {
                () = self.context.abandon.cancelled() => return Ok(None),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// Splits records after each boundary, so that no batch lies across one.
fn split(records: Vec<PulledRecord>, boundaries: &BTreeSet<u64>) -> Vec<Vec<PulledRecord>> {
    let mut runs: Vec<Vec<PulledRecord>> = Vec::new();
    let mut end = None;
    for pulled in records {
        let seq = pulled.record.seq;
        match (runs.last_mut(), end) {
            (Some(run), Some(bound)) if seq <= bound => run.push(pulled),
            _ => {
                end = boundaries.range(seq..).next().copied().or(Some(u64::MAX));
                runs.push(vec![pulled]);
            }
        }
    }
    runs
}

struct LaneTask {
    sink: &'static str,
    delivery: Delivery,
    journal: JournalFile,
    queue: mpsc::Receiver<Arc<Batch>>,
    progress: Arc<Progress>,
    abandon: CancellationToken,
}

impl LaneTask {
    async fn run(mut self) -> Result<(), DriverError> {
        loop {
            let deadline = self.delivery.deadline();
            let due = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let closed = tokio::select! {
                () = due => false,
                next = self.queue.recv() => match next {
                    Some(batch) => {
                        while !self.push(&batch).await? {
                            if !self.flush().await? {
                                return Ok(());
                            }
                        }
                        false
                    }
                    None => true,
                },
            };
            if (closed || self.delivery.is_due()) && !self.flush().await? {
                return Ok(());
            }
            if closed {
                return Ok(());
            }
        }
    }

    async fn push(&mut self, batch: &Arc<Batch>) -> Result<bool, DriverError> {
        let sink = self.sink;
        self.delivery
            .push(batch)
            .await
            .map_err(|fault| DriverError::Sink { sink, fault })
    }

    /// False if the process is stopping without waiting for the sink.
    async fn flush(&mut self) -> Result<bool, DriverError> {
        let sink = self.sink;
        let flushed = self.delivery.flush(&mut self.journal, &self.abandon).await;
        match flushed.map_err(|fault| DriverError::Sink { sink, fault })? {
            Flushed::Delivered(position) => {
                self.progress
                    .reached(sink, position, self.delivery.newest());
                Ok(true)
            }
            Flushed::Nothing => Ok(true),
            Flushed::Cancelled => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_at_every_boundary() {
        let pulled = |seq| {
            let record = SealedRecord {
                corp_id: "ww1".into(),
                seq,
                msgid: "m".into(),
                json: bytes::Bytes::new(),
            };
            PulledRecord::new(record, 0)
        };
        let seqs = |runs: Vec<Vec<PulledRecord>>| -> Vec<Vec<u64>> {
            runs.iter()
                .map(|run| run.iter().map(|pulled| pulled.record.seq).collect())
                .collect()
        };
        let records: Vec<PulledRecord> = [2, 4, 6, 8, 10].into_iter().map(pulled).collect();
        let bounds = |list: &[u64]| list.iter().copied().collect::<BTreeSet<u64>>();
        assert_eq!(
            seqs(split(records.clone(), &bounds(&[5, 8]))),
            [vec![2, 4], vec![6, 8], vec![10]]
        );
        assert_eq!(
            seqs(split(records, &bounds(&[0, 99]))),
            [vec![2, 4, 6, 8, 10]]
        );
        assert!(split(Vec::new(), &bounds(&[1])).is_empty());
    }
}
