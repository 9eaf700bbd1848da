-- Messages, violations and dead letters.
--
-- Read every table with FINAL: the sorting key of a row depends on the message alone, so a row that
-- was inserted twice replaces itself, even if ClickHouse has forgotten the insert token.
-- non_replicated_deduplication_window is set because its default of 0 disables insert tokens.
-- Times are in UTC. Ids and names of people are documented in 0002_directory.sql.

-- One row per message.
--   corp_id               corp whose archive returned the message
--   seq                   position in the corp's archive: ascending, with gaps
--   msgid                 WeCom's message id
--   action                send, recall or switch, as received
--   msgtype               message type, as received: text, image, voice, ...
--   msgtime               when the message was sent
--   conversation_id       room id, or in a single chat both ids, sorted and joined with |
--   conversation_kind     single_internal, single_external, group_internal or group_external
--   room_id, room_name    the room; empty in a single chat, the name also if it is unknown
--   from_id               sender: userid, external_userid or robot id
--   from_kind             member, customer, robot or unknown
--   from_name             name of the sender when the message was processed; empty if unknown
--   from_department_id    main department of the sender; 0 if none or unknown
--   from_department_path  its path from the root department, joined with /; empty if unknown
--   to_ids                recipients; in a room, its members at that time
--   content               searchable text: text, titles, descriptions, file names
--   payload               the decrypted message: its JSON as received
--   key_version           version of the private key that opened the record (publickey_ver)
--   inserted_at           when the row was inserted
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

-- One row per message and rule that the message broke.
--   violation_id     derived from corp, msgid and rule id: the same violation has the same id
--   seq, msgid, msgtime, conversation_id, from_id
--                    as in messages; join on (corp_id, msgid)
--   rule_id, rule_name, category, severity
--                    the rule when it matched; severity is low, medium, high or critical
--   rule_version     hash of the rule's definition, 16 hexadecimal digits
--   matched          matched text as written in the message, in the order of spans
--   spans            start and end of each match in messages.content: offsets in Unicode
--                    characters, from 0, end exclusive
--   detected_at      when the violation was detected
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

-- Records that could not be opened or decoded. Replaced by 0004_dead_letters.sql, which documents
-- the columns.
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
