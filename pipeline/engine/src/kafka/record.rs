//! Records as the stages read and write them, and the headers that go with them.

use bytes::Bytes;
use chatledger_schemas::ledger::ChainLink;
use chatledger_schemas::{Classified, FaultClass, RetryRequest, TOPIC_SCHEMA};
use serde::de::DeserializeOwned;

use super::Topic;
use crate::fault::Fault;
use crate::sink_checkpoint::fingerprint;

/// A record read from a topic.
#[derive(Debug, Clone)]
pub struct LogRecord {
    /// The partition it is in.
    pub partition: i32,
    /// Its offset there.
    pub offset: u64,
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// Header `corp_id`; empty on topics that do not need it.
    pub corp_id: String,
    /// Header `seq`; 0 on topics that do not need it.
    pub seq: u64,
    /// Header `link`: the corp's chain up to the sealed record that this record was made from.
    pub link: Option<ChainLink>,
    /// Header `retry`: the record of a dead letter, to be opened again.
    pub retry: Option<RetryRequest>,
    /// When it was written, milliseconds since the epoch, UTC.
    pub timestamp: i64,
}

/// A record as the client library returns it.
#[derive(Debug, Clone)]
pub struct RawRecord {
    /// The partition it is in.
    pub partition: i32,
    /// Its offset there.
    pub offset: u64,
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// When it was written, milliseconds since the epoch, UTC.
    pub timestamp: i64,
}

impl LogRecord {
    /// Reads the headers of a record; `header` returns the text of one.
    ///
    /// # Errors
    /// A header cannot be read, or one that the topic needs is missing (class stop): this program
    /// did not write the record, and its position in the archive is unknown.
    pub fn read<'a>(
        topic: Topic,
        raw: RawRecord,
        header: impl Fn(&str) -> Option<&'a str>,
    ) -> Result<Self, Fault> {
        let unreadable = |name: &'static str| {
            Fault::new(UnreadableHeader {
                topic: topic.name(),
                partition: raw.partition,
                offset: raw.offset,
                header: name,
            })
        };
        let required = |name: &'static str| match header(name) {
            None if topic.needs_headers() => Err(unreadable(name)),
            text => Ok(text),
        };
        let corp_id = required("corp_id")?.unwrap_or_default().to_owned();
        let seq = match required("seq")? {
            Some(text) => text.parse().map_err(|_| unreadable("seq"))?,
            None => 0,
        };
        let link = match header("link") {
            Some(text) => Some(ChainLink::from_hex(text).ok_or_else(|| unreadable("link"))?),
            None => None,
        };
        let retry = match header("retry") {
            Some(text) => Some(serde_json::from_str(text).map_err(|_| unreadable("retry"))?),
            None => None,
        };
        Ok(Self {
            partition: raw.partition,
            offset: raw.offset,
            key: raw.key,
            value: raw.value,
            corp_id,
            seq,
            link,
            retry,
            timestamp: raw.timestamp,
        })
    }

    /// Parses its value as JSON.
    ///
    /// # Errors
    /// The value is not of the topic's format (class stop).
    pub(super) fn json<T: DeserializeOwned>(&self, topic: Topic) -> Result<T, Fault> {
        serde_json::from_slice(&self.value)
            .map_err(|error| Fault::new(UnknownFormat::of(topic, self, &error)))
    }

    /// The fingerprint of a checkpoint that ends with this record.
    pub fn fingerprint(&self) -> u64 {
        fingerprint(self.offset + 1, &self.value, self.timestamp)
    }
}

/// A header that cannot be read. The error does not contain the header's text.
#[derive(Debug, thiserror::Error)]
#[error(
    "the record on [{topic}] at partition {partition}, offset {offset} has no readable header {header}"
)]
struct UnreadableHeader {
    topic: &'static str,
    partition: i32,
    offset: u64,
    header: &'static str,
}

impl Classified for UnreadableHeader {
    fn class(&self) -> FaultClass {
        FaultClass::Stop
    }
}

/// A record whose value this program did not write.
#[derive(Debug, thiserror::Error)]
#[error(
    "the record on [{topic}] at partition {partition}, offset {offset} has an unknown format (column {column})"
)]
pub(super) struct UnknownFormat {
    topic: &'static str,
    partition: i32,
    offset: u64,
    column: usize,
}

impl UnknownFormat {
    /// Keeps only the column of the parser's error: its message may quote the record.
    pub(super) fn of(topic: Topic, record: &LogRecord, error: &serde_json::Error) -> Self {
        Self {
            topic: topic.name(),
            partition: record.partition,
            offset: record.offset,
            column: error.column(),
        }
    }
}

impl Classified for UnknownFormat {
    fn class(&self) -> FaultClass {
        FaultClass::Stop
    }
}

/// A record to be written to a topic.
#[derive(Debug, Clone)]
pub struct OutRecord {
    /// The topic.
    pub topic: Topic,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Bytes,
    /// Header `corp_id`.
    pub corp_id: String,
    /// Header `seq`.
    pub seq: u64,
    /// Header `link`.
    pub link: Option<ChainLink>,
    /// Header `retry`.
    pub retry: Option<RetryRequest>,
}

impl OutRecord {
    /// Its headers, each with its text.
    ///
    /// # Errors
    /// The header `retry` cannot be written as JSON.
    pub fn headers(&self) -> Result<Vec<(&'static str, String)>, Fault> {
        let mut headers = vec![
            ("corp_id", self.corp_id.clone()),
            ("seq", self.seq.to_string()),
            ("schema", TOPIC_SCHEMA.to_string()),
        ];
        headers.extend(self.link.map(|link| ("link", link.hex())));
        if let Some(retry) = &self.retry {
            let retry = serde_json::to_string(retry).map_err(Fault::local)?;
            headers.push(("retry", retry));
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(topic: Topic, headers: &[(&str, &'static str)]) -> Result<LogRecord, Fault> {
        let raw = RawRecord {
            partition: 3,
            offset: 7,
            key: Bytes::new(),
            value: Bytes::from_static(b"content"),
            timestamp: 1,
        };
        LogRecord::read(topic, raw, |name| {
            let found = headers.iter().find(|(header, _)| *header == name);
            found.map(|(_, text)| *text)
        })
    }

    #[test]
    fn headers_that_were_written_are_read_back() {
        let retry = RetryRequest {
            attempt: 2,
            first_seen: 5,
            at: 6,
            actor: "someone".into(),
            reason: chatledger_schemas::Reason::WrongKey,
        };
        let out = OutRecord {
            topic: Topic::Raw,
            key: Vec::new(),
            value: Bytes::new(),
            corp_id: "ww1".into(),
            seq: u64::MAX,
            link: Some(ChainLink::genesis("ww1")),
            retry: Some(retry.clone()),
        };
        let headers = out.headers().unwrap();
        let raw = RawRecord {
            partition: 0,
            offset: 0,
            key: Bytes::new(),
            value: Bytes::new(),
            timestamp: 0,
        };
        let record = LogRecord::read(Topic::Raw, raw, |name| {
            let found = headers.iter().find(|(header, _)| *header == name);
            found.map(|(_, text)| text.as_str())
        })
        .unwrap();
        assert_eq!((record.corp_id.as_str(), record.seq), ("ww1", u64::MAX));
        assert_eq!(record.link, Some(ChainLink::genesis("ww1")));
        assert_eq!(record.retry, Some(retry));
    }

    #[test]
    fn unreadable_header_stops_the_stage_and_names_the_place_but_no_content() {
        let cases: [(&[(&str, &str)], &str); 5] = [
            (&[("seq", "1")], "corp_id"),
            (&[("corp_id", "ww1")], "seq"),
            (&[("corp_id", "ww1"), ("seq", "-1")], "seq"),
            (
                &[("corp_id", "ww1"), ("seq", "1"), ("retry", "{}")],
                "retry",
            ),
            (&[("corp_id", "ww1"), ("seq", "1"), ("link", "zz")], "link"),
        ];
        for (headers, header) in cases {
            let fault = read(Topic::Raw, headers).unwrap_err();
            assert_eq!(fault.class, FaultClass::Stop);
            assert_eq!(
                fault.to_string(),
                format!(
                    "the record on [raw] at partition 3, offset 7 has no readable header {header}"
                )
            );
        }
    }

    #[test]
    fn topics_that_carry_no_positions_need_no_headers() {
        for topic in [
            Topic::Cursor,
            Topic::Directory,
            Topic::Ledger,
            Topic::ProcessCheckpoints,
        ] {
            let record = read(topic, &[]).unwrap();
            assert_eq!((record.corp_id.as_str(), record.seq), ("", 0));
            assert!(read(topic, &[("seq", "x")]).is_err());
        }
    }
}
