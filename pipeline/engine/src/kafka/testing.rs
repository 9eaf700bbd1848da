//! A Kafka cluster in memory, for tests: the port [`Group`] with everything that can go wrong.
//!
//! [`MemoryLog`] holds topics with partitions, consumer groups and transactional producers. It is
//! never more lenient than a real cluster with the real connector: whatever
//! `connectors/kafka/src/{member,writer,rebalance}.rs` refuses, it refuses with the same class. In
//! particular:
//!
//! - Readers see committed records up to the first open transaction. A commit is answered before its
//!   markers are written, partition by partition.
//! - A transaction that a dead process left open ends after 30 s, or when its id is started again.
//!   [`MemoryLog::restart_broker`] leaves transactions hanging that only their own id can end.
//! - Members are static: one that returns under its instance id has its partitions at once. One that
//!   is silent for 10 s, or does not poll for 300 s, loses them.
//! - Commits are refused to members of another generation, and for partitions that were revoked
//!   since their assignment was reported.
//!
//! Time is that of the tokio runtime, and every choice is drawn from the simulation
//! ([`crate::testing`]).

mod broker;
mod group;
mod member;
mod partition;
mod refusal;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chatledger_schemas::{Classified, FaultClass};
use futures::FutureExt;
use tokio::time::Instant;

use self::broker::Broker;
use self::group::GroupState;
use self::member::MemoryMember;
use self::partition::{PartitionLog, ReadStep};
use super::dead_letters::DeadLetterLog;
use super::{Group, Join, LogRecord, Topic, process};
use crate::fault::Fault;
use crate::testing::{Dice, SimulatedProcess, Simulation, lock};

/// How long [`DeadLetterLog::settled`] waits for open transactions.
const SETTLED_TIMEOUT: Duration = Duration::from_secs(45);

/// Where reading an assigned partition starts.
#[derive(Debug, Clone, Copy)]
enum ReadFrom {
    /// At its first record.
    Beginning,
    /// This many records before the committed position.
    BeforeCommitted(u64),
}

/// What a member writes.
#[derive(Debug, Clone)]
struct Writes {
    transactional_id: String,
    topics: Vec<Topic>,
}

/// How a member joins.
#[derive(Debug, Clone)]
struct Membership {
    topic: Topic,
    group: Option<String>,
    from: ReadFrom,
    writes: Option<Writes>,
}

/// A cluster in memory. Clones are the same cluster.
#[derive(Clone)]
pub struct MemoryLog {
    simulation: Simulation,
    broker: Arc<Mutex<Broker>>,
}

/// A transaction stays open for longer than its producer may take.
#[derive(Debug, thiserror::Error)]
#[error("a transaction on [{0}] does not end")]
struct Unsettled(&'static str);

impl Classified for Unsettled {
    fn class(&self) -> FaultClass {
        FaultClass::Retry
    }
}

impl MemoryLog {
    /// Creates every topic, with `partitions` partitions where there is more than one.
    pub fn new(simulation: &Simulation, partitions: usize) -> Self {
        let mut broker = Broker::new();
        for topic in Topic::ALL {
            let count = if topic.has_one_partition() {
                1
            } else {
                partitions
            };
            let logs = (0..count).map(|_| PartitionLog::default()).collect();
            broker.topics.insert(topic, logs);
        }
        Self {
            simulation: simulation.clone(),
            broker: Arc::new(Mutex::new(broker)),
        }
    }

    fn with<T>(&self, with: impl FnOnce(&mut Broker, &mut Dice) -> T) -> T {
        let mut broker = lock(&self.broker);
        self.simulation.draw(|dice| with(&mut broker, dice))
    }

    fn join(&self, process: &SimulatedProcess, membership: Membership) -> Join {
        if let Some(group) = &membership.group {
            self.with(|broker, _| {
                let state = || GroupState::new(membership.topic);
                broker.groups.entry(group.clone()).or_insert_with(state);
            });
        }
        let (log, process) = (self.clone(), process.clone());
        Box::new(move || {
            let (log, process, membership) = (log.clone(), process.clone(), membership.clone());
            async move {
                process.pass("log.join").await?;
                let member = MemoryMember::join(&log, &process, membership);
                Ok(Arc::new(member) as Arc<dyn Group>)
            }
            .boxed()
        })
    }

    /// How the stage `source` joins.
    pub fn source(&self, process: &SimulatedProcess) -> Join {
        self.join(
            process,
            Membership {
                topic: Topic::Cursor,
                group: Some("source".to_owned()),
                from: ReadFrom::Beginning,
                writes: Some(Writes {
                    transactional_id: "source".to_owned(),
                    topics: vec![Topic::Raw, Topic::Cursor, Topic::Ledger],
                }),
            },
        )
    }

    /// How the stage `directory` joins.
    pub fn directory(&self, process: &SimulatedProcess) -> Join {
        self.join(
            process,
            Membership {
                topic: Topic::Directory,
                group: Some("directory".to_owned()),
                from: ReadFrom::Beginning,
                writes: Some(Writes {
                    transactional_id: "directory".to_owned(),
                    topics: vec![Topic::Directory],
                }),
            },
        )
    }

    /// How the stage `process` joins.
    pub fn process(&self, process: &SimulatedProcess) -> Join {
        self.join(
            process,
            Membership {
                topic: Topic::Raw,
                group: Some("process".to_owned()),
                from: ReadFrom::BeforeCommitted(process::WINDOW as u64),
                writes: Some(Writes {
                    transactional_id: format!("process.{}", process.name()),
                    topics: vec![
                        Topic::Messages,
                        Topic::Violations,
                        Topic::DeadLetter,
                        Topic::Directory,
                        Topic::Ledger,
                        Topic::ProcessCheckpoints,
                    ],
                }),
            },
        )
    }

    /// How a sink joins on a topic.
    pub fn sink(&self, process: &SimulatedProcess, sink: &str, topic: Topic) -> Join {
        self.join(
            process,
            Membership {
                topic,
                group: Some(sink_group(sink, topic)),
                from: ReadFrom::BeforeCommitted(0),
                writes: None,
            },
        )
    }

    /// How a reader of a whole topic joins, outside any group.
    pub fn reader(&self, process: &SimulatedProcess, topic: Topic) -> Join {
        self.join(
            process,
            Membership {
                topic,
                group: None,
                from: ReadFrom::Beginning,
                writes: None,
            },
        )
    }

    /// `[deadletter]`, to be read and written as a whole.
    pub fn dead_letters(&self, process: &SimulatedProcess) -> DeadLetterLog {
        let writer = Membership {
            topic: Topic::DeadLetter,
            group: None,
            from: ReadFrom::Beginning,
            writes: Some(Writes {
                transactional_id: "dlq".to_owned(),
                topics: vec![Topic::Raw, Topic::DeadLetter],
            }),
        };
        let (log, owner) = (self.clone(), process.clone());
        DeadLetterLog {
            reader: self.reader(process, Topic::DeadLetter),
            writer: self.join(process, writer),
            settled: Box::new(move || {
                let (log, process) = (log.clone(), owner.clone());
                async move {
                    process.pass("log.settled").await?;
                    log.settle(&process, Topic::DeadLetter).await
                }
                .boxed()
            }),
        }
    }

    /// Waits until readers see everything that is in a topic now.
    async fn settle(&self, process: &SimulatedProcess, topic: Topic) -> Result<(), Fault> {
        let ends = self.ends(topic, PartitionLog::end);
        let deadline = Instant::now() + SETTLED_TIMEOUT;
        loop {
            self.with(Broker::advance);
            let stable = self.ends(topic, PartitionLog::stable_end);
            if stable.iter().zip(&ends).all(|(stable, end)| stable >= end) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Fault::new(Unsettled(topic.name())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            process.run().await;
        }
    }

    fn ends(&self, topic: Topic, end: impl Fn(&PartitionLog) -> u64) -> Vec<u64> {
        self.with(|broker, _| {
            let logs = broker.topics.get(&topic).into_iter().flatten();
            logs.map(end).collect()
        })
    }

    /// The offset after the last one of each partition of a topic.
    pub fn end_offsets(&self, topic: Topic) -> Vec<u64> {
        self.ends(topic, PartitionLog::end)
    }

    /// Number of records of a topic that readers do not see because a transaction is open.
    pub fn hidden_records(&self, topic: Topic) -> u64 {
        self.with(Broker::advance);
        let hidden = self.ends(topic, |log| log.end() - log.stable_end());
        hidden.into_iter().sum()
    }

    /// The committed records of a topic that readers can see now, by partition and offset.
    ///
    /// # Errors
    /// A header of a record cannot be read.
    pub fn records(&self, topic: Topic) -> Result<Vec<LogRecord>, Fault> {
        let mut stored = Vec::new();
        self.with(|broker, dice| {
            broker.advance(dice);
            for log in broker.topics.get(&topic).into_iter().flatten() {
                let mut position = log.first();
                while let ReadStep::Record(record) = log.read(position) {
                    position = record.raw.offset + 1;
                    stored.push(record);
                }
            }
        });
        let read = stored.iter();
        read.map(|stored| member::read_record(topic, stored))
            .collect()
    }

    /// The committed positions of a group, by partition.
    pub fn committed(&self, group: &str) -> BTreeMap<i32, u64> {
        self.with(|broker, _| {
            let state = broker.groups.get(group);
            let committed = state.map(|state| state.committed().iter());
            let positions = committed.into_iter().flatten();
            positions
                .map(|(partition, committed)| (*partition, committed.position))
                .collect()
        })
    }

    /// Whether a group's positions are committed with metadata: a lane has a pending batch.
    pub fn has_pending_batch(&self, group: &str) -> bool {
        self.with(|broker, _| {
            let state = broker.groups.get(group);
            let mut committed = state
                .into_iter()
                .flat_map(|state| state.committed().values());
            committed.any(|committed| !committed.metadata.is_empty())
        })
    }

    /// The names of all groups.
    pub fn groups(&self) -> BTreeSet<String> {
        self.with(|broker, _| broker.groups.keys().cloned().collect())
    }

    /// Moves a group's committed positions back by hand, to `position` at most; `None` removes them.
    /// A real cluster refuses this while the group has members.
    pub fn reset_group(&self, group: &str, position: Option<u64>) {
        self.with(|broker, _| {
            if let Some(state) = broker.groups.get_mut(group) {
                state.reset(position);
            }
        });
    }

    /// Removes the records of a partition before an offset, as retention does.
    pub fn drop_head(&self, topic: Topic, partition: i32, offset: u64) {
        self.with(|broker, _| {
            if let Some(log) = broker.partition_mut(topic, partition) {
                log.drop_head(offset);
            }
        });
    }

    /// Removes records of a topic that a later one with the same key replaces.
    pub fn compact(&self, topic: Topic) {
        self.with(|broker, _| {
            for log in broker.topics.get_mut(&topic).into_iter().flatten() {
                log.compact();
            }
        });
    }

    /// Deletes a topic and creates it again. Its groups' positions are deleted with it.
    pub fn recreate(&self, topic: Topic) {
        self.with(|broker, _| {
            for log in broker.topics.get_mut(&topic).into_iter().flatten() {
                *log = PartitionLog::default();
            }
            let groups = broker.groups.values_mut();
            for group in groups.filter(|group| group.topic() == topic) {
                group.forget_positions();
            }
        });
    }

    /// Adds partitions to a topic.
    pub fn add_partitions(&self, topic: Topic, count: usize) {
        self.with(|broker, _| {
            if let Some(logs) = broker.topics.get_mut(&topic) {
                logs.extend((0..count).map(|_| PartitionLog::default()));
            }
        });
    }

    /// A broker goes away and returns: every producer has to start again, and some open
    /// transactions are left hanging until their id does.
    pub fn restart_broker(&self) {
        self.with(Broker::restart);
    }

    /// Whether a transaction is open or being ended.
    pub fn has_open_transactions(&self) -> bool {
        self.with(|broker, dice| {
            broker.advance(dice);
            broker.has_open_transactions()
        })
    }

    /// Plants a fault: a member's commits are accepted after it lost the partition.
    pub fn accept_stale_commits(&self) {
        self.with(|broker, _| broker.accepts_stale_commits = true);
    }
}

/// The group of a sink on a topic.
pub fn sink_group(sink: &str, topic: Topic) -> String {
    format!("sink.{sink}.{}", topic.name())
}
