-- What was written: messages, what broke a rule, what could not be opened.
-- Every sorting key is a function of the message alone, so a repeat replaces its row (read with
-- FINAL) even where the insert's deduplication token no longer remembers it.
-- non_replicated_deduplication_window: 0 by default, which would make the tokens do nothing.

CREATE TABLE IF NOT EXISTS messages
(
    corp_id              LowCardinality(String),
    seq                  UInt64 CODEC(Delta, ZSTD(1)),
    msgid                String CODEC(ZSTD(1)),
    action               LowCardinality(String),
    msgtype              LowCardinality(String),
    msgtime              DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    conversation_id      String CODEC(ZSTD(1)),
    conversation_kind    LowCardinality(String),
    room_id              String CODEC(ZSTD(1)),
    room_name            String CODEC(ZSTD(1)),
    from_id              String CODEC(ZSTD(1)),
    from_kind            LowCardinality(String),
    from_name            String CODEC(ZSTD(1)),
    from_department_id   UInt32,
    from_department_path LowCardinality(String),
    to_ids               Array(String) CODEC(ZSTD(1)),
    content              String CODEC(ZSTD(1)),
    payload              String CODEC(ZSTD(3)),
    key_version          UInt32,
    inserted_at          DateTime64(3, 'UTC') DEFAULT now64(3) CODEC(Delta, ZSTD(1)),
    INDEX by_msgid msgid TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_seq seq TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(msgtime)
ORDER BY (corp_id, toDate(msgtime), conversation_id, msgtime, msgid)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS violations
(
    corp_id         LowCardinality(String),
    violation_id    String,
    msgid           String CODEC(ZSTD(1)),
    seq             UInt64 CODEC(Delta, ZSTD(1)),
    msgtime         DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    conversation_id String CODEC(ZSTD(1)),
    from_id         String CODEC(ZSTD(1)),
    rule_id         LowCardinality(String),
    rule_name       LowCardinality(String),
    rule_version    LowCardinality(String),
    category        LowCardinality(String),
    severity        LowCardinality(String),
    matched         Array(String) CODEC(ZSTD(1)),
    spans           Array(Tuple(UInt32, UInt32)) CODEC(ZSTD(1)),
    detected_at     DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(msgtime)
ORDER BY (corp_id, toDate(msgtime), msgid, rule_id)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS dead_letters
(
    corp_id     LowCardinality(String),
    seq         UInt64 CODEC(Delta, ZSTD(1)),
    msgid       String CODEC(ZSTD(1)),
    reason      LowCardinality(String),
    error       String CODEC(ZSTD(1)),
    key_version UInt32,
    sealed      String CODEC(ZSTD(1)),
    first_seen  DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
ORDER BY (corp_id, seq, msgid)
SETTINGS non_replicated_deduplication_window = 10000;
