//! The engine's log, filled in with Kafka: names of topics, groups and transactional ids.

use std::sync::Arc;
use std::time::Duration;

use chatledger_engine::fault::Fault;
use chatledger_engine::kafka::dead_letters::DeadLetterLog;
use chatledger_engine::kafka::{
    Assigned, Group, GroupEvent, Join, LogRecord, OutRecord, RawRecord, Topic, process,
};
use chatledger_kafka::{
    Member, MemberEvent, Membership, OutgoingRecord, StartOffset, TopicSpec, WriterConfig,
};
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::config;

/// A deployment's names on its brokers.
#[derive(Clone)]
pub struct Names {
    brokers: chatledger_kafka::Brokers,
    prefix: String,
    /// Name of this process that outlives it: one for each state folder.
    instance: String,
}

/// Which group a stage joins, and how.
pub enum Role {
    /// The one reader of the archives.
    Source,
    /// The stage `process`.
    Process,
    /// A sink on a topic.
    Sink(&'static str, Topic),
    /// The one reader of the directories.
    Directory,
    /// A follower of `[directory]`, outside any group.
    Follower,
    /// A reader of `[marks]`, outside any group.
    ProcessCheckpoints,
    /// A reader of `[ledger]`, outside any group.
    Ledger,
    /// A reader of `[deadletter]` from its beginning, outside any group.
    DeadLetters,
    /// The writer that replays and discards dead letters.
    Replays,
}

impl Names {
    /// Names for a process.
    pub fn new(kafka: &config::Kafka, instance: String) -> Self {
        Self {
            brokers: kafka.brokers.clone(),
            prefix: kafka.prefix.clone(),
            instance,
        }
    }

    fn topic(&self, topic: Topic) -> String {
        format!("{}.{}", self.prefix, topic.name())
    }

    /// How a role joins.
    pub fn join(&self, role: &Role) -> Join {
        let prefix = &self.prefix;
        let (topic, group, from, writes) = match role {
            Role::Source => (
                Topic::Cursor,
                Some("source".to_owned()),
                StartOffset::Beginning,
                Some((
                    "source".to_owned(),
                    vec![Topic::Raw, Topic::Cursor, Topic::Ledger],
                )),
            ),
            Role::Directory => {
                let id = "directory".to_owned();
                let writes = (id.clone(), vec![Topic::Directory]);
                (
                    Topic::Directory,
                    Some(id),
                    StartOffset::Beginning,
                    Some(writes),
                )
            }
            Role::Process => (
                Topic::Raw,
                Some("process".to_owned()),
                StartOffset::BeforeCommitted(process::WINDOW as u64),
                Some((
                    format!("process.{}", self.instance),
                    vec![
                        Topic::Messages,
                        Topic::Violations,
                        Topic::DeadLetter,
                        Topic::Directory,
                        Topic::Ledger,
                        Topic::ProcessCheckpoints,
                    ],
                )),
            ),
            Role::Sink(sink, topic) => {
                let group = format!("sink.{sink}.{}", topic.name());
                (*topic, Some(group), StartOffset::BeforeCommitted(0), None)
            }
            Role::Follower => (Topic::Directory, None, StartOffset::Beginning, None),
            Role::ProcessCheckpoints => (
                Topic::ProcessCheckpoints,
                None,
                StartOffset::Beginning,
                None,
            ),
            Role::Ledger => (Topic::Ledger, None, StartOffset::Beginning, None),
            Role::DeadLetters => (Topic::DeadLetter, None, StartOffset::Beginning, None),
            Role::Replays => {
                let writes = ("dlq".to_owned(), vec![Topic::Raw, Topic::DeadLetter]);
                (
                    Topic::DeadLetter,
                    None,
                    StartOffset::Beginning,
                    Some(writes),
                )
            }
        };
        let membership = Arc::new(Membership {
            brokers: self.brokers.clone(),
            topic: self.topic(topic),
            group: group.map(|group| format!("{prefix}.{group}")),
            instance: format!("{prefix}.{}", self.instance),
            start: from,
            writer: writes.map(|(id, topics)| WriterConfig {
                transactional_id: format!("{prefix}.{id}"),
                topics: topics.into_iter().map(|topic| self.topic(topic)).collect(),
            }),
        });
        let names = self.clone();
        Box::new(move || {
            let (membership, names) = (Arc::clone(&membership), names.clone());
            async move {
                let member = Member::join(&membership).map_err(Fault::new)?;
                Ok(Arc::new(Log {
                    member,
                    names,
                    topic,
                }) as Arc<dyn Group>)
            }
            .boxed()
        })
    }

    /// `[deadletter]`, to be read and written as a whole.
    pub fn dead_letters(&self) -> DeadLetterLog {
        let names = self.clone();
        DeadLetterLog {
            reader: self.join(&Role::DeadLetters),
            writer: self.join(&Role::Replays),
            settled: Box::new(move || {
                let names = names.clone();
                async move {
                    let topic = names.topic(Topic::DeadLetter);
                    chatledger_kafka::wait_for_open_transactions(&names.brokers, &topic)
                        .await
                        .map_err(Fault::new)
                }
                .boxed()
            }),
        }
    }

    /// The topics of the deployment with settings that fit what is in them.
    pub fn topics(&self, kafka: &config::Kafka) -> Vec<TopicSpec> {
        let days = |days: u64| (days * 24 * 3600 * 1000).to_string();
        Topic::ALL
            .into_iter()
            .map(|topic| {
                let mut settings = vec![("max.message.bytes", "16777216".to_owned())];
                match topic {
                    // Longer than the archive itself keeps its records.
                    Topic::Raw => settings.push(("retention.ms", days(14))),
                    Topic::Messages | Topic::Violations => {
                        settings.push(("retention.ms", days(7)));
                    }
                    Topic::DeadLetter | Topic::Ledger => {
                        settings.push(("retention.ms", "-1".into()));
                    }
                    Topic::Cursor | Topic::Directory => {
                        settings.push(("cleanup.policy", "compact".into()));
                    }
                    Topic::ProcessCheckpoints => {
                        settings.push(("cleanup.policy", "compact".into()));
                        // Written with every batch and read at every rebalance: kept short.
                        settings.push(("segment.ms", "600000".into()));
                        settings.push(("min.cleanable.dirty.ratio", "0.1".into()));
                    }
                }
                if kafka.replication >= 3 {
                    settings.push(("min.insync.replicas", "2".into()));
                }
                TopicSpec {
                    name: self.topic(topic),
                    partitions: if topic.has_one_partition() {
                        1
                    } else {
                        kafka.partitions
                    },
                    one_partition: topic.has_one_partition(),
                    replication: kafka.replication,
                    settings,
                }
            })
            .collect()
    }
}

struct Log {
    member: Member,
    names: Names,
    /// The topic it reads.
    topic: Topic,
}

impl Group for Log {
    fn next(&self, wait: Duration) -> BoxFuture<'_, Result<GroupEvent, Fault>> {
        async move {
            use MemberEvent as E;
            Ok(match self.member.next(wait).await.map_err(Fault::new)? {
                E::Assigned(taken) => GroupEvent::Assigned(
                    taken
                        .into_iter()
                        .map(|taken| Assigned {
                            partition: taken.partition,
                            position: taken.position,
                            metadata: taken.metadata,
                        })
                        .collect(),
                ),
                E::Revoked(partitions) => GroupEvent::Revoked(partitions),
                E::Record(record) => {
                    let raw = RawRecord {
                        partition: record.partition,
                        offset: record.offset,
                        key: record.key.clone(),
                        value: record.value.clone(),
                        timestamp: record.timestamp,
                    };
                    let read = LogRecord::read(self.topic, raw, |name| record.header(name));
                    GroupEvent::Record(read?)
                }
                E::End(partition) => GroupEvent::End(partition),
                E::Idle => GroupEvent::Idle,
            })
        }
        .boxed()
    }

    fn partitions(&self) -> usize {
        self.member.partitions()
    }

    fn save(
        &self,
        partition: i32,
        position: u64,
        metadata: String,
    ) -> BoxFuture<'_, Result<(), Fault>> {
        async move {
            self.member
                .commit(partition, position, &metadata)
                .map_err(Fault::new)
        }
        .boxed()
    }

    fn seek(&self, partition: i32, offset: u64) -> BoxFuture<'_, Result<(), Fault>> {
        async move { self.member.seek(partition, offset).map_err(Fault::new) }.boxed()
    }

    fn keep_alive(&self) -> BoxFuture<'_, Fault> {
        self.member.keep_alive().map(Fault::new).boxed()
    }

    fn begin(&self) -> BoxFuture<'_, Result<(), Fault>> {
        async move { self.member.begin().map_err(Fault::new) }.boxed()
    }

    fn transact<'a>(
        &'a self,
        records: Vec<OutRecord>,
        consumed: &'a [(i32, u64)],
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let out: Vec<OutgoingRecord> = records
                .into_iter()
                .map(|record| {
                    Ok(OutgoingRecord {
                        headers: record.headers()?,
                        topic: self.names.topic(record.topic),
                        key: record.key,
                        value: record.value,
                    })
                })
                .collect::<Result<_, Fault>>()?;
            self.member.transact(&out, consumed).map_err(Fault::new)
        }
        .boxed()
    }
}
