//! Common behaviour of the rows of all directory tables.

use chatledger_schemas::directory::{
    Consent, Customer, Department, Follow, Member, Room, RoomKind, RoomMember,
};

/// A row of a directory table.
pub(crate) trait TableRow: Clone + PartialEq {
    /// Identifies the row in its table.
    type RowId<'a>: Ord
    where
        Self: 'a;

    /// Returns the key of the row.
    fn key(&self) -> Self::RowId<'_>;

    /// Returns the row after a sync that no longer returned it.
    fn deactivated(&self) -> Self;

    /// Returns the row after a sync that returned `fresh` for the key of `self`.
    fn updated(&self, fresh: Self) -> Self {
        fresh
    }
}

impl TableRow for Department {
    type RowId<'a> = u32;

    fn key(&self) -> u32 {
        self.department_id
    }

    fn deactivated(&self) -> Self {
        Self {
            active: false,
            ..self.clone()
        }
    }
}

impl TableRow for Member {
    type RowId<'a> = &'a str;

    fn key(&self) -> &str {
        &self.member_id
    }

    fn deactivated(&self) -> Self {
        Self {
            active: false,
            ..self.clone()
        }
    }
}

impl TableRow for Customer {
    type RowId<'a> = &'a str;

    fn key(&self) -> &str {
        &self.customer_id
    }

    fn deactivated(&self) -> Self {
        Self {
            active: false,
            ..self.clone()
        }
    }
}

impl TableRow for Follow {
    type RowId<'a> = (&'a str, &'a str);

    fn key(&self) -> (&str, &str) {
        (&self.member_id, &self.customer_id)
    }

    fn deactivated(&self) -> Self {
        Self {
            active: false,
            ..self.clone()
        }
    }
}

impl TableRow for Room {
    type RowId<'a> = &'a str;

    fn key(&self) -> &str {
        &self.room_id
    }

    /// A room that no API returned stays as it is: a sync that does not contain it proves nothing.
    fn deactivated(&self) -> Self {
        let resolved = is_resolved(self);
        Self {
            active: self.active && !resolved,
            ..self.clone()
        }
    }

    /// A room that an API returned before keeps its data if no API returns it any more.
    fn updated(&self, fresh: Self) -> Self {
        if is_resolved(self) && !is_resolved(&fresh) {
            self.deactivated()
        } else {
            fresh
        }
    }
}

/// Whether an API returned the room.
pub(crate) fn is_resolved(room: &Room) -> bool {
    match room.kind {
        RoomKind::Customer | RoomKind::Internal => true,
        RoomKind::Wanted | RoomKind::Unresolved => false,
    }
}

impl TableRow for RoomMember {
    type RowId<'a> = (&'a str, &'a str);

    fn key(&self) -> (&str, &str) {
        (&self.room_id, &self.party_id)
    }

    fn deactivated(&self) -> Self {
        Self {
            active: false,
            ..self.clone()
        }
    }
}

impl TableRow for Consent {
    type RowId<'a> = (&'a str, &'a str, &'a str);

    fn key(&self) -> (&str, &str, &str) {
        (&self.member_id, &self.room_id, &self.customer_id)
    }

    /// A consent stays valid until WeCom reports another status; its absence from a sync does not
    /// withdraw it.
    fn deactivated(&self) -> Self {
        self.clone()
    }
}

/// Sorts the rows by key and keeps one row per key, the last one.
pub(crate) fn canonical<R: TableRow>(mut rows: Vec<R>) -> Vec<R> {
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
