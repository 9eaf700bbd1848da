//! Who is in the tenant: departments, members, customers, rooms, robots, and who talks to whom.
//!
//! Guarantee: what the directory APIs answer and what the truth says about senders come from here
//! alone. Deliberately not here: messages.

mod build;
mod names;
mod places;
mod talk;

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

pub use talk::{Category, Conversation, Talk};

use crate::options::TenantOptions;

/// Index of somebody who can send or receive.
pub type PartyId = u32;

/// A department.
#[derive(Clone, Debug, Serialize)]
pub struct Department {
    /// WeCom's id.
    pub id: u32,
    /// The department above; 0 for the root.
    pub parent: u32,
    /// Its name.
    pub name: &'static str,
    /// What its members talk about.
    pub industry: &'static str,
}

/// A member the directory lists.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// userid.
    pub id: String,
    /// Name.
    pub name: String,
    /// Position.
    pub title: &'static str,
    /// Departments, the main one first.
    pub departments: Vec<u32>,
    /// Whether leader in the main department.
    pub leader: bool,
    /// 1 active, 2 disabled, 4 not activated, 5 left.
    pub status: u32,
    /// Whether the archive covers the member.
    pub archived: bool,
}

/// Somebody outside.
#[derive(Clone, Debug, Serialize)]
pub struct Customer {
    /// external_userid.
    pub id: String,
    /// Name the customer gave.
    pub name: String,
    /// 1 WeChat, 2 WeCom.
    pub kind: u32,
    /// Company, for WeCom users.
    pub company: String,
    /// Position there.
    pub position: String,
    /// Seconds since the epoch when the consent last changed; 0 if it never did.
    pub agreed_at: i64,
    /// `Agree`, `Disagree` or `Default_Agree`.
    pub agree_status: &'static str,
}

/// A member follows a customer.
#[derive(Clone, Debug, Serialize)]
pub struct Follow {
    /// Index of the member.
    pub member: u32,
    /// Index of the customer.
    pub customer: u32,
    /// What the member calls the customer.
    pub remark: String,
    /// What the member notes.
    pub description: String,
    /// Seconds since the epoch.
    pub created_at: i64,
    /// Where the customer came from.
    pub add_way: u32,
    /// The channel's own mark.
    pub state: String,
    /// (tag id, tag name).
    pub tags: Vec<(String, String)>,
}

/// Which API answers for a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RoomKind {
    /// `externalcontact/groupchat/get`.
    Customer,
    /// `msgaudit/groupchat/get`.
    Internal,
    /// Neither: made by somebody outside.
    Foreign,
}

/// A group chat.
#[derive(Clone, Debug, Serialize)]
pub struct Room {
    /// Chat id.
    pub id: String,
    /// Name; may be empty.
    pub name: String,
    /// Which API knows it.
    pub kind: RoomKind,
    /// Who is in it; the owner first.
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
    /// The member who made it.
    pub creator: u32,
}

/// What somebody is, as the truth says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartyKind {
    /// A member the directory lists.
    Member,
    /// Somebody outside.
    Customer,
    /// A robot.
    Robot,
    /// A member who has gone and whom the directory no longer lists.
    Unknown,
}

impl PartyKind {
    /// The value in the truth.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Customer => "customer",
            Self::Robot => "robot",
            Self::Unknown => "unknown",
        }
    }
}

/// Somebody who can send or receive.
#[derive(Clone, Debug)]
pub struct Party {
    /// userid, external_userid or robot id.
    pub id: String,
    /// What it is.
    pub kind: PartyKind,
    /// The name the directory gives; empty if it gives none.
    pub name: String,
    /// What others call this party in a text.
    pub called: String,
    /// Main department; 0 if none.
    pub department: u32,
    /// All departments with those above them.
    pub departments_above: BTreeSet<u32>,
}

/// The tenant's people and places.
#[derive(Clone, Debug)]
pub struct Org {
    /// Departments, parents before children.
    pub departments: Vec<Department>,
    /// Members; member `n` is party `n`.
    pub members: Vec<Member>,
    /// Customers somebody follows or whom a customer group shows.
    pub customers: Vec<Customer>,
    /// Party of the first customer.
    pub first_customer: PartyId,
    /// Follow relations, by member.
    pub follows: Vec<Follow>,
    /// Group chats of all kinds.
    pub rooms: Vec<Room>,
    /// Robots.
    pub robots: Vec<Robot>,
    /// Everybody.
    pub parties: Vec<Party>,
    /// Who talks to whom.
    pub talk: Talk,
}

impl Org {
    /// Makes the tenant's people and places.
    pub fn new(options: &TenantOptions, texts: &crate::texts::Texts) -> Self {
        build::org(options, texts)
    }

    /// Somebody by number.
    pub fn party(&self, id: PartyId) -> &Party {
        &self.parties[id as usize]
    }

    /// What the members of a member's main department talk about.
    pub fn industry(&self, member: PartyId) -> &'static str {
        let main = self.party(member).department;
        self.departments
            .iter()
            .find(|department| department.id == main)
            .map_or("office", |department| department.industry)
    }

    /// A department with all below it, as `department/list` gives them.
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

/// Departments with those above them.
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
