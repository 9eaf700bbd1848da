//! Who sent a message to whom, when, and in which conversation: the fields common to all messages
//! (`wecom-api` §4.1) and what follows from them (§4.4).
//!
//! Guarantees that a conversation id is a function of the message alone. A field that decides
//! where a message belongs and cannot be read is an error, because a message in a wrong
//! conversation is worse than one that is parked; any other field falls back to a default.

use std::borrow::Cow;

use chatledger_schemas::ConversationKind;
use hashbrown::HashSet;

use crate::view::{Kind, Node, Object};

/// 1900-01-01T00:00:00.000Z and 2299-12-31T23:59:59.999Z: what a `DateTime64(3)` of ClickHouse
/// holds. Milliseconds since the epoch.
const MSGTIME_RANGE: (i64, i64) = (-2_208_988_800_000, 10_413_791_999_999);

/// Up to this many receivers, looking through all of them is cheaper than a hash set.
const FEW_RECEIVERS: usize = 16;

/// Where a message belongs.
pub(crate) struct Place {
    pub(crate) msgid: String,
    /// As received; empty if missing.
    pub(crate) action: String,
    /// As received; `switch` for a switch-company log; empty if missing.
    pub(crate) msgtype: String,
    /// Milliseconds since the epoch, clamped to [`MSGTIME_RANGE`]; 0 if missing or not a number.
    pub(crate) msgtime: i64,
    pub(crate) from_id: String,
    pub(crate) to_ids: Vec<String>,
    pub(crate) room_id: String,
    pub(crate) conversation_id: String,
    pub(crate) conversation_kind: ConversationKind,
}

/// Why a message cannot be placed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unplaced {
    #[error("none of the fields from, user and msgtype is there")]
    Unsigned,
    #[error("the field {field} is {found}, expected {expected}")]
    UnusableField {
        field: &'static str,
        found: Kind,
        expected: &'static str,
    },
}

impl Place {
    /// Reads the place of `message`; `msgid` is the envelope's, the message's own counts only if
    /// that is empty.
    pub(crate) fn of(message: &Object<'_>, msgid: &str) -> Result<Self, Unplaced> {
        let text = |name| {
            let text = message.get(name).and_then(Node::text);
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
            return Err(Unplaced::Unsigned);
        }

        // The log of a member who switched to another company: {msgid, action, time, user}.
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
        let external = is_outside(&from_id)
            || to_ids.iter().any(|id| is_outside(id))
            || msgid.ends_with("_external");
        let conversation_kind = match (room_id.is_empty(), external) {
            (true, false) => ConversationKind::SingleInternal,
            (true, true) => ConversationKind::SingleExternal,
            (false, false) => ConversationKind::GroupInternal,
            (false, true) => ConversationKind::GroupExternal,
        };
        let conversation_id = if room_id.is_empty() {
            single_chat(&from_id, to_ids.first().map_or("", String::as_str))
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

/// An id; empty if the field is missing.
fn id(message: &Object<'_>, field: &'static str) -> Result<String, Unplaced> {
    let Some(node) = message.get(field) else {
        return Ok(String::new());
    };
    node.text()
        .map(Cow::into_owned)
        .ok_or_else(|| Unplaced::UnusableField {
            field,
            found: node.kind(),
            expected: "a string",
        })
}

/// `tolist` in its order, each id once; a lone string is a list of one.
fn receivers(message: &Object<'_>) -> Result<Vec<String>, Unplaced> {
    let Some(node) = message.get("tolist") else {
        return Ok(Vec::new());
    };
    let unusable = |found, expected| Unplaced::UnusableField {
        field: "tolist",
        found,
        expected,
    };
    let mut ids = Vec::new();
    let mut problem = None;
    let mut take = |node: Node<'_>| match node.text() {
        Some(id) if id.is_empty() => {}
        Some(id) => ids.push(id.into_owned()),
        None if node.kind() == Kind::Null => {}
        None => problem = Some(unusable(node.kind(), "an array of strings")),
    };
    match node.kind() {
        Kind::Array => node.each(&mut take),
        Kind::String | Kind::Number => take(node),
        found => return Err(unusable(found, "an array")),
    }
    match problem {
        Some(problem) => Err(problem),
        None => Ok(each_once(ids)),
    }
}

fn each_once(mut ids: Vec<String>) -> Vec<String> {
    if ids.len() <= FEW_RECEIVERS {
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

/// The two ids sorted by their bytes and joined with `|`; a missing one leaves the other alone.
fn single_chat(from: &str, to: &str) -> String {
    match (from, to) {
        ("", one) | (one, "") => one.to_owned(),
        (a, b) if a <= b => format!("{a}|{b}"),
        (a, b) => format!("{b}|{a}"),
    }
}

/// Whether an id is that of somebody outside: `wm…` a WeChat user, `wo…` a WeCom user
/// (`wecom-api` §5.1).
fn is_outside(id: &str) -> bool {
    id.starts_with("wm") || id.starts_with("wo")
}

/// Milliseconds since the epoch, from a number or a string holding one.
fn msgtime(node: Option<Node<'_>>) -> i64 {
    let Some(text) = node.and_then(Node::text) else {
        return 0;
    };
    let text = text.trim();
    let millis = text.parse::<i64>().unwrap_or_else(|_| {
        // With a fraction, an exponent or more digits; `as` saturates, and makes 0 of NaN.
        text.parse::<f64>().map_or(0, |number| number as i64)
    });
    millis.clamp(MSGTIME_RANGE.0, MSGTIME_RANGE.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once_keeps_the_first_of_each_in_order() {
        for length in [0_usize, 1, 7, FEW_RECEIVERS, FEW_RECEIVERS + 1, 500] {
            let ids: Vec<String> = (0..length).map(|n| (n * n % 11).to_string()).collect();
            let mut expected: Vec<String> = Vec::new();
            for id in &ids {
                if !expected.contains(id) {
                    expected.push(id.clone());
                }
            }
            assert_eq!(each_once(ids), expected, "{length}");
        }
    }

    #[test]
    fn single_chat_is_the_same_from_both_sides() {
        assert_eq!(single_chat("b", "a"), "a|b");
        assert_eq!(single_chat("a", "b"), "a|b");
        assert_eq!(single_chat("Z", "a"), "Z|a");
        assert_eq!(single_chat("a", ""), "a");
        assert_eq!(single_chat("", "b"), "b");
        assert_eq!(single_chat("", ""), "");
    }
}
