//! The searchable text of a message, by message type (`connectors/wecom/WECOM.md` §4.2).
//!
//! Guarantees that an unknown type, a missing body or an unreadable body gives empty content and no
//! error. Media files are not read. Their ids and checksums are never part of the content.

use crate::forwarded;
use crate::view::{JsonObject, JsonValue};

/// Maximum nesting of forwarded records that is followed.
const MAX_FORWARDS: usize = 16;

/// Extracts the searchable text of a message: its non-empty parts, one on each line.
pub(crate) fn extract(msgtype: &str, message: &JsonObject<'_>) -> String {
    let mut content = ContentBuilder::default();
    if let Some((keys, body)) = describe(msgtype) {
        let read = message.first(keys).and_then(|node| {
            node.with_object(|object| body.write(object, MAX_FORWARDS, &mut content))
        });
        // Some sources show votes with their fields at the top level.
        if read.is_none() && matches!(body, BodyFormat::Vote) {
            body.write(message, MAX_FORWARDS, &mut content);
        }
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
/// the body. Returns `None` for unknown types and for types without searchable text.
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

/// Returns the body format of an item of a mixed message.
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
