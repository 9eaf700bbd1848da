//! What the tables of a snapshot have in common: each row has a key, and may go.

use chatledger_schemas::directory::{
    Consent, Customer, Department, Follow, Member, Room, RoomKind, RoomMember,
};

/// A row of one of the tables.
pub(crate) trait Row: Clone + PartialEq {
    /// What identifies the row in its table.
    type Key<'a>: Ord
    where
        Self: 'a;

    fn key(&self) -> Self::Key<'_>;

    /// The row after a sync that did not find it any more.
    fn gone(&self) -> Self;

    /// The row after a sync that found `fresh` where `self` was known.
    fn renewed(&self, fresh: Self) -> Self {
        fresh
    }
}

impl Row for Department {
    type Key<'a> = u32;

    fn key(&self) -> u32 {
        self.department_id
    }

    fn gone(&self) -> Self {
        Self {
            active: false,
            ..self.clone()
        }
    }
}

impl Row for Member {
    type Key<'a> = &'a str;

    fn key(&self) -> &str {
        &self.member_id
    }

    fn gone(&self) -> Self {
        Self {
            active: false,
            ..self.clone()
        }
    }
}

impl Row for Customer {
    type Key<'a> = &'a str;

    fn key(&self) -> &str {
        &self.customer_id
    }

    fn gone(&self) -> Self {
        Self {
            active: false,
            ..self.clone()
        }
    }
}

impl Row for Follow {
    type Key<'a> = (&'a str, &'a str);

    fn key(&self) -> (&str, &str) {
        (&self.member_id, &self.customer_id)
    }

    fn gone(&self) -> Self {
        Self {
            active: false,
            ..self.clone()
        }
    }
}

impl Row for Room {
    type Key<'a> = &'a str;

    fn key(&self) -> &str {
        &self.room_id
    }

    /// A room that no API has answered for was not looked for, so it cannot have gone.
    fn gone(&self) -> Self {
        let answered = is_answered(self);
        Self {
            active: self.active && !answered,
            ..self.clone()
        }
    }

    /// A room that was answered for once keeps what it was, when no API answers any more.
    fn renewed(&self, fresh: Self) -> Self {
        if is_answered(self) && !is_answered(&fresh) {
            self.gone()
        } else {
            fresh
        }
    }
}

/// Whether an API has told what the room is.
pub(crate) fn is_answered(room: &Room) -> bool {
    match room.kind {
        RoomKind::Customer | RoomKind::Internal => true,
        RoomKind::Wanted | RoomKind::Unresolved => false,
    }
}

impl Row for RoomMember {
    type Key<'a> = (&'a str, &'a str);

    fn key(&self) -> (&str, &str) {
        (&self.room_id, &self.party_id)
    }

    fn gone(&self) -> Self {
        Self {
            active: false,
            ..self.clone()
        }
    }
}

impl Row for Consent {
    type Key<'a> = (&'a str, &'a str, &'a str);

    fn key(&self) -> (&str, &str, &str) {
        (&self.member_id, &self.room_id, &self.customer_id)
    }

    /// A consent stays as it was given: there is nothing that could take it back unsaid.
    fn gone(&self) -> Self {
        self.clone()
    }
}

/// The rows sorted by key, each key once; of several rows the last counts.
pub(crate) fn canonical<R: Row>(mut rows: Vec<R>) -> Vec<R> {
    rows.sort_by(|a, b| a.key().cmp(&b.key()));
    rows.dedup_by(|later, kept| {
        let same = later.key() == kept.key();
        if same {
            std::mem::swap(later, kept);
        }
        same
    });
    rows
}
