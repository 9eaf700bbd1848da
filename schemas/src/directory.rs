//! Directory of a corp: rows of the directory tables, and the snapshot that holds them.
//!
//! Rows are never deleted. A row that the directory API no longer returns is kept with
//! `active = false`, because conversations of people who left stay in the archive (曾归档). The topic
//! `.directory` carries the same rows.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::CorpId;

/// A department (`department/list`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Department {
    /// WeCom's department id.
    pub department_id: u32,
    /// Id of the parent department; 0 for the root department.
    pub parent_id: u32,
    /// Name of the department.
    pub name: String,
    /// Whether the last sync returned the department.
    pub active: bool,
}

/// A member of the corp (`user/list`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// WeCom's `userid`.
    pub member_id: String,
    /// Name in the directory.
    pub name: String,
    /// Job title (`position`).
    pub title: String,
    /// Ids of all departments of the member.
    pub department_ids: Vec<u32>,
    /// Id of the main department (`main_department`); 0 if not set.
    pub main_department_id: u32,
    /// WeCom's `status`: 1 active, 2 disabled, 4 not activated, 5 left the company; 0 if not set.
    pub status: u32,
    /// Whether the member's conversations are archived (`msgaudit/get_permit_user_list`).
    pub archived: bool,
    /// Whether the last sync returned the member.
    pub active: bool,
}

/// An external contact that at least one member follows (`externalcontact/batch/get_by_user`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Customer {
    /// WeCom's `external_userid` (`wm…` or `wo…`).
    pub customer_id: String,
    /// Name the customer uses in WeChat or WeCom.
    pub name: String,
    /// Type of account: 1 WeChat user, 2 WeCom user; 0 if not set.
    pub customer_type: u32,
    /// Name of the customer's company.
    pub corp_name: String,
    /// Job title of the customer.
    pub position: String,
    /// Whether any member followed the customer at the last sync.
    pub active: bool,
}

/// A follow relation: a member has added a customer as a contact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Follow {
    /// `userid` of the member.
    pub member_id: String,
    /// `external_userid` of the customer.
    pub customer_id: String,
    /// The member's display name for the customer (`remark`).
    pub remark: String,
    /// The member's notes about the customer (`description`).
    pub description: String,
    /// When the member added the customer (`createtime`), seconds since the epoch, UTC.
    pub added_at: i64,
    /// How the customer was added (`add_way`), WeCom's code.
    pub add_way: u32,
    /// The value that the contact channel was configured with (`state`).
    pub state: String,
    /// Ids of the tags that the member gave the customer.
    pub tag_ids: Vec<String>,
    /// Whether the last sync returned the relation.
    pub active: bool,
}

/// A group chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Room {
    /// WeCom's chat id (`wr…`).
    pub room_id: String,
    /// Name of the room; may be empty.
    pub name: String,
    /// Owner of a customer group, creator of an internal one.
    pub owner_id: String,
    /// Which directory API returned the room.
    pub kind: RoomKind,
    /// When the room was created, seconds since the epoch, UTC; 0 if unknown.
    pub created_at: i64,
    /// The room's notice.
    pub notice: String,
    /// Whether the last sync returned the room.
    pub active: bool,
}

/// Which directory API returns a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoomKind {
    /// A customer group (`externalcontact/groupchat/get`).
    Customer,
    /// An internal group of members (`msgaudit/groupchat/get`).
    Internal,
    /// Seen in a message, not looked up yet.
    Wanted,
    /// Neither API returns it, because a WeChat user or another corp created it
    /// (`connectors/wecom/WECOM.md` §8).
    Unresolved,
}

impl RoomKind {
    /// Returns the value in the column `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Internal => "internal",
            Self::Wanted => "wanted",
            Self::Unresolved => "unresolved",
        }
    }
}

/// Membership of a party in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RoomMember {
    /// Id of the room.
    pub room_id: String,
    /// `userid` or `external_userid` of the party.
    pub party_id: String,
    /// Display name in the room; empty if unknown. The only source of names for people who are
    /// neither members nor customers.
    pub name: String,
    /// When the party joined, seconds since the epoch, UTC; 0 if unknown.
    pub joined_at: i64,
    /// Whether the party was in the room at the last sync.
    pub active: bool,
}

/// Whether a customer agreed to archiving (`msgaudit/check_single_agree`, `check_room_agree`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Consent {
    /// Member of the single chat; empty for a room.
    pub member_id: String,
    /// The room; empty for a single chat.
    pub room_id: String,
    /// `external_userid` of the customer.
    pub customer_id: String,
    /// WeCom's status, as received: `Agree`, `Disagree` or `Default_Agree`.
    pub status: String,
    /// When the status last changed, seconds since the epoch, UTC.
    pub changed_at: i64,
}

/// A part of a directory that a sync can fail to read while it reads the others.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotPart {
    /// Departments.
    Departments,
    /// Members.
    Members,
    /// Which members' conversations are archived.
    Archived,
    /// Customers and follow relations.
    Customers,
}

/// The directory of one corp after a sync.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// The corp.
    pub corp_id: CorpId,
    /// When the sync finished, milliseconds since the epoch, UTC. Also the version of the snapshot:
    /// a newer snapshot has a larger value.
    pub taken_at: i64,
    /// Departments, including inactive ones.
    pub departments: Vec<Department>,
    /// Members, including inactive ones.
    pub members: Vec<Member>,
    /// Customers, including inactive ones.
    pub customers: Vec<Customer>,
    /// Follow relations, including inactive ones.
    pub follows: Vec<Follow>,
    /// Rooms of every kind, including inactive and unresolved ones.
    pub rooms: Vec<Room>,
    /// Memberships of rooms, including inactive ones.
    pub room_members: Vec<RoomMember>,
    /// Consents to archiving.
    pub consents: Vec<Consent>,
    /// Parts of which rows may be missing, because a call was refused, an item could not be read, or nothing was visible.
    /// What is missing there is not known to be gone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub incomplete: BTreeSet<SnapshotPart>,
}

impl Snapshot {
    /// Returns a snapshot without rows; `taken_at` is 0.
    pub fn empty(corp_id: CorpId) -> Self {
        Self {
            corp_id,
            taken_at: 0,
            departments: Vec::new(),
            members: Vec::new(),
            customers: Vec::new(),
            follows: Vec::new(),
            rooms: Vec::new(),
            room_members: Vec::new(),
            consents: Vec::new(),
            incomplete: BTreeSet::new(),
        }
    }
}

/// A row of any directory table; a value on the topic `.directory`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "table", rename_all = "snake_case")]
pub enum DirectoryRow {
    /// A department.
    Departments(Department),
    /// A member.
    Members(Member),
    /// A customer.
    Customers(Customer),
    /// A follow relation.
    Follows(Follow),
    /// A room.
    Rooms(Room),
    /// A membership of a room.
    RoomMembers(RoomMember),
    /// A consent.
    Consents(Consent),
    /// Marks the end of a sync: all of its rows have been sent.
    Complete {
        /// `taken_at` of the snapshot.
        taken_at: i64,
    },
}

impl DirectoryRow {
    /// Returns the identity of the row within its corp: a newer row replaces an older one with the
    /// same key. On the topic, the record key is the corp id followed by this key.
    pub fn key(&self) -> String {
        match self {
            Self::Departments(row) => format!("departments/{}", row.department_id),
            Self::Members(row) => format!("members/{}", row.member_id),
            Self::Customers(row) => format!("customers/{}", row.customer_id),
            Self::Follows(row) => format!("follows/{}/{}", row.member_id, row.customer_id),
            Self::Rooms(row) => format!("rooms/{}", row.room_id),
            Self::RoomMembers(row) => format!("room_members/{}/{}", row.room_id, row.party_id),
            Self::Consents(row) => format!(
                "consents/{}/{}/{}",
                row.member_id, row.room_id, row.customer_id
            ),
            Self::Complete { .. } => "complete".to_owned(),
        }
    }
}
