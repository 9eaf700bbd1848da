//! Groups that are reset, topics that are created anew, gaps, transactions that hang, dead letters
//! that are replayed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chatledger_engine::dead_letter_index::DeadLetterFilter;
use chatledger_engine::dead_letter_requests::Requester;
use chatledger_engine::kafka::dead_letters::DeadLetterLog;
use chatledger_engine::kafka::testing::sink_group;
use chatledger_engine::kafka::{OutRecord, Topic};
use chatledger_engine::pull::AcceptGap;
use chatledger_engine::testing::sink::RowKind;
use chatledger_engine::testing::{FaultOdds, Simulation, simulate};
use chatledger_schemas::ledger::{EntryKind, LedgerRecord};
use chatledger_schemas::{DeadLetter, Reason};
use tokio::time::Instant;

use super::check::exactly_once;
use super::cluster::{CORP, Cluster};
use super::property::two_sinks;

/// Members that ended keep their partitions for this long.
const SESSION: Duration = Duration::from_secs(15);

fn cluster(simulation: &Simulation, partitions: usize, records: usize) -> Cluster {
    let cluster = Cluster::new(simulation, partitions, records, two_sinks(None));
    cluster.archive.release_all();
    cluster
}

async fn drained(simulation: &Simulation, records: usize) -> Cluster {
    let cluster = cluster(simulation, 3, records);
    cluster.drain("a").await.unwrap();
    exactly_once(&cluster).unwrap();
    tokio::time::sleep(SESSION).await;
    cluster
}

async fn extend_and_drain(cluster: &Cluster) -> Result<(), String> {
    let simulation = &cluster.simulation;
    simulation.draw(|dice| cluster.archive.extend(40, 0, dice));
    cluster.archive.release_all();
    cluster.drain("b").await?;
    exactly_once(cluster)
}

#[test]
fn drain_counts_every_record() {
    simulate(1, |simulation| async move {
        let cluster = cluster(&simulation, 2, 200);
        let summary = cluster.drain("a").await.unwrap();
        assert_eq!(summary.pulled, 200);
        let outcomes = summary.messages + summary.dead_letters + summary.duplicates;
        assert_eq!(outcomes, 200);
        exactly_once(&cluster).unwrap();
    });
}

#[test]
fn reset_groups_add_no_row_because_the_checkpoints_are_confirmed() {
    for position in [None, Some(0), Some(5)] {
        simulate(2, |simulation| async move {
            let cluster = drained(&simulation, 150).await;
            for group in cluster.log.groups() {
                cluster.log.reset_group(&group, position);
            }
            let before = cluster.log.end_offsets(Topic::Messages);
            let summary = cluster.drain("b").await.unwrap();
            assert_eq!((summary.pulled, summary.messages), (0, 0));
            exactly_once(&cluster).unwrap();
            // Only the aborted records with which a producer starts.
            let after = cluster.log.end_offsets(Topic::Messages);
            let added = after
                .iter()
                .zip(before)
                .map(|(after, before)| after - before);
            assert!(added.max().unwrap() <= 2);
            extend_and_drain(&cluster).await.unwrap();
        });
    }
}

#[test]
fn rows_are_written_again_if_the_sink_checkpoints_are_removed_with_them() {
    simulate(3, |simulation| async move {
        let mut cluster = drained(&simulation, 100).await;
        cluster.sinks = two_sinks(None);
        for topic in [Topic::Messages, Topic::Violations, Topic::DeadLetter] {
            for sink in ["table", "files"] {
                cluster.log.reset_group(&sink_group(sink, topic), None);
            }
        }
        cluster.drain("b").await.unwrap();
        exactly_once(&cluster).unwrap();
    });
}

#[test]
fn topic_created_anew_is_read_from_its_beginning_because_the_checkpoints_are_refuted() {
    for topics in [
        &[Topic::Messages][..],
        &[Topic::Raw],
        &[Topic::DeadLetter, Topic::Violations],
        &[
            Topic::Raw,
            Topic::Messages,
            Topic::Violations,
            Topic::DeadLetter,
        ],
    ] {
        simulate(4, |simulation| async move {
            let cluster = drained(&simulation, 120).await;
            for topic in topics {
                cluster.log.recreate(*topic);
            }
            extend_and_drain(&cluster).await.unwrap();
        });
    }
}

#[test]
fn retention_behind_the_committed_positions_loses_nothing() {
    simulate(5, |simulation| async move {
        let cluster = drained(&simulation, 100).await;
        for topic in [Topic::Raw, Topic::Messages, Topic::Violations] {
            for (partition, end) in (0..).zip(cluster.log.end_offsets(topic)) {
                cluster.log.drop_head(topic, partition, end);
            }
        }
        cluster.log.compact(Topic::Cursor);
        cluster.log.compact(Topic::ProcessCheckpoints);
        extend_and_drain(&cluster).await.unwrap();
    });
}

#[test]
fn partitions_added_to_a_topic_are_assigned() {
    simulate(6, |simulation| async move {
        let cluster = drained(&simulation, 60).await;
        cluster.log.add_partitions(Topic::Raw, 2);
        cluster.log.add_partitions(Topic::Messages, 1);
        extend_and_drain(&cluster).await.unwrap();
    });
}

#[test]
fn process_checkpoint_far_ahead_of_a_reset_group_is_sought_and_confirmed() {
    simulate(7, |simulation| async move {
        let mut cluster = Cluster::new(&simulation, 1, 10_500, two_sinks(None));
        cluster.batch_rows = 500;
        cluster.archive.release_all();
        cluster.drain("a").await.unwrap();
        tokio::time::sleep(SESSION).await;
        cluster.log.reset_group("process", None);
        let summary = cluster.drain("b").await.unwrap();
        assert_eq!(summary.messages + summary.duplicates, 0);
        exactly_once(&cluster).unwrap();
    });
}

#[test]
fn archive_that_was_not_read_for_five_days_is_refused_until_the_gap_is_accepted() {
    simulate(8, |simulation| async move {
        let mut cluster = drained(&simulation, 30).await;
        tokio::time::sleep(Duration::from_secs(6 * 24 * 3600)).await;
        let refused = cluster.drain("a").await.unwrap_err();
        assert!(refused.starts_with("archive of ww1: "), "{refused}");
        tokio::time::sleep(SESSION).await;
        cluster.accept_gap = AcceptGap::All;
        extend_and_drain(&cluster).await.unwrap();
        let ledger = cluster.log.records(Topic::Ledger).unwrap();
        let entries =
            ledger
                .iter()
                .filter_map(|record| match LedgerRecord::decode(&record.value) {
                    Some(LedgerRecord::Pulled(entries)) => Some(entries),
                    _ => None,
                });
        let gaps = entries
            .flatten()
            .filter(|entry| entry.kind == EntryKind::Gap)
            .count();
        assert_eq!(gaps, 1);
    });
}

#[test]
fn transaction_left_hanging_by_a_broker_restart_is_rolled_back_by_its_id() {
    // Each seed kills the process at another moment of its transactions.
    let hangs = |seed| {
        simulate(seed, |simulation| async move {
            let cluster = cluster(&simulation, 2, 100);
            simulation.set_odds(FaultOdds {
                delay: 1.0,
                ..FaultOdds::CALM
            });
            let running = cluster.start("a", false);
            tokio::time::sleep(simulation.draw(|dice| dice.millis(500..10_000))).await;
            running.kill();
            cluster.log.restart_broker();
            running.ended().await.unwrap();
            simulation.set_odds(FaultOdds::CALM);
            // Longer than any transaction may stay open.
            tokio::time::sleep(Duration::from_secs(60)).await;
            let hidden = Topic::ALL.map(|topic| cluster.log.hidden_records(topic));
            cluster.drain("a").await.unwrap();
            exactly_once(&cluster).unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let hidden_after = Topic::ALL.map(|topic| cluster.log.hidden_records(topic));
            assert_eq!(hidden_after.iter().sum::<u64>(), 0);
            hidden.iter().sum::<u64>() > 0
        })
    };
    let hanging = (0..40).filter(|seed| hangs(*seed)).count();
    assert!(hanging > 5, "{hanging}");
}

#[test]
fn dead_letters_replayed_by_two_processes_at_once_are_published_and_settled_once() {
    for seed in 0..20 {
        simulate(seed, |simulation| async move {
            let cluster = cluster(&simulation, 3, 200);
            cluster.drain("a").await.unwrap();
            tokio::time::sleep(SESSION).await;
            let running = cluster.start("a", false);
            // The key version that was missing; its records are broken as well.
            cluster.opener.add_key(2);
            let requester = Requester {
                actor: "someone".into(),
                at: 1,
            };
            let replay = |name: &str| {
                let log = cluster.log.dead_letters(&simulation.process(name));
                let requester = requester.clone();
                async move {
                    let filter = DeadLetterFilter::lacking(&[2]);
                    let published = log.replay(&filter, &requester).await?;
                    let deadline = Instant::now() + Duration::from_secs(60);
                    log.await_outcomes(published, deadline).await
                }
            };
            let (first, second) = tokio::join!(replay("c1"), replay("c2"));
            running.stop().await.unwrap();
            let counts: Vec<_> = [first, second].into_iter().flatten().collect();
            assert!(!counts.is_empty(), "one of the two may be fenced, not both");
            let failed: u64 = counts.iter().map(|counts| counts.failed).sum();
            let retried = cluster.log.records(Topic::Raw).unwrap();
            let retried: Vec<u64> = retried
                .iter()
                .filter(|record| record.retry.is_some())
                .map(|record| record.seq)
                .collect();
            let mut once = retried.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), retried.len(), "seed {seed}: published twice");
            assert!(failed as usize <= retried.len());
            assert!(!retried.is_empty());
            tokio::time::sleep(SESSION).await;
            cluster.drain("b").await.unwrap();
            let table = cluster.sinks[0].sink.rows();
            let events = table
                .iter()
                .filter(|row| row.kind == RowKind::DeadLetterEvent);
            // One event that the attempt began, one of its outcome.
            assert_eq!(events.count(), 2 * retried.len());
        });
    }
}

/// Counts how often `[deadletter]` is read from its beginning.
fn counting_reads(mut log: DeadLetterLog) -> (DeadLetterLog, Arc<AtomicUsize>) {
    let reads = Arc::new(AtomicUsize::new(0));
    let (reader, counter) = (log.reader, Arc::clone(&reads));
    log.reader = Box::new(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        reader()
    });
    (log, reads)
}

#[test]
fn topic_is_read_twice_for_a_replay_of_any_number_of_dead_letters() {
    const COUNT: u64 = 12_000;
    simulate(3, |simulation| async move {
        let cluster = drained(&simulation, 1).await;
        let log = cluster.log.dead_letters(&simulation.process("dlq"));
        let (log, reads) = counting_reads(log);
        let dead_letters = (1..=COUNT).map(|seq| {
            let dead_letter = DeadLetter {
                corp_id: CORP.into(),
                seq,
                msgid: format!("lost-{seq}"),
                reason: Reason::UnknownKeyVersion,
                error: "no private key".into(),
                key_version: 9,
                sealed: format!("{{\"seq\":{seq}}}"),
                first_seen: 1,
                attempts: 0,
            };
            OutRecord {
                topic: Topic::DeadLetter,
                key: dead_letter.msgid.clone().into_bytes(),
                value: serde_json::to_vec(&dead_letter).unwrap().into(),
                corp_id: CORP.to_owned(),
                seq,
                link: None,
                retry: None,
            }
        });
        let writer = (log.writer)().await.unwrap();
        writer.begin().await.unwrap();
        writer.transact(dead_letters.collect(), &[]).await.unwrap();
        let before = cluster.log.records(Topic::Raw).unwrap().len() as u64;

        let filter = DeadLetterFilter {
            key_versions: Some([9].into()),
            ..DeadLetterFilter::default()
        };
        let first = DeadLetterFilter {
            to_seq: Some(COUNT / 2),
            ..filter.clone()
        };
        let requester = Requester {
            actor: "test".into(),
            at: 5,
        };
        let published = log.replay(&first, &requester).await.unwrap();
        assert_eq!(published.retried.len() as u64, COUNT / 2);
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        // The first half is under way. The second is discarded, in more than one transaction.
        let counts = log.discard(&filter, &requester, "why").await.unwrap();
        assert_eq!((counts.dropped, counts.waiting), (COUNT / 2, COUNT / 2));
        assert_eq!(reads.load(Ordering::Relaxed), 4);
        let again = log.replay(&filter, &requester).await.unwrap();
        assert_eq!((again.retried.len(), again.counts.waiting), (0, COUNT / 2));
        let raw = cluster.log.records(Topic::Raw).unwrap().len() as u64;
        assert_eq!(raw, before + COUNT / 2);
    });
}
