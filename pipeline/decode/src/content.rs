//! The searchable text of a message, by message type (`connectors/wecom/WECOM.md` §4.2).
//!
//! Guarantees that a missing or unreadable body gives empty content and no error. Of a type that is not known, the strings of
//! fields that hold text in other types are read, so that a new type can be searched from its first day. Media files are not
//! read. Their ids and checksums are never part of the content.

use crate::forwarded;
use crate::view::{JsonObject, JsonValue};

/// Maximum nesting of forwarded records that is followed.
const MAX_FORWARDS: usize = 16;

/// Types whose bodies have no text: names of media files are not the words of a message.
const TYPES_WITHOUT_TEXT: [&str; 9] = [
    "agree", "disagree", "emotion", "image", "revoke", "switch", "video", "voice", "voiptext",
];

/// Names of fields that hold text for people, in any type. Ids, checksums, addresses of media and keys have other names.
const TEXT_FIELDS: [&str; 37] = [
    "address",
    "answer",
    "attendeename",
    "body",
    "caption",
    "content",
    "corpname",
    "creatorname",
    "desc",
    "description",
    "digest",
    "displayname",
    "feed_desc",
    "filename",
    "label",
    "message",
    "name",
    "note",
    "notice",
    "option",
    "options",
    "place",
    "ques",
    "question",
    "remark",
    "remarks",
    "room_name",
    "sph_name",
    "subject",
    "subtitle",
    "summary",
    "text",
    "title",
    "topic",
    "voteitem",
    "votetitle",
    "wish",
];

/// Extracts the searchable text of a message: its non-empty parts, one on each line.
pub(crate) fn extract(msgtype: &str, message: &JsonObject<'_>) -> String {
    let mut content = ContentBuilder::default();
    let Some((keys, body)) = describe(msgtype) else {
        if has_no_text(msgtype) {
            return String::new();
        }
        let body = message.first(&[msgtype, "info"]);
        let read = body.and_then(|body| body.with_object(|body| content.texts(body, MAX_FORWARDS)));
        if read.is_none()
            && let Some(text) = body.and_then(JsonValue::string)
        {
            content.push(&text);
        } else if read.is_none() {
            content.texts(message, MAX_FORWARDS);
        }
        return content.text;
    };
    let read = message
        .first(keys)
        .and_then(|node| node.with_object(|object| body.write(object, MAX_FORWARDS, &mut content)));
    // Some sources show votes with their fields at the top level.
    if read.is_none() && matches!(body, BodyFormat::Vote) {
        body.write(message, MAX_FORWARDS, &mut content);
    }
    content.text
}

/// Where the searchable text of a body is.
#[derive(Clone, Copy)]
pub(crate) enum BodyFormat {
    /// In these fields, in this order.
    Fields(&'static [&'static str]),
    ChatRecord,
    Mixed,
    Vote,
    Collect,
    News,
    Calendar,
    VoiceCall,
}

/// Returns the keys that can hold the body of a type, the documented one first, and the format of
/// the body. Returns `None` for unknown types, and for types without searchable text, whose bodies have no text either.
fn describe(msgtype: &str) -> Option<(&'static [&'static str], BodyFormat)> {
    use BodyFormat::{Calendar, ChatRecord, Collect, Fields, Mixed, News, VoiceCall, Vote};
    Some(match msgtype {
        "text" => (&["text"], Fields(&["content"])),
        "markdown" => (&["info", "markdown"], Fields(&["content"])),
        "meeting_notification" => (&["info", "meeting_notification"], Fields(&["content"])),
        "card" => (&["card"], Fields(&["corpname", "userid"])),
        "location" => (&["location"], Fields(&["title", "address"])),
        "file" => (&["file"], Fields(&["filename"])),
        "link" => (&["link"], Fields(&["title", "description"])),
        "weapp" => (&["weapp"], Fields(&["title", "description", "displayname"])),
        "chatrecord" => (&["chatrecord"], ChatRecord),
        "todo" => (&["todo"], Fields(&["title", "content"])),
        "vote" => (&["vote"], Vote),
        "collect" => (&["collect"], Collect),
        "redpacket" | "external_redpacket" => {
            (&["redpacket", "external_redpacket"], Fields(&["wish"]))
        }
        "meeting" => (&["meeting"], Fields(&["topic", "address", "remarks"])),
        "docmsg" => (&["doc", "docmsg"], Fields(&["title"])),
        "news" => (&["info", "news"], News),
        "calendar" => (&["calendar"], Calendar),
        "mixed" => (&["mixed"], Mixed),
        "meeting_voice_call" | "meetingvoicecall" => {
            (&["meeting_voice_call", "meetingvoicecall"], VoiceCall)
        }
        "voip_doc_share" | "voipdocshare" => {
            (&["voip_doc_share", "voipdocshare"], Fields(&["filename"]))
        }
        "sphfeed" => (&["sphfeed"], Fields(&["sph_name", "feed_desc"])),
        "qydiskfile" => (&["info", "qydiskfile"], Fields(&["filename"])),
        _ => return None,
    })
}

/// Whether a type is known to have no text.
pub(crate) fn has_no_text(msgtype: &str) -> bool {
    TYPES_WITHOUT_TEXT.contains(&msgtype)
}

/// Returns the body format of an item of a mixed message or of a chat record.
pub(crate) fn item_format(msgtype: &str) -> Option<BodyFormat> {
    describe(msgtype).map(|(_, body)| body)
}

impl BodyFormat {
    /// Adds the text of `body` and of at most `forwards` levels of records forwarded inside it.
    pub(crate) fn write(self, body: &JsonObject<'_>, forwards: usize, out: &mut ContentBuilder) {
        match self {
            Self::Fields(names) => out.fields(body, names),
            Self::ChatRecord => {
                out.fields(body, &["title"]);
                forwarded::records(body, forwards, out);
            }
            Self::Mixed => forwarded::mixed(body, forwards, out),
            Self::Vote => {
                out.fields(body, &["votetitle"]);
                out.list(body, "voteitem");
            }
            Self::Collect => {
                out.fields(body, &["room_name", "title"]);
                out.fields_of_each(body, "details", &["ques"]);
            }
            Self::News => {
                let before = out.text.len();
                out.fields_of_each(body, "item", &["title", "description"]);
                // The flat form without items is obsolete since 2025-05-08.
                if out.text.len() == before {
                    out.fields(body, &["title", "description"]);
                }
            }
            Self::Calendar => {
                out.fields(body, &["title", "creatorname"]);
                out.list(body, "attendeename");
                out.fields(body, &["place", "remarks"]);
            }
            Self::VoiceCall => out.fields_of_each(body, "demofiledata", &["filename"]),
        }
    }
}

/// Collects parts of text, joined with line feeds.
#[derive(Default)]
pub(crate) struct ContentBuilder {
    text: String,
}

impl ContentBuilder {
    /// Adds a part, unless it is empty.
    pub(crate) fn push(&mut self, part: &str) {
        if part.is_empty() {
            return;
        }
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(part);
    }

    /// Adds the texts of these fields.
    pub(crate) fn fields(&mut self, object: &JsonObject<'_>, names: &[&str]) {
        for name in names {
            if let Some(text) = object.get(name).and_then(JsonValue::text) {
                self.push(&text);
            }
        }
    }

    /// Whether nothing has been added since the text had this length.
    pub(crate) fn is_unchanged_since(&self, length: usize) -> bool {
        self.text.len() == length
    }

    /// Length of the text in bytes.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Adds the strings of [`TEXT_FIELDS`] of an object of an unknown form, and of at most `levels` levels of objects inside
    /// it.
    pub(crate) fn texts(&mut self, object: &JsonObject<'_>, levels: usize) {
        for (name, value) in object.fields() {
            let is_text = TEXT_FIELDS
                .iter()
                .any(|text| text.eq_ignore_ascii_case(name));
            self.texts_of(value, is_text, levels);
            value.each(|element| self.texts_of(element, is_text, levels));
        }
    }

    fn texts_of(&mut self, value: JsonValue<'_>, is_text: bool, levels: usize) {
        let inside = levels
            .checked_sub(1)
            .and_then(|levels| value.with_object(|object| self.texts(object, levels)));
        if inside.is_none()
            && is_text
            && let Some(text) = value.string()
        {
            self.push(&text);
        }
    }

    /// Adds the strings of an array. A single string counts as an array of one.
    fn list(&mut self, object: &JsonObject<'_>, name: &str) {
        let Some(node) = object.get(name) else { return };
        let mut add = |node: JsonValue<'_>| {
            if let Some(text) = node.text() {
                self.push(&text);
            }
        };
        add(node);
        node.each(add);
    }

    /// Adds the texts of these fields of each object in an array.
    fn fields_of_each(&mut self, object: &JsonObject<'_>, array: &str, names: &[&str]) {
        if let Some(array) = object.get(array) {
            array.each(|element| {
                element.with_object(|element| self.fields(element, names));
            });
        }
    }
}
