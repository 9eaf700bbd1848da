//! Constructors for directory rows and messages.
#![allow(dead_code, reason = "each test program uses a part")]

use chatledger_schemas::directory::{
    Consent, Customer, Department, Follow, Member, Room, RoomKind, RoomMember, Snapshot,
};
use chatledger_schemas::{ConversationKind, CorpId, Message, PartyKind};

pub(crate) fn empty() -> Snapshot {
    Snapshot::empty(CorpId::from("wwcorp"))
}

pub(crate) fn department(id: u32, parent: u32, name: &str) -> Department {
    Department {
        department_id: id,
        parent_id: parent,
        name: name.to_owned(),
        active: true,
    }
}

pub(crate) fn member(id: &str, name: &str, departments: &[u32]) -> Member {
    Member {
        member_id: id.to_owned(),
        name: name.to_owned(),
        title: String::new(),
        department_ids: departments.to_vec(),
        main_department_id: departments.first().copied().unwrap_or(0),
        status: 1,
        archived: true,
        active: true,
    }
}

pub(crate) fn customer(id: &str, name: &str) -> Customer {
    Customer {
        customer_id: id.to_owned(),
        name: name.to_owned(),
        customer_type: 1,
        corp_name: String::new(),
        position: String::new(),
        active: true,
    }
}

pub(crate) fn follow(member: &str, customer: &str, remark: &str) -> Follow {
    Follow {
        member_id: member.to_owned(),
        customer_id: customer.to_owned(),
        remark: remark.to_owned(),
        description: String::new(),
        added_at: 1,
        add_way: 1,
        state: String::new(),
        tag_ids: Vec::new(),
        active: true,
    }
}

pub(crate) fn room(id: &str, name: &str, kind: RoomKind) -> Room {
    Room {
        room_id: id.to_owned(),
        name: name.to_owned(),
        owner_id: String::new(),
        kind,
        created_at: 0,
        notice: String::new(),
        active: true,
    }
}

pub(crate) fn room_member(room: &str, party: &str, name: &str, joined_at: i64) -> RoomMember {
    RoomMember {
        room_id: room.to_owned(),
        party_id: party.to_owned(),
        name: name.to_owned(),
        joined_at,
        active: true,
    }
}

pub(crate) fn consent(member: &str, room: &str, customer: &str, status: &str) -> Consent {
    Consent {
        member_id: member.to_owned(),
        room_id: room.to_owned(),
        customer_id: customer.to_owned(),
        status: status.to_owned(),
        changed_at: 1,
    }
}

/// Returns a message as the decode stage produces it.
pub(crate) fn message(from: &str, room: &str) -> Message {
    Message {
        corp_id: CorpId::from("wwcorp"),
        seq: 1,
        msgid: "m".to_owned(),
        action: "send".to_owned(),
        msgtype: "text".to_owned(),
        msgtime: 0,
        conversation_id: String::new(),
        conversation_kind: ConversationKind::SingleInternal,
        room_id: room.to_owned(),
        room_name: String::new(),
        from_id: from.to_owned(),
        from_kind: PartyKind::Unknown,
        from_name: String::new(),
        from_department_id: 0,
        from_department_path: String::new(),
        to_ids: Vec::new(),
        content: String::new(),
        payload: String::new(),
        key_version: 1,
    }
}
