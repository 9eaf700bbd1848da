//! Responses of the directory APIs, with the fields in use (`connectors/wecom/WECOM.md` §5.3, §5.5, §5.6).

use serde::Deserialize;

use crate::lenient::{self, Items};

#[derive(Deserialize)]
pub(super) struct Departments {
    #[serde(default)]
    pub(super) department: Items<Department>,
}

#[derive(Deserialize)]
pub(super) struct Department {
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(super) id: u32,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(super) parentid: u32,
}

#[derive(Deserialize)]
pub(super) struct Members {
    #[serde(default)]
    pub(super) userlist: Items<Member>,
}

#[derive(Deserialize)]
pub(super) struct Member {
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) userid: String,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) position: String,
    #[serde(default, deserialize_with = "lenient::ids")]
    pub(super) department: Vec<u32>,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(super) main_department: u32,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(super) status: u32,
}

#[derive(Deserialize)]
pub(super) struct PermitUsers {
    #[serde(default, deserialize_with = "lenient::text_items")]
    pub(super) ids: Items<String>,
}

#[derive(Deserialize)]
pub(super) struct FollowUsers {
    #[serde(default, deserialize_with = "lenient::text_items")]
    pub(super) follow_user: Items<String>,
}

/// One page of a list that is read with a cursor.
pub(super) trait ListPage {
    type Item;
    /// Returns the items and the next cursor, which is empty at the end.
    fn split(self) -> (Items<Self::Item>, String);
    /// Identifies an item, so that a list that repeats itself is recognised.
    fn key(item: &Self::Item) -> (String, String);
}

#[derive(Deserialize)]
pub(super) struct Customers {
    #[serde(default)]
    external_contact_list: Items<CustomerWithFollow>,
    #[serde(default, deserialize_with = "lenient::text")]
    next_cursor: String,
}

impl ListPage for Customers {
    type Item = CustomerWithFollow;
    fn split(self) -> (Items<CustomerWithFollow>, String) {
        (self.external_contact_list, self.next_cursor)
    }
    fn key(item: &CustomerWithFollow) -> (String, String) {
        let customer = item.external_contact.external_userid.clone();
        let follow = item.follow_info.as_ref();
        (
            follow.map_or_else(String::new, |follow| follow.userid.clone()),
            customer,
        )
    }
}

/// A customer and its follow relation with the member in the request.
#[derive(Deserialize)]
pub(super) struct CustomerWithFollow {
    pub(super) external_contact: ExternalContact,
    /// The customer is known without it.
    #[serde(default, deserialize_with = "lenient::object")]
    pub(super) follow_info: Option<FollowInfo>,
}

#[derive(Deserialize)]
pub(super) struct ExternalContact {
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) external_userid: String,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) name: String,
    #[serde(default, rename = "type", deserialize_with = "lenient::integer")]
    pub(super) kind: u32,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) corp_name: String,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) position: String,
}

#[derive(Deserialize)]
pub(super) struct FollowInfo {
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) userid: String,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) remark: String,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) description: String,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(super) createtime: i64,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(super) add_way: u32,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) state: String,
    #[serde(default, deserialize_with = "lenient::texts")]
    pub(super) tag_id: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct CustomerRooms {
    #[serde(default)]
    group_chat_list: Items<ListedRoom>,
    #[serde(default, deserialize_with = "lenient::text")]
    next_cursor: String,
}

impl ListPage for CustomerRooms {
    type Item = ListedRoom;
    fn split(self) -> (Items<ListedRoom>, String) {
        (self.group_chat_list, self.next_cursor)
    }
    fn key(item: &ListedRoom) -> (String, String) {
        (item.chat_id.clone(), String::new())
    }
}

#[derive(Deserialize)]
pub(super) struct ListedRoom {
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) chat_id: String,
}

#[derive(Deserialize)]
pub(super) struct CustomerRoomResponse {
    /// `None` if it cannot be read.
    #[serde(default, deserialize_with = "lenient::object")]
    pub(super) group_chat: Option<CustomerRoom>,
}

#[derive(Default, Deserialize)]
pub(super) struct CustomerRoom {
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) owner: String,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(super) create_time: i64,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) notice: String,
    #[serde(default)]
    pub(super) member_list: Items<CustomerRoomMember>,
}

#[derive(Deserialize)]
pub(super) struct CustomerRoomMember {
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) userid: String,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) name: String,
    /// The member's nickname in this room.
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) group_nickname: String,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(super) join_time: i64,
}

#[derive(Default, Deserialize)]
pub(super) struct InternalRoom {
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) roomname: String,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) creator: String,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(super) room_create_time: i64,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) notice: String,
    #[serde(default)]
    pub(super) members: Items<InternalRoomMember>,
}

#[derive(Deserialize)]
pub(super) struct InternalRoomMember {
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) memberid: String,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(super) jointime: i64,
}

#[derive(Deserialize)]
pub(super) struct Consents {
    #[serde(default)]
    pub(super) agreeinfo: Items<Consent>,
}

/// Consent in a single chat or, without `userid`, in a room.
#[derive(Deserialize)]
pub(super) struct Consent {
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) userid: String,
    /// WeCom's spelling.
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) exteranalopenid: String,
    #[serde(default, deserialize_with = "lenient::text")]
    pub(super) agree_status: String,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(super) status_change_time: i64,
}
