//! Archive to `[raw]`: records, ledger and cursor in one transaction; the cursor, with the end of the
//! hash chain, is recovered from the log alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chatledger_schemas::ledger::{Entry, LedgerRecord, Link};
use chatledger_schemas::{CorpId, SealedRecord};
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::{Ending, Group, GroupEvent, Join, OutRecord, Topic, cpu, still_ours, supervised};
use crate::chain::{Chain, ChainInput};
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::pull::{PullError, Puller, within_window};
use crate::shared::{Totals, now_ms};

/// Pages between the pullers and the producer.
const PAGES: usize = 4;
/// How long to wait for the group in one go.
const TICK: Duration = Duration::from_millis(200);

/// Milliseconds between two notes of when an archive answered last.
const CONTACT_EVERY: i64 = 60_000;

/// Value of a record on `[cursor]`; its key is the corp.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct CursorRecord {
    /// Everything up to here is on `[raw]`.
    seq: u64,
    /// Entries of the corp's chain.
    #[serde(default)]
    number: u64,
    /// The chain's last link, as hexadecimal digits.
    #[serde(default)]
    link: String,
    /// When the archive answered last, milliseconds since the epoch, UTC.
    #[serde(default)]
    answered_at: i64,
}

impl CursorRecord {
    fn chain(&self, corp: &str) -> Chain {
        Link::from_hex(&self.link).map_or_else(
            || Chain::genesis(corp),
            |link| Chain {
                number: self.number,
                link,
            },
        )
    }

    fn answered(&self) -> Option<i64> {
        (self.answered_at > 0).then_some(self.answered_at)
    }
}

/// How far one corp is.
struct CorpPosition {
    seq: u64,
    chain: Chain,
    /// When the archive had answered last, as it stands on `[cursor]`.
    answered: Option<i64>,
}

/// How reading came to an end.
enum ReadEnd {
    /// There is nothing more, or the process is stopping.
    Everything,
    /// DeadLetterReader has failed for good.
    Failed(SourceError),
}

/// Why reading an archive has ended before its time.
#[derive(Debug, thiserror::Error)]
#[error("archive of {corp}: {source}")]
pub struct SourceError {
    /// The corp.
    pub corp: CorpId,
    /// What happened.
    pub source: PullError,
}

/// The stage `source`.
pub struct SourceStage {
    /// Membership in the group on `[cursor]`.
    pub join: Join,
    /// The corps.
    pub corps: Vec<Arc<Puller>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The counts.
    pub totals: Arc<Totals>,
    /// Go on though an archive may have dropped records that were not read in time.
    pub accept_gap: bool,
    /// When it ends.
    pub ending: Ending,
}

impl SourceStage {
    /// Runs until stopped or, in a drain, until the archives have nothing more.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub async fn run(self) -> Result<(), SourceError> {
        let mut failure = None;
        let failed = Mutex::new(&mut failure);
        supervised("source", &self.join, &self.ending, |group| {
            self.lead(group, &failed)
        })
        .await;
        failure.map_or(Ok(()), Err)
    }

    async fn lead(
        &self,
        group: Arc<dyn Group>,
        failed: &Mutex<&mut Option<SourceError>>,
    ) -> Result<(), Fault> {
        // Wait to be the one process that reads.
        loop {
            if self.ending.stop.is_cancelled() {
                return Ok(());
            }
            if let GroupEvent::Assigned(partitions) = group.next(TICK).await?
                && !partitions.is_empty()
            {
                break;
            }
        }
        group.begin().await?;
        // An end that was seen before older holders were fenced may not have been the last.
        group.seek(0, 0).await?;
        let cursors = recover(&*group).await?;
        info!(corps = cursors.len(), "this process reads the archives");
        if let ReadEnd::Failed(error) = self.pull(&group, &cursors).await? {
            **failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        Ok(())
    }

    async fn pull(
        &self,
        group: &Arc<dyn Group>,
        cursors: &HashMap<String, CursorRecord>,
    ) -> Result<ReadEnd, Fault> {
        let stop = self.ending.stop.child_token();
        let _ended = stop.clone().drop_guard();
        let drain = self.ending.upstream.is_some();
        let mut reached: HashMap<&str, CorpPosition> = HashMap::new();
        for corp in &self.corps {
            let corp = &corp.corp_id;
            let cursor = cursors.get(corp.as_str()).cloned().unwrap_or_default();
            let at = CorpPosition {
                seq: cursor.seq,
                chain: cursor.chain(corp.as_str()),
                answered: cursor.answered(),
            };
            match self.close_gap(&**group, corp, at).await? {
                Ok(at) => reached.insert(corp.as_str(), at),
                Err(error) => return Ok(ReadEnd::Failed(error)),
            };
        }
        let (pages, mut queue) = mpsc::channel(PAGES);
        let mut pullers = JoinSet::new();
        for corp in &self.corps {
            let Some(at) = reached.get(corp.corp_id.as_str()) else {
                continue;
            };
            let (after, answered) = (at.seq, at.answered.map(|_| now_ms()));
            let (corp, pages, stop) = (Arc::clone(corp), pages.clone(), stop.clone());
            pullers.spawn(async move {
                let reader = Arc::clone(&corp);
                let corp_id = corp.corp_id.clone();
                let hand_over = move |records| {
                    let (pages, corp) = (pages.clone(), Arc::clone(&corp));
                    async move { pages.send((corp, records)).await.is_ok() }.boxed()
                };
                let ended = reader.run(after, answered, drain, &stop, hand_over).await;
                ended.map_err(|source| SourceError {
                    corp: corp_id,
                    source,
                })
            });
        }
        drop(pages);
        let mut published = false;
        loop {
            tokio::select! {
                biased;
                page = queue.recv() => match page {
                    Some((corp, records)) => {
                        if let Some(at) = reached.get_mut(corp.corp_id.as_str()) {
                            self.publish(&**group, &corp, records, at).await?;
                            published = true;
                        }
                    }
                    None => break,
                },
                event = group.next(TICK) => {
                    still_ours(&event?)?;
                    self.keep_contact(&**group, &mut reached, CONTACT_EVERY)
                        .await?;
                    continue;
                }
            }
            // Also while one page follows the other: who is not heard of loses its place.
            still_ours(&group.next(Duration::ZERO).await?)?;
            self.keep_contact(&**group, &mut reached, CONTACT_EVERY)
                .await?;
        }
        if published && drain {
            // One more transaction: it cannot begin before the last one is seen.
            self.keep_contact(&**group, &mut reached, 0).await?;
        }
        while let Some(ended) = pullers.join_next().await {
            if let Err(error) = ended.map_err(Fault::local)? {
                return Ok(ReadEnd::Failed(error));
            }
        }
        Ok(ReadEnd::Everything)
    }

    /// Looks whether an archive may have dropped records since it was read last; a gap that is
    /// accepted is written into the ledger.
    async fn close_gap(
        &self,
        group: &dyn Group,
        corp: &CorpId,
        mut at: CorpPosition,
    ) -> Result<Result<CorpPosition, SourceError>, Fault> {
        let Err(behind) = within_window(at.seq, at.answered, now_ms()) else {
            return Ok(Ok(at));
        };
        if !self.accept_gap {
            return Ok(Err(SourceError {
                corp: corp.clone(),
                source: behind.into(),
            }));
        }
        warn!(%corp, since = behind.silent_since, "a gap is accepted and noted");
        let entry = at.chain.gap(at.seq, behind.silent_since, behind.now);
        at.answered = Some(behind.now);
        let records = vec![ledger(corp, vec![entry]), cursor(corp, &at)?];
        group.transact(records, &[]).await?;
        Ok(Ok(at))
    }

    /// Writes down when the archives answered last, where what is written is older than `every`
    /// milliseconds.
    async fn keep_contact(
        &self,
        group: &dyn Group,
        reached: &mut HashMap<&str, CorpPosition>,
        every: i64,
    ) -> Result<(), Fault> {
        let mut records = Vec::new();
        for corp in &self.corps {
            let Some(at) = reached.get_mut(corp.corp_id.as_str()) else {
                continue;
            };
            let Some(answered) = corp.progress.last_answer() else {
                continue;
            };
            if at.answered.is_none_or(|kept| answered - kept >= every) {
                at.answered = Some(answered);
                records.push(cursor(&corp.corp_id, at)?);
            }
        }
        if !records.is_empty() {
            group.transact(records, &[]).await?;
        }
        Ok(())
    }

    async fn publish(
        &self,
        group: &dyn Group,
        corp: &Puller,
        records: Vec<SealedRecord>,
        at: &mut CorpPosition,
    ) -> Result<(), Fault> {
        let Some(last) = records.last().map(|record| record.seq) else {
            return Ok(());
        };
        let (count, now, mut chain) = (records.len(), now_ms(), at.chain);
        let corp_id = &corp.corp_id;
        let (records, entries, chain) = cpu::run(move || {
            let entries: Vec<Entry> = records
                .iter()
                .map(|record| chain.record(&ChainInput::of(record, now)))
                .collect();
            (records, entries, chain)
        })
        .await?;
        let mut out: Vec<OutRecord> = records
            .into_iter()
            .zip(&entries)
            .map(|(record, entry)| OutRecord {
                topic: Topic::Raw,
                key: record.msgid.as_bytes().to_vec(),
                value: record.json,
                corp_id: corp_id.to_string(),
                seq: record.seq,
                link: Some(entry.link),
                retry: None,
            })
            .collect();
        let reached = CorpPosition {
            seq: last,
            chain,
            answered: Some(now),
        };
        out.push(ledger(corp_id, entries));
        out.push(cursor(corp_id, &reached)?);
        group.transact(out, &[]).await?;
        *at = reached;
        self.metrics.pulled(corp_id.as_str(), count as u64);
        self.totals.pulled(count);
        corp.progress.reached("raw", last, None);
        Ok(())
    }
}

/// The record that adds entries to the ledger.
fn ledger(corp: &CorpId, entries: Vec<Entry>) -> OutRecord {
    OutRecord {
        topic: Topic::Ledger,
        key: corp.as_str().as_bytes().to_vec(),
        seq: entries.last().map_or(0, |entry| entry.seq),
        value: Bytes::from(LedgerRecord::Pulled(entries).encode()),
        corp_id: corp.to_string(),
        link: None,
        retry: None,
    }
}

/// The record that says how far a corp's archive has been read.
fn cursor(corp: &CorpId, at: &CorpPosition) -> Result<OutRecord, Fault> {
    let cursor = CursorRecord {
        seq: at.seq,
        number: at.chain.number,
        link: at.chain.link.hex(),
        answered_at: at.answered.unwrap_or_default(),
    };
    Ok(OutRecord {
        topic: Topic::Cursor,
        key: corp.as_str().as_bytes().to_vec(),
        value: Bytes::from(serde_json::to_vec(&cursor).map_err(Fault::local)?),
        corp_id: corp.to_string(),
        seq: at.seq,
        link: None,
        retry: None,
    })
}

/// Reads `[cursor]` to its end.
async fn recover(group: &dyn Group) -> Result<HashMap<String, CursorRecord>, Fault> {
    let mut cursors = HashMap::new();
    loop {
        match group.next(TICK).await? {
            GroupEvent::Record(record) => {
                let cursor: CursorRecord =
                    serde_json::from_slice(&record.value).map_err(Fault::local)?;
                cursors.insert(String::from_utf8_lossy(&record.key).into_owned(), cursor);
            }
            GroupEvent::End(_) => return Ok(cursors),
            event @ GroupEvent::Revoked(_) => still_ours(&event)?,
            GroupEvent::Assigned(_) | GroupEvent::Idle => {}
        }
    }
}
