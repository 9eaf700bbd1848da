//! Records as they are read and written.

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header as KafkaHeader, Headers, Message, OwnedHeaders};
use rdkafka::producer::BaseRecord;

/// Name and text of a record header.
pub type Header = (&'static str, String);

/// A record read from a topic.
#[derive(Debug, Clone)]
pub struct ConsumedRecord {
    /// The partition it was read from.
    pub partition: i32,
    /// Its offset there.
    pub offset: u64,
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// The timestamp by broker or producer, milliseconds since the epoch, UTC.
    pub timestamp: i64,
    headers: Vec<(String, String)>,
}

impl ConsumedRecord {
    pub(crate) fn read(message: &BorrowedMessage<'_>) -> Self {
        let copy = |bytes: Option<&[u8]>| bytes.map_or_else(Bytes::new, Bytes::copy_from_slice);
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .map(|header| {
                    let value = header.value.unwrap_or_default();
                    (
                        header.key.to_owned(),
                        String::from_utf8_lossy(value).into_owned(),
                    )
                })
                .collect()
        });
        Self {
            partition: message.partition(),
            offset: u64::try_from(message.offset()).unwrap_or_default(),
            key: copy(message.key()),
            value: copy(message.payload()),
            timestamp: message.timestamp().to_millis().unwrap_or_default(),
            headers,
        }
    }

    /// Returns the text of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A record to write.
#[derive(Debug, Clone)]
pub struct OutgoingRecord {
    /// The topic's full name.
    pub topic: String,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Bytes,
    /// Its headers.
    pub headers: Vec<Header>,
}

impl OutgoingRecord {
    pub(crate) fn record(&self) -> BaseRecord<'_, [u8], [u8]> {
        let headers = self.headers.iter().fold(
            OwnedHeaders::new_with_capacity(self.headers.len()),
            |headers, (key, value)| {
                headers.insert(KafkaHeader {
                    key,
                    value: Some(value),
                })
            },
        );
        BaseRecord::to(&self.topic)
            .key(&self.key[..])
            .payload(&self.value[..])
            .headers(headers)
    }
}
