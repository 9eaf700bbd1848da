//! Decodes the plaintext of one opened record into a [`Message`]: determines its conversation and
//! extracts the text that a person would search for, for every message type.
//!
//! This crate does not know how a record was opened, who the people in it are, or where the message
//! goes: no I/O, no clock, no directory, no logging.
//!
//! | module | contains |
//! |---|---|
//! | `lexical` | scans of JSON text without parsing: nesting depth, stray control bytes |
//! | `view` | JSON values borrowed from the payload and read leniently |
//! | `header` | the fields common to all messages: sender, receivers, time, conversation |
//! | `content` | the searchable text of each message type |
//! | `forwarded` | the items of forwarded and mixed messages |
//!
//! # What is tolerated
//! WeCom's messages deviate from their documentation, and gateways re-serialise them
//! (`connectors/wecom/WECOM.md` §3.3, §4.3). The decoder accepts unknown types and fields, numbers as
//! strings, `null`, alternative body keys, control bytes inside strings and unpaired surrogates. If a
//! body cannot be read, the content is empty but the message is kept. The payload is always kept
//! byte for byte.
//!
//! # What is rejected
//! | reason | plaintext |
//! |---|---|
//! | [`Reason::BadUtf8`] | is not UTF-8 |
//! | [`Reason::BadJson`] | is not JSON, even after control bytes are removed, or is nested deeper than 127 levels |
//! | [`Reason::BadMessage`] | is not an object; has none of `from`, `user` and `msgtype`; or its `from`, `user`, `roomid` or `tolist` has a type that cannot hold an id, so the message would be assigned to the wrong conversation |

mod content;
mod forwarded;
mod header;
mod lexical;
mod view;

use chatledger_schemas::{CorpId, Message, PartyKind, Reason};

use crate::header::MessageHeader;
use crate::view::ObjectError;

/// Reports why a plaintext is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct DecodeError {
    /// One of [`Reason::BadUtf8`], [`Reason::BadJson`], [`Reason::BadMessage`].
    pub reason: Reason,
    /// Details: offsets, names of fields that WeCom defines, JSON types. Contains no value and no
    /// other part of the message, so it can be logged and stored.
    pub error: String,
}

/// Decodes one opened record.
///
/// `msgid` is the one in the envelope; the one in the payload is used only if it is empty. The
/// `payload` of the result is `plaintext`, unchanged. The fields that the directory join fills are
/// left unset: `from_kind` is [`PartyKind::Unknown`], `from_department_id` is 0, and `from_name`,
/// `from_department_path` and `room_name` are empty.
///
/// # Errors
/// See the table in the crate documentation.
pub fn decode(
    corp_id: &CorpId,
    seq: u64,
    msgid: &str,
    key_version: u32,
    plaintext: Vec<u8>,
) -> Result<Message, DecodeError> {
    let payload = String::from_utf8(plaintext).map_err(|error| DecodeError {
        reason: Reason::BadUtf8,
        error: format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()),
    })?;
    if lexical::is_too_deep(&payload) {
        return Err(DecodeError {
            reason: Reason::BadJson,
            error: format!("nested deeper than {} levels", lexical::MAX_DEPTH),
        });
    }
    let (header, content) = view::parse_object(&payload, |message| {
        let header = MessageHeader::read(message, msgid)?;
        let content = content::extract(&header.msgtype, message);
        Ok((header, content))
    })
    .map_err(|error| match error {
        ObjectError::Syntax(error) => DecodeError {
            reason: Reason::BadJson,
            error: error.to_string(),
        },
        ObjectError::NotAnObject(kind) => DecodeError {
            reason: Reason::BadMessage,
            error: format!("the top level is {kind}, not an object"),
        },
    })?
    .map_err(|error: header::HeaderError| DecodeError {
        reason: Reason::BadMessage,
        error: error.to_string(),
    })?;

    Ok(Message {
        corp_id: corp_id.clone(),
        seq,
        msgid: header.msgid,
        action: header.action,
        msgtype: header.msgtype,
        msgtime: header.msgtime,
        conversation_id: header.conversation_id,
        conversation_kind: header.conversation_kind,
        room_id: header.room_id,
        room_name: String::new(),
        from_id: header.from_id,
        from_kind: PartyKind::Unknown,
        from_name: String::new(),
        from_department_id: 0,
        from_department_path: String::new(),
        to_ids: header.to_ids,
        content,
        payload,
        key_version,
    })
}
