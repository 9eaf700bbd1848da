//! Whole runs against an archive and a sink in memory.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::direct::ledger::{NextLine, Reader};
use crate::direct::testing::{MemorySink, TestKeys, context, corp, record, wait_for};

async fn drain(
    folder: &std::path::Path,
    sink: &MemorySink,
    keys: TestKeys,
) -> Result<(), DriverError> {
    run_in(folder, sink, keys, context()).await
}

async fn run_in(
    folder: &std::path::Path,
    sink: &MemorySink,
    keys: TestKeys,
    context: Context,
) -> Result<(), DriverError> {
    let corp = corp(folder, (1..=40).map(record).collect(), sink);
    let run = run_with(corp, Arc::new(keys), context);
    tokio::time::timeout(Duration::from_secs(60), run)
        .await
        .expect("the run must end")
}

fn ledger_lines(folder: &std::path::Path) -> u64 {
    let mut reader = Reader::open(&folder.join("ledger")).unwrap();
    let mut lines = 0;
    while let NextLine::Line(_) = reader.next_line().unwrap() {
        lines += 1;
    }
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panic_in_a_stage_ends_the_corp_with_an_error_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sink = MemorySink::default();
    for panic_at in [1, 23, 40] {
        let keys = TestKeys {
            panic_at: Some(panic_at),
            ..TestKeys::default()
        };
        let error = drain(folder.path(), &sink, keys).await.unwrap_err();
        assert!(matches!(error, DriverError::Died(_)), "{error:?}");
        assert!(sink.seqs().iter().all(|seq| *seq < panic_at));
        assert!(ledger_lines(folder.path()) < panic_at);
    }
    drain(folder.path(), &sink, TestKeys::default())
        .await
        .unwrap();
    assert_eq!(sink.seqs(), (1..=40).collect::<Vec<_>>());
    assert_eq!(ledger_lines(folder.path()), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_delivers_everything_once_also_when_it_is_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let sink = MemorySink::default();
    for _ in 0..2 {
        let keys = TestKeys::default();
        keys.missing.lock().unwrap().extend([3, 17]);
        drain(folder.path(), &sink, keys).await.unwrap();
        assert_eq!(sink.seqs(), (1..=40).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sink_that_cannot_gather_rows_ends_the_corp_with_an_error_and_every_task_is_joined() {
    let folder = tempfile::tempdir().unwrap();
    let sink = MemorySink {
        refuses: true,
        ..MemorySink::default()
    };
    let context = Context {
        drain: false,
        ..context()
    };
    let metrics = Arc::downgrade(&context.metrics);
    let error = run_in(folder.path(), &sink, TestKeys::default(), context).await;
    let error = error.unwrap_err();
    assert!(matches!(error, DriverError::Sink { .. }), "{error:?}");
    assert!(metrics.upgrade().is_none(), "a task or the thread is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_that_stops_waiting_for_a_sink_delivers_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let unreachable = MemorySink {
        unreachable: true,
        ..MemorySink::default()
    };
    let context = Context {
        drain: false,
        ..context()
    };
    let (stop, abandon) = (context.stop.clone(), context.abandon.clone());
    let failed = Arc::clone(&unreachable.failed);
    let stopping = async move {
        wait_for(|| failed.load(Ordering::SeqCst) > 0).await;
        stop.cancel();
        abandon.cancel();
    };
    let run = run_in(folder.path(), &unreachable, TestKeys::default(), context);
    let (ended, ()) = tokio::join!(run, stopping);
    ended.unwrap();
    assert!(unreachable.seqs().is_empty());
    let sink = MemorySink::default();
    drain(folder.path(), &sink, TestKeys::default())
        .await
        .unwrap();
    assert_eq!(sink.seqs(), (1..=40).collect::<Vec<_>>());
}

/// An archive whose second page arrives six days after the first.
struct LatePage {
    archive: Arc<dyn crate::ports::Source>,
}

impl crate::ports::Source for LatePage {
    fn page(
        &self,
        after: u64,
    ) -> futures::future::BoxFuture<
        '_,
        Result<Vec<chatledger_schemas::SealedRecord>, crate::fault::Fault>,
    > {
        if after > 0 {
            crate::testing::skip_time(Duration::from_secs(6 * 24 * 3600));
        }
        self.archive.page(after)
    }
}

#[tokio::test]
async fn what_was_pulled_before_a_gap_is_delivered_before_the_corp_stops() {
    let scenario = async {
        let folder = tempfile::tempdir().unwrap();
        let sink = MemorySink::default();
        let run = |late: bool, accept_gap: crate::pull::AcceptGap| {
            let mut corp = corp(folder.path(), (1..=40).map(record).collect(), &sink);
            let archive = Arc::clone(&corp.puller.source);
            if late {
                corp.puller.source = Arc::new(LatePage { archive });
            }
            let context = Context {
                accept_gap,
                ..context()
            };
            run_with(corp, Arc::new(TestKeys::default()), context)
        };
        let error = run(true, crate::pull::AcceptGap::Refuse).await.unwrap_err();
        assert!(matches!(error, DriverError::ArchiveGap { .. }), "{error:?}");
        let delivered = sink.seqs();
        assert!(
            !delivered.is_empty() && delivered.len() < 40,
            "{delivered:?}"
        );
        let accepted = crate::pull::AcceptGap::Corps(vec!["ww1".into()]);
        run(false, crate::pull::AcceptGap::Refuse)
            .await
            .unwrap_err();
        run(false, accepted).await.unwrap();
        assert_eq!(sink.seqs(), (1..=40).collect::<Vec<_>>());
        run(false, crate::pull::AcceptGap::Refuse).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), scenario)
        .await
        .expect("every run must end");
}
