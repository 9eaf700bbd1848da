//! The directory on the log: one process reads it from its source and publishes its rows on
//! `[directory]`; every process that joins names follows that topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chatledger_directory::{Assembler, Directory};
use chatledger_schemas::CorpId;
use chatledger_schemas::directory::{DirectoryRow, RoomKind, Snapshot};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    Ending, Group, GroupEvent, Join, Leadership, LogRecord, OutRecord, Topic, check_leadership,
    supervised, wait_for_leadership,
};
use crate::directory_sync::DirectorySync;
use crate::fault::Fault;
use crate::ports::{DirectorySink, DirectorySource};
use crate::shared::{Current, Progress, WantedRooms};

/// Longest wait for the next event of the group.
const TICK: Duration = Duration::from_millis(200);
/// Maximum number of rows in a transaction.
const ROWS: usize = 10_000;

/// Key of a room that messages name and the directory does not know. It differs from the key of the
/// room's own row, so that the request never replaces the row.
pub(super) fn wanted_key(corp: &str, room_id: &str) -> String {
    format!("{corp}/wanted/{room_id}")
}

/// One corp's directory.
pub struct CorpDirectory {
    /// The corp.
    pub corp_id: CorpId,
    /// Its source.
    pub source: Arc<dyn DirectorySource>,
    /// Where its rows are stored besides the log.
    pub sinks: Vec<Arc<dyn DirectorySink>>,
    /// Time between two syncs.
    pub interval: Duration,
    /// The corp's progress, updated after each sync.
    pub progress: Arc<Progress>,
}

/// The stage `directory`.
pub struct DirectoryStage {
    /// Joins the group on `[directory]`.
    pub join: Join,
    /// The corps.
    pub corps: Vec<CorpDirectory>,
    /// When it ends.
    pub ending: Ending,
}

/// What `[directory]` holds for one corp.
struct FollowedCorp {
    assembler: Assembler,
    wanted: Arc<WantedRooms>,
}

impl DirectoryStage {
    /// Runs until stopped.
    pub async fn run(self) {
        supervised("directory", &self.join, &self.ending, |group| {
            self.lead(group)
        })
        .await;
    }

    async fn lead(&self, group: Arc<dyn Group>) -> Result<(), Fault> {
        if wait_for_leadership(&*group, TICK, &self.ending).await? == Leadership::Stopping {
            return Ok(());
        }
        group.begin().await?;
        let mut followed: HashMap<String, FollowedCorp> = self
            .corps
            .iter()
            .map(|corp| {
                let assembler = Assembler::new(corp.corp_id.clone());
                let wanted = Arc::new(WantedRooms::default());
                (corp.corp_id.to_string(), FollowedCorp { assembler, wanted })
            })
            .collect();
        loop {
            match group.next(TICK).await? {
                GroupEvent::Record(record) => follow(&mut followed, &record)?,
                GroupEvent::End(_) => break,
                event @ GroupEvent::Revoked(_) => check_leadership(&event)?,
                GroupEvent::Assigned(_) | GroupEvent::Idle => {}
            }
        }
        info!("this process reads the directories");
        let stop = self.ending.stop.child_token();
        let guard = stop.clone().drop_guard();
        let (failed, mut failures) = mpsc::channel(1);
        let mut syncs = self.start(&group, &failed, &followed, &stop);
        while !self.ending.stop.is_cancelled() {
            let event = tokio::select! {
                biased;
                // A producer whose transaction failed may not be able to begin another.
                Some(fault) = failures.recv() => return Err(fault),
                event = group.next(TICK) => event?,
            };
            match event {
                GroupEvent::Record(record) => follow(&mut followed, &record)?,
                event @ GroupEvent::Revoked(_) => check_leadership(&event)?,
                GroupEvent::Assigned(_) | GroupEvent::End(_) | GroupEvent::Idle => {}
            }
        }
        drop(guard);
        while syncs.join_next().await.is_some() {}
        Ok(())
    }

    fn start(
        &self,
        group: &Arc<dyn Group>,
        failed: &mpsc::Sender<Fault>,
        followed: &HashMap<String, FollowedCorp>,
        stop: &CancellationToken,
    ) -> JoinSet<()> {
        let mut syncs = JoinSet::new();
        let turn = Arc::new(Mutex::new(()));
        for corp in &self.corps {
            let Some(followed) = followed.get(corp.corp_id.as_str()) else {
                continue;
            };
            let mut sinks: Vec<Arc<dyn DirectorySink>> = vec![Arc::new(TopicSink {
                group: Arc::clone(group),
                turn: Arc::clone(&turn),
                failed: failed.clone(),
            })];
            sinks.extend(corp.sinks.iter().map(Arc::clone));
            let sync = DirectorySync {
                corp_id: corp.corp_id.clone(),
                source: Arc::clone(&corp.source),
                sinks,
                current: Arc::new(Current::new(Directory::new(Snapshot::empty(
                    corp.corp_id.clone(),
                )))),
                wanted: Arc::clone(&followed.wanted),
                interval: corp.interval,
                last: followed.assembler.snapshot(),
                file: None,
                progress: Arc::clone(&corp.progress),
            };
            syncs.spawn(sync.run(watch::Sender::new(false), stop.clone()));
        }
        syncs
    }
}

fn follow(followed: &mut HashMap<String, FollowedCorp>, record: &LogRecord) -> Result<(), Fault> {
    let Some(followed) = followed.get_mut(&record.corp_id) else {
        return Ok(());
    };
    match record.json(Topic::Directory)? {
        DirectoryRow::Rooms(room) if room.kind == RoomKind::Wanted => {
            followed.wanted.add([room.room_id]);
        }
        row => followed.assembler.apply(row),
    }
    Ok(())
}

/// Publishes rows on `[directory]`, then a row that marks the snapshot as complete.
struct TopicSink {
    group: Arc<dyn Group>,
    /// A producer has one transaction at a time, and each corp has its own sync.
    turn: Arc<Mutex<()>>,
    /// Receives the fault of a failed transaction; the stage then joins again.
    failed: mpsc::Sender<Fault>,
}

/// The rows were not published; the stage joins again.
#[derive(Debug, thiserror::Error)]
#[error("the transaction on [directory] failed")]
struct NotPublished;

impl TopicSink {
    async fn publish(&self, records: Vec<OutRecord>) -> Result<(), Fault> {
        let _turn = self.turn.lock().await;
        if let Err(fault) = self.group.transact(records, &[]).await {
            // The first of several is enough.
            self.failed.try_send(fault).ok();
            return Err(Fault::local(NotPublished));
        }
        Ok(())
    }
}

impl DirectorySink for TopicSink {
    fn store<'a>(
        &'a self,
        corp: &'a CorpId,
        taken_at: i64,
        rows: &'a [DirectoryRow],
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let out = |row: &DirectoryRow| {
                Ok::<_, Fault>(OutRecord {
                    topic: Topic::Directory,
                    key: format!("{corp}/{}", row.key()).into_bytes(),
                    value: Bytes::from(serde_json::to_vec(row).map_err(Fault::local)?),
                    corp_id: corp.to_string(),
                    seq: 0,
                    link: None,
                    retry: None,
                })
            };
            for rows in rows.chunks(ROWS) {
                let records = rows.iter().map(out).collect::<Result<_, _>>()?;
                self.publish(records).await?;
            }
            self.publish(vec![out(&DirectoryRow::Complete { taken_at })?])
                .await
        }
        .boxed()
    }
}

/// Follows `[directory]` and keeps this process's directories up to date.
pub struct DirectoryFollower {
    /// Joins the topic, read from its beginning and outside any group.
    pub join: Join,
    /// The current directory of each corp, and a sender that turns true with its first snapshot.
    pub corps: HashMap<String, (Arc<Current<Directory>>, watch::Sender<bool>)>,
    /// When it ends.
    pub ending: Ending,
}

impl DirectoryFollower {
    /// Runs until stopped. A corp's sender turns true once its first complete snapshot has been read.
    pub async fn run(self) {
        supervised("directory", &self.join, &self.ending, |topic| {
            self.work(topic)
        })
        .await;
    }

    async fn work(&self, topic: Arc<dyn Group>) -> Result<(), Fault> {
        let mut assemblers: HashMap<&str, Assembler> = self
            .corps
            .keys()
            .map(|corp| (corp.as_str(), Assembler::new(CorpId::from(corp.as_str()))))
            .collect();
        while !self.ending.stop.is_cancelled() {
            let GroupEvent::Record(record) = topic.next(TICK).await? else {
                continue;
            };
            let Some((corp, (current, first))) = self.corps.get_key_value(&record.corp_id) else {
                continue;
            };
            let Some(assembler) = assemblers.get_mut(corp.as_str()) else {
                continue;
            };
            match record.json(Topic::Directory)? {
                DirectoryRow::Rooms(room) if room.kind == RoomKind::Wanted => {}
                row @ DirectoryRow::Complete { .. } => {
                    assembler.apply(row);
                    current.set(Directory::new(assembler.snapshot()));
                    first.send_replace(true);
                }
                row => assembler.apply(row),
            }
        }
        Ok(())
    }
}
