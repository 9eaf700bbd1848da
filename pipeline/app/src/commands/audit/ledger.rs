//! The ledger of a corp, wherever the driver keeps it.

use std::path::PathBuf;
use std::time::Duration;

use chatledger_engine::direct::journal::JournalFile;
use chatledger_engine::direct::ledger::Reader;
use chatledger_engine::fault::Fault;
use chatledger_engine::kafka::Event;
use chatledger_schemas::CorpId;
use chatledger_schemas::config::Mode;
use chatledger_schemas::ledger::{LedgerEntry, LedgerRecord, RecordOutcome};

use crate::config::Settings;
use crate::exit::{Failure, chain};
use crate::kafka_log::{Names, Role};

/// How long to wait for the topic in one go.
const TICK: Duration = Duration::from_millis(200);
/// A topic that says nothing for so long cannot be read.
const PATIENCE: Duration = Duration::from_secs(30);

/// What stands next in the ledger.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// A record was pulled, or a gap accepted.
    Pulled(LedgerEntry),
    /// What became of a record.
    Settled(RecordOutcome),
    /// Something that no program of this version wrote.
    Unreadable,
}

/// Reads ledgers, from the beginning, as often as is wanted.
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
    /// The ledger of a configuration's driver.
    pub fn of(settings: &Settings) -> Self {
        match settings.driver.mode {
            Mode::Direct => Self::Files {
                state_dir: settings.driver.state_dir.clone(),
                sinks: [
                    settings
                        .clickhouse
                        .as_ref()
                        .map(|_| crate::wiring::CLICKHOUSE),
                    settings.parquet.as_ref().map(|_| crate::wiring::PARQUET),
                ]
                .into_iter()
                .flatten()
                .collect(),
            },
            Mode::Kafka => Self::Topic(Box::new(Names::new(&settings.kafka, String::new()))),
        }
    }

    /// The position that every sink has reached; `None` if nobody writes that down.
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

    /// Tells what stands in the ledger of a corp, in its order, up to its present end.
    ///
    /// # Errors
    /// There is no ledger, or it cannot be read.
    pub async fn read(&self, corp: &CorpId, mut each: impl FnMut(Step)) -> Result<(), Failure> {
        match self {
            Self::Files { state_dir, .. } => {
                let path = state_dir.join(corp.as_str()).join("ledger");
                tokio::task::block_in_place(|| file(&path, each))
            }
            Self::Topic(names) => {
                let end = topic(names, corp, &mut each).await;
                end.map_err(|fault| {
                    Failure::unreachable(format!("the topic of the ledger: {fault}"))
                })
            }
        }
    }
}

fn file(path: &std::path::Path, mut each: impl FnMut(Step)) -> Result<(), Failure> {
    let mut reader = Reader::open(path).map_err(|error| {
        let error = chain(&error);
        Failure::refused(format!("there is no ledger to compare with: {error}"))
    })?;
    while let Some(line) = reader.next_line().map_err(Failure::other)? {
        match line {
            Ok(line) => {
                each(Step::Pulled(line.entry));
                if let Some(outcome) = line.outcome {
                    each(Step::Settled(RecordOutcome {
                        seq: line.entry.seq,
                        msgid: line.entry.msgid,
                        outcome,
                        row: line.row,
                    }));
                }
            }
            Err(_) => each(Step::Unreadable),
        }
    }
    Ok(())
}

async fn topic(names: &Names, corp: &CorpId, each: &mut impl FnMut(Step)) -> Result<(), Fault> {
    let member = names.join(&Role::Ledger)().await?;
    let mut heard = std::time::Instant::now();
    loop {
        match member.next(TICK).await? {
            Event::Record(record) => {
                heard = std::time::Instant::now();
                if record.key != corp.as_str().as_bytes() {
                    continue;
                }
                match LedgerRecord::decode(&record.value) {
                    Some(LedgerRecord::Pulled(entries)) => {
                        for entry in entries {
                            each(Step::Pulled(entry));
                        }
                    }
                    Some(LedgerRecord::Outcomes(settled)) => {
                        for one in settled {
                            each(Step::Settled(one));
                        }
                    }
                    None => each(Step::Unreadable),
                }
            }
            Event::End(_) => return Ok(()),
            Event::Assigned(_) | Event::Revoked(_) | Event::Idle => {
                if heard.elapsed() > PATIENCE {
                    return Err(Fault::local(Silent));
                }
            }
        }
    }
}

/// The brokers have said nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("the brokers do not answer")]
struct Silent;
