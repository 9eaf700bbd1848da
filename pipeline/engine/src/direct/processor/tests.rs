//! The processor on its thread, with the other ends of its queues in the test.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::dead_letter_index::DeadLetterFilter;
use crate::dead_letter_requests::Requester;
use crate::direct::testing::{CORP, TestKeys, context, record, tools, wait_for};

/// A processor on its thread, and the other ends of its queues.
struct Running {
    pages: mpsc::Sender<Vec<SealedRecord>>,
    requests: mpsc::Sender<OpenRequest>,
    lane: mpsc::Receiver<Arc<Batch>>,
    dead_letters: SharedDeadLetterStore,
    pulling: CancellationToken,
    abandon: CancellationToken,
    thread: JoinHandle<()>,
}

/// Opens the state in a folder and starts a processor; `log` may replace its log.
fn start(
    folder: &Path,
    keys: &Arc<TestKeys>,
    log: impl FnOnce(Box<dyn BatchLog>) -> Box<dyn BatchLog>,
) -> Running {
    let state = CorpState::open(folder, &CORP.into(), &["memory"]).unwrap();
    let dead_letters = state.dead_letters.clone();
    let context = context();
    let counters = Counters {
        metrics: context.metrics,
        totals: context.totals,
        wanted: Arc::default(),
    };
    let abandon = context.abandon.clone();
    let mut processor = Processor::new(state, Arc::new(tools(keys)), counters, abandon.clone());
    processor.log = log(processor.log);
    let (pages, page_queue) = mpsc::channel(1);
    let (requests, request_queue) = mpsc::channel(1);
    let (lane_queue, lane) = mpsc::channel(1);
    let pulling = CancellationToken::new();
    let queues = Queues {
        pages: page_queue,
        requests: request_queue,
        lanes: vec![lane_queue],
        pulling: pulling.clone().drop_guard(),
    };
    let runtime = Handle::current();
    Running {
        pages,
        requests,
        lane,
        dead_letters,
        pulling,
        abandon,
        thread: tokio::task::spawn_blocking(move || processor.run(queues, &runtime)),
    }
}

/// A log on a disk that can be full.
struct FullDisk {
    log: Box<dyn BatchLog>,
    full: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

impl BatchLog for FullDisk {
    fn append(&mut self, inputs: &[ChainInput], processed: &Processed) -> Result<(), StateError> {
        if self.full.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(StateError::io(Path::new("ledger"))(full));
        }
        self.log.append(inputs, processed)
    }

    fn append_again(&mut self, records: &[ProcessedRecord]) -> Result<(), StateError> {
        self.log.append_again(records)
    }

    fn end(&self) -> (u64, ChainLink) {
        self.log.end()
    }
}

fn replay_of_everything(
    dead_letters: &SharedDeadLetterStore,
) -> (
    OpenRequest,
    oneshot::Receiver<Result<crate::direct::replay::OpenedDeadLetters, StateError>>,
) {
    let filter = DeadLetterFilter::default();
    let selected = dead_letters.lock().index().select(None, &filter, 10);
    let requester = Requester {
        actor: "test".into(),
        at: 1,
    };
    let (answer, answered) = oneshot::channel();
    let request = OpenRequest::Prepare {
        selected,
        requester,
        answer,
    };
    (request, answered)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_opened_while_pages_flow_and_after_they_have_ended() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Arc::new(TestKeys::default());
    keys.missing.lock().unwrap().extend([1, 2]);
    let mut running = start(folder.path(), &keys, |log| log);
    running.pages.send(vec![record(1)]).await.unwrap();
    let batch = running.lane.recv().await.unwrap();
    assert_eq!(batch.dead_letters.len(), 1);

    keys.missing.lock().unwrap().remove(&1);
    let (request, mut answered) = replay_of_everything(&running.dead_letters);
    running.requests.send(request).await.unwrap();
    let mut seq = 2;
    let opened = loop {
        running.pages.send(vec![record(seq)]).await.unwrap();
        running.lane.recv().await.unwrap();
        seq += 1;
        if let Ok(opened) = answered.try_recv() {
            break opened.unwrap();
        }
    };
    let replay = opened.replay.expect("the dead letter opens now");
    assert_eq!(replay.batch.messages.len(), 1);

    // A dead letter that opens now is a duplicate while its replay is not finished.
    drop(running.pages);
    running.pulling.cancelled().await;
    assert!(running.lane.recv().await.is_none(), "lanes end first");
    let (request, answered) = replay_of_everything(&running.dead_letters);
    running.requests.send(request).await.unwrap();
    let opened = answered.await.unwrap().unwrap();
    let events = opened.replay.unwrap();
    let events: Vec<&str> = events.events().iter().map(|e| e.event.as_str()).collect();
    assert_eq!(events, ["duplicate", "failed"]);
    drop(running.requests);
    running.thread.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_disk_is_waited_for_and_no_lane_sees_the_batch_before() {
    let folder = tempfile::tempdir().unwrap();
    let (full, refused) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
    full.store(true, Ordering::SeqCst);
    let (disk, count) = (Arc::clone(&full), Arc::clone(&refused));
    let mut running = start(folder.path(), &Arc::default(), move |log| {
        Box::new(FullDisk {
            log,
            full: disk,
            refused: count,
        })
    });
    running.pages.send(vec![record(1)]).await.unwrap();
    wait_for(|| refused.load(Ordering::SeqCst) >= 2).await;
    assert!(running.lane.try_recv().is_err(), "it is not on disk yet");
    full.store(false, Ordering::SeqCst);
    let batch = running.lane.recv().await.unwrap();
    assert_eq!((batch.range.last, batch.anchors[0].seq), (1, 1));

    // The disk is full again, and the process is told not to wait.
    full.store(true, Ordering::SeqCst);
    refused.store(0, Ordering::SeqCst);
    running.pages.send(vec![record(2)]).await.unwrap();
    wait_for(|| refused.load(Ordering::SeqCst) >= 1).await;
    running.abandon.cancel();
    running.thread.await.unwrap();
    assert!(running.lane.recv().await.is_none(), "it is not on disk");
    assert!(running.pages.is_closed() && running.requests.is_closed());
    let state = CorpState::open(folder.path(), &CORP.into(), &["memory"]).unwrap();
    assert_eq!(state.ledger.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lane_that_has_failed_ends_the_processor() {
    let folder = tempfile::tempdir().unwrap();
    let running = start(folder.path(), &Arc::default(), |log| log);
    drop(running.lane);
    running.pages.send(vec![record(1)]).await.unwrap();
    running.thread.await.unwrap();
    assert!(running.pages.is_closed() && running.pulling.is_cancelled());
}

#[test]
fn runs_end_at_every_boundary() {
    let seqs = |runs: Vec<Vec<PulledRecord>>| -> Vec<Vec<u64>> {
        runs.iter()
            .map(|run| run.iter().map(|pulled| pulled.record.seq).collect())
            .collect()
    };
    let pulled = |seq| PulledRecord::new(record(seq), 0);
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
