-- Sink checkpoints: one row per lane, that is, per topic partition on its way into this database.
-- A checkpoint is written after the rows of the lane and before the offset of its consumer group, so
-- resetting the group's offset adds no rows. The row with the latest marked_at is valid (FINAL).
--   log        name of the topic partition
--   position   offset of the last record whose rows were written, plus 1
--   witness    fingerprint of that record; the checkpoint is trusted only if the log still holds it
--   marked_at  when the checkpoint was written

CREATE TABLE IF NOT EXISTS lanes
(
    log       String,
    position  UInt64,
    witness   UInt64,
    marked_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(marked_at)
ORDER BY log;
