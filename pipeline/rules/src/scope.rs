//! Whose messages a rule checks.
//!
//! The caller supplies the departments of a member, including all ancestors.

use chatledger_schemas::Message;
use xxhash_rust::xxh3::Xxh3;

use crate::rule::hash_field;

/// Which messages of a person in scope are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Messages that the person sends or receives.
    #[default]
    Either,
    /// Messages that the person sends.
    Sent,
    /// Messages that the person receives.
    Received,
}

impl Direction {
    /// Returns the value of the key `direction`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Either => "either",
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

/// The people whose messages a rule checks, and in which direction.
#[derive(Debug, Default)]
pub(crate) struct RuleScope {
    /// Everybody. The other fields then have no effect, because every message is sent by somebody.
    all: bool,
    /// Userids in lower case, because WeCom ignores their case; sorted, without repetitions.
    members: Vec<String>,
    /// Departments, each including its sub-departments; sorted, without repetitions.
    departments: Vec<u32>,
    direction: Direction,
}

impl RuleScope {
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

    /// Whether nobody is in scope.
    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.members.is_empty() && self.departments.is_empty()
    }

    /// Whether the message was sent or received by a person in scope, in the scope's direction.
    pub(crate) fn covers<'d>(
        &self,
        message: &Message,
        departments_above: impl Fn(&str) -> &'d [u32],
    ) -> bool {
        let in_scope = |id: &str| self.contains(id, &departments_above);
        let sent = || in_scope(&message.from_id);
        let received = || message.to_ids.iter().any(|id| in_scope(id));
        self.all
            || match self.direction {
                Direction::Either => sent() || received(),
                Direction::Sent => sent(),
                Direction::Received => received(),
            }
    }

    fn contains<'d>(&self, id: &str, departments_above: impl Fn(&str) -> &'d [u32]) -> bool {
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
    pub(crate) fn hash_into(&self, hash: &mut Xxh3) {
        hash.update(&[u8::from(self.all)]);
        hash_field(hash, self.direction.as_str().as_bytes());
        hash.update(&(self.members.len() as u64).to_le_bytes());
        for member in &self.members {
            hash_field(hash, member.as_bytes());
        }
        hash.update(&(self.departments.len() as u64).to_le_bytes());
        for department in &self.departments {
            hash.update(&department.to_le_bytes());
        }
    }
}
