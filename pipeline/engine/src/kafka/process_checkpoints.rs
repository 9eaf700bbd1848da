//! How far `process` has brought each partition of `[raw]`, on a compacted topic of its own.
//!
//! A checkpoint is written in the transaction that it tells of. A transaction that somebody has left open
//! hides the checkpoints behind it from readers until it is resolved: a checkpoint read here may be old. The
//! group's own position is then further, and holds.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Ending, GroupEvent, Join, OutRecord, Topic};
use crate::fault::Fault;
use crate::sink_checkpoint::SinkCheckpoint;

/// How long to wait for the topic in one go.
const TICK: Duration = Duration::from_millis(50);
/// Longest time that reading the topic to its end may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The topic was not read to its end in time.
#[derive(Debug, thiserror::Error)]
#[error("the topic of checkpoints cannot be read to its end within {PATIENCE:?}")]
struct Unread;

/// The record that says how far a partition of `[raw]` has been processed.
pub(super) fn process_checkpoint_record(
    partition: i32,
    checkpoint: SinkCheckpoint,
) -> Result<OutRecord, Fault> {
    Ok(OutRecord {
        topic: Topic::Marks,
        key: format!("raw/{partition}").into_bytes(),
        value: Bytes::from(serde_json::to_vec(&checkpoint).map_err(Fault::local)?),
        corp_id: String::new(),
        seq: 0,
        link: None,
        retry: None,
    })
}

/// Reads the checkpoints.
pub struct ProcessCheckpointReader(
    /// Reads `[checkpoints]` from its beginning, outside any group.
    pub Join,
);

impl ProcessCheckpointReader {
    /// The last checkpoint of each partition; none if the process is stopping.
    pub(super) async fn read(
        &self,
        ending: &Ending,
    ) -> Result<HashMap<i32, SinkCheckpoint>, Fault> {
        let topic = (self.0)().await?;
        let began = Instant::now();
        let mut checkpoints = HashMap::new();
        while !ending.stop.is_cancelled() {
            match topic.next(TICK).await? {
                GroupEvent::Record(record) => {
                    let key = String::from_utf8_lossy(&record.key);
                    if let Some(partition) = key.strip_prefix("raw/").and_then(|p| p.parse().ok()) {
                        let checkpoint =
                            serde_json::from_slice(&record.value).map_err(Fault::local)?;
                        checkpoints.insert(partition, checkpoint);
                    }
                }
                GroupEvent::End(_) => return Ok(checkpoints),
                GroupEvent::Assigned(_) | GroupEvent::Revoked(_) | GroupEvent::Idle => {
                    if began.elapsed() > PATIENCE {
                        return Err(Fault::local(Unread));
                    }
                }
            }
        }
        Ok(checkpoints)
    }
}
