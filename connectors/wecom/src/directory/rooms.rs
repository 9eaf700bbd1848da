//! Decides which rooms to query and how to treat failed queries. Pure.
//!
//! Guarantees: a room that no API can resolve is queried at most once a day, and after a restart these
//! queries are spread over a day; a room once known never becomes unresolved.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use chatledger_schemas::directory::{Room, RoomKind};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The reason to query a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryReason {
    /// The API lists it as a customer group.
    Listed,
    /// The previous snapshot has it as a customer group.
    KnownCustomer,
    /// The previous snapshot has it as an internal group.
    KnownInternal,
    /// A message names it.
    NamedByMessage,
}

/// What a sync does with each room.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RoomPlan {
    /// Rooms to query, ascending by id.
    pub(super) query: Vec<(String, QueryReason)>,
    /// Rooms that are kept without a query.
    pub(super) keep: Vec<Room>,
}

/// The reason why no API returned a room. A greater value takes precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LookupFailure {
    /// Both APIs report that they do not know it.
    NotFound,
    /// At least one API denies access to this room.
    RoomDenied,
    /// At least one API may not be called at all.
    ApiDenied,
}

/// Time of the last query of each unresolved room, in milliseconds since the epoch.
pub(super) type LastQueried = BTreeMap<String, i64>;

/// Plans the queries from the ids listed by the API, the ids named by messages and the rooms of the
/// previous snapshot.
pub(super) fn plan(
    listed: impl IntoIterator<Item = String>,
    wanted: &[String],
    known: &[Room],
    last_queried: &mut LastQueried,
    now_ms: i64,
) -> RoomPlan {
    let known: BTreeMap<&str, &Room> = known
        .iter()
        .map(|room| (room.room_id.as_str(), room))
        .collect();
    let mut query: BTreeMap<String, QueryReason> = BTreeMap::new();
    let mut keep = Vec::new();
    let mut unknown: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
    for room in known.values() {
        match room.kind {
            RoomKind::Customer if room.active => {
                query.insert(room.room_id.clone(), QueryReason::KnownCustomer);
            }
            RoomKind::Internal if room.active => {
                query.insert(room.room_id.clone(), QueryReason::KnownInternal);
            }
            // An inactive room is queried again only if a message names it.
            RoomKind::Customer | RoomKind::Internal => {}
            RoomKind::Wanted | RoomKind::Unresolved => {
                unknown.insert(&room.room_id);
            }
        }
    }
    for id in listed {
        query.insert(id, QueryReason::Listed);
    }
    for id in unknown {
        if id.is_empty() || query.contains_key(id) {
            continue;
        }
        let previous = known.get(id).copied();
        if previous.is_some_and(|room| room.kind == RoomKind::Unresolved) {
            let queried_at = *last_queried
                .entry(id.to_owned())
                .or_insert_with(|| now_ms - offset_in_day(id));
            if now_ms - queried_at < DAY_MS {
                keep.extend(previous.cloned().map(|room| Room {
                    active: true,
                    ..room
                }));
                continue;
            }
        }
        query.insert(id.to_owned(), QueryReason::NamedByMessage);
    }
    query.remove("");
    RoomPlan {
        query: query.into_iter().collect(),
        keep,
    }
}

/// Returns an offset within a day in milliseconds, constant for each room.
fn offset_in_day(id: &str) -> i64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    i64::try_from(hasher.finish() % DAY_MS.unsigned_abs()).unwrap_or_default()
}

/// Returns the row of a room that no API returned. Without a row the room counts as deleted.
pub(super) fn row_after_failure(
    id: &str,
    reason: QueryReason,
    failure: LookupFailure,
    previous: Option<&Room>,
    last_queried: &mut LastQueried,
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
    match (failure, reason) {
        (LookupFailure::NotFound | LookupFailure::RoomDenied, QueryReason::NamedByMessage) => {
            if previous
                .is_some_and(|room| matches!(room.kind, RoomKind::Customer | RoomKind::Internal))
            {
                return None;
            }
            last_queried.insert(id.to_owned(), now_ms);
            Some(row(RoomKind::Unresolved))
        }
        (LookupFailure::NotFound, _) => None,
        (LookupFailure::ApiDenied, QueryReason::NamedByMessage) => {
            Some(previous.cloned().unwrap_or_else(|| row(RoomKind::Wanted)))
        }
        (LookupFailure::RoomDenied | LookupFailure::ApiDenied, QueryReason::Listed) => {
            Some(previous.map_or_else(
                || row(RoomKind::Customer),
                |room| Room {
                    kind: RoomKind::Customer,
                    active: true,
                    ..room.clone()
                },
            ))
        }
        (
            LookupFailure::RoomDenied | LookupFailure::ApiDenied,
            QueryReason::KnownCustomer | QueryReason::KnownInternal,
        ) => previous.cloned(),
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

    fn queries(plan: &RoomPlan) -> Vec<(&str, QueryReason)> {
        plan.query
            .iter()
            .map(|(id, reason)| (id.as_str(), *reason))
            .collect()
    }

    #[test]
    fn plan_queries_listed_known_and_wanted_rooms_once_each() {
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
            &mut LastQueried::new(),
            NOW,
        );
        assert_eq!(
            queries(&plan),
            [
                ("back", QueryReason::NamedByMessage),
                ("c", QueryReason::KnownCustomer),
                ("i", QueryReason::KnownInternal),
                ("l", QueryReason::Listed),
                ("n", QueryReason::NamedByMessage),
                ("w", QueryReason::NamedByMessage),
            ]
        );
        assert!(plan.keep.is_empty());
    }

    #[test]
    fn unresolved_room_is_queried_once_a_day_also_across_restarts() {
        let mut last_queried = LastQueried::new();
        let row = row_after_failure(
            "u",
            QueryReason::NamedByMessage,
            LookupFailure::NotFound,
            None,
            &mut last_queried,
            NOW,
        )
        .unwrap();
        assert_eq!(row.kind, RoomKind::Unresolved);
        let known = [row];
        let at = |last_queried: &mut LastQueried, now| {
            plan([], &["u".into()], &known, last_queried, now)
        };
        let same_day = at(&mut last_queried, NOW + DAY_MS - 1);
        assert!(same_day.query.is_empty());
        assert_eq!(same_day.keep, known);
        assert_eq!(
            queries(&at(&mut last_queried, NOW + DAY_MS)),
            [("u", QueryReason::NamedByMessage)]
        );

        let mut forgotten = LastQueried::new();
        assert!(at(&mut forgotten, NOW).query.is_empty());
        let queries_within_a_day = (0..=24 * 60)
            .filter(|minute| !at(&mut forgotten, NOW + minute * 60_000).query.is_empty())
            .count();
        assert!(queries_within_a_day > 0);
    }

    #[test]
    fn known_room_that_is_not_found_is_deleted_and_not_unresolved() {
        let mut last_queried = LastQueried::new();
        let previous = room("x", RoomKind::Internal, false);
        for (reason, failure, expected) in [
            (QueryReason::KnownInternal, LookupFailure::NotFound, None),
            (QueryReason::NamedByMessage, LookupFailure::NotFound, None),
            (QueryReason::Listed, LookupFailure::NotFound, None),
            (QueryReason::NamedByMessage, LookupFailure::RoomDenied, None),
            (
                QueryReason::KnownInternal,
                LookupFailure::RoomDenied,
                Some(previous.clone()),
            ),
            (
                QueryReason::KnownInternal,
                LookupFailure::ApiDenied,
                Some(previous.clone()),
            ),
        ] {
            let row = row_after_failure(
                "x",
                reason,
                failure,
                Some(&previous),
                &mut last_queried,
                NOW,
            );
            assert_eq!(row, expected, "{reason:?} {failure:?}");
        }
        assert!(last_queried.is_empty());
    }

    #[test]
    fn room_without_permission_to_query_stays_wanted() {
        let row = row_after_failure(
            "x",
            QueryReason::NamedByMessage,
            LookupFailure::ApiDenied,
            None,
            &mut LastQueried::new(),
            NOW,
        );
        assert_eq!(row.unwrap().kind, RoomKind::Wanted);
    }
}
