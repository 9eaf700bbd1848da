//! The fields common to all messages (`connectors/wecom/WECOM.md` §4.1) and what is derived from them
//! (§4.4): sender, receivers, time, conversation.
//!
//! Guarantees that a conversation id is a function of the message alone. An unreadable field that
//! determines the conversation is an error, because a message in the wrong conversation is worse
//! than a dead letter. Any other unreadable field gets a default value.

use std::borrow::Cow;

use chatledger_schemas::{ConversationKind, is_external_id};
use hashbrown::HashSet;

use crate::view::{JsonObject, JsonType, JsonValue};

/// The range of ClickHouse's `DateTime64(3)`, 1900-01-01T00:00:00.000Z to
/// 2299-12-31T23:59:59.999Z, in milliseconds since the epoch.
const MSGTIME_RANGE: (i64, i64) = (-2_208_988_800_000, 10_413_791_999_999);

/// The years 2011 to 2099, in seconds since the epoch. In another unit none of these times is in this range, so the size of a
/// number tells its unit.
const PLAUSIBLE_SECONDS: (i64, i64) = (1_293_840_000, 4_102_444_800);

/// Suffixes of the msgids of messages to people of another corp: external contacts, and partners up or down the supply chain
/// (`connectors/wecom/WECOM.md` §4.1).
const EXTERNAL_SUFFIXES: [&str; 2] = ["_external", "_updown_stream"];

/// For up to this many receivers, a linear search is cheaper than a hash set.
const LINEAR_SEARCH_MAX: usize = 16;

/// The fields common to all messages.
pub(crate) struct MessageHeader {
    pub(crate) msgid: String,
    /// As received; empty if missing.
    pub(crate) action: String,
    /// As received; `switch` for a switch log; empty if missing.
    pub(crate) msgtype: String,
    /// Milliseconds since the epoch, clamped to [`MSGTIME_RANGE`]; 0 if missing or not a number.
    pub(crate) msgtime: i64,
    pub(crate) from_id: String,
    pub(crate) to_ids: Vec<String>,
    pub(crate) room_id: String,
    pub(crate) conversation_id: String,
    pub(crate) conversation_kind: ConversationKind,
}

/// Reports why the header of a message cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("none of the fields from, user and msgtype is present")]
    NoKnownField,
    #[error("the field {field} is {found}, expected {expected}")]
    UnusableField {
        field: &'static str,
        found: JsonType,
        expected: &'static str,
    },
}

impl MessageHeader {
    /// Reads the header of `message`. `msgid` is the one in the envelope; the one in the message is
    /// used only if it is empty.
    pub(crate) fn read(message: &JsonObject<'_>, msgid: &str) -> Result<Self, HeaderError> {
        let text = |name| {
            let text = message.get(name).and_then(JsonValue::text);
            text.map_or_else(String::new, Cow::into_owned)
        };
        let msgid = if msgid.is_empty() {
            text("msgid")
        } else {
            msgid.to_owned()
        };
        let action = text("action");
        let mut msgtype = text("msgtype");
        let mut from_id = id(message, "from")?;
        let user = if from_id.is_empty() {
            id(message, "user")?
        } else {
            String::new()
        };
        if from_id.is_empty() && user.is_empty() && msgtype.is_empty() {
            return Err(HeaderError::NoKnownField);
        }

        // A switch log, {msgid, action, time, user}: the member changed to another corp.
        if from_id.is_empty() && msgtype.is_empty() {
            "switch".clone_into(&mut msgtype);
            return Ok(Self {
                msgid,
                action,
                msgtype,
                msgtime: msgtime(message.first(&["time", "msgtime"])),
                conversation_id: user.clone(),
                conversation_kind: ConversationKind::SingleInternal,
                from_id: user,
                to_ids: Vec::new(),
                room_id: String::new(),
            });
        }

        if from_id.is_empty() {
            from_id = user;
        }
        if msgtype.is_empty() && action == "switch" {
            "switch".clone_into(&mut msgtype);
        }
        let to_ids = receivers(message)?;
        let room_id = id(message, "roomid")?;
        let external = is_external_id(&from_id)
            || to_ids.iter().any(|id| is_external_id(id))
            || EXTERNAL_SUFFIXES
                .iter()
                .any(|suffix| msgid.ends_with(suffix));
        let conversation_kind = match (room_id.is_empty(), external) {
            (true, false) => ConversationKind::SingleInternal,
            (true, true) => ConversationKind::SingleExternal,
            (false, false) => ConversationKind::GroupInternal,
            (false, true) => ConversationKind::GroupExternal,
        };
        let conversation_id = if room_id.is_empty() {
            // A call names everybody who took part, the caller too.
            let other = to_ids.iter().find(|id| **id != from_id);
            single_chat_id(
                &from_id,
                other.or(to_ids.first()).map_or("", String::as_str),
            )
        } else {
            room_id.clone()
        };
        Ok(Self {
            msgid,
            action,
            msgtype,
            msgtime: msgtime(message.first(&["msgtime", "time"])),
            from_id,
            to_ids,
            room_id,
            conversation_id,
            conversation_kind,
        })
    }
}

/// Reads an id; empty if the field is missing.
fn id(message: &JsonObject<'_>, field: &'static str) -> Result<String, HeaderError> {
    let Some(node) = message.get(field) else {
        return Ok(String::new());
    };
    node.text()
        .map(Cow::into_owned)
        .ok_or_else(|| HeaderError::UnusableField {
            field,
            found: node.json_type(),
            expected: "a string",
        })
}

/// Reads `tolist` without duplicates, in its order. A single string counts as a list of one.
fn receivers(message: &JsonObject<'_>) -> Result<Vec<String>, HeaderError> {
    let Some(node) = message.get("tolist") else {
        return Ok(Vec::new());
    };
    let unusable_field = |found, expected| HeaderError::UnusableField {
        field: "tolist",
        found,
        expected,
    };
    let mut ids = Vec::new();
    let mut problem = None;
    let mut take = |node: JsonValue<'_>| match node.text() {
        Some(id) if id.is_empty() => {}
        Some(id) => ids.push(id.into_owned()),
        None if node.json_type() == JsonType::Null => {}
        None => problem = Some(unusable_field(node.json_type(), "an array of strings")),
    };
    match node.json_type() {
        JsonType::Array => node.each(&mut take),
        JsonType::String | JsonType::Number => take(node),
        found => return Err(unusable_field(found, "an array")),
    }
    match problem {
        Some(problem) => Err(problem),
        None => Ok(deduplicate(ids)),
    }
}

/// Removes all but the first occurrence of each id, keeping the order.
fn deduplicate(mut ids: Vec<String>) -> Vec<String> {
    if ids.len() <= LINEAR_SEARCH_MAX {
        let mut kept = 0;
        for at in 0..ids.len() {
            if !ids[..kept].contains(&ids[at]) {
                ids.swap(kept, at);
                kept += 1;
            }
        }
        ids.truncate(kept);
        return ids;
    }
    let mut seen = HashSet::with_capacity(ids.len());
    let first: Vec<bool> = ids.iter().map(|id| seen.insert(id.as_str())).collect();
    drop(seen);
    let mut first = first.into_iter();
    ids.retain(|_| first.next().unwrap_or(true));
    ids
}

/// Joins the two ids with `|`, sorted by their bytes. If one is empty, returns the other.
fn single_chat_id(from: &str, to: &str) -> String {
    match (from, to) {
        ("", one) | (one, "") => one.to_owned(),
        (a, b) if a <= b => format!("{a}|{b}"),
        (a, b) => format!("{b}|{a}"),
    }
}

/// Reads milliseconds since the epoch from a number or from a string that holds one. A time in seconds, microseconds or
/// nanoseconds is recognised by its size.
fn msgtime(node: Option<JsonValue<'_>>) -> i64 {
    let Some(text) = node.and_then(JsonValue::text) else {
        return 0;
    };
    let text = text.trim();
    let millis = text.parse::<i64>().unwrap_or_else(|_| {
        // A fraction, an exponent or too many digits. `as` saturates and turns NaN into 0.
        text.parse::<f64>().map_or(0, |number| number as i64)
    });
    in_milliseconds(millis).clamp(MSGTIME_RANGE.0, MSGTIME_RANGE.1)
}

/// Converts a time of another unit to milliseconds. A time that is plausible in no unit is returned unchanged.
fn in_milliseconds(time: i64) -> i64 {
    let (first, last) = PLAUSIBLE_SECONDS;
    if (first..last).contains(&time) {
        return time * 1000;
    }
    for per_second in [1_000_000, 1_000_000_000] {
        if (first..last).contains(&(time / per_second)) {
            return time / (per_second / 1000);
        }
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deduplicate_keeps_first_occurrences_in_order() {
        for length in [0_usize, 1, 7, LINEAR_SEARCH_MAX, LINEAR_SEARCH_MAX + 1, 500] {
            let ids: Vec<String> = (0..length).map(|n| (n * n % 11).to_string()).collect();
            let mut expected: Vec<String> = Vec::new();
            for id in &ids {
                if !expected.contains(id) {
                    expected.push(id.clone());
                }
            }
            assert_eq!(deduplicate(ids), expected, "{length}");
        }
    }

    #[test]
    fn unit_of_a_time_is_known_by_its_size() {
        const MILLIS: i64 = 1_764_000_000_123;
        for (time, expected) in [
            (MILLIS, MILLIS),
            (MILLIS / 1000, 1_764_000_000_000),
            (MILLIS * 1000 + 7, MILLIS),
            (MILLIS * 1_000_000 + 7, MILLIS),
            (0, 0),
            (-5, -5),
            (1_000_000_000, 1_000_000_000),
            (1_293_840_000_000, 1_293_840_000_000),
            (4_102_444_799_999, 4_102_444_799_999),
        ] {
            assert_eq!(in_milliseconds(time), expected, "{time}");
        }
    }

    #[test]
    fn single_chat_id_does_not_depend_on_direction() {
        assert_eq!(single_chat_id("b", "a"), "a|b");
        assert_eq!(single_chat_id("a", "b"), "a|b");
        assert_eq!(single_chat_id("Z", "a"), "Z|a");
        assert_eq!(single_chat_id("a", ""), "a");
        assert_eq!(single_chat_id("", "b"), "b");
        assert_eq!(single_chat_id("", ""), "");
    }
}
