//! Records of a topic to the rows of a batch, for sinks.

use std::borrow::Cow;

use chatledger_crypto::{SealRing, UnsealError};
use chatledger_schemas::ledger::ChainAnchor;
use chatledger_schemas::{Classified, CorpId, DeadLetterRecord, FaultClass};
use serde::de::DeserializeOwned;

use super::record::UnknownFormat;
use super::{LogRecord, Topic};
use crate::batch::{Batch, BatchRange};
use crate::fault::Fault;

/// Decodes consecutive records of one partition; `None` if there are none.
///
/// # Errors
/// A value does not open with the seal keys, or is not of the topic's format. Both have class stop:
/// the sink waits rather than skipping the record.
pub(super) fn decode(
    topic: Topic,
    records: &[LogRecord],
    seal: &SealRing,
) -> Result<Option<Batch>, Fault> {
    let ids = records.iter().map(|record| {
        let key = std::str::from_utf8(&record.key).unwrap_or_default();
        (record.offset + 1, key)
    });
    let Some(range) = BatchRange::over(ids) else {
        return Ok(None);
    };
    let mut batch = Batch::empty(range);
    for record in records {
        if let Some(link) = record.link {
            batch.anchors.push(ChainAnchor {
                corp_id: CorpId::from(record.corp_id.as_str()),
                seq: record.seq,
                link,
            });
        }
    }
    match topic {
        Topic::Messages => batch.messages = rows(topic, records, seal)?,
        Topic::Violations => batch.violations = rows(topic, records, seal)?,
        Topic::DeadLetter => {
            for row in rows(topic, records, seal)? {
                match row {
                    DeadLetterRecord::DeadLetter(dead_letter) => {
                        batch.dead_letters.push(dead_letter);
                    }
                    DeadLetterRecord::Event(event) => batch.events.push(event),
                }
            }
        }
        Topic::Raw
        | Topic::Cursor
        | Topic::Directory
        | Topic::Ledger
        | Topic::ProcessCheckpoints => {}
    }
    Ok(Some(batch))
}

fn rows<T: DeserializeOwned>(
    topic: Topic,
    records: &[LogRecord],
    seal: &SealRing,
) -> Result<Vec<T>, Fault> {
    let read = |record: &LogRecord| {
        let value = if topic.is_sealed() {
            let opened = seal.open(topic.name(), &record.key, &record.value);
            opened.map_err(|source| {
                Fault::new(Unopened {
                    topic: topic.name(),
                    partition: record.partition,
                    offset: record.offset,
                    source,
                })
            })?
        } else {
            Cow::Borrowed(&record.value[..])
        };
        serde_json::from_slice(&value)
            .map_err(|error| Fault::new(UnknownFormat::of(topic, record, &error)))
    };
    records.iter().map(read).collect()
}

/// A value that the deployment's seal keys do not open.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the value on [{topic}] at partition {partition}, offset {offset}")]
struct Unopened {
    topic: &'static str,
    partition: i32,
    offset: u64,
    source: UnsealError,
}

impl Classified for Unopened {
    fn class(&self) -> FaultClass {
        FaultClass::Stop
    }
}
