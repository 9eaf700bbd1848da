//! The WeCom APIs this crate calls, and how often each may be called.
//!
//! A closed set, so it can be a metric label. Sources: `connectors/wecom/WECOM.md` §1.3, §5, §6.

use std::fmt;

/// One API. Its text form is the path after `/cgi-bin/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Api {
    /// Access token of a secret.
    Token,
    /// A page of sealed records.
    ChatData,
    /// All departments visible to the secret.
    Departments,
    /// The members of a department.
    Members,
    /// Members whose conversations are archived.
    PermitUsers,
    /// Members who may have external contacts.
    FollowUsers,
    /// External contacts of up to 100 members.
    Customers,
    /// Ids of the customer groups.
    CustomerRooms,
    /// One customer group.
    CustomerRoom,
    /// One internal group.
    InternalRoom,
    /// Consent of external contacts to archiving, in single chats.
    SingleConsent,
    /// Consent of the external contacts in a room to archiving.
    RoomConsent,
}

impl Api {
    /// Every API, in the order of the variants.
    pub const ALL: [Self; 12] = [
        Self::Token,
        Self::ChatData,
        Self::Departments,
        Self::Members,
        Self::PermitUsers,
        Self::FollowUsers,
        Self::Customers,
        Self::CustomerRooms,
        Self::CustomerRoom,
        Self::InternalRoom,
        Self::SingleConsent,
        Self::RoomConsent,
    ];

    /// Returns the path after `/cgi-bin/`, which is also the metric label `api`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "gettoken",
            Self::ChatData => "message/getchatdata",
            Self::Departments => "department/list",
            Self::Members => "user/list",
            Self::PermitUsers => "msgaudit/get_permit_user_list",
            Self::FollowUsers => "externalcontact/get_follow_user_list",
            Self::Customers => "externalcontact/batch/get_by_user",
            Self::CustomerRooms => "externalcontact/groupchat/list",
            Self::CustomerRoom => "externalcontact/groupchat/get",
            Self::InternalRoom => "msgaudit/groupchat/get",
            Self::SingleConsent => "msgaudit/check_single_agree",
            Self::RoomConsent => "msgaudit/check_room_agree",
        }
    }

    /// Returns the calls that one corp may make in any minute (`connectors/wecom/WECOM.md` §1.3, §5.3, §6).
    pub(crate) fn calls_per_minute(self) -> u32 {
        match self {
            Self::ChatData => 600,
            Self::PermitUsers => 1000,
            Self::RoomConsent => 1500,
            Self::InternalRoom => 2000,
            Self::SingleConsent => 2500,
            Self::Token
            | Self::Departments
            | Self::Members
            | Self::FollowUsers
            | Self::Customers
            | Self::CustomerRooms
            | Self::CustomerRoom => 10_000,
        }
    }

    /// Returns whether the API takes only a token of the archive's secret, which no other API takes
    /// (`connectors/wecom/WECOM.md` §5.2).
    pub fn needs_archive_secret(self) -> bool {
        self == Self::ChatData || self.as_str().starts_with("msgaudit/")
    }

    /// Returns the fields of which a successful answer has at least one besides `errcode` (`connectors/wecom/WECOM.md` §2,
    /// §5, §6).
    pub(crate) fn answer_fields(self) -> &'static [&'static str] {
        match self {
            Self::Token => &["access_token"],
            Self::ChatData => &["chatdata"],
            Self::Departments => &["department"],
            Self::Members => &["userlist"],
            Self::PermitUsers => &["ids"],
            Self::FollowUsers => &["follow_user"],
            Self::Customers => &["external_contact_list"],
            Self::CustomerRooms => &["group_chat_list"],
            Self::CustomerRoom => &["group_chat"],
            Self::InternalRoom => &["roomname", "members"],
            Self::SingleConsent | Self::RoomConsent => &["agreeinfo"],
        }
    }

    /// Returns whether a request names single items, so an errcode can concern one of them.
    pub(crate) fn has_items(self) -> bool {
        !matches!(self, Self::Token | Self::ChatData)
    }
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_api_at_its_index() {
        for (index, api) in Api::ALL.iter().enumerate() {
            assert_eq!(*api as usize, index);
        }
    }
}
