//! Who is who: rows of the directory tables, and the snapshot they come in.
//!
//! Rows are never deleted: what has gone stays with `active = false`, because conversations of
//! leavers stay in the archive (曾归档). The same rows travel on the topic `.directory`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::CorpId;

/// A department (`department/list`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Department {
    /// WeCom's id.
    pub department_id: u32,
    /// The department above; 0 for the root.
    pub parent_id: u32,
    /// Its name.
    pub name: String,
    /// Whether it was there at the last sync.
    pub active: bool,
}

/// A member of the corp (`user/list`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// WeCom's userid.
    pub member_id: String,
    /// Name as the directory shows it.
    pub name: String,
    /// Position (`position`).
    pub title: String,
    /// Every department the member is in.
    pub department_ids: Vec<u32>,
    /// `main_department`; 0 if not given.
    pub main_department_id: u32,
    /// WeCom's `status`: 1 active, 2 disabled, 4 not activated, 5 left; 0 if not given.
    pub status: u32,
    /// Whether the archive covers this member (`msgaudit/get_permit_user_list`).
    pub archived: bool,
    /// Whether the member was there at the last sync.
    pub active: bool,
}

/// Somebody outside whom a member follows (`externalcontact/batch/get_by_user`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Customer {
    /// WeCom's external_userid (`wm…` or `wo…`).
    pub customer_id: String,
    /// Name the customer gave.
    pub name: String,
    /// 1 WeChat user, 2 WeCom user; 0 if not given.
    pub customer_type: u32,
    /// The customer's company.
    pub corp_name: String,
    /// The customer's position there.
    pub position: String,
    /// Whether somebody follows the customer at the last sync.
    pub active: bool,
}

/// A member follows a customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Follow {
    /// The member.
    pub member_id: String,
    /// The customer.
    pub customer_id: String,
    /// What the member calls the customer.
    pub remark: String,
    /// What the member notes about the customer.
    pub description: String,
    /// Since when (`createtime`), seconds since the epoch, UTC.
    pub added_at: i64,
    /// Where the customer came from (`add_way`).
    pub add_way: u32,
    /// The channel's own mark (`state`).
    pub state: String,
    /// Tag ids.
    pub tag_ids: Vec<String>,
    /// Whether the relation was there at the last sync.
    pub active: bool,
}

/// A group chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Room {
    /// WeCom's chat id (`wr…`).
    pub room_id: String,
    /// Its name; may be empty.
    pub name: String,
    /// Owner or creator.
    pub owner_id: String,
    /// Which API knows it.
    pub kind: RoomKind,
    /// Seconds since the epoch, UTC; 0 if not known.
    pub created_at: i64,
    /// The notice pinned to it.
    pub notice: String,
    /// Whether it was there at the last sync.
    pub active: bool,
}

/// Which directory API answers for a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RoomKind {
    /// A customer group (`externalcontact/groupchat/get`).
    Customer,
    /// A group of members (`msgaudit/groupchat/get`).
    Internal,
    /// Seen in a message, not asked about yet.
    Wanted,
    /// Neither API knows it (made by a WeChat user or another corp; `wecom-api` §8).
    Unresolved,
}

impl RoomKind {
    /// The value in the column `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Internal => "internal",
            Self::Wanted => "wanted",
            Self::Unresolved => "unresolved",
        }
    }
}

/// Somebody is in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RoomMember {
    /// The room.
    pub room_id: String,
    /// userid or external_userid.
    pub party_id: String,
    /// Name in the room; empty if not known. The only source of names of strangers.
    pub name: String,
    /// Seconds since the epoch, UTC; 0 if not known.
    pub joined_at: i64,
    /// Whether the party was there at the last sync.
    pub active: bool,
}

/// Whether a customer has agreed to be archived (`msgaudit/check_single_agree`, `check_room_agree`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Consent {
    /// The member of a single chat; empty for a room.
    pub member_id: String,
    /// The room; empty for a single chat.
    pub room_id: String,
    /// The customer.
    pub customer_id: String,
    /// `Agree`, `Disagree` or `Default_Agree`, as received.
    pub status: String,
    /// Seconds since the epoch, UTC.
    pub changed_at: i64,
}

/// Everything a directory sync found, for one corp.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// The corp.
    pub corp_id: CorpId,
    /// When the sync ended, milliseconds since the epoch, UTC; also its version: newer is larger.
    pub taken_at: i64,
    /// Departments, past ones too.
    pub departments: Vec<Department>,
    /// Members, past ones too.
    pub members: Vec<Member>,
    /// Customers, past ones too.
    pub customers: Vec<Customer>,
    /// Follow relations, past ones too.
    pub follows: Vec<Follow>,
    /// Rooms of both kinds, and those nobody could resolve.
    pub rooms: Vec<Room>,
    /// Who is in the rooms.
    pub room_members: Vec<RoomMember>,
    /// Consents.
    pub consents: Vec<Consent>,
}

impl Snapshot {
    /// A snapshot in which nobody is known.
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
        }
    }
}

/// One row of any directory table, as it travels on the topic `.directory`.
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
    /// A party of a room.
    RoomMembers(RoomMember),
    /// A consent.
    Consents(Consent),
    /// All rows of one sync have been sent; readers may use what they have.
    Complete {
        /// The snapshot's `taken_at`.
        taken_at: i64,
    },
}

impl DirectoryRow {
    /// What a newer row replaces: unique among the rows of one corp, the key on the topic after
    /// the corp id.
    pub fn key(&self) -> String {
        struct Key<'a>(&'a DirectoryRow);
        impl fmt::Display for Key<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    DirectoryRow::Departments(row) => {
                        write!(f, "departments/{}", row.department_id)
                    }
                    DirectoryRow::Members(row) => write!(f, "members/{}", row.member_id),
                    DirectoryRow::Customers(row) => write!(f, "customers/{}", row.customer_id),
                    DirectoryRow::Follows(row) => {
                        write!(f, "follows/{}/{}", row.member_id, row.customer_id)
                    }
                    DirectoryRow::Rooms(row) => write!(f, "rooms/{}", row.room_id),
                    DirectoryRow::RoomMembers(row) => {
                        write!(f, "room_members/{}/{}", row.room_id, row.party_id)
                    }
                    DirectoryRow::Consents(row) => {
                        write!(
                            f,
                            "consents/{}/{}/{}",
                            row.member_id, row.room_id, row.customer_id
                        )
                    }
                    DirectoryRow::Complete { .. } => f.write_str("complete"),
                }
            }
        }
        Key(self).to_string()
    }
}
