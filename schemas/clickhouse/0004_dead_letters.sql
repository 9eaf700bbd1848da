-- Makes dead letters replayable: adds a version, and a flag that hides settled ones.
--
-- ClickHouse cannot change the engine of a table. The old table is renamed, the new one created, the
-- rows copied and the old table dropped. The migration can be interrupted at any point, repeated, or
-- run by two processes at once: each row is always in one of the two tables, and a row that was
-- copied twice is one row with FINAL.

-- when: SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'dead_letters' AND engine_full NOT LIKE '%is_deleted%'
RENAME TABLE dead_letters TO dead_letters_before_4;

-- One row per dead letter. FINAL shows the open ones: of each dead letter the row with the highest
-- version is valid, and a row with is_deleted = 1 hides a settled one.
--   seq, msgid   position and WeCom's message id; msgid is empty if the record has none
--   reason       bad_envelope, unknown_key_version, wrong_key, bad_base64, truncated_ciphertext,
--                bad_padding, bad_utf8, bad_json, bad_message or too_large
--   error        details of the failure, without message content
--   key_version  publickey_ver of the record; 0 if it could not be read
--   sealed       the sealed record: its JSON as received
--   first_seen   when the record was first dead-lettered
--   attempts     number of failed replay attempts
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

-- One row per event of a dead letter.
--   event        retried: sent through the stages again (kafka driver only)
--                replayed: opened and delivered, settled
--                duplicate: the message had already been delivered, settled
--                failed: still cannot be opened or decoded
--                dropped: discarded by an operator, settled
--   attempt      number of the replay attempt, from 1; for dropped, the number of attempts before
--   at           when it happened
--   actor        the user who ran the command, or chatledger if a new key triggered the replay
--   because      the operator's explanation; set for dropped, otherwise empty
--   reason, error
--                why the record was dead-lettered; for failed, why this attempt failed
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
