//! The directory APIs' answers, with the fields we use (`wecom-api` §5.3, §5.5, §5.6).

use serde::Deserialize;

use crate::loose;

#[derive(Deserialize)]
pub(super) struct Departments {
    #[serde(default, deserialize_with = "loose::list")]
    pub(super) department: Vec<Department>,
}

#[derive(Deserialize)]
pub(super) struct Department {
    #[serde(default, deserialize_with = "loose::integer")]
    pub(super) id: u32,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "loose::integer")]
    pub(super) parentid: u32,
}

#[derive(Deserialize)]
pub(super) struct Members {
    #[serde(default, deserialize_with = "loose::list")]
    pub(super) userlist: Vec<Member>,
}

#[derive(Deserialize)]
pub(super) struct Member {
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) userid: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) position: String,
    #[serde(default, deserialize_with = "loose::ids")]
    pub(super) department: Vec<u32>,
    #[serde(default, deserialize_with = "loose::integer")]
    pub(super) main_department: u32,
    #[serde(default, deserialize_with = "loose::integer")]
    pub(super) status: u32,
}

#[derive(Deserialize)]
pub(super) struct PermitUsers {
    #[serde(default, deserialize_with = "loose::texts")]
    pub(super) ids: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct FollowUsers {
    #[serde(default, deserialize_with = "loose::texts")]
    pub(super) follow_user: Vec<String>,
}

/// A page of a list that goes on behind a cursor.
pub(super) trait Paged {
    type Row;
    /// The rows, and where to go on; empty at the end.
    fn split(self) -> (Vec<Self::Row>, String);
}

#[derive(Deserialize)]
pub(super) struct Customers {
    #[serde(default, deserialize_with = "loose::list")]
    external_contact_list: Vec<Followed>,
    #[serde(default, deserialize_with = "loose::text")]
    next_cursor: String,
}

impl Paged for Customers {
    type Row = Followed;
    fn split(self) -> (Vec<Followed>, String) {
        (self.external_contact_list, self.next_cursor)
    }
}

/// A customer and the one relation the member asked about has with it.
#[derive(Deserialize)]
pub(super) struct Followed {
    pub(super) external_contact: ExternalContact,
    pub(super) follow_info: FollowInfo,
}

#[derive(Deserialize)]
pub(super) struct ExternalContact {
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) external_userid: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) name: String,
    #[serde(default, rename = "type", deserialize_with = "loose::integer")]
    pub(super) kind: u32,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) corp_name: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) position: String,
}

#[derive(Deserialize)]
pub(super) struct FollowInfo {
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) userid: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) remark: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) description: String,
    #[serde(default, deserialize_with = "loose::integer")]
    pub(super) createtime: i64,
    #[serde(default, deserialize_with = "loose::integer")]
    pub(super) add_way: u32,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) state: String,
    #[serde(default, deserialize_with = "loose::texts")]
    pub(super) tag_id: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct CustomerRooms {
    #[serde(default, deserialize_with = "loose::list")]
    group_chat_list: Vec<RoomRef>,
    #[serde(default, deserialize_with = "loose::text")]
    next_cursor: String,
}

impl Paged for CustomerRooms {
    type Row = RoomRef;
    fn split(self) -> (Vec<RoomRef>, String) {
        (self.group_chat_list, self.next_cursor)
    }
}

#[derive(Deserialize)]
pub(super) struct RoomRef {
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) chat_id: String,
}

#[derive(Deserialize)]
pub(super) struct CustomerRoomAnswer {
    pub(super) group_chat: CustomerRoom,
}

#[derive(Default, Deserialize)]
pub(super) struct CustomerRoom {
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) owner: String,
    #[serde(default, deserialize_with = "loose::integer")]
    pub(super) create_time: i64,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) notice: String,
    #[serde(default, deserialize_with = "loose::list")]
    pub(super) member_list: Vec<CustomerRoomMember>,
}

#[derive(Deserialize)]
pub(super) struct CustomerRoomMember {
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) userid: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) name: String,
    /// What the member calls itself in this room.
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) group_nickname: String,
    #[serde(default, deserialize_with = "loose::integer")]
    pub(super) join_time: i64,
}

#[derive(Default, Deserialize)]
pub(super) struct InternalRoom {
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) roomname: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) creator: String,
    #[serde(default, deserialize_with = "loose::integer")]
    pub(super) room_create_time: i64,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) notice: String,
    #[serde(default, deserialize_with = "loose::list")]
    pub(super) members: Vec<InternalRoomMember>,
}

#[derive(Deserialize)]
pub(super) struct InternalRoomMember {
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) memberid: String,
    #[serde(default, deserialize_with = "loose::integer")]
    pub(super) jointime: i64,
}

#[derive(Deserialize)]
pub(super) struct Consents {
    #[serde(default, deserialize_with = "loose::list")]
    pub(super) agreeinfo: Vec<Consent>,
}

/// Of a single chat or, without `userid`, of a room.
#[derive(Deserialize)]
pub(super) struct Consent {
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) userid: String,
    /// The misspelling is WeCom's.
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) exteranalopenid: String,
    #[serde(default, deserialize_with = "loose::text")]
    pub(super) agree_status: String,
    #[serde(default, deserialize_with = "loose::integer")]
    pub(super) status_change_time: i64,
}
