//! Messages within messages: the items of a forwarded chat record and of a mixed message.
//!
//! An item's `content` is JSON written in a string; gateways are known to unwrap it into an object,
//! and both are read. Guarantees that records forwarded within records are followed to a bounded
//! depth only. Who said an item is not here: WeCom does not tell (`wecom-api` §4.2).

use std::borrow::Cow;

use crate::content::{self, Content};
use crate::view::{Node, Object};

/// Adds the texts of a chat record's items.
pub(crate) fn records(record: &Object<'_>, forwards: usize, out: &mut Content) {
    each_item(record, |kind, body| {
        let kind = RecordKind::of(kind);
        let read = body.with_object(|body| match kind {
            RecordKind::Text => out.fields(body, &["content"]),
            RecordKind::Link => out.fields(body, &["title", "description"]),
            RecordKind::File => out.fields(body, &["filename"]),
            RecordKind::Location => out.fields(body, &["title", "address"]),
            RecordKind::Mixed => deeper(body, forwards, out),
            RecordKind::Other => {
                for name in ["content", "title", "description", "filename"] {
                    if let Some(text) = body.get(name).and_then(Node::string) {
                        out.push(&text);
                    }
                }
                deeper(body, forwards, out);
            }
        });
        // Some clients put the bare text there instead of JSON.
        if read.is_none()
            && kind == RecordKind::Text
            && let Some(text) = body.text()
        {
            out.push(&text);
        }
    });
}

fn deeper(record: &Object<'_>, forwards: usize, out: &mut Content) {
    if let Some(forwards) = forwards.checked_sub(1) {
        records(record, forwards, out);
    }
}

/// Adds the texts of a mixed message's items, each read as a message of its type.
pub(crate) fn mixed(mixed: &Object<'_>, forwards: usize, out: &mut Content) {
    let Some(forwards) = forwards.checked_sub(1) else {
        return;
    };
    each_item(mixed, |kind, body| {
        let Some(shape) = content::body_of(kind) else {
            return;
        };
        let read = body.with_object(|body| shape.write(body, forwards, out));
        if read.is_none()
            && kind == "text"
            && let Some(text) = body.text()
        {
            out.push(&text);
        }
    });
}

/// Hands over type and content of each item that has a content.
fn each_item(object: &Object<'_>, mut read: impl FnMut(&str, Node<'_>)) {
    let Some(items) = object.get("item") else {
        return;
    };
    items.each(|item| {
        item.with_object(|item| {
            let kind = item.get("type").and_then(Node::text);
            if let Some(content) = item.get("content") {
                read(&kind.unwrap_or(Cow::Borrowed("")), content);
            }
        });
    });
}

/// What an item of a chat record is; `ChatRecordText` and `text` are the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RecordKind {
    Text,
    Link,
    File,
    Location,
    Mixed,
    /// Pictures, records forwarded within the record, and whatever comes.
    Other,
}

impl RecordKind {
    fn of(kind: &str) -> Self {
        const PREFIX: &str = "ChatRecord";
        let name = match kind.get(..PREFIX.len()) {
            Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) => &kind[PREFIX.len()..],
            _ => kind,
        };
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if is("text") {
            Self::Text
        } else if is("link") {
            Self::Link
        } else if is("file") {
            Self::File
        } else if is("location") {
            Self::Location
        } else if is("mixed") {
            Self::Mixed
        } else {
            Self::Other
        }
    }
}
