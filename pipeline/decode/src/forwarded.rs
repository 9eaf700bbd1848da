//! The items of a forwarded chat record and of a mixed message.
//!
//! The `content` of an item is JSON in a string. Gateways are known to unwrap it into an object; both
//! are read. Guarantees that nested forwarded records are followed to a bounded depth only. The
//! sender of an item is not available: WeCom does not deliver it (`connectors/wecom/WECOM.md` §4.2).

use std::borrow::Cow;

use crate::content::{self, ContentBuilder};
use crate::view::{JsonObject, JsonValue};

/// Adds the texts of the items of a chat record.
pub(crate) fn records(record: &JsonObject<'_>, forwards: usize, out: &mut ContentBuilder) {
    each_item(record, |name, body| {
        let name = without_prefix(name);
        let kind = ForwardedItemType::of(name);
        let read = body.with_object(|body| match kind {
            ForwardedItemType::Text => out.fields(body, &["content"]),
            ForwardedItemType::Link => out.fields(body, &["title", "description"]),
            ForwardedItemType::File => out.fields(body, &["filename"]),
            ForwardedItemType::Location => out.fields(body, &["title", "address"]),
            ForwardedItemType::Mixed => nested_records(body, forwards, out),
            ForwardedItemType::Other => {
                let before = out.len();
                if let Some(format) = content::item_format(&name.to_ascii_lowercase())
                    && forwards > 0
                {
                    format.write(body, forwards - 1, out);
                }
                if out.is_unchanged_since(before) {
                    out.texts(body, forwards);
                }
            }
        });
        // Some clients write the plain text instead of JSON.
        if read.is_none()
            && kind == ForwardedItemType::Text
            && let Some(text) = body.text()
        {
            out.push(&text);
        }
    });
}

fn nested_records(record: &JsonObject<'_>, forwards: usize, out: &mut ContentBuilder) {
    if let Some(forwards) = forwards.checked_sub(1) {
        records(record, forwards, out);
    }
}

/// Adds the texts of the items of a mixed message, each read as a message of its type.
pub(crate) fn mixed(mixed: &JsonObject<'_>, forwards: usize, out: &mut ContentBuilder) {
    let Some(forwards) = forwards.checked_sub(1) else {
        return;
    };
    each_item(mixed, |kind, body| {
        let read = body.with_object(|body| match content::item_format(kind) {
            Some(format) => format.write(body, forwards, out),
            None if content::has_no_text(kind) => {}
            None => out.texts(body, forwards),
        });
        if read.is_none()
            && kind == "text"
            && let Some(text) = body.text()
        {
            out.push(&text);
        }
    });
}

/// Passes type and content of each item that has a content to `read`.
fn each_item(object: &JsonObject<'_>, mut read: impl FnMut(&str, JsonValue<'_>)) {
    let Some(items) = object.get("item") else {
        return;
    };
    items.each(|item| {
        item.with_object(|item| {
            let kind = item.get("type").and_then(JsonValue::text);
            if let Some(content) = item.get("content") {
                read(&kind.unwrap_or(Cow::Borrowed("")), content);
            }
        });
    });
}

/// The type of an item of a chat record. `ChatRecordText` and `text` are the same type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ForwardedItemType {
    Text,
    Link,
    File,
    Location,
    Mixed,
    /// Images, nested forwarded records, and unknown types.
    Other,
}

/// The type without the prefix that the items of a chat record have. `ChatRecord` alone is a type.
fn without_prefix(kind: &str) -> &str {
    const PREFIX: &str = "ChatRecord";
    match kind.get(..PREFIX.len()) {
        Some(prefix) if prefix.eq_ignore_ascii_case(PREFIX) && kind.len() > PREFIX.len() => {
            &kind[PREFIX.len()..]
        }
        _ => kind,
    }
}

impl ForwardedItemType {
    fn of(name: &str) -> Self {
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
