//! Archive to `[raw]`: records, ledger entries and cursor in one transaction. The cursor and the end
//! of the hash chain are recovered from the log alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chatledger_schemas::ledger::{ChainLink, LedgerEntry, LedgerRecord};
use chatledger_schemas::{Classified, CorpId, FaultClass, SealedRecord};
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Ending, Group, GroupEvent, Join, Leadership, OutRecord, Topic, check_leadership, cpu,
    supervised, wait_for_leadership,
};
use crate::chain::{Chain, ChainInput};
use crate::clock::{Boot, ClockReading, LastAnswer};
use crate::fault::Fault;
use crate::metrics::Metrics;
use crate::pull::{AcceptGap, ArchiveGap, PullError, Puller, check_archive_gap};
use crate::shared::{Totals, now_ms};

/// Capacity of the queue between the pullers and the producer, in pages.
const PAGES: usize = 4;
/// Longest wait for the next event of the group.
const TICK: Duration = Duration::from_millis(200);

/// Time between two records of when an archive last answered, milliseconds.
const CONTACT_EVERY: i64 = 60_000;

/// Value of a record on `[cursor]`; its key is the corp.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct CursorRecord {
    /// Everything up to here is on `[raw]`.
    seq: u64,
    /// Number of entries in the corp's chain.
    #[serde(default)]
    number: u64,
    /// The chain's last link, as hexadecimal digits.
    #[serde(default)]
    link: String,
    /// When the archive last answered, milliseconds since the epoch, UTC.
    #[serde(default)]
    answered_at: i64,
    /// The boot in which it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    boot: Option<Boot>,
}

impl CursorRecord {
    /// The end of the corp's chain; its beginning if the record has none.
    fn chain(&self, corp: &str) -> Result<Chain, Fault> {
        if self.link.is_empty() {
            return Ok(Chain::genesis(corp));
        }
        let link = ChainLink::from_hex(&self.link).ok_or_else(|| {
            Fault::new(UnreadableLink {
                corp: corp.to_owned(),
            })
        })?;
        Ok(Chain {
            number: self.number,
            link,
        })
    }

    fn answered(&self) -> Option<LastAnswer> {
        (self.answered_at > 0).then(|| LastAnswer {
            answered_at: self.answered_at,
            boot: self.boot.clone(),
        })
    }
}

/// The chain cannot be continued from a link that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the cursor of corp {corp} on [cursor] has an unreadable chain link")]
struct UnreadableLink {
    corp: String,
}

impl Classified for UnreadableLink {
    fn class(&self) -> FaultClass {
        FaultClass::Stop
    }
}

/// The position up to which one corp's archive has been read.
struct CorpPosition {
    seq: u64,
    chain: Chain,
    /// When the archive last answered, according to `[cursor]`.
    answered: Option<LastAnswer>,
}

/// The result of looking for a gap before an archive is read.
enum GapCheck {
    /// Reading continues here. The archive has been silent for this long.
    Continue(CorpPosition, Duration),
    /// The archive may have dropped records, and the gap is not accepted.
    Refused(ArchiveGap),
}

/// The pullers of the corps whose archives are read.
type Pullers = JoinSet<Result<(), SourceError>>;

/// Why reading an archive ended early.
#[derive(Debug, thiserror::Error)]
#[error("archive of {corp}: {source}")]
pub struct SourceError {
    /// The corp.
    pub corp: CorpId,
    /// The cause.
    pub source: PullError,
}

/// A page of records on its way from a puller to the producer.
type Page = (Arc<Puller>, Vec<SealedRecord>);

/// The stage `source`.
pub struct SourceStage {
    /// Joins the group on `[cursor]`.
    pub join: Join,
    /// The corps.
    pub corps: Vec<Arc<Puller>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The counts of this run.
    pub totals: Arc<Totals>,
    /// The corps that continue although their archive may have dropped records before they were read.
    pub accept_gap: AcceptGap,
    /// When it ends.
    pub ending: Ending,
}

impl SourceStage {
    /// Runs until stopped or, in a drain, until the archives have nothing more. An archive that cannot be read any further
    /// leaves the others alone: its corp counts as stopped ([`crate::shared::Progress::stopped`]).
    ///
    /// # Errors
    /// See [`SourceError`]. The first one, after every corp has ended.
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
        if wait_for_leadership(&*group, TICK, &self.ending).await? == Leadership::Stopping {
            return Ok(());
        }
        group.begin().await?;
        // An end seen before older holders were fenced may not have been the last.
        group.seek(0, 0).await?;
        let cursors = recover(&*group).await?;
        info!(corps = cursors.len(), "this process reads the archives");
        let mut failures = Vec::new();
        let pulled = self.pull(&group, &cursors, &mut failures).await;
        if pulled.is_err() {
            for corp in &self.corps {
                corp.progress.left_to_others();
            }
        }
        pulled?;
        **failed.lock().unwrap_or_else(PoisonError::into_inner) = failures.into_iter().next();
        Ok(())
    }

    /// Reads the archives until every puller has ended. Pushes onto `failures` why an archive cannot be read any further.
    async fn pull(
        &self,
        group: &Arc<dyn Group>,
        cursors: &HashMap<String, CursorRecord>,
        failures: &mut Vec<SourceError>,
    ) -> Result<(), Fault> {
        let stop = self.ending.stop.child_token();
        let _stop_pullers = stop.clone().drop_guard();
        let mut positions: HashMap<&str, CorpPosition> = HashMap::new();
        let (pages, queue) = mpsc::channel(PAGES);
        let mut pullers = JoinSet::new();
        for corp in &self.corps {
            let corp_id = &corp.corp_id;
            let cursor = cursors.get(corp_id.as_str()).cloned().unwrap_or_default();
            let chain = match cursor.chain(corp_id.as_str()) {
                Ok(chain) => chain,
                Err(fault) => {
                    self.corp_stopped(corp_id, PullError::Position(fault), failures);
                    continue;
                }
            };
            let position = CorpPosition {
                seq: cursor.seq,
                chain,
                answered: cursor.answered(),
            };
            match self.check_gap(&**group, corp_id, position).await? {
                GapCheck::Continue(position, silent) => {
                    self.start_puller(&mut pullers, corp, position.seq, silent, &pages, &stop);
                    positions.insert(corp_id.as_str(), position);
                }
                GapCheck::Refused(gap) => self.corp_stopped(corp_id, gap.into(), failures),
            }
        }
        drop(pages);
        self.publish_pages(&**group, queue, &mut positions, &mut pullers, failures)
            .await?;
        while let Some(ended) = pullers.join_next().await {
            self.puller_ended(ended, failures)?;
        }
        Ok(())
    }

    /// Notes that an archive cannot be read any further.
    fn corp_stopped(&self, corp: &CorpId, source: PullError, failures: &mut Vec<SourceError>) {
        error!(%corp, error = %source, "the archive of this corp is not read any more; the others are");
        if let Some(puller) = self.corps.iter().find(|puller| puller.corp_id == *corp) {
            puller.progress.stopped(source.to_string());
        }
        failures.push(SourceError {
            corp: corp.clone(),
            source,
        });
    }

    fn puller_ended(
        &self,
        ended: Result<Result<(), SourceError>, JoinError>,
        failures: &mut Vec<SourceError>,
    ) -> Result<(), Fault> {
        if let Err(SourceError { corp, source }) = ended.map_err(Fault::local)? {
            self.corp_stopped(&corp, source, failures);
        }
        Ok(())
    }

    /// Starts the puller of a corp; it sends pages until stopped or, in a drain, to its end.
    fn start_puller(
        &self,
        pullers: &mut Pullers,
        corp: &Arc<Puller>,
        after: u64,
        silent: Duration,
        pages: &mpsc::Sender<Page>,
        stop: &CancellationToken,
    ) {
        let drain = self.ending.upstream.is_some();
        let (corp, pages, stop) = (Arc::clone(corp), pages.clone(), stop.clone());
        pullers.spawn(async move {
            let puller = Arc::clone(&corp);
            let corp_id = corp.corp_id.clone();
            let deliver = move |records| {
                let (pages, corp) = (pages.clone(), Arc::clone(&corp));
                async move { pages.send((corp, records)).await.is_ok() }.boxed()
            };
            let ended = puller.run(after, silent, drain, &stop, deliver).await;
            ended.map_err(|source| SourceError {
                corp: corp_id,
                source,
            })
        });
    }

    /// Publishes pages until every puller has ended. Looks at each end when it happens.
    async fn publish_pages(
        &self,
        group: &dyn Group,
        mut queue: mpsc::Receiver<Page>,
        positions: &mut HashMap<&str, CorpPosition>,
        pullers: &mut Pullers,
        failures: &mut Vec<SourceError>,
    ) -> Result<(), Fault> {
        let mut published = false;
        loop {
            tokio::select! {
                biased;
                Some(ended) = pullers.join_next() => self.puller_ended(ended, failures)?,
                page = queue.recv() => match page {
                    Some((corp, records)) => {
                        if let Some(position) = positions.get_mut(corp.corp_id.as_str()) {
                            self.publish(group, &corp, records, position).await?;
                            published = true;
                        }
                        // The group must be polled also while pages arrive without a pause.
                        check_leadership(&group.next(Duration::ZERO).await?)?;
                    }
                    None => break,
                },
                event = group.next(TICK) => check_leadership(&event?)?,
            }
            self.record_contact(group, positions, CONTACT_EVERY).await?;
        }
        if published && self.ending.upstream.is_some() {
            // One more transaction, which cannot begin before the last one is visible.
            self.record_contact(group, positions, 0).await?;
        }
        Ok(())
    }

    /// Checks whether an archive may have dropped records since it was last read. A gap that is
    /// accepted is recorded in the ledger.
    async fn check_gap(
        &self,
        group: &dyn Group,
        corp: &CorpId,
        mut position: CorpPosition,
    ) -> Result<GapCheck, Fault> {
        let now = ClockReading::now();
        let gap = match check_archive_gap(position.seq, position.answered.as_ref(), now) {
            Ok(silent) => return Ok(GapCheck::Continue(position, silent)),
            Err(gap) if !self.accept_gap.covers(corp) => return Ok(GapCheck::Refused(gap)),
            Err(gap) => gap,
        };
        let since = gap.silent_since;
        warn!(%corp, since, "gap accepted; recorded in the ledger");
        // What was pulled is on the log and is delivered from there.
        let seq = position.seq;
        let entry = position.chain.gap(seq, seq, since, gap.now);
        position.answered = Some(LastAnswer::at(now));
        let records = vec![
            ledger_record(corp, vec![entry]),
            cursor_record(corp, &position)?,
        ];
        group.transact(records, &[]).await?;
        Ok(GapCheck::Continue(position, Duration::ZERO))
    }

    /// Records when the archives last answered, if the time recorded is older than `every`
    /// milliseconds.
    async fn record_contact(
        &self,
        group: &dyn Group,
        positions: &mut HashMap<&str, CorpPosition>,
        every: i64,
    ) -> Result<(), Fault> {
        let mut records = Vec::new();
        for corp in &self.corps {
            let Some(position) = positions.get_mut(corp.corp_id.as_str()) else {
                continue;
            };
            let Some(answered) = corp.progress.last_answer() else {
                continue;
            };
            // Also if the time of day was set back.
            let is_due = |recorded: &LastAnswer| {
                let since = answered.wall - recorded.answered_at;
                since >= every || since < 0
            };
            if position.answered.as_ref().is_none_or(is_due) {
                position.answered = Some(LastAnswer::at(answered));
                records.push(cursor_record(&corp.corp_id, position)?);
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
        position: &mut CorpPosition,
    ) -> Result<(), Fault> {
        let Some(last) = records.last().map(|record| record.seq) else {
            return Ok(());
        };
        let (count, now, mut chain) = (records.len(), now_ms(), position.chain);
        let corp_id = &corp.corp_id;
        let (records, entries, chain) = cpu::run(move || {
            let entries: Vec<LedgerEntry> = records
                .iter()
                .map(|record| chain.record(&ChainInput::of(record, now), None))
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
        let published = CorpPosition {
            seq: last,
            chain,
            // The page is an answer, and may be some time ago.
            answered: corp.progress.last_answer().map(LastAnswer::at),
        };
        out.push(ledger_record(corp_id, entries));
        out.push(cursor_record(corp_id, &published)?);
        group.transact(out, &[]).await?;
        *position = published;
        self.metrics.pulled(corp_id.as_str(), count as u64);
        self.totals.pulled(count);
        corp.progress.reached("raw", last, None);
        Ok(())
    }
}

/// The record that adds entries to the ledger.
fn ledger_record(corp: &CorpId, entries: Vec<LedgerEntry>) -> OutRecord {
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

/// The record that stores the position up to which a corp's archive has been read.
fn cursor_record(corp: &CorpId, position: &CorpPosition) -> Result<OutRecord, Fault> {
    let cursor = CursorRecord {
        seq: position.seq,
        number: position.chain.number,
        link: position.chain.link.hex(),
        answered_at: position.answered.as_ref().map_or(0, |at| at.answered_at),
        boot: position.answered.as_ref().and_then(|at| at.boot.clone()),
    };
    Ok(OutRecord {
        topic: Topic::Cursor,
        key: corp.as_str().as_bytes().to_vec(),
        value: Bytes::from(serde_json::to_vec(&cursor).map_err(Fault::local)?),
        corp_id: corp.to_string(),
        seq: position.seq,
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
                let cursor: CursorRecord = record.json(Topic::Cursor)?;
                cursors.insert(String::from_utf8_lossy(&record.key).into_owned(), cursor);
            }
            GroupEvent::End(_) => return Ok(cursors),
            event @ GroupEvent::Revoked(_) => check_leadership(&event)?,
            GroupEvent::Assigned(_) | GroupEvent::Idle => {}
        }
    }
}
