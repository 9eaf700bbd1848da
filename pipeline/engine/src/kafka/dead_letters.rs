//! Dead letters on `[deadletter]`: which are open, how they are replayed and discarded.
//!
//! A dead letter is replayed by publishing its sealed record on `[raw]` again, together with an event
//! on `[deadletter]` that says that an attempt is under way. `process` opens the record and writes the
//! outcome in its own transaction. Until then nobody starts another attempt. All writers share a
//! transactional id, so the later one fences the earlier one, and a writer first reads everything
//! that was written before it started. Hence an attempt is published once.
//!
//! The topic is read twice, however many dead letters are selected: once to find out which are open, and
//! once for their records.
//!
//! Of several dead letters with one msgid only the first is replayed. If its message is delivered,
//! the others are settled as its duplicates.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::{DeadLetter, DeadLetterEvent, DeadLetterRecord};
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{Group, GroupEvent, Join, OutRecord, Topic};
use crate::dead_letter_index::{
    DeadLetterFilter, DeadLetterIndex, DeadLetterKey, DeadLetterStatus, Retained,
};
use crate::dead_letter_requests::{ReplayCounts, Requester};
use crate::fault::Fault;
use crate::window::msg_hash;

/// Number of records after which a transaction is written.
const CHUNK: usize = 10_000;
/// Bytes of records after which a transaction is written.
const CHUNK_BYTES: usize = 16 << 20;
/// Longest wait for the next event of the topic.
const TICK: Duration = Duration::from_millis(50);

/// `[deadletter]` as a whole.
pub struct DeadLetterLog {
    /// Joins the topic, read from its beginning.
    pub reader: Join,
    /// Joins as a writer, under the transactional id that all writers share.
    pub writer: Join,
    /// Waits until everything that was written before the call can be read.
    pub settled: Box<dyn Fn() -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>,
}

/// A reader of `[deadletter]` and the index of what it has read.
pub struct DeadLetterReader<P> {
    group: Arc<dyn Group>,
    ended: BTreeSet<i32>,
    /// The dead letters read so far.
    pub dead_letters: DeadLetterIndex<P>,
}

impl Retained for () {}
impl Retained for Option<Box<DeadLetter>> {}

impl<P: Retained> DeadLetterReader<P> {
    /// Reads the next event, waiting at most `wait`. `retained` decides what to remember of a dead
    /// letter. Returns false if nothing changed.
    ///
    /// # Errors
    /// The topic cannot be read, or a record has an unknown format.
    pub async fn step(
        &mut self,
        wait: Duration,
        retained: impl Fn(&DeadLetter) -> P,
    ) -> Result<bool, Fault> {
        match self.group.next(wait).await? {
            GroupEvent::Record(record) => match record.json(Topic::DeadLetter)? {
                DeadLetterRecord::DeadLetter(dead_letter) => {
                    let retained = retained(&dead_letter);
                    self.dead_letters.add(&dead_letter, retained);
                }
                DeadLetterRecord::Event(event) => self.dead_letters.apply(&event),
            },
            GroupEvent::End(partition) => return Ok(self.ended.insert(partition)),
            GroupEvent::Assigned(_) | GroupEvent::Revoked(_) | GroupEvent::Idle => {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads the next event without remembering it, waiting at most `wait`. Returns a dead letter if it is
    /// one.
    async fn next_dead_letter(&mut self, wait: Duration) -> Result<Option<DeadLetter>, Fault> {
        match self.group.next(wait).await? {
            GroupEvent::Record(record) => match record.json(Topic::DeadLetter)? {
                DeadLetterRecord::DeadLetter(dead_letter) => return Ok(Some(dead_letter)),
                DeadLetterRecord::Event(_) => {}
            },
            GroupEvent::End(partition) => drop(self.ended.insert(partition)),
            GroupEvent::Assigned(_) | GroupEvent::Revoked(_) | GroupEvent::Idle => {}
        }
        Ok(None)
    }

    /// Whether every partition has been read to its end at least once.
    pub fn is_complete(&self) -> bool {
        let partitions = self.group.partitions();
        partitions > 0 && self.ended.len() >= partitions
    }
}

/// What was written for the selected dead letters.
#[derive(Debug, Default)]
pub struct Published {
    /// Dead letters whose records were published again.
    pub retried: HashSet<DeadLetterKey>,
    /// The dead letters that were settled or left alone.
    pub counts: ReplayCounts,
}

impl DeadLetterLog {
    /// Starts reading.
    ///
    /// # Errors
    /// The log cannot be reached.
    pub async fn follow<P: Retained>(&self) -> Result<DeadLetterReader<P>, Fault> {
        Ok(DeadLetterReader {
            group: (self.reader)().await?,
            ended: BTreeSet::new(),
            dead_letters: DeadLetterIndex::default(),
        })
    }

    /// Reads the topic to its end.
    ///
    /// # Errors
    /// The topic cannot be read, or a record has an unknown format.
    pub async fn read<P: Retained>(
        &self,
        retained: impl Fn(&DeadLetter) -> P,
    ) -> Result<DeadLetterReader<P>, Fault> {
        let mut reader = self.follow().await?;
        while !reader.is_complete() {
            reader.step(TICK, &retained).await?;
        }
        Ok(reader)
    }

    /// Replays dead letters.
    ///
    /// # Errors
    /// The log cannot be used, or another writer took over. What was published until then stays
    /// published.
    pub async fn replay(
        &self,
        filter: &DeadLetterFilter,
        requester: &Requester,
    ) -> Result<Published, Fault> {
        let writer = self.begin().await?;
        let index = self.read(|_| ()).await?.dead_letters;
        let selected = index.select(None, filter, usize::MAX);
        let mut published = Published::default();
        let plan = plan(&index, selected, &mut published);
        drop(index);
        self.carry_out(&*writer, plan, |planned, dead_letter, out| {
            match planned.action {
                ReplayAction::Retry => {
                    out.extend(retried_records(dead_letter, planned.attempts, requester)?);
                    published.retried.insert(DeadLetterKey::of(dead_letter));
                }
                ReplayAction::SettleAsDuplicate => {
                    let attempt = planned.attempts + 1;
                    out.push(event_record(&requester.event(
                        dead_letter,
                        Event::Duplicate,
                        attempt,
                    ))?);
                    published.counts.duplicates += 1;
                }
            }
            Ok(())
        })
        .await?;
        Ok(published)
    }

    /// Discards dead letters permanently.
    ///
    /// # Errors
    /// As [`DeadLetterLog::replay`].
    pub async fn discard(
        &self,
        filter: &DeadLetterFilter,
        requester: &Requester,
        because: &str,
    ) -> Result<ReplayCounts, Fault> {
        let writer = self.begin().await?;
        let index = self.read(|_| ()).await?.dead_letters;
        let mut counts = ReplayCounts::default();
        let mut plan = BTreeMap::new();
        for key in index.select(None, filter, usize::MAX) {
            let status = &index.open()[&key];
            if status.retrying.is_some() {
                counts.waiting += 1;
            } else {
                plan.insert(key, Planned::new((), status));
            }
        }
        drop(index);
        self.carry_out(&*writer, plan, |planned, dead_letter, out| {
            let mut event = requester.event(dead_letter, Event::Dropped, planned.attempts);
            because.clone_into(&mut event.because);
            out.push(event_record(&event)?);
            counts.dropped += 1;
            Ok(())
        })
        .await?;
        Ok(counts)
    }

    /// Reads the topic once more and passes each planned dead letter to `make`, which adds what is to be
    /// written. So only the dead letters of one transaction are in memory with their records.
    async fn carry_out<A>(
        &self,
        writer: &dyn Group,
        mut plan: BTreeMap<DeadLetterKey, Planned<A>>,
        mut make: impl FnMut(&Planned<A>, &DeadLetter, &mut Vec<OutRecord>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        // The newest version of a dead letter is used. A failed attempt whose version is not on the topic
        // yet is known by its event; then any version will do.
        for any_version in [false, true] {
            if plan.is_empty() {
                break;
            }
            let (mut out, mut bytes) = (Vec::new(), 0);
            let mut reader: DeadLetterReader<()> = self.follow().await?;
            while !reader.is_complete() && !plan.is_empty() {
                if let Some(dead_letter) = reader.next_dead_letter(TICK).await? {
                    let key = DeadLetterKey::of(&dead_letter);
                    let attempts = dead_letter.attempts;
                    let due = |planned: &Planned<A>| any_version || planned.attempts == attempts;
                    if plan.get(&key).is_some_and(due)
                        && let Some(planned) = plan.remove(&key)
                    {
                        let before = out.len();
                        make(&planned, &dead_letter, &mut out)?;
                        bytes += out[before..]
                            .iter()
                            .map(|record| record.value.len())
                            .sum::<usize>();
                    }
                }
                if out.len() >= CHUNK || bytes >= CHUNK_BYTES {
                    writer.transact(std::mem::take(&mut out), &[]).await?;
                    bytes = 0;
                }
            }
            if !out.is_empty() {
                writer.transact(out, &[]).await?;
            }
        }
        Ok(())
    }

    /// Waits until every attempt has an outcome, or until `deadline`, and counts the outcomes.
    ///
    /// # Errors
    /// The topic cannot be read.
    pub async fn await_outcomes(
        &self,
        published: Published,
        deadline: Instant,
    ) -> Result<ReplayCounts, Fault> {
        let Published {
            mut retried,
            mut counts,
        } = published;
        // A transaction of another process may hide the attempts, which would then look finished.
        (self.settled)().await?;
        let mut reader: DeadLetterReader<()> = self.read(|_| ()).await?;
        loop {
            let index = &reader.dead_letters;
            retried.retain(|key| {
                let open = index.open().get(key);
                let under_way = open.is_some_and(|status| status.retrying.is_some());
                if !under_way {
                    counts.count(match open {
                        Some(_) => Event::Failed,
                        None if index.was_replayed(&key.corp_id, key.msg) => Event::Replayed,
                        None => Event::Duplicate,
                    });
                }
                under_way
            });
            if retried.is_empty() || Instant::now() >= deadline {
                counts.waiting += retried.len() as u64;
                return Ok(counts);
            }
            reader.step(TICK, |_| ()).await?;
        }
    }

    /// Fences other writers, then waits until everything they wrote can be read.
    async fn begin(&self) -> Result<Arc<dyn Group>, Fault> {
        let writer = (self.writer)().await?;
        writer.begin().await?;
        (self.settled)().await?;
        Ok(writer)
    }
}

/// What is done about a dead letter, and how many attempts were made before.
struct Planned<A> {
    action: A,
    attempts: u32,
}

impl<A> Planned<A> {
    fn new(action: A, status: &DeadLetterStatus<()>) -> Self {
        Self {
            action,
            attempts: status.attempts,
        }
    }
}

/// What a replay does about a dead letter.
enum ReplayAction {
    Retry,
    SettleAsDuplicate,
}

/// Decides what to do about each selected dead letter. Those under way are left alone and counted.
fn plan(
    index: &DeadLetterIndex<()>,
    selected: Vec<DeadLetterKey>,
    published: &mut Published,
) -> BTreeMap<DeadLetterKey, Planned<ReplayAction>> {
    let nameless = msg_hash("");
    let under_way = index.open().iter();
    let mut started: HashSet<_> = under_way
        .filter(|(_, status)| status.retrying.is_some())
        .map(|(key, _)| (key.corp_id.clone(), key.msg))
        .collect();
    let mut plan = BTreeMap::new();
    for key in selected {
        let named = key.msg != nameless;
        let status = &index.open()[&key];
        let under_way = status.retrying.is_some();
        if named && index.was_replayed(&key.corp_id, key.msg) {
            let planned = Planned::new(ReplayAction::SettleAsDuplicate, status);
            plan.insert(key, planned);
        } else if under_way || (named && !started.insert((key.corp_id.clone(), key.msg))) {
            published.counts.waiting += 1;
        } else {
            let planned = Planned::new(ReplayAction::Retry, status);
            plan.insert(key, planned);
        }
    }
    plan
}

/// The sealed record, and the event that an attempt is under way.
fn retried_records(
    dead_letter: &DeadLetter,
    attempts: u32,
    requester: &Requester,
) -> Result<[OutRecord; 2], Fault> {
    let attempt = attempts + 1;
    let record = OutRecord {
        topic: Topic::Raw,
        key: dead_letter.msgid.as_bytes().to_vec(),
        value: Bytes::from(dead_letter.sealed.clone()),
        corp_id: dead_letter.corp_id.to_string(),
        seq: dead_letter.seq,
        link: None,
        retry: Some(requester.retry(dead_letter, attempt)),
    };
    let event = requester.event(dead_letter, Event::Retried, attempt);
    Ok([record, event_record(&event)?])
}

/// The record of an event; it goes to the partition of its dead letter.
fn event_record(event: &DeadLetterEvent) -> Result<OutRecord, Fault> {
    Ok(OutRecord {
        topic: Topic::DeadLetter,
        key: event.msgid.as_bytes().to_vec(),
        value: Bytes::from(serde_json::to_vec(event).map_err(Fault::local)?),
        corp_id: event.corp_id.to_string(),
        seq: event.seq,
        link: None,
        retry: None,
    })
}
