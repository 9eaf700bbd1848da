-- Results of `chatledger reconcile`, for the dashboards: one row a corp and run. Whether every record
-- that was pulled is in exactly one place; `bad_blocks` are the first positions of the blocks of 1,000
-- in which something is not as it should be, the first 100 of them.

CREATE TABLE IF NOT EXISTS reconciliations
(
    corp_id      LowCardinality(String),
    run_at       DateTime64(3, 'UTC'),
    first_seq    UInt64,
    last_seq     UInt64,
    pulled       UInt64,
    clickhouse   UInt64,
    parquet      UInt64,
    dead_letters UInt64,
    dropped      UInt64,
    duplicates   UInt64,
    missing      UInt64,
    unexpected   UInt64,
    repeated     UInt64,
    in_flight    UInt64,
    gaps         UInt64,
    accounted    Bool,
    bad_blocks   Array(UInt64)
)
ENGINE = ReplacingMergeTree
ORDER BY (corp_id, run_at);
