//! Turns the plaintext of one opened record into a [`Message`]: places it in its conversation and
//! extracts what a person would search for, whatever its type.
//!
//! It does not know how a record was opened, who the people in it are, or what becomes of the
//! message: no I/O, no clock, no directory, no logging.
//!
//! | module | knows |
//! |---|---|
//! | `lexical` | strings and brackets of JSON text: depth, stray control bytes |
//! | `view` | JSON values borrowed from the payload, read leniently |
//! | `placing` | who, when, where: the fields common to all messages |
//! | `content` | each message type's searchable text |
//! | `forwarded` | the items of forwarded and mixed messages |
//!
//! # What is tolerated
//! WeCom's messages are not always what their documentation says, and gateways re-serialise them
//! (`wecom-api` §3.4, §4.3). Unknown types and fields, numbers as strings, `null`s, other body keys,
//! control bytes inside strings and halves of surrogate pairs are all read. A body that cannot be
//! read costs the content, never the message: the payload is kept byte for byte in any case.
//!
//! # What is rejected
//! | reason | plaintext |
//! |---|---|
//! | [`Reason::BadUtf8`] | is not UTF-8 |
//! | [`Reason::BadJson`] | is not JSON, also without its control bytes, or is nested deeper than 127 levels |
//! | [`Reason::BadMessage`] | is not an object; has none of `from`, `user` and `msgtype`; or its `from`, `user`, `roomid` or `tolist` is of a type that cannot name anybody, so that the message would end up in a wrong conversation |

mod content;
mod forwarded;
mod lexical;
mod placing;
mod view;

use chatledger_schemas::{CorpId, Message, PartyKind, Reason};

use crate::placing::Place;
use crate::view::Unreadable;

/// Why a plaintext is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Rejected {
    /// One of [`Reason::BadUtf8`], [`Reason::BadJson`], [`Reason::BadMessage`].
    pub reason: Reason,
    /// What exactly is wrong: offsets, names of fields WeCom defines, JSON types. Never a value or
    /// any other part of the message, so that it can be logged and stored.
    pub error: String,
}

/// Decodes one opened record.
///
/// `msgid` is the envelope's and wins over the payload's, which counts only if the envelope's is
/// empty. The result's `payload` is `plaintext` as it is. What the directory knows is left for it:
/// `from_kind` is [`PartyKind::Unknown`], `from_department_id` is 0, and `from_name`,
/// `from_department_path` and `room_name` are empty.
///
/// # Errors
/// See the table at the top of the crate.
pub fn decode(
    corp_id: &CorpId,
    seq: u64,
    msgid: &str,
    key_version: u32,
    plaintext: Vec<u8>,
) -> Result<Message, Rejected> {
    let payload = String::from_utf8(plaintext).map_err(|error| Rejected {
        reason: Reason::BadUtf8,
        error: format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
    })?;
    if lexical::is_too_deep(&payload) {
        return Err(Rejected {
            reason: Reason::BadJson,
            error: format!("nested deeper than {} levels", lexical::MAX_DEPTH),
        });
    }
    let (place, content) = view::open(&payload, |message| {
        let place = Place::of(message, msgid)?;
        let content = content::of(&place.msgtype, message);
        Ok((place, content))
    })
    .map_err(|unreadable| match unreadable {
        Unreadable::Syntax(error) => Rejected {
            reason: Reason::BadJson,
            error: error.to_string(),
        },
        Unreadable::NotAnObject(kind) => Rejected {
            reason: Reason::BadMessage,
            error: format!("the top level is {kind}, not an object"),
        },
    })?
    .map_err(|unplaced: placing::Unplaced| Rejected {
        reason: Reason::BadMessage,
        error: unplaced.to_string(),
    })?;

    Ok(Message {
        corp_id: corp_id.clone(),
        seq,
        msgid: place.msgid,
        action: place.action,
        msgtype: place.msgtype,
        msgtime: place.msgtime,
        conversation_id: place.conversation_id,
        conversation_kind: place.conversation_kind,
        room_id: place.room_id,
        room_name: String::new(),
        from_id: place.from_id,
        from_kind: PartyKind::Unknown,
        from_name: String::new(),
        from_department_id: 0,
        from_department_path: String::new(),
        to_ids: place.to_ids,
        content,
        payload,
        key_version,
    })
}
