//! The property: whatever happens to the processes, every record is in each sink exactly once.

use std::time::Duration;

use chatledger_engine::kafka::Topic;
use chatledger_engine::kafka::testing::sink_group;
use chatledger_engine::sink::Stream;
use chatledger_engine::testing::sink::{FakeSink, NameMemory, PlantedSinkFault};
use chatledger_engine::testing::{Dice, FaultOdds, Simulation, for_each_seed, simulate};
use proptest::prelude::*;

use super::check::exactly_once;
use super::cluster::{Cluster, ClusterSink, Running};

/// A fault of the test's own, which the property has to find.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    Sink(PlantedSinkFault),
    CommitAfterRevocation,
}

/// Two sinks: one that knows insert tokens and takes everything, one that knows file names.
pub(crate) fn two_sinks(fault: Option<PlantedSinkFault>) -> Vec<ClusterSink> {
    vec![
        ClusterSink {
            sink: FakeSink::new("table", NameMemory::Tokens(1000)).with_fault(fault),
            name: "table",
            streams: &Stream::ALL,
        },
        ClusterSink {
            sink: FakeSink::new("files", NameMemory::Files).with_fault(fault),
            name: "files",
            streams: &[Stream::Messages, Stream::Violations],
        },
    ]
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Processes come and go while the archive grows.
async fn storm(cluster: &Cluster) -> Result<(), String> {
    let simulation = &cluster.simulation;
    let mut running: Vec<Running> = Vec::new();
    for _ in 0..simulation.draw(|dice| dice.within(10..25)) {
        running.retain(|process| !process.is_over());
        let idle: Vec<&str> = NAMES
            .into_iter()
            .filter(|name| {
                running
                    .iter()
                    .all(|process| process.process.name() != *name)
            })
            .collect();
        let chosen = simulation.draw(|dice| dice.within(0..64) as usize);
        match simulation.draw(|dice| dice.within(0..16)) {
            0..=4 if !idle.is_empty() => {
                running.push(cluster.start(idle[chosen % idle.len()], false));
            }
            5 if !running.is_empty() => running[chosen % running.len()].kill(),
            6 if !running.is_empty() => running[chosen % running.len()].ask_to_stop(),
            7 | 8 if !running.is_empty() => {
                let pause = simulation.draw(|dice| dice.millis(1000..40_000));
                running[chosen % running.len()].process.freeze(pause);
            }
            9 => cluster.log.restart_broker(),
            10 => retain(cluster),
            _ => cluster.archive.release(chosen % 20),
        }
        tokio::time::sleep(simulation.draw(|dice| dice.millis(50..4000))).await;
    }
    simulation.set_odds(FaultOdds::CALM);
    for process in running {
        if simulation.draw(|dice| dice.chance(0.5)) {
            process.kill();
        }
        process.stop().await?;
    }
    Ok(())
}

/// Retention and compaction remove what nobody needs any more: of `[raw]` what was processed, except
/// the records in which the archive may repeat a message; of the sinks' topics what every group has
/// committed.
fn retain(cluster: &Cluster) {
    for topic in [Topic::Cursor, Topic::ProcessCheckpoints] {
        cluster.log.compact(topic);
    }
    for topic in [
        Topic::Raw,
        Topic::Messages,
        Topic::Violations,
        Topic::DeadLetter,
    ] {
        let groups: Vec<String> = match topic {
            Topic::Raw => vec!["process".to_owned()],
            _ => ["table", "files"]
                .iter()
                .map(|sink| sink_group(sink, topic))
                .filter(|group| cluster.log.groups().contains(group))
                .collect(),
        };
        for partition in 0..cluster.log.end_offsets(topic).len() as i32 {
            let position = |group: &String| {
                let committed = cluster.log.committed(group);
                committed.get(&partition).copied().unwrap_or_default()
            };
            let needed = groups.iter().map(position).min().unwrap_or_default();
            let kept = if topic == Topic::Raw { 100 } else { 0 };
            let offset = needed.saturating_sub(kept);
            cluster.log.drop_head(topic, partition, offset);
        }
    }
}

/// Every process runs once more: a transaction that a broker left hanging waits for its id.
async fn clear_hanging_transactions(cluster: &Cluster) -> Result<(), String> {
    let running: Vec<Running> = NAMES.map(|name| cluster.start(name, false)).into();
    tokio::time::sleep(Duration::from_secs(3)).await;
    for process in running {
        process.stop().await?;
    }
    Ok(())
}

/// Whether the sink checkpoints of a group are as far as its committed positions. A process that was
/// frozen while it stored a checkpoint may have replaced a later one: a sink keeps the one that
/// arrives last. That alone does no harm, since the group is ahead then; a group that is moved back
/// afterwards writes rows again.
fn has_checkpoints(cluster: &Cluster, group: &str) -> bool {
    let sinks = cluster.sinks.iter();
    let Some((sink, topic)) = sinks.into_iter().find_map(|sink| {
        let topic = group.strip_prefix(&format!("sink.{}.", sink.name))?;
        Some((&sink.sink, topic))
    }) else {
        return true;
    };
    cluster.log.committed(group).iter().all(|(partition, at)| {
        let checkpoint = sink.checkpoint(&format!("{topic}-{partition:05}"));
        checkpoint.map_or(0, |checkpoint| checkpoint.position) >= *at
    })
}

/// Moves groups back by hand, while nobody is in them and nothing is pending.
fn reset_groups(cluster: &Cluster) {
    for group in cluster.log.groups() {
        let back = cluster.simulation.draw(|dice| dice.within(0..30));
        let position = cluster.simulation.draw(|dice| dice.chance(0.5));
        let reset = cluster.simulation.draw(|dice| dice.chance(0.5));
        let settled = !cluster.log.has_pending_batch(&group) && has_checkpoints(cluster, &group);
        if reset && group != "source" && settled {
            cluster.log.reset_group(&group, position.then_some(back));
        }
    }
}

pub(crate) async fn scenario(
    simulation: Simulation,
    planted: Option<Planted>,
) -> Result<(), String> {
    let fault = match planted {
        Some(Planted::Sink(fault)) => Some(fault),
        _ => None,
    };
    let partitions = simulation.draw(|dice| dice.within(1..5)) as usize;
    let records = simulation.draw(|dice| dice.within(20..150)) as usize;
    let mut cluster = Cluster::new(&simulation, partitions, records, two_sinks(fault));
    cluster.batch_rows = simulation.draw(|dice| dice.within(2..20)) as usize;
    if planted == Some(Planted::CommitAfterRevocation) {
        cluster.log.accept_stale_commits();
    }
    simulation.set_odds(FaultOdds::STORMY);
    storm(&cluster).await?;
    clear_hanging_transactions(&cluster).await?;
    // Members that ended keep their partitions until their session ends.
    tokio::time::sleep(Duration::from_secs(15)).await;
    if simulation.draw(|dice| dice.chance(0.5)) {
        reset_groups(&cluster);
    }
    cluster.archive.release_all();
    cluster.drain("a").await?;
    // What was sent may still arrive.
    tokio::time::sleep(Duration::from_secs(100)).await;
    exactly_once(&cluster)
}

pub(crate) fn run(seed: u64, planted: Option<Planted>) -> Result<(), String> {
    if std::env::var_os("SIMULATION_SEED").is_some() {
        // What the stages log is of use when one seed is run alone.
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .try_init()
            .ok();
    }
    simulate(seed, |simulation| scenario(simulation, planted))
}

#[test]
fn every_record_is_in_each_sink_once_whatever_goes_wrong() {
    // Ten times as fast with optimisations.
    let cases = if cfg!(debug_assertions) { 200 } else { 1000 };
    for_each_seed(cases, |seed| run(seed, None));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn every_record_is_in_each_sink_once_for_any_seed(seed: u64) {
        if let Err(failure) = run(seed, None) {
            prop_assert!(false, "seed {}: {}", seed, failure);
        }
    }
}

#[test]
fn run_depends_on_its_seed_alone() {
    let trace = |seed| {
        simulate(seed, |simulation| async move {
            let result = scenario(simulation.clone(), None).await;
            (result, simulation.draw(Dice::number))
        })
    };
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
}
