//! Dead letters on `[deadletter]`: which are open, and having them tried again or done without.
//!
//! A letter is tried again by publishing its sealed record on `[raw]` once more, with a mark on
//! `[deadletter]`, in one transaction; `process` opens it, and says in its own transaction what came
//! of it. Until then the mark says that an attempt is under way, and nobody else begins one. Two at
//! once share a transactional id, so that the later fences the earlier; whoever writes has read
//! everything that was written before it began. Hence an attempt is published once.
//!
//! Of several letters with one msgid the first alone is tried; if its message is delivered, the
//! others are settled as its duplicates.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::{DeadLetter, DeadLetterEvent, DeadLetterRecord};
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{Group, GroupEvent, Join, LogRecord, OutRecord, Topic};
use crate::dead_letter_index::{DeadLetterFilter, DeadLetterIndex, DeadLetterKey, Retained};
use crate::dead_letter_requests::{ReplayCounts, Requester};
use crate::fault::Fault;
use crate::window::msg_hash;

/// DeadLetterIndex of one transaction at most.
const CHUNK: usize = 5000;
/// How long to wait for the log in one go.
const TICK: Duration = Duration::from_millis(50);

/// `[deadletter]` as a whole.
pub struct DeadLetterLog {
    /// Reads it from its beginning.
    pub reader: Join,
    /// Writes under the transactional id that all share who do so.
    pub writer: Join,
    /// Waits until everything that was written before the call can be read.
    pub settled: Box<dyn Fn() -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>,
}

/// A reader and what it has read.
pub struct DeadLetterReader<P> {
    group: Arc<dyn Group>,
    ended: BTreeSet<i32>,
    /// The letters so far.
    pub letters: DeadLetterIndex<P>,
}

impl Retained for () {}
impl Retained for Option<Box<DeadLetter>> {}

impl<P: Retained> DeadLetterReader<P> {
    /// Takes in what there is, waiting at most `wait`; `retained` says what to remember of a letter.
    /// False if nothing has changed.
    ///
    /// # Errors
    /// The log cannot be read, or holds something else.
    pub async fn step(
        &mut self,
        wait: Duration,
        retained: impl Fn(&DeadLetter) -> P,
    ) -> Result<bool, Fault> {
        match self.group.next(wait).await? {
            GroupEvent::Record(record) => match read(&record)? {
                DeadLetterRecord::DeadLetter(letter) => {
                    let retained = retained(&letter);
                    self.letters.add(&letter, retained);
                }
                DeadLetterRecord::Event(event) => self.letters.apply(&event),
            },
            GroupEvent::End(partition) => return Ok(self.ended.insert(partition)),
            GroupEvent::Assigned(_) | GroupEvent::Revoked(_) | GroupEvent::Idle => {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether every partition has been read to its end at least once.
    pub fn is_whole(&self) -> bool {
        let partitions = self.group.partitions();
        partitions > 0 && self.ended.len() >= partitions
    }
}

fn read(record: &LogRecord) -> Result<DeadLetterRecord, Fault> {
    serde_json::from_slice(&record.value).map_err(|_| {
        Fault::new(super::rows::UnknownFormat {
            topic: Topic::DeadLetter.name(),
            partition: record.partition,
            offset: record.offset,
            column: 0,
        })
    })
}

/// What was written for the letters that were chosen.
#[derive(Debug, Default)]
pub struct Published {
    /// DeadLetterIndex whose records are on their way.
    pub retried: HashSet<DeadLetterKey>,
    /// What else became of letters.
    pub outcome: ReplayCounts,
}

impl DeadLetterLog {
    /// Begins to read.
    ///
    /// # Errors
    /// The log cannot be reached.
    pub async fn follow<P: Retained>(&self) -> Result<DeadLetterReader<P>, Fault> {
        Ok(DeadLetterReader {
            group: (self.reader)().await?,
            ended: BTreeSet::new(),
            letters: DeadLetterIndex::default(),
        })
    }

    /// Reads everything there is.
    ///
    /// # Errors
    /// The log cannot be read, or holds something else.
    pub async fn read<P: Retained>(
        &self,
        retained: impl Fn(&DeadLetter) -> P,
    ) -> Result<DeadLetterReader<P>, Fault> {
        let mut reading = self.follow().await?;
        while !reading.is_whole() {
            reading.step(TICK, &retained).await?;
        }
        Ok(reading)
    }

    /// Has letters tried again.
    ///
    /// # Errors
    /// The log cannot be used, or somebody else has begun to write meanwhile; what has been
    /// written until then stands.
    pub async fn replay(
        &self,
        filter: &DeadLetterFilter,
        requester: &Requester,
    ) -> Result<Published, Fault> {
        let writer = self.begin().await?;
        let mut published = Published::default();
        let mut after = None;
        loop {
            let index = self.read(|_| ()).await?.letters;
            let chosen = index.select(after.as_ref(), filter, CHUNK);
            let Some(last) = chosen.last() else {
                return Ok(published);
            };
            after = Some(last.clone());
            let plan = plan(&index, chosen, &mut published);
            let wanted: HashSet<&DeadLetterKey> = plan.keys().collect();
            // The records are read in a second pass, so that only those chosen are in memory.
            let keep = |letter: &DeadLetter| {
                let keep = wanted.contains(&DeadLetterKey::of(letter));
                keep.then(|| Box::new(letter.clone()))
            };
            let letters = self.read(keep).await?.letters;
            let mut out = Vec::new();
            for (key, standing) in letters.open() {
                if let (Some(next), Some(letter)) = (plan.get(key), &standing.retained) {
                    match next {
                        Next::Retry => {
                            out.extend(retried(letter, standing.attempts, requester)?);
                            published.retried.insert(key.clone());
                        }
                        Next::Duplicate => {
                            let attempt = standing.attempts + 1;
                            out.push(note(&requester.event(letter, Event::Duplicate, attempt))?);
                            published.outcome.duplicates += 1;
                        }
                    }
                }
            }
            if !out.is_empty() {
                writer.transact(out, &[]).await?;
            }
        }
    }

    /// Does without letters.
    ///
    /// # Errors
    /// As [`DeadLetterLog::replay`].
    pub async fn drop_letters(
        &self,
        filter: &DeadLetterFilter,
        requester: &Requester,
        because: &str,
    ) -> Result<ReplayCounts, Fault> {
        let writer = self.begin().await?;
        let mut outcome = ReplayCounts::default();
        let mut after = None;
        loop {
            let bare = |letter: &DeadLetter| {
                Some(Box::new(DeadLetter {
                    sealed: String::new(),
                    ..letter.clone()
                }))
            };
            let letters = self.read(bare).await?.letters;
            let chosen = letters.select(after.as_ref(), filter, CHUNK);
            let Some(last) = chosen.last() else {
                return Ok(outcome);
            };
            after = Some(last.clone());
            let mut out = Vec::new();
            for standing in chosen.iter().filter_map(|key| letters.open().get(key)) {
                let Some(letter) = standing.retained.as_deref() else {
                    continue;
                };
                if standing.retrying.is_some() {
                    outcome.waiting += 1;
                    continue;
                }
                let mut event = requester.event(letter, Event::Dropped, standing.attempts);
                because.clone_into(&mut event.because);
                out.push(note(&event)?);
                outcome.dropped += 1;
            }
            if !out.is_empty() {
                writer.transact(out, &[]).await?;
            }
        }
    }

    /// Waits until attempts have come to an end, for as long as it takes or until `deadline`, and
    /// counts what came of them.
    ///
    /// # Errors
    /// The log cannot be read.
    pub async fn outcome(
        &self,
        published: Published,
        deadline: Instant,
    ) -> Result<ReplayCounts, Fault> {
        let Published {
            mut retried,
            mut outcome,
        } = published;
        let mut reading: DeadLetterReader<()> = self.read(|_| ()).await?;
        loop {
            retried.retain(|key| {
                let open = reading.letters.open().get(key);
                let under_way = open.is_some_and(|standing| standing.retrying.is_some());
                if !under_way {
                    outcome.count(match open {
                        Some(_) => Event::Failed,
                        None if reading.letters.was_replayed(&key.corp_id, key.msg) => {
                            Event::Replayed
                        }
                        None => Event::Duplicate,
                    });
                }
                under_way
            });
            if retried.is_empty() || Instant::now() >= deadline {
                outcome.waiting += retried.len() as u64;
                return Ok(outcome);
            }
            reading.step(TICK, |_| ()).await?;
        }
    }

    /// Becomes the one that writes, and waits until what others wrote before can be read.
    async fn begin(&self) -> Result<Arc<dyn Group>, Fault> {
        let writer = (self.writer)().await?;
        writer.begin().await?;
        (self.settled)().await?;
        Ok(writer)
    }
}

enum Next {
    Retry,
    Duplicate,
}

/// What to do about each letter that was chosen; those under way are left alone and counted.
fn plan(
    index: &DeadLetterIndex<()>,
    chosen: Vec<DeadLetterKey>,
    published: &mut Published,
) -> BTreeMap<DeadLetterKey, Next> {
    let nameless = msg_hash("");
    let under_way = index.open().iter();
    let mut begun: HashSet<_> = under_way
        .filter(|(_, standing)| standing.retrying.is_some())
        .map(|(key, _)| (key.corp_id.clone(), key.msg))
        .chain(
            published
                .retried
                .iter()
                .map(|key| (key.corp_id.clone(), key.msg)),
        )
        .collect();
    let mut plan = BTreeMap::new();
    for key in chosen {
        let named = key.msg != nameless;
        let under_way = index.open()[&key].retrying.is_some();
        if named && index.was_replayed(&key.corp_id, key.msg) {
            plan.insert(key, Next::Duplicate);
        } else if under_way || (named && !begun.insert((key.corp_id.clone(), key.msg))) {
            published.outcome.waiting += 1;
        } else {
            plan.insert(key, Next::Retry);
        }
    }
    plan
}

/// The sealed record, and the mark that it is tried again.
fn retried(
    letter: &DeadLetter,
    attempts: u32,
    requester: &Requester,
) -> Result<[OutRecord; 2], Fault> {
    let attempt = attempts + 1;
    let record = OutRecord {
        topic: Topic::Raw,
        key: letter.msgid.as_bytes().to_vec(),
        value: Bytes::from(letter.sealed.clone()),
        corp_id: letter.corp_id.to_string(),
        seq: letter.seq,
        link: None,
        retry: Some(requester.retry(letter, attempt)),
    };
    Ok([
        record,
        note(&requester.event(letter, Event::Retried, attempt))?,
    ])
}

/// An event on its way to `[deadletter]`, into the partition of its letter.
fn note(event: &DeadLetterEvent) -> Result<OutRecord, Fault> {
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
