//! Which rooms to ask about, and what to make of the answers. Pure.
//!
//! Guarantees: a room that nobody can resolve is asked about at most once a day, and the asking is
//! spread over the day after a restart; a room once known never becomes unresolved.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use chatledger_schemas::directory::{Room, RoomKind};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Why a room is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The API lists it as a customer group.
    Listed,
    /// It was a customer group before.
    WasCustomer,
    /// It was a group of members before.
    WasInternal,
    /// A message named it.
    Wanted,
}

/// What this sync does about rooms.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Rooms to ask about, ascending by id.
    pub(super) ask: Vec<(String, Why)>,
    /// Rooms that stay as they are without asking.
    pub(super) keep: Vec<Room>,
}

/// What became of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Missing {
    /// Both APIs say that they do not know it.
    Nobody,
    /// One of them does not tell us about this room.
    Denied,
    /// One of them may not be asked at all.
    Unanswered,
}

/// When each unresolvable room was last asked about, milliseconds since the epoch.
pub(super) type Asked = BTreeMap<String, i64>;

/// Decides, from the ids the API lists, the ids named by messages and what was known before.
pub(super) fn plan(
    listed: impl IntoIterator<Item = String>,
    wanted: &[String],
    known: &[Room],
    asked: &mut Asked,
    now_ms: i64,
) -> Plan {
    let known: BTreeMap<&str, &Room> = known
        .iter()
        .map(|room| (room.room_id.as_str(), room))
        .collect();
    let mut ask: BTreeMap<String, Why> = BTreeMap::new();
    let mut keep = Vec::new();
    let mut open: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    for room in known.values() {
        match room.kind {
            RoomKind::Customer if room.active => {
                ask.insert(room.room_id.clone(), Why::WasCustomer);
            }
            RoomKind::Internal if room.active => {
                ask.insert(room.room_id.clone(), Why::WasInternal);
            }
            // Gone: asked about again only if a message names it.
            RoomKind::Customer | RoomKind::Internal => {}
            RoomKind::Wanted | RoomKind::Unresolved => {
                open.insert(&room.room_id);
            }
        }
    }
    for id in listed {
        ask.insert(id, Why::Listed);
    }
    for id in open {
        if id.is_empty() || ask.contains_key(id) {
            continue;
        }
        let before = known.get(id).copied();
        if before.is_some_and(|room| room.kind == RoomKind::Unresolved) {
            let last = *asked
                .entry(id.to_owned())
                .or_insert_with(|| now_ms - part_of_day(id));
            if now_ms - last < DAY_MS {
                keep.extend(before.cloned().map(|room| Room {
                    active: true,
                    ..room
                }));
                continue;
            }
        }
        ask.insert(id.to_owned(), Why::Wanted);
    }
    ask.remove("");
    Plan {
        ask: ask.into_iter().collect(),
        keep,
    }
}

/// Some moment of the day, the same for the same room.
fn part_of_day(id: &str) -> i64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    i64::try_from(hasher.finish() % DAY_MS.unsigned_abs()).unwrap_or_default()
}

/// The row of a room that was asked about in vain, if it is to have one: without, it counts as gone.
pub(super) fn missed(
    id: &str,
    why: Why,
    missing: Missing,
    before: Option<&Room>,
    asked: &mut Asked,
    now_ms: i64,
) -> Option<Room> {
    let row = |kind| Room {
        room_id: id.to_owned(),
        name: String::new(),
        owner_id: String::new(),
        kind,
        created_at: 0,
        notice: String::new(),
        active: true,
    };
    match (missing, why) {
        (Missing::Nobody | Missing::Denied, Why::Wanted) => {
            if before.is_some_and(|b| matches!(b.kind, RoomKind::Customer | RoomKind::Internal)) {
                return None;
            }
            asked.insert(id.to_owned(), now_ms);
            Some(row(RoomKind::Unresolved))
        }
        (Missing::Nobody, _) => None,
        (Missing::Unanswered, Why::Wanted) => {
            Some(before.cloned().unwrap_or_else(|| row(RoomKind::Wanted)))
        }
        (Missing::Denied | Missing::Unanswered, Why::Listed) => Some(before.map_or_else(
            || row(RoomKind::Customer),
            |room| Room {
                kind: RoomKind::Customer,
                active: true,
                ..room.clone()
            },
        )),
        (Missing::Denied | Missing::Unanswered, Why::WasCustomer | Why::WasInternal) => {
            before.cloned()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn room(id: &str, kind: RoomKind, active: bool) -> Room {
        Room {
            room_id: id.into(),
            name: format!("name of {id}"),
            owner_id: String::new(),
            kind,
            created_at: 0,
            notice: String::new(),
            active,
        }
    }

    fn asks(plan: &Plan) -> Vec<(&str, Why)> {
        plan.ask
            .iter()
            .map(|(id, why)| (id.as_str(), *why))
            .collect()
    }

    #[test]
    fn plan_asks_for_listed_known_and_wanted_rooms_each_once() {
        let known = [
            room("c", RoomKind::Customer, true),
            room("gone", RoomKind::Customer, false),
            room("back", RoomKind::Internal, false),
            room("i", RoomKind::Internal, true),
            room("w", RoomKind::Wanted, true),
            room("l", RoomKind::Customer, true),
        ];
        let wanted = ["n", "c", "back", ""].map(String::from);
        let plan = plan(
            ["l".to_owned(), String::new()],
            &wanted,
            &known,
            &mut Asked::new(),
            NOW,
        );
        assert_eq!(
            asks(&plan),
            [
                ("back", Why::Wanted),
                ("c", Why::WasCustomer),
                ("i", Why::WasInternal),
                ("l", Why::Listed),
                ("n", Why::Wanted),
                ("w", Why::Wanted),
            ]
        );
        assert!(plan.keep.is_empty());
    }

    #[test]
    fn unresolved_room_is_asked_about_once_a_day_also_across_restarts() {
        let mut asked = Asked::new();
        let row = missed("u", Why::Wanted, Missing::Nobody, None, &mut asked, NOW).unwrap();
        assert_eq!(row.kind, RoomKind::Unresolved);
        let known = [row];
        let at = |asked: &mut Asked, now| plan([], &["u".into()], &known, asked, now);
        let same_day = at(&mut asked, NOW + DAY_MS - 1);
        assert!(same_day.ask.is_empty());
        assert_eq!(same_day.keep, known);
        assert_eq!(asks(&at(&mut asked, NOW + DAY_MS)), [("u", Why::Wanted)]);

        let mut forgotten = Asked::new();
        assert!(at(&mut forgotten, NOW).ask.is_empty());
        let asked_within_a_day = (0..=24 * 60)
            .filter(|minute| !at(&mut forgotten, NOW + minute * 60_000).ask.is_empty())
            .count();
        assert!(asked_within_a_day > 0);
    }

    #[test]
    fn known_room_that_cannot_be_found_is_gone_and_not_unresolved() {
        let mut asked = Asked::new();
        let before = room("x", RoomKind::Internal, false);
        for (why, missing, expected) in [
            (Why::WasInternal, Missing::Nobody, None),
            (Why::Wanted, Missing::Nobody, None),
            (Why::Listed, Missing::Nobody, None),
            (Why::Wanted, Missing::Denied, None),
            (Why::WasInternal, Missing::Denied, Some(before.clone())),
            (Why::WasInternal, Missing::Unanswered, Some(before.clone())),
        ] {
            let row = missed("x", why, missing, Some(&before), &mut asked, NOW);
            assert_eq!(row, expected, "{why:?} {missing:?}");
        }
        assert!(asked.is_empty());
    }

    #[test]
    fn room_nobody_may_answer_for_stays_wanted() {
        let row = missed(
            "x",
            Why::Wanted,
            Missing::Unanswered,
            None,
            &mut Asked::new(),
            NOW,
        );
        assert_eq!(row.unwrap().kind, RoomKind::Wanted);
    }
}
