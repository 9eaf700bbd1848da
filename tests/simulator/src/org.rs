//! The organisation of the tenant: departments, members, customers, rooms, robots, and who talks to
//! whom.
//!
//! Guarantee: the directory APIs and the truth about senders use only this data. Not here: messages.

mod build;
mod names;
mod places;
mod talk;

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

pub use talk::{Category, Conversation, Talk};

use crate::options::TenantOptions;

/// Index of a party.
pub type PartyId = u32;

/// A department.
#[derive(Clone, Debug, Serialize)]
pub struct Department {
    /// WeCom's id.
    pub id: u32,
    /// Id of the parent department; 0 for the root.
    pub parent: u32,
    /// Its name.
    pub name: &'static str,
    /// Industry, which selects the dialogues of its members.
    pub industry: &'static str,
}

/// A member listed by the directory.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// userid.
    pub id: String,
    /// Name.
    pub name: String,
    /// Position.
    pub title: &'static str,
    /// Ids of the departments, the main one first.
    pub departments: Vec<u32>,
    /// Whether the member leads the main department.
    pub leader: bool,
    /// 1 active, 2 disabled, 4 not activated, 5 left.
    pub status: u32,
    /// Whether the archive covers the member.
    pub archived: bool,
}

/// An external contact.
#[derive(Clone, Debug, Serialize)]
pub struct Customer {
    /// external_userid.
    pub id: String,
    /// Name chosen by the customer.
    pub name: String,
    /// 1 WeChat, 2 WeCom.
    pub kind: u32,
    /// Company, for WeCom users.
    pub company: String,
    /// Position in the company.
    pub position: String,
    /// Time of the last change of consent, in seconds since the epoch; 0 if it never changed.
    pub agreed_at: i64,
    /// `Agree`, `Disagree` or `Default_Agree`.
    pub agree_status: &'static str,
}

/// The relation of a member who follows a customer.
#[derive(Clone, Debug, Serialize)]
pub struct Follow {
    /// Index of the member.
    pub member: u32,
    /// Index of the customer.
    pub customer: u32,
    /// Name that the member gave the customer.
    pub remark: String,
    /// Notes of the member.
    pub description: String,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// WeCom's code for how the customer was added.
    pub add_way: u32,
    /// State parameter of the channel through which the customer was added.
    pub state: String,
    /// (tag id, tag name).
    pub tags: Vec<(String, String)>,
}

/// Which API describes a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomKind {
    /// `externalcontact/groupchat/get`.
    Customer,
    /// `msgaudit/groupchat/get`.
    Internal,
    /// Neither: created by an external contact.
    Foreign,
}

/// A group chat.
#[derive(Clone, Debug, Serialize)]
pub struct Room {
    /// Chat id.
    pub id: String,
    /// Name; may be empty.
    pub name: String,
    /// Which API describes it.
    pub kind: RoomKind,
    /// Its participants; the owner first.
    pub parties: Vec<PartyId>,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Notice.
    pub notice: String,
}

/// A robot.
#[derive(Clone, Debug, Serialize)]
pub struct Robot {
    /// Robot id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Index of the member who created it.
    pub creator: u32,
}

/// The kind of a party.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartyKind {
    /// A member listed by the directory.
    Member,
    /// An external contact.
    Customer,
    /// A robot.
    Robot,
    /// A former member whom the directory no longer lists.
    Unknown,
}

impl PartyKind {
    /// Returns its value in the truth.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Customer => "customer",
            Self::Robot => "robot",
            Self::Unknown => "unknown",
        }
    }
}

/// A sender or receiver.
#[derive(Clone, Debug)]
pub struct Party {
    /// userid, external_userid or robot id.
    pub id: String,
    /// Its kind.
    pub kind: PartyKind,
    /// Name in the directory; empty if it has none.
    pub name: String,
    /// Name used for this party in texts.
    pub called: String,
    /// Id of the main department; 0 if none.
    pub department: u32,
    /// Ids of all its departments and their ancestors.
    pub departments_above: BTreeSet<u32>,
}

/// The organisation of a tenant.
#[derive(Clone, Debug)]
pub struct Org {
    /// Departments, parents before children.
    pub departments: Vec<Department>,
    /// Members; member `n` is party `n`.
    pub members: Vec<Member>,
    /// Customers whom a member follows or who are in a customer group.
    pub customers: Vec<Customer>,
    /// Party id of the first customer.
    pub first_customer: PartyId,
    /// Follow relations, ordered by member.
    pub follows: Vec<Follow>,
    /// Group chats of all kinds.
    pub rooms: Vec<Room>,
    /// Robots.
    pub robots: Vec<Robot>,
    /// All parties.
    pub parties: Vec<Party>,
    /// All conversations.
    pub talk: Talk,
}

impl Org {
    /// Generates the organisation.
    pub fn new(options: &TenantOptions, texts: &crate::texts::Texts) -> Self {
        build::org(options, texts)
    }

    /// Returns a party by its id.
    pub fn party(&self, id: PartyId) -> &Party {
        &self.parties[id as usize]
    }

    /// Returns the industry of a member's main department.
    pub fn industry(&self, member: PartyId) -> &'static str {
        let main = self.party(member).department;
        self.departments
            .iter()
            .find(|department| department.id == main)
            .map_or("office", |department| department.industry)
    }

    /// Returns a department with all its descendants, as `department/list` does.
    pub fn department_with_children(&self, id: u32) -> Vec<&Department> {
        let mut inside = BTreeSet::from([id]);
        self.departments
            .iter()
            .filter(|department| {
                let below = department.id == id || inside.contains(&department.parent);
                if below {
                    inside.insert(department.id);
                }
                below
            })
            .collect()
    }
}

/// Returns the ids of departments and all their ancestors.
fn departments_above(departments: &[Department], ids: &[u32]) -> BTreeSet<u32> {
    let parents: HashMap<u32, u32> = departments.iter().map(|d| (d.id, d.parent)).collect();
    let mut above = BTreeSet::new();
    for &id in ids {
        let mut at = id;
        while at != 0 && above.insert(at) {
            at = parents.get(&at).copied().unwrap_or(0);
        }
    }
    above
}
