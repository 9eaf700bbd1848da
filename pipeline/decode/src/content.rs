//! What a person would search for in a message, by message type (`wecom-api` §4.2).
//!
//! Guarantees that an unknown type, a missing body or one that cannot be read gives an empty
//! content and no error. Media are not looked into; their ids and checksums are never content.

use crate::forwarded;
use crate::view::{Node, Object};

/// How deep forwarded records are followed into forwarded records.
const MAX_FORWARDS: usize = 16;

/// The searchable text of a message: its parts that are not empty, a line each.
pub(crate) fn of(msgtype: &str, message: &Object<'_>) -> String {
    let mut content = Content::default();
    if let Some((keys, body)) = describe(msgtype) {
        let read = message.first(keys).and_then(|node| {
            node.with_object(|object| body.write(object, MAX_FORWARDS, &mut content))
        });
        // Votes have been seen with their fields at the top level.
        if read.is_none() && matches!(body, Body::Vote) {
            body.write(message, MAX_FORWARDS, &mut content);
        }
    }
    content.text
}

/// How the searchable text lies in a body.
#[derive(Clone, Copy)]
pub(crate) enum Body {
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

/// The keys under which the body of a type may stand, the documented one first, and what it is
/// like. `None` for types without searchable text and for unknown ones.
fn describe(msgtype: &str) -> Option<(&'static [&'static str], Body)> {
    use Body::{Calendar, ChatRecord, Collect, Fields, Mixed, News, VoiceCall, Vote};
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

/// The body of a type when it stands alone, as in a mixed message.
pub(crate) fn body_of(msgtype: &str) -> Option<Body> {
    describe(msgtype).map(|(_, body)| body)
}

impl Body {
    /// Adds the text of `body`, following at most `forwards` records forwarded within it.
    pub(crate) fn write(self, body: &Object<'_>, forwards: usize, out: &mut Content) {
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
                // Without items: the flat form, obsolete since 2025-05-08.
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

/// Text under construction: parts joined with line feeds.
#[derive(Default)]
pub(crate) struct Content {
    text: String,
}

impl Content {
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
    pub(crate) fn fields(&mut self, object: &Object<'_>, names: &[&str]) {
        for name in names {
            if let Some(text) = object.get(name).and_then(Node::text) {
                self.push(&text);
            }
        }
    }

    /// Adds the strings in an array of strings; a lone string is an array of one.
    fn list(&mut self, object: &Object<'_>, name: &str) {
        let Some(node) = object.get(name) else { return };
        let mut add = |node: Node<'_>| {
            if let Some(text) = node.text() {
                self.push(&text);
            }
        };
        add(node);
        node.each(add);
    }

    /// Adds the texts of these fields of each object in an array.
    fn fields_of_each(&mut self, object: &Object<'_>, array: &str, names: &[&str]) {
        if let Some(array) = object.get(array) {
            array.each(|element| {
                element.with_object(|element| self.fields(element, names));
            });
        }
    }
}
