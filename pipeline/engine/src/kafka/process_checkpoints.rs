//! The position up to which `process` has brought each partition of `[raw]`, on a compacted topic of
//! its own (`[marks]`).
//!
//! A checkpoint is written in the same transaction as the rows up to its position. An open
//! transaction of another process hides later checkpoints from readers, so a checkpoint read here may
//! be old. Then the group's own position is ahead of it and is used instead.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Ending, GroupEvent, Join, OutRecord, Topic};
use crate::fault::Fault;
use crate::sink_checkpoint::SinkCheckpoint;

/// Longest wait for the next event of the topic.
const TICK: Duration = Duration::from_millis(50);
/// Longest time that reading the topic to its end may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The topic was not read to its end in time.
#[derive(Debug, thiserror::Error)]
#[error("cannot read [marks] to its end within {PATIENCE:?}")]
struct CheckpointsUnread;

/// The record that stores the checkpoint of a partition of `[raw]`.
pub(super) fn process_checkpoint_record(
    partition: i32,
    checkpoint: SinkCheckpoint,
) -> Result<OutRecord, Fault> {
    Ok(OutRecord {
        topic: Topic::ProcessCheckpoints,
        key: format!("raw/{partition}").into_bytes(),
        value: Bytes::from(serde_json::to_vec(&checkpoint).map_err(Fault::local)?),
        corp_id: String::new(),
        seq: 0,
        link: None,
        retry: None,
    })
}

/// Reads the process checkpoints.
pub struct ProcessCheckpointReader(
    /// Joins `[marks]`, read from its beginning and outside any group.
    pub Join,
);

impl ProcessCheckpointReader {
    /// Returns the last checkpoint of each partition; an empty map if the process is stopping.
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
                        checkpoints.insert(partition, record.json(Topic::ProcessCheckpoints)?);
                    }
                }
                GroupEvent::End(_) => return Ok(checkpoints),
                GroupEvent::Assigned(_) | GroupEvent::Revoked(_) | GroupEvent::Idle => {
                    if began.elapsed() > PATIENCE {
                        return Err(Fault::local(CheckpointsUnread));
                    }
                }
            }
        }
        Ok(checkpoints)
    }
}
