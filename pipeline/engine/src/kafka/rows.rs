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
    let Some(range) = range_of(records) else {
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

fn range_of(records: &[LogRecord]) -> Option<BatchRange> {
    let ids = records.iter().map(|record| {
        let key = std::str::from_utf8(&record.key).unwrap_or_default();
        (record.offset + 1, key)
    });
    let mut range = BatchRange::over(ids)?;
    let fingerprints = records.iter().map(LogRecord::fingerprint);
    range.content = Some(fingerprints.fold(0, u64::wrapping_add));
    Some(range)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;

    fn record(corp: &str, timestamp: i64) -> LogRecord {
        LogRecord {
            partition: 0,
            offset: 0,
            timestamp,
            key: Bytes::from_static(b"m1"),
            value: Bytes::from(format!("{{\"corp\":\"{corp}\"}}")),
            corp_id: corp.to_owned(),
            seq: 1,
            link: None,
            retry: None,
        }
    }

    #[test]
    fn deployments_and_successors_of_a_topic_never_share_a_name() {
        let name = |record| range_of(&[record]).unwrap().name("messages-00000");
        let own = name(record("wwa", 1));
        assert_eq!(own, name(record("wwa", 1)));
        // Another deployment with the same database, and the same topic created anew.
        assert_ne!(own, name(record("wwb", 1)));
        assert_ne!(own, name(record("wwa", 2)));
    }
}
