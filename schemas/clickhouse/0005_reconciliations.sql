-- Results of `chatledger reconcile`: one row per corp and run. Read with FINAL.
--   run_at               when the run started
--   first_seq, last_seq  range of positions that was compared, inclusive
--   pulled               records in the ledger
--   clickhouse, parquet  rows in messages and in the Parquet files; 0 without that sink
--   dead_letters         open dead letters
--   dropped              dead letters that an operator discarded
--   duplicates           records whose message the archive had already returned
--   missing              records without the rows or the dead letter that they should have
--   unexpected           rows or dead letters that should not exist
--   repeated             records with more than one row in a sink
--   in_flight            pulled records whose outcome is not recorded yet
--   gaps                 accepted gaps in the range
--   accounted            whether every record is in exactly one place
--   bad_blocks           first positions of the blocks of 1,000 that disagree, at most 100

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
