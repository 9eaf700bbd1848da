//! Archive to `[raw]`: records, ledger and cursor in one transaction; the cursor, with the end of the
//! hash chain, is recovered from the log alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chatledger_schemas::SealedRecord;
use chatledger_schemas::ledger::{LedgerRecord, Link};
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::info;

use super::{Ending, Event, Group, Join, OutRecord, Topic, still_ours, supervised};
use crate::chain::{Chain, Seen};
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::pull::Puller;
use crate::shared::{Totals, now_ms};

/// Pages between the pullers and the producer.
const PAGES: usize = 4;
/// How long to wait for the group in one go.
const TICK: Duration = Duration::from_millis(200);

/// Value of a record on `[cursor]`; its key is the corp.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Cursor {
    /// Everything up to here is on `[raw]`.
    seq: u64,
    /// Entries of the corp's chain.
    #[serde(default)]
    number: u64,
    /// The chain's last link, as hexadecimal digits.
    #[serde(default)]
    link: String,
}

impl Cursor {
    fn chain(&self, corp: &str) -> Chain {
        Link::from_hex(&self.link).map_or_else(
            || Chain::genesis(corp),
            |link| Chain {
                number: self.number,
                link,
            },
        )
    }
}

/// How reading came to an end.
enum Pulled {
    /// There is nothing more, or the process is stopping.
    Everything,
    /// An archive has not answered for too long.
    GaveUp(Fault),
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
    /// When it ends.
    pub ending: Ending,
}

impl SourceStage {
    /// Runs until stopped or, in a drain, until the archives have nothing more.
    ///
    /// # Errors
    /// In a drain: an archive has not answered for too long.
    pub async fn run(self) -> Result<(), Fault> {
        let mut gave_up = None;
        let given_up = Mutex::new(&mut gave_up);
        supervised("source", &self.join, &self.ending, |group| {
            self.lead(group, &given_up)
        })
        .await;
        gave_up.map_or(Ok(()), Err)
    }

    async fn lead(
        &self,
        group: Arc<dyn Group>,
        given_up: &Mutex<&mut Option<Fault>>,
    ) -> Result<(), Fault> {
        // Wait to be the one process that reads.
        loop {
            if self.ending.stop.is_cancelled() {
                return Ok(());
            }
            if let Event::Assigned(partitions) = group.next(TICK).await?
                && !partitions.is_empty()
            {
                break;
            }
        }
        group.begin().await?;
        let cursors = recover(&*group).await?;
        info!(corps = cursors.len(), "this process reads the archives");
        if let Pulled::GaveUp(fault) = self.pull(&group, &cursors).await? {
            **given_up.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        }
        Ok(())
    }

    async fn pull(
        &self,
        group: &Arc<dyn Group>,
        cursors: &HashMap<String, Cursor>,
    ) -> Result<Pulled, Fault> {
        let stop = self.ending.stop.child_token();
        let _ended = stop.clone().drop_guard();
        let drain = self.ending.upstream.is_some();
        let (pages, mut queue) = mpsc::channel(PAGES);
        let mut pullers = JoinSet::new();
        for corp in &self.corps {
            let after = cursors.get(corp.corp_id.as_str()).map_or(0, |at| at.seq);
            let (corp, pages, stop) = (Arc::clone(corp), pages.clone(), stop.clone());
            pullers.spawn(async move {
                let reader = Arc::clone(&corp);
                let hand_over = move |records| {
                    let (pages, corp) = (pages.clone(), Arc::clone(&corp));
                    async move { pages.send((corp, records)).await.is_ok() }.boxed()
                };
                reader.run(after, drain, &stop, hand_over).await
            });
        }
        drop(pages);
        let mut chains: HashMap<&str, Chain> = self
            .corps
            .iter()
            .map(|corp| {
                let corp = corp.corp_id.as_str();
                let cursor = cursors.get(corp).cloned().unwrap_or_default();
                (corp, cursor.chain(corp))
            })
            .collect();
        let mut last = None;
        loop {
            tokio::select! {
                biased;
                page = queue.recv() => match page {
                    Some((corp, records)) => {
                        let Some(chain) = chains.get_mut(corp.corp_id.as_str()) else {
                            continue;
                        };
                        let reached = self.publish(&**group, &corp, records, *chain).await?;
                        if let Some((seq, after)) = reached {
                            *chain = after;
                            last = Some(cursor(corp.corp_id.as_str(), seq, after)?);
                        }
                    }
                    None => break,
                },
                event = group.next(TICK) => {
                    still_ours(&event?)?;
                    continue;
                }
            }
            // Also while one page follows the other: who is not heard of loses its place.
            still_ours(&group.next(Duration::ZERO).await?)?;
        }
        if let Some(cursor) = last.filter(|_| drain) {
            group.transact(vec![cursor], &[]).await?;
        }
        while let Some(ended) = pullers.join_next().await {
            if let Err(fault) = ended.map_err(Fault::local)? {
                return Ok(Pulled::GaveUp(fault));
            }
        }
        Ok(Pulled::Everything)
    }

    async fn publish(
        &self,
        group: &dyn Group,
        corp: &Puller,
        records: Vec<SealedRecord>,
        mut chain: Chain,
    ) -> Result<Option<(u64, Chain)>, Fault> {
        let Some(last) = records.last().map(|record| record.seq) else {
            return Ok(None);
        };
        let (count, now) = (records.len(), now_ms());
        let corp_id = corp.corp_id.as_str();
        let (records, entries, chain) = tokio::task::spawn_blocking(move || {
            let entries: Vec<_> = records
                .iter()
                .map(|record| chain.record(&Seen::of(record, now)))
                .collect();
            (records, entries, chain)
        })
        .await
        .map_err(Fault::local)?;
        let mut out: Vec<OutRecord> = records
            .into_iter()
            .zip(&entries)
            .map(|(record, entry)| OutRecord {
                topic: Topic::Raw,
                key: record.msgid.as_bytes().to_vec(),
                value: record.json,
                corp_id: corp_id.to_owned(),
                seq: record.seq,
                link: Some(entry.link),
                retry: None,
            })
            .collect();
        out.push(OutRecord {
            topic: Topic::Ledger,
            key: corp_id.as_bytes().to_vec(),
            value: Bytes::from(LedgerRecord::Pulled(entries).encode()),
            corp_id: corp_id.to_owned(),
            seq: last,
            link: Some(chain.link),
            retry: None,
        });
        out.push(cursor(corp_id, last, chain)?);
        group.transact(out, &[]).await?;
        self.metrics.pulled(corp_id, count as u64);
        self.totals.pulled(count);
        corp.progress.reached("raw", last, None);
        Ok(Some((last, chain)))
    }
}

/// The record that says how far a corp's archive has been read.
fn cursor(corp_id: &str, seq: u64, chain: Chain) -> Result<OutRecord, Fault> {
    let cursor = Cursor {
        seq,
        number: chain.number,
        link: chain.link.hex(),
    };
    let value = serde_json::to_vec(&cursor).map_err(Fault::local)?;
    Ok(OutRecord {
        topic: Topic::Cursor,
        key: corp_id.as_bytes().to_vec(),
        value: Bytes::from(value),
        corp_id: corp_id.to_owned(),
        seq,
        link: None,
        retry: None,
    })
}

/// Reads `[cursor]` to its end.
async fn recover(group: &dyn Group) -> Result<HashMap<String, Cursor>, Fault> {
    let mut cursors = HashMap::new();
    loop {
        match group.next(TICK).await? {
            Event::Record(record) => {
                let cursor: Cursor = serde_json::from_slice(&record.value).map_err(Fault::local)?;
                cursors.insert(String::from_utf8_lossy(&record.key).into_owned(), cursor);
            }
            Event::End(_) => return Ok(cursors),
            event @ Event::Revoked(_) => still_ours(&event)?,
            Event::Assigned(_) | Event::Idle => {}
        }
    }
}
