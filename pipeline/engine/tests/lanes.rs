//! A lane with the real [`Delivery`]: whatever goes wrong, every record is in the sink once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use chatledger_engine::batch::{Batch, BatchRange};
use chatledger_engine::delivery::{Delivery, Flushed};
use chatledger_engine::fault::Fault;
use chatledger_engine::lane::LaneCheckpoint;
use chatledger_engine::metrics::Metrics;
use chatledger_engine::ports::Journal;
use chatledger_engine::sink::{Sink, Stream};
use chatledger_engine::testing::journal::FakeJournal;
use chatledger_engine::testing::sink::{FakeSink, NameMemory, PlantedSinkFault, small_limits};
use chatledger_engine::testing::{
    Dice, FaultOdds, SimulatedProcess, Simulation, failing_seeds, for_each_seed, simulate,
};
use chatledger_schemas::{Classified, ConversationKind, FaultClass, Message, PartyKind};
use futures::FutureExt;
use futures::future::BoxFuture;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

/// Records in the log.
const END: u64 = 80;
const LOG: &str = "log";

fn message(seq: u64) -> Message {
    Message {
        corp_id: "ww1".into(),
        seq,
        msgid: format!("m{seq}"),
        action: "send".into(),
        msgtype: "text".into(),
        msgtime: seq as i64,
        conversation_id: "a|b".into(),
        conversation_kind: ConversationKind::SingleInternal,
        room_id: String::new(),
        room_name: String::new(),
        from_id: "a".into(),
        from_kind: PartyKind::Unknown,
        from_name: String::new(),
        from_department_id: 0,
        from_department_path: String::new(),
        to_ids: Vec::new(),
        content: String::new(),
        payload: String::new(),
        key_version: 1,
    }
}

fn batch(positions: std::ops::RangeInclusive<u64>) -> Arc<Batch> {
    let messages: Vec<Message> = positions.map(message).collect();
    let ids = messages
        .iter()
        .map(|message| (message.seq, &*message.msgid));
    let mut batch = Batch::empty(BatchRange::over(ids).expect("a range"));
    batch.messages = messages;
    Arc::new(batch)
}

/// One life of a process that has the lane: reads the log from the journal's position to its end,
/// in batches of any size.
async fn live(
    simulation: Simulation,
    process: SimulatedProcess,
    journal: FakeJournal,
    sink: Sink,
) -> Result<(), Fault> {
    let mut owned = journal.take_over(&process);
    let metrics = Arc::new(Metrics::new("test").expect("metrics"));
    let mut delivery = Delivery::resume(&sink, LOG.into(), journal.checkpoint(), metrics)
        .with_checkpoints(Arc::clone(&sink.checkpoints));
    let cancel = CancellationToken::new();
    let mut at = delivery.lane().position();
    while at < END {
        let bounds = delivery.lane().boundaries().chain([END]);
        let bound = bounds.filter(|bound| *bound > at).min().unwrap_or(END);
        let end = bound.min(at + simulation.draw(|dice| dice.within(1..9)));
        let batch = batch(at + 1..=end);
        while !delivery.push(&batch).await? {
            delivery.flush(&mut owned, &cancel).await?;
        }
        at = end;
        let repeats = delivery.lane().repeating().is_some();
        let early = !repeats && simulation.draw(|dice| dice.chance(0.2));
        if delivery.is_due() || early {
            let flushed = delivery.flush(&mut owned, &cancel).await?;
            assert_ne!(flushed, Flushed::Cancelled);
        }
    }
    delivery.flush(&mut owned, &cancel).await?;
    Ok(())
}

/// A fault of the test's own, which the property has to find.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Planted {
    Sink(PlantedSinkFault),
    StaleOwners,
}

/// Lets processes follow one another: some die, some lose the lane while they are frozen or slow.
/// Then nothing goes wrong any more, and the last one reads to the end.
async fn scenario(simulation: Simulation, planted: Option<Planted>) -> Result<(), String> {
    let files = simulation.draw(|dice| dice.chance(0.5));
    let memory = if files {
        NameMemory::Files
    } else {
        NameMemory::Tokens(500)
    };
    let fault = match planted {
        Some(Planted::Sink(fault)) => Some(fault),
        _ => None,
    };
    let sink = FakeSink::new("sink", memory).with_fault(fault);
    let journal = FakeJournal::default();
    if planted == Some(Planted::StaleOwners) {
        journal.accept_stale_owners();
    }
    simulation.set_odds(FaultOdds {
        kill: 0.02,
        freeze: 0.02,
        ..FaultOdds::STORMY
    });
    let start = |number: u64| {
        let process = simulation.process(&format!("p{number}"));
        let rows = simulation.draw(|dice| dice.within(3..20)) as usize;
        let sink = sink.sink(&process, &[Stream::Messages], small_limits(rows));
        let life = live(simulation.clone(), process.clone(), journal.clone(), sink);
        (process, tokio::spawn(life))
    };
    let mut lives = Vec::new();
    for number in 0..simulation.draw(|dice| dice.within(2..8)) {
        let (process, mut task) = start(number);
        let patience = simulation.draw(|dice| dice.millis(100..20_000));
        tokio::select! {
            biased;
            () = process.killed() => task.abort(),
            _ = &mut task => {}
            // It goes on beside the next one, without owning the lane.
            () = tokio::time::sleep(patience) => {}
        }
        lives.push((process, task));
    }
    simulation.set_odds(FaultOdds::CALM);
    let (_, last) = start(99);
    tokio::time::timeout(Duration::from_secs(3600), last)
        .await
        .map_err(|_| "the last process does not reach the end")?
        .map_err(|error| error.to_string())?
        .map_err(|fault| fault.to_string())?;
    // What was sent may still arrive, and a process may still wake up.
    tokio::time::sleep(Duration::from_secs(200)).await;
    let mut rows: Vec<u64> = sink.rows().iter().map(|row| row.seq).collect();
    rows.sort_unstable();
    let expected: Vec<u64> = (1..=END).collect();
    if rows != expected {
        return Err(format!("rows {rows:?}"));
    }
    if journal.checkpoint().position != END {
        return Err(format!("journal {:?}", journal.checkpoint()));
    }
    Ok(())
}

fn run(seed: u64, planted: Option<Planted>) -> Result<(), String> {
    simulate(seed, |simulation| scenario(simulation, planted))
}

#[test]
fn every_record_is_in_the_sink_once_whatever_goes_wrong() {
    for_each_seed(1000, |seed| run(seed, None));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn every_record_is_in_the_sink_once_for_any_seed(seed: u64) {
        if let Err(failure) = run(seed, None) {
            prop_assert!(false, "seed {}: {}", seed, failure);
        }
    }
}

#[test]
fn run_depends_on_its_seed_alone() {
    let trace = |seed| {
        simulate(seed, |simulation| async move {
            scenario(simulation.clone(), None).await.unwrap();
            simulation.draw(Dice::number)
        })
    };
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}

/// A planted fault is found by some of a hundred seeds.
fn found(planted: Planted) -> usize {
    failing_seeds(0..100, |seed| run(seed, Some(planted))).len()
}

#[test]
fn doubled_rows_of_a_sink_that_ignores_names_are_found() {
    assert!(found(Planted::Sink(PlantedSinkFault::IgnoresNames)) > 0);
}

#[test]
fn lost_rows_of_a_sink_that_acknowledges_before_it_stores_are_found() {
    assert!(found(Planted::Sink(PlantedSinkFault::AcknowledgesBeforeStoring)) > 0);
}

#[test]
fn doubled_rows_of_a_journal_that_accepts_a_stale_owner_are_found() {
    assert!(found(Planted::StaleOwners) > 0);
}

/// Keeps the pending batch, and dies before the position is saved.
#[derive(Default)]
struct DiesBeforePosition(Option<LaneCheckpoint>);

impl Journal for DiesBeforePosition {
    fn save(&mut self, checkpoint: LaneCheckpoint) -> BoxFuture<'_, Result<(), Fault>> {
        let died = checkpoint.pending.is_none();
        if !died {
            self.0 = Some(checkpoint);
        }
        async move {
            if died {
                return Err(Fault::new(Died));
            }
            Ok(())
        }
        .boxed()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the process has died")]
struct Died;

impl Classified for Died {
    fn class(&self) -> FaultClass {
        FaultClass::Refresh
    }
}

#[test]
fn pending_batch_is_not_repeated_in_other_parts_after_a_setting_changed() {
    simulate(1, |simulation| async move {
        let fake = FakeSink::new("files", NameMemory::Files);
        let process = simulation.process("p");
        let in_zone = |zone: &'static str| {
            let mut sink = fake.sink(&process, &[Stream::Messages], small_limits(100));
            sink.layout = Some(Arc::new(move |_| zone.to_owned()));
            sink
        };
        let resume = |zone, checkpoint| {
            let metrics = Arc::new(Metrics::new("test").expect("metrics"));
            Delivery::resume(&in_zone(zone), LOG.into(), checkpoint, metrics)
        };
        let cancel = CancellationToken::new();
        let rows = batch(1..=10);
        let mut journal = DiesBeforePosition::default();
        let mut delivery = resume("Asia/Shanghai", LaneCheckpoint::default());
        assert!(delivery.push(&rows).await.unwrap());
        delivery.flush(&mut journal, &cancel).await.unwrap_err();
        let pending = journal.0.expect("a pending batch");
        assert_eq!(fake.rows().len(), 10);

        let mut moved = resume("Europe/Paris", pending);
        assert!(moved.push(&rows).await.unwrap());
        let refused = moved.flush(&mut journal, &cancel).await.unwrap_err();
        assert_eq!(refused.class, FaultClass::Stop);
        assert!(refused.to_string().contains("time zone"), "{refused}");

        let mut same = resume("Asia/Shanghai", pending);
        assert!(same.push(&rows).await.unwrap());
        same.flush(&mut journal, &cancel).await.unwrap_err();
        assert_eq!(fake.rows().len(), 10);
    });
}
