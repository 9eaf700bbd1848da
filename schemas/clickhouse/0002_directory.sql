-- Who is who. A row is replaced by a newer sync of the same thing; what has gone stays with
-- active = false. synced_at is the snapshot's time and so the row's version.

CREATE TABLE IF NOT EXISTS departments
(
    corp_id       LowCardinality(String),
    department_id UInt32,
    parent_id     UInt32,
    name          String,
    active        Bool,
    synced_at     DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(synced_at)
ORDER BY (corp_id, department_id);

CREATE TABLE IF NOT EXISTS members
(
    corp_id            LowCardinality(String),
    member_id          String,
    name               String,
    title              String,
    department_ids     Array(UInt32),
    main_department_id UInt32,
    status             UInt32,
    archived           Bool,
    active             Bool,
    synced_at          DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(synced_at)
ORDER BY (corp_id, member_id);

CREATE TABLE IF NOT EXISTS customers
(
    corp_id       LowCardinality(String),
    customer_id   String,
    name          String,
    customer_type UInt32,
    corp_name     String,
    position      String,
    active        Bool,
    synced_at     DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(synced_at)
ORDER BY (corp_id, customer_id);

CREATE TABLE IF NOT EXISTS follows
(
    corp_id     LowCardinality(String),
    member_id   String,
    customer_id String,
    remark      String,
    description String,
    added_at    DateTime('UTC'),
    add_way     UInt32,
    state       String,
    tag_ids     Array(String),
    active      Bool,
    synced_at   DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(synced_at)
ORDER BY (corp_id, member_id, customer_id);

CREATE TABLE IF NOT EXISTS rooms
(
    corp_id    LowCardinality(String),
    room_id    String,
    name       String,
    owner_id   String,
    kind       LowCardinality(String),
    created_at DateTime('UTC'),
    notice     String,
    active     Bool,
    synced_at  DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(synced_at)
ORDER BY (corp_id, room_id);

CREATE TABLE IF NOT EXISTS room_members
(
    corp_id   LowCardinality(String),
    room_id   String,
    party_id  String,
    name      String,
    joined_at DateTime('UTC'),
    active    Bool,
    synced_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(synced_at)
ORDER BY (corp_id, room_id, party_id);

CREATE TABLE IF NOT EXISTS consents
(
    corp_id     LowCardinality(String),
    member_id   String,
    room_id     String,
    customer_id String,
    status      LowCardinality(String),
    changed_at  DateTime('UTC'),
    synced_at   DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(synced_at)
ORDER BY (corp_id, member_id, room_id, customer_id);
