-- The directory: departments, members, external contacts (customers), rooms and consents.
--
-- Read every table with FINAL: a newer sync replaces the row. Rows are never deleted: if a sync no
-- longer returns an object, its row is kept with active = false. synced_at is the time of the sync
-- that wrote the row and serves as its version. Times are in UTC.

-- One row per department.
--   parent_id  id of the parent department; 0 for the root department
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

-- One row per member of the corp.
--   member_id           WeCom's userid
--   title               job title
--   department_ids      all departments of the member
--   main_department_id  main department; 0 if not set
--   status              1 active, 2 disabled, 4 not activated, 5 left the company; 0 if not set
--   archived            whether the member's conversations are archived
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

-- One row per external contact that a member follows or followed.
--   customer_id          WeCom's external_userid
--   customer_type        1 WeChat user, 2 WeCom user; 0 if not set
--   corp_name, position  company and job title of the customer
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

-- One row per follow relation: a member has added a customer as a contact.
--   remark       the member's display name for the customer
--   description  the member's notes about the customer
--   added_at     when the member added the customer
--   add_way      how the customer was added, WeCom's code
--   state        the value that the contact channel was configured with
--   tag_ids      tags that the member gave the customer
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

-- One row per group chat.
--   owner_id    owner of a customer group, creator of an internal one
--   kind        customer or internal: which API returned the room; wanted: not looked up yet;
--               unresolved: no API returns it
--   created_at  1970-01-01 if unknown
--   notice      the room's notice
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

-- One row per room and party.
--   party_id   userid or external_userid
--   name       display name in the room; empty if unknown
--   joined_at  1970-01-01 if unknown
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

-- Whether a customer agreed to archiving: one row per customer and member or room.
--   member_id   member of the single chat; empty for a room
--   room_id     the room; empty for a single chat
--   status      WeCom's status, as received: Agree, Disagree or Default_Agree
--   changed_at  when the status last changed
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
