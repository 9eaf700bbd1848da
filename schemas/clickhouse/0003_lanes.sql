-- How far each lane (a topic's partition on its way into these tables) has been written. Written after
-- the lane's rows and before its consumer group's position, so that a group that is set back adds no
-- row. The newest row of a lane counts; witness is a digest of the log's record that it ends with.

CREATE TABLE IF NOT EXISTS lanes
(
    log       String,
    position  UInt64,
    witness   UInt64,
    marked_at DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(marked_at)
ORDER BY log;
