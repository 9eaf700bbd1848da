//! A thread that turns pages into batches, and the only owner of what it needs for that.
//!
//! # The guarantee
//! A lane sees a batch only after its dead letters and then its entries in the ledger are on disk. A
//! panic ends the thread and with it the corp's pipeline; what was on disk is read at the next start,
//! and what was not is pulled again.
//!
//! The thread also answers requests to open dead letters, between batches, and after pulling has
//! ended for as long as a replay runs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use chatledger_schemas::SealedRecord;
use chatledger_schemas::ledger::{ChainAnchor, ChainLink};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use super::dead_letter_store::{KnownRejections, SharedDeadLetterStore};
use super::ledger::Ledger;
use super::open_request::{CorpTools, DeadLetterOpener, OpenRequest};
use super::state::{CorpState, KnownMessages};
use super::{Flow, StateError};
use crate::batch::Batch;
use crate::chain::ChainInput;
use crate::failpoint;
use crate::fault::{Fault, Retry};
use crate::metrics::Metrics;
use crate::shared::{Totals, WantedRooms, now_ms};
use crate::stages::{Processed, ProcessedRecord, PulledRecord, Tools, process};

/// What the processor reads from and writes to.
pub(super) struct Queues {
    /// Pages in the order of the archive.
    pub(super) pages: mpsc::Receiver<Vec<SealedRecord>>,
    /// Requests to open dead letters.
    pub(super) requests: mpsc::Receiver<OpenRequest>,
    /// The lanes.
    pub(super) lanes: Vec<mpsc::Sender<Arc<Batch>>>,
    /// Dropped when the last page has been handed to the lanes.
    pub(super) pulling: DropGuard,
}

/// What must be on disk before a lane sees a batch.
trait BatchLog: Send {
    /// Appends the dead letters of a batch, then the entries of its records, and waits until the
    /// disk has them. After an error it may be called again with the same batch.
    ///
    /// # Errors
    /// The disk refuses.
    fn append(&mut self, inputs: &[ChainInput], processed: &Processed) -> Result<(), StateError>;

    /// Appends what became of dead letters that were opened again, and waits until the disk has it.
    ///
    /// # Errors
    /// The disk refuses.
    fn append_again(&mut self, records: &[ProcessedRecord]) -> Result<(), StateError>;

    /// The last `seq` in the ledger and the chain after it.
    fn end(&self) -> (u64, ChainLink);
}

/// Dead letters and ledger, as files.
struct FileLog {
    dead_letters: SharedDeadLetterStore,
    ledger: Ledger,
}

impl BatchLog for FileLog {
    fn append(&mut self, inputs: &[ChainInput], processed: &Processed) -> Result<(), StateError> {
        failpoint::pass("process", "batch_opened")?;
        let dead_letters = &processed.batch.dead_letters;
        self.dead_letters.lock().append(dead_letters)?;
        self.ledger.append(inputs, &processed.outcomes)
    }

    fn append_again(&mut self, records: &[ProcessedRecord]) -> Result<(), StateError> {
        self.ledger.append_again(records)
    }

    fn end(&self) -> (u64, ChainLink) {
        (self.ledger.last(), self.ledger.chain().link)
    }
}

/// Counts what the stages did.
pub(super) struct Counters {
    /// The metrics.
    pub(super) metrics: Arc<Metrics>,
    /// The totals of the run.
    pub(super) totals: Arc<Totals>,
    /// Rooms that the directory must look up.
    pub(super) wanted: Arc<WantedRooms>,
}

impl Counters {
    fn processed(&self, corp: &str, processed: &Processed) {
        self.metrics.processed(corp, processed);
        self.totals.processed(processed);
    }
}

/// The processor of one corp.
pub(super) struct Processor {
    /// What the stages need.
    tools: Arc<CorpTools>,
    /// Opens dead letters.
    opener: DeadLetterOpener,
    /// Which messages are known.
    known: KnownMessages,
    /// What must be on disk before a lane sees a batch.
    log: Box<dyn BatchLog>,
    /// When records were pulled first, by `seq`, if that was before this start.
    pulled_at: HashMap<u64, i64>,
    /// Positions at which batches must end.
    boundaries: BTreeSet<u64>,
    /// Counts what the stages did.
    counters: Counters,
    /// Ends the wait for a full disk.
    abandon: CancellationToken,
}

/// What the processor does next.
enum Work {
    Page(Vec<SealedRecord>),
    Open(OpenRequest),
    PagesEnded,
}

impl Processor {
    /// Takes over what the processor owns of a corp's state.
    pub(super) fn new(
        state: CorpState,
        tools: Arc<CorpTools>,
        counters: Counters,
        abandon: CancellationToken,
    ) -> Self {
        Self {
            opener: DeadLetterOpener {
                tools: Arc::clone(&tools),
                replay_file: state.replay_file,
                dead_letters: state.dead_letters.clone(),
            },
            tools,
            known: state.known,
            log: Box::new(FileLog {
                dead_letters: state.dead_letters,
                ledger: state.ledger,
            }),
            pulled_at: state.pulled_at,
            boundaries: state.boundaries,
            counters,
            abandon,
        }
    }

    /// Runs until pages and requests have ended. Blocks: call it on a thread of its own that may
    /// enter `runtime`.
    pub(super) fn run(mut self, queues: Queues, runtime: &Handle) {
        let Queues {
            mut pages,
            mut requests,
            lanes,
            pulling,
        } = queues;
        loop {
            let next = async {
                tokio::select! {
                    page = pages.recv() => page.map_or(Work::PagesEnded, Work::Page),
                    Some(request) = requests.recv() => Work::Open(request),
                }
            };
            match runtime.block_on(next) {
                Work::Page(records) => {
                    if self.process_page(records, &lanes, runtime) == Flow::Stop {
                        return;
                    }
                }
                Work::Open(request) => self.open_dead_letters(request),
                Work::PagesEnded => break,
            }
        }
        // Lanes and replays may end now. Requests end with the last replay.
        drop((lanes, pulling));
        while let Some(request) = runtime.block_on(requests.recv()) {
            self.open_dead_letters(request);
        }
    }

    fn process_page(
        &mut self,
        records: Vec<SealedRecord>,
        lanes: &[mpsc::Sender<Arc<Batch>>],
        runtime: &Handle,
    ) -> Flow {
        let now = now_ms();
        let pulled = records.into_iter().map(|record| {
            let at = self.pulled_at.remove(&record.seq).unwrap_or(now);
            PulledRecord::new(record, at)
        });
        for run in split(pulled.collect(), &self.boundaries) {
            let inputs: Vec<ChainInput> = run
                .iter()
                .map(|pulled| ChainInput::of(&pulled.record, pulled.at))
                .collect();
            let Some(mut processed) = self.run_stages(run) else {
                continue;
            };
            let rooms = std::mem::take(&mut processed.unresolved.room_ids);
            self.counters.wanted.add(rooms);
            if self.record(&inputs, &processed, runtime) == Flow::Stop {
                return Flow::Stop;
            }
            if self.deliver(processed, lanes) == Flow::Stop {
                return Flow::Stop;
            }
        }
        Flow::Continue
    }

    /// Takes consecutive records through the stages; `None` if there are none.
    fn run_stages(&mut self, mut run: Vec<PulledRecord>) -> Option<Processed> {
        let store = self.opener.dead_letters.lock();
        store.mark_known(&mut run);
        let window = &mut self.known.window;
        let metrics = &self.counters.metrics;
        let processed = self.tools.with(|tools| {
            let opener = KnownRejections {
                corp_id: tools.corp_id,
                opener: tools.opener,
                rejections: store.rejections(),
            };
            let tools = Tools {
                opener: &opener,
                ..*tools
            };
            let mut since = Instant::now();
            process(&tools, run, window, |stage| {
                metrics.stage(stage.as_str(), since.elapsed());
                since = Instant::now();
            })
        })?;
        if !self.known.undelivered.is_empty() {
            for record in &processed.outcomes {
                self.known.undelivered.remove(&record.hash);
            }
        }
        Some(processed)
    }

    /// Makes dead letters and ledger entries durable. Waits while the disk refuses, for example
    /// because it is full.
    fn record(&mut self, inputs: &[ChainInput], processed: &Processed, runtime: &Handle) -> Flow {
        let mut retry = Retry::new(&self.abandon);
        while let Err(error) = self.log.append(inputs, processed) {
            let (corp, fault) = (&self.tools.corp_id, Fault::local(error));
            let log =
                |pause| warn!(%corp, error = %fault, ?pause, "cannot write the ledger; retrying");
            if !runtime.block_on(retry.wait(&fault, log)) {
                return Flow::Stop;
            }
        }
        Flow::Continue
    }

    /// Hands a batch that is on disk to the lanes.
    fn deliver(&self, processed: Processed, lanes: &[mpsc::Sender<Arc<Batch>>]) -> Flow {
        let corp = self.tools.corp_id.as_str();
        self.counters.processed(corp, &processed);
        let open = self.opener.dead_letters.lock().index().open().len();
        self.counters.metrics.dead_letters_open(corp, open);
        let (seq, link) = self.log.end();
        let mut batch = processed.batch;
        batch.anchors.push(ChainAnchor {
            corp_id: self.tools.corp_id.clone(),
            seq,
            link,
        });
        let batch = Arc::new(batch);
        for lane in lanes {
            // A closed lane has failed; its task reports why.
            if lane.blocking_send(Arc::clone(&batch)).is_err() {
                return Flow::Stop;
            }
        }
        Flow::Continue
    }

    fn open_dead_letters(&mut self, request: OpenRequest) {
        let (corp, counters) = (self.tools.corp_id.as_str(), &self.counters);
        let log = &mut self.log;
        let mut settle = |records: &[ProcessedRecord]| log.append_again(records);
        let known = &mut self.known;
        self.opener
            .answer(request, known, &mut settle, |processed| {
                counters.processed(corp, processed);
                let rooms = processed.unresolved.room_ids.iter().cloned();
                counters.wanted.add(rooms);
            });
    }
}

/// Splits records after each boundary, so that no batch crosses one.
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

#[cfg(test)]
mod tests;
