//! The log in memory refuses what a real cluster and the real connector refuse.
//!
//! Time is simulated: a sleep moves the clock as far as a session or a transaction needs to time out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chatledger_engine::kafka::testing::MemoryLog;
use chatledger_engine::kafka::{Group, GroupEvent, OutRecord, Topic};
use chatledger_engine::testing::{SimulatedProcess, Simulation, simulate};
use chatledger_schemas::FaultClass;

const TICK: Duration = Duration::from_millis(100);

fn out(topic: Topic, number: u64) -> OutRecord {
    OutRecord {
        topic,
        key: number.to_string().into_bytes(),
        value: Bytes::from(number.to_string()),
        corp_id: "ww1".into(),
        seq: number,
        link: None,
        retry: None,
    }
}

struct World {
    log: MemoryLog,
    simulation: Simulation,
}

impl World {
    fn new(simulation: Simulation) -> Self {
        Self {
            log: MemoryLog::new(&simulation, 4),
            simulation,
        }
    }

    fn process(&self, name: &str) -> SimulatedProcess {
        self.simulation.process(name)
    }

    async fn sink(&self, process: &SimulatedProcess) -> Arc<dyn Group> {
        self.log.sink(process, "sink", Topic::Messages)()
            .await
            .unwrap()
    }

    /// A started producer that writes to `[messages]`.
    async fn writer(&self, process: &SimulatedProcess) -> Arc<dyn Group> {
        let group = self.log.process(process)().await.unwrap();
        group.begin().await.unwrap();
        group
    }
}

/// The partitions of the next assignment that has any.
async fn assigned(group: &Arc<dyn Group>) -> BTreeSet<i32> {
    for _ in 0..5000 {
        if let GroupEvent::Assigned(list) = group.next(TICK).await.unwrap()
            && !list.is_empty()
        {
            return list.iter().map(|assigned| assigned.partition).collect();
        }
    }
    panic!("no partition was assigned");
}

/// The positions of the records that are read until every partition is at its end.
async fn read(group: &Arc<dyn Group>, partitions: usize) -> Vec<u64> {
    let (mut seqs, mut ends) = (Vec::new(), BTreeSet::new());
    while ends.len() < partitions {
        match group.next(TICK).await.unwrap() {
            GroupEvent::Record(record) => seqs.push(record.seq),
            GroupEvent::End(partition) => {
                ends.insert(partition);
            }
            _ => {}
        }
    }
    seqs.sort_unstable();
    seqs
}

#[test]
fn partition_taken_away_is_not_committed_by_a_member_that_waited_for_a_sink() {
    simulate(1, |simulation| async move {
        let world = World::new(simulation);
        let one = world.sink(&world.process("one")).await;
        let all = assigned(&one).await;
        assert_eq!(all.len(), 4);
        for partition in &all {
            one.save(*partition, 0, "pending".into()).await.unwrap();
        }
        // The first waits for a sink; meanwhile a second takes a share.
        let two = world.sink(&world.process("two")).await;
        let others = tokio::select! {
            fault = one.keep_alive() => panic!("{fault}"),
            others = assigned(&two) => others,
        };
        assert_eq!(others.len(), 2);
        for partition in &all {
            let refused = one.save(*partition, 7, String::new()).await.unwrap_err();
            assert_eq!(refused.class, FaultClass::Refresh);
        }
        let mine = assigned(&one).await;
        assert_eq!(mine, all.difference(&others).copied().collect());
        for partition in &mine {
            one.save(*partition, 0, String::new()).await.unwrap();
        }
        for partition in &others {
            assert!(one.save(*partition, 7, String::new()).await.is_err());
            two.save(*partition, 0, String::new()).await.unwrap();
        }
    });
}

#[test]
fn member_that_was_frozen_longer_than_its_session_has_lost_its_partitions() {
    simulate(2, |simulation| async move {
        let world = World::new(simulation);
        let frozen = world.process("one");
        let one = world.sink(&frozen).await;
        let all = assigned(&one).await;
        frozen.freeze(Duration::from_secs(60));
        let two = world.sink(&world.process("two")).await;
        assert_eq!(assigned(&two).await, all);
        tokio::time::sleep(Duration::from_secs(60)).await;
        // Its client has not heard of it yet: the broker refuses.
        let refused = one.save(0, 7, String::new()).await.unwrap_err();
        assert_eq!(refused.class, FaultClass::Refresh);
    });
}

#[test]
fn member_that_does_not_poll_leaves_the_group() {
    simulate(3, |simulation| async move {
        let world = World::new(simulation);
        let one = world.sink(&world.process("one")).await;
        let all = assigned(&one).await;
        let two = world.sink(&world.process("two")).await;
        assert_eq!(assigned(&two).await, all);
        assert!(one.next(TICK).await.is_err());
    });
}

#[test]
fn member_that_returns_under_its_name_has_its_partitions_at_once_and_fences_the_old_one() {
    simulate(4, |simulation| async move {
        let world = World::new(simulation);
        let old = world.sink(&world.process("one")).await;
        let all = assigned(&old).await;
        let since = tokio::time::Instant::now();
        let new = world.sink(&world.process("one")).await;
        assert_eq!(assigned(&new).await, all);
        assert!(since.elapsed() < Duration::from_secs(1));
        let refused = old.save(0, 7, String::new()).await.unwrap_err();
        assert_eq!(refused.class, FaultClass::Refresh);
        assert_eq!(old.next(TICK).await.unwrap_err().class, FaultClass::Refresh);
    });
}

#[test]
fn transaction_is_invisible_until_its_commit_and_fenced_producers_cannot_write() {
    simulate(5, |simulation| async move {
        let world = World::new(simulation);
        let reader = world.log.reader(&world.process("r"), Topic::Messages)()
            .await
            .unwrap();
        let old = world.writer(&world.process("w")).await;
        let records = (1..=20)
            .map(|number| out(Topic::Messages, number))
            .collect();
        old.transact(records, &[]).await.unwrap();
        // The commit was acknowledged before its markers were written.
        assert!(read(&reader, 4).await.len() < 20);
        let new = world.writer(&world.process("w")).await;
        let fenced = old.transact(vec![out(Topic::Messages, 21)], &[]).await;
        assert_eq!(fenced.unwrap_err().class, FaultClass::Refresh);
        new.transact(vec![out(Topic::Messages, 22)], &[])
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let seqs: Vec<u64> = world
            .log
            .records(Topic::Messages)
            .unwrap()
            .iter()
            .map(|record| record.seq)
            .collect();
        assert_eq!(seqs.len(), 21);
        assert!(!seqs.contains(&21));
    });
}

#[test]
fn dead_process_holds_readers_up_until_its_transaction_times_out() {
    simulate(6, |simulation| async move {
        let world = World::new(simulation.clone());
        let dying = world.process("w");
        let writer = world.writer(&dying).await;
        simulation.set_odds(chatledger_engine::testing::FaultOdds {
            delay: 1.0,
            ..chatledger_engine::testing::FaultOdds::CALM
        });
        let records: Vec<OutRecord> = (1..=50).map(|n| out(Topic::Messages, n)).collect();
        let writing = tokio::spawn(async move { writer.transact(records, &[]).await });
        while world.log.end_offsets(Topic::Messages).iter().sum::<u64>() < 30 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        dying.kill();
        writing.abort();
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(world.log.hidden_records(Topic::Messages) >= 20);
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(
            world.log.has_open_transactions(),
            "its markers are being written"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.log.hidden_records(Topic::Messages), 0);
        assert!(world.log.records(Topic::Messages).unwrap().is_empty());
    });
}

#[test]
fn member_writes_only_after_it_began_and_only_to_its_topics() {
    simulate(7, |simulation| async move {
        let world = World::new(simulation);
        let process = world.process("w");
        let group = world.log.process(&process)().await.unwrap();
        assert!(group.transact(Vec::new(), &[]).await.is_err());
        group.begin().await.unwrap();
        let foreign = group.transact(vec![out(Topic::Raw, 1)], &[]).await;
        assert_eq!(foreign.unwrap_err().class, FaultClass::Stop);
        let not_held = group.transact(Vec::new(), &[(0, 1)]).await;
        assert_eq!(not_held.unwrap_err().class, FaultClass::Refresh);
        let sink = world.sink(&process).await;
        assert_eq!(sink.begin().await.unwrap_err().class, FaultClass::Stop);
        assert!(sink.seek(0, 0).await.is_err());
        world.log.restart_broker();
        let disturbed = group.transact(vec![out(Topic::Messages, 1)], &[]).await;
        assert_eq!(disturbed.unwrap_err().class, FaultClass::Refresh);
    });
}

#[test]
fn reader_outside_a_group_joins_again_when_its_topic_has_more_partitions() {
    simulate(8, |simulation| async move {
        let world = World::new(simulation);
        let reader = world.log.reader(&world.process("r"), Topic::Messages)()
            .await
            .unwrap();
        assert_eq!(reader.partitions(), 4);
        world.log.add_partitions(Topic::Messages, 1);
        let mut answer = Ok(GroupEvent::Idle);
        for _ in 0..400 {
            answer = reader.next(TICK).await;
            if answer.is_err() {
                break;
            }
        }
        assert_eq!(answer.unwrap_err().class, FaultClass::Refresh);
    });
}
