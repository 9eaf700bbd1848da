-- Dead letters that can be replayed: of each letter the newest row counts, and one that says that
-- it is settled hides it, so that FINAL shows the open ones. A table's engine cannot be changed, so
-- the old table is put aside, the new one made, the rows carried over, and the old table dropped.
-- Killed anywhere, applied twice or by two at once: every row is in one of the two tables, and a
-- row that is carried over twice is one row with FINAL.

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'dead_letters' AND engine_full NOT LIKE '%is_deleted%'
RENAME TABLE dead_letters TO dead_letters_before_4;

CREATE TABLE IF NOT EXISTS dead_letters
(
    corp_id     LowCardinality(String),
    seq         UInt64 CODEC(Delta, ZSTD(1)),
    msgid       String CODEC(ZSTD(1)),
    reason      LowCardinality(String),
    error       String CODEC(ZSTD(1)),
    key_version UInt32,
    sealed      String CODEC(ZSTD(1)),
    first_seen  DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    attempts    UInt32,
    version     UInt64,
    is_deleted  UInt8
)
ENGINE = ReplacingMergeTree(version, is_deleted)
ORDER BY (corp_id, seq, msgid)
SETTINGS non_replicated_deduplication_window = 10000;

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'dead_letters_before_4'
INSERT INTO dead_letters (corp_id, seq, msgid, reason, error, key_version, sealed, first_seen)
SELECT corp_id, seq, msgid, reason, error, key_version, sealed, first_seen FROM dead_letters_before_4;

DROP TABLE IF EXISTS dead_letters_before_4;

-- What was done about letters: replayed, duplicate, failed, dropped; when, by whom, why.
CREATE TABLE IF NOT EXISTS dead_letter_events
(
    corp_id     LowCardinality(String),
    seq         UInt64 CODEC(Delta, ZSTD(1)),
    msgid       String CODEC(ZSTD(1)),
    event       LowCardinality(String),
    attempt     UInt32,
    at          DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    actor       LowCardinality(String),
    because     String CODEC(ZSTD(1)),
    reason      LowCardinality(String),
    error       String CODEC(ZSTD(1)),
    key_version UInt32,
    first_seen  DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
ORDER BY (corp_id, seq, msgid, attempt, event)
SETTINGS non_replicated_deduplication_window = 10000;
