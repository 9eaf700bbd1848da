//! Reads the ledger of a corp: a file with the direct driver, a topic with Kafka.

use std::path::PathBuf;
use std::time::Duration;

use chatledger_engine::direct::journal::JournalFile;
use chatledger_engine::direct::ledger::{NextLine, Reader};
use chatledger_engine::fault::Fault;
use chatledger_engine::kafka::GroupEvent;
use chatledger_schemas::CorpId;
use chatledger_schemas::config::Mode;
use chatledger_schemas::ledger::{Digest128, LedgerEntry, LedgerRecord, RecordOutcome, Settlement};

use crate::config::Settings;
use crate::exit::{Failure, chain};
use crate::kafka_log::{Names, Role};

/// Longest wait for the next event of the topic.
const TICK: Duration = Duration::from_millis(200);
/// A topic that is silent for this long cannot be read.
const PATIENCE: Duration = Duration::from_secs(30);

/// One item of the ledger.
#[derive(Debug, Clone, Copy)]
pub enum LedgerItem {
    /// An entry of the hash chain, with the settlement that is stored with it (direct driver).
    Entry(LedgerEntry, Option<Settlement>),
    /// The outcome of a record.
    Settled(RecordOutcome),
    /// Records were destroyed deliberately.
    Destroyed {
        /// Position of the first.
        first: u64,
        /// Position of the last.
        last: u64,
        /// Digest of the text that says by whom and why.
        text: Digest128,
    },
    /// Records were pulled that may have been lost before an accepted gap.
    MaybeLost {
        /// Position of the first.
        first: u64,
        /// Position of the last.
        last: u64,
    },
    /// An entry that this version did not write.
    Unreadable,
}

/// Reads ledgers from their beginning, any number of times.
pub enum LedgerReader {
    /// Files below the state folder.
    Files {
        /// The state folder.
        state_dir: PathBuf,
        /// The sinks whose positions count.
        sinks: Vec<&'static str>,
    },
    /// The topic `.ledger`.
    Topic(Box<Names>),
}

impl LedgerReader {
    /// The ledger of a configuration's driver. `sinks` are the names of those whose positions count.
    pub fn of(settings: &Settings, sinks: Vec<&'static str>) -> Self {
        match settings.driver.mode {
            Mode::Direct => Self::Files {
                state_dir: settings.driver.state_dir.clone(),
                sinks,
            },
            Mode::Kafka => Self::Topic(Box::new(Names::new(&settings.kafka, String::new()))),
        }
    }

    /// The position that every sink has reached; `None` if it is not recorded.
    ///
    /// # Errors
    /// A position cannot be read.
    pub fn delivered(&self, corp: &CorpId) -> Result<Option<u64>, Failure> {
        let Self::Files { state_dir, sinks } = self else {
            return Ok(None);
        };
        let folder = state_dir.join(corp.as_str());
        let mut least = None::<u64>;
        for sink in sinks {
            let checkpoint = JournalFile::read(&folder, sink).map_err(Failure::other)?;
            let position = checkpoint.map_or(0, |checkpoint| checkpoint.position);
            least = Some(least.map_or(position, |least| least.min(position)));
        }
        Ok(least)
    }

    /// Passes every item of a corp's ledger to `each`, in order, up to its current end.
    ///
    /// # Errors
    /// There is no ledger, or it cannot be read.
    pub async fn read(
        &self,
        corp: &CorpId,
        mut each: impl FnMut(LedgerItem),
    ) -> Result<(), Failure> {
        match self {
            Self::Files { state_dir, .. } => {
                let path = state_dir.join(corp.as_str()).join("ledger");
                tokio::task::block_in_place(|| file(&path, each))
            }
            Self::Topic(names) => {
                let end = topic(names, corp, &mut each).await;
                end.map_err(|fault| {
                    Failure::unreachable(format!("cannot read the topic of the ledger: {fault}"))
                })
            }
        }
    }
}

fn file(path: &std::path::Path, mut each: impl FnMut(LedgerItem)) -> Result<(), Failure> {
    let mut reader = Reader::open(path).map_err(|error| {
        let error = chain(&error);
        Failure::refused(format!("no ledger to compare with: {error}"))
    })?;
    loop {
        match reader.next_line().map_err(Failure::other)? {
            NextLine::End => return Ok(()),
            NextLine::Unreadable => each(LedgerItem::Unreadable),
            NextLine::Line(line) => {
                let (entry, settlement) = (line.entry, line.settlement);
                each(LedgerItem::Entry(entry, settlement));
                if let (Some(seq), Some(settlement)) = (entry.subject(), settlement) {
                    each(LedgerItem::Settled(RecordOutcome {
                        seq,
                        msgid: entry.msgid,
                        settlement,
                    }));
                }
                if let Some((first, last)) = entry.maybe_lost() {
                    each(LedgerItem::MaybeLost { first, last });
                }
                if let Some((first, last)) = entry.destroyed() {
                    let text = entry.msgid;
                    each(LedgerItem::Destroyed { first, last, text });
                }
            }
        }
    }
}

async fn topic(
    names: &Names,
    corp: &CorpId,
    each: &mut impl FnMut(LedgerItem),
) -> Result<(), Fault> {
    let member = names.join(&Role::Ledger)().await?;
    let mut last_event = std::time::Instant::now();
    loop {
        match member.next(TICK).await? {
            GroupEvent::Record(record) => {
                last_event = std::time::Instant::now();
                if record.key != corp.as_str().as_bytes() {
                    continue;
                }
                match LedgerRecord::decode(&record.value) {
                    Some(LedgerRecord::Pulled(entries)) => {
                        for entry in entries {
                            each(LedgerItem::Entry(entry, None));
                        }
                    }
                    Some(LedgerRecord::Outcomes(settled)) => {
                        for one in settled {
                            each(LedgerItem::Settled(one));
                        }
                    }
                    Some(LedgerRecord::Destroyed(destruction)) => {
                        each(LedgerItem::Destroyed {
                            first: destruction.first_seq,
                            last: destruction.last_seq,
                            text: destruction.digest(),
                        });
                    }
                    None => each(LedgerItem::Unreadable),
                }
            }
            GroupEvent::End(_) => return Ok(()),
            GroupEvent::Assigned(_) | GroupEvent::Revoked(_) | GroupEvent::Idle => {
                if last_event.elapsed() > PATIENCE {
                    return Err(Fault::local(Silent));
                }
            }
        }
    }
}

/// The brokers were silent for too long.
#[derive(Debug, thiserror::Error)]
#[error("the brokers do not answer")]
struct Silent;
