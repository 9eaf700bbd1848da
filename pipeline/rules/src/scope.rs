//! Whose conversations a rule watches. Departments are compared as given: it is the caller's
//! directory that says which departments lie above a member.

use chatledger_schemas::Message;
use xxhash_rust::xxh3::Xxh3;

use crate::rule::put;

/// Which of a watched person's messages are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Their conversations, whoever speaks.
    #[default]
    Either,
    /// What they send.
    Sent,
    /// What they receive.
    Received,
}

impl Direction {
    /// The value of the key `direction`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Either => "either",
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// The people a rule watches, and in which direction.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    /// Everybody: then the rest narrows nothing, since everybody sends and receives.
    all: bool,
    /// Userids, lower-case because WeCom compares them without case; sorted, each once.
    members: Vec<String>,
    /// Departments, each with all below it; sorted, each once.
    departments: Vec<u32>,
    direction: Direction,
}

impl Scope {
    pub(crate) fn new(
        all: bool,
        mut members: Vec<String>,
        mut departments: Vec<u32>,
        direction: Direction,
    ) -> Self {
        for id in &mut members {
            id.make_ascii_lowercase();
        }
        members.sort_unstable();
        members.dedup();
        departments.sort_unstable();
        departments.dedup();
        Self {
            all,
            members,
            departments,
            direction,
        }
    }

    /// Whether nobody is watched.
    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.members.is_empty() && self.departments.is_empty()
    }

    /// Whether the message belongs to a watched person's conversations in the scope's direction.
    pub(crate) fn covers<'d>(
        &self,
        message: &Message,
        departments_above: impl Fn(&str) -> &'d [u32],
    ) -> bool {
        let watched = |id: &str| self.watches(id, &departments_above);
        let sent = || watched(&message.from_id);
        let received = || message.to_ids.iter().any(|id| watched(id));
        self.all
            || match self.direction {
                Direction::Either => sent() || received(),
                Direction::Sent => sent(),
                Direction::Received => received(),
            }
    }

    fn watches<'d>(&self, id: &str, departments_above: impl Fn(&str) -> &'d [u32]) -> bool {
        let lower = || id.bytes().map(|b| b.to_ascii_lowercase());
        let is_member = self
            .members
            .binary_search_by(|member| member.bytes().cmp(lower()))
            .is_ok();
        is_member
            || (!self.departments.is_empty()
                && departments_above(id)
                    .iter()
                    .any(|department| self.departments.binary_search(department).is_ok()))
    }

    /// Adds the scope to the hash of a rule's definition.
    pub(crate) fn put(&self, hash: &mut Xxh3) {
        hash.update(&[u8::from(self.all)]);
        put(hash, self.direction.as_str().as_bytes());
        hash.update(&(self.members.len() as u64).to_le_bytes());
        for member in &self.members {
            put(hash, member.as_bytes());
        }
        hash.update(&(self.departments.len() as u64).to_le_bytes());
        for department in &self.departments {
            hash.update(&department.to_le_bytes());
        }
    }
}
