//! JSON values borrowed from the text they stand in, read leniently.
//!
//! Only what is asked for is parsed: an [`Object`] holds its fields as raw text, and each [`Node`]
//! is read when its turn comes, as what is wanted there. No recursion: opening a value never opens
//! what lies in it. Values of another type than wanted are absent, not errors.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::lexical;

/// Why a text is no object.
#[derive(Debug)]
pub(crate) enum Unreadable {
    /// It is not JSON. The error tells a position in the text as given, and nothing of its content.
    Syntax(serde_json::Error),
    /// It is JSON of another type.
    NotAnObject(Kind),
}

/// Parses `json` as an object and hands it to `read`; if it is not JSON, tries once more without
/// stray control bytes.
pub(crate) fn open<R>(json: &str, read: impl FnOnce(&Object<'_>) -> R) -> Result<R, Unreadable> {
    match Object::parse(json) {
        Ok(object) => Ok(read(&object)),
        Err(Unreadable::Syntax(error)) => match lexical::without_control_bytes(json) {
            None => Err(Unreadable::Syntax(error)),
            Some(clean) => match Object::parse(&clean) {
                Ok(object) => Ok(read(&object)),
                Err(Unreadable::Syntax(_)) => Err(Unreadable::Syntax(error)),
                Err(other) => Err(other),
            },
        },
        Err(other) => Err(other),
    }
}

/// The fields of an object, in the order they are written.
pub(crate) struct Object<'a> {
    fields: Vec<(Cow<'a, [u8]>, &'a RawValue)>,
}

impl<'a> Object<'a> {
    fn parse(json: &'a str) -> Result<Self, Unreadable> {
        serde_json::from_str(json).map_err(|error| {
            // The visitor below refuses nothing but the type of the whole, at its first byte.
            if error.is_data() {
                match serde_json::from_str::<IgnoredAny>(json) {
                    Ok(_) => Unreadable::NotAnObject(Kind::of(json.trim_start())),
                    Err(error) => Unreadable::Syntax(error),
                }
            } else {
                Unreadable::Syntax(error)
            }
        })
    }

    /// The field of this name; failing that, one whose name differs in case only (`card.Userid`).
    /// Of several the last counts, as for most readers. A `null` is no field.
    pub(crate) fn get(&self, name: &str) -> Option<Node<'a>> {
        let name = name.as_bytes();
        let find = |same: fn(&[u8], &[u8]) -> bool| {
            let mut fields = self.fields.iter().rev();
            fields.find(|(key, value)| same(key, name) && value.get() != "null")
        };
        find(|a, b| a == b)
            .or_else(|| find(<[u8]>::eq_ignore_ascii_case))
            .map(|(_, value)| Node(value))
    }

    /// The first of these fields that is there.
    pub(crate) fn first(&self, names: &[&str]) -> Option<Node<'a>> {
        names.iter().find_map(|name| self.get(name))
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::with_capacity(10);
                while let Some((Bytes(key), value)) = map.next_entry()? {
                    fields.push((key, value));
                }
                Ok(Object { fields })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// One value.
#[derive(Clone, Copy)]
pub(crate) struct Node<'a>(&'a RawValue);

impl<'a> Node<'a> {
    pub(crate) fn kind(self) -> Kind {
        Kind::of(self.0.get())
    }

    /// A string, or a number as it is written.
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        match self.kind() {
            Kind::Number => Some(Cow::Borrowed(self.0.get())),
            _ => self.string(),
        }
    }

    /// A string. Halves of surrogate pairs, which a text cut in the middle of an emoji has, become
    /// U+FFFD.
    pub(crate) fn string(self) -> Option<Cow<'a, str>> {
        let inner = self.0.get().strip_prefix('"')?.strip_suffix('"')?;
        if !inner.contains('\\') {
            return Some(Cow::Borrowed(inner));
        }
        let Bytes(bytes) = serde_json::from_str(self.0.get()).ok()?;
        Some(Cow::Owned(
            String::from_utf8(bytes.into_owned())
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        ))
    }

    /// Hands over the object that this is, or that is written in this string; `None` if it is
    /// neither.
    pub(crate) fn with_object<R>(self, read: impl FnOnce(&Object<'_>) -> R) -> Option<R> {
        match self.kind() {
            Kind::Object => open(self.0.get(), read).ok(),
            Kind::String => open(&self.string()?, read).ok(),
            _ => None,
        }
    }

    /// Hands over the elements of an array; anything else has none.
    pub(crate) fn each(self, visit: impl FnMut(Node<'a>)) {
        struct Elements<F>(F);
        impl<'de, F: FnMut(Node<'de>)> Visitor<'de> for Elements<F> {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
                while let Some(element) = seq.next_element()? {
                    (self.0)(Node(element));
                }
                Ok(())
            }
        }
        if self.kind() == Kind::Array {
            let mut array = serde_json::Deserializer::from_str(self.0.get());
            // The text was found to be a value when it was skipped, so this cannot fail.
            let _ = array.deserialize_seq(Elements(visit));
        }
    }
}

/// The unescaped bytes of a string. `serde_json` checks surrogate pairs for text only.
struct Bytes<'a>(Cow<'a, [u8]>);

impl<'de> Deserialize<'de> for Bytes<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Bytes<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Bytes<'de>, E> {
                Ok(Bytes(Cow::Borrowed(bytes)))
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes<'de>, E> {
                Ok(Bytes(Cow::Owned(bytes.to_vec())))
            }
        }
        deserializer.deserialize_bytes(Borrowing)
    }
}

/// The types of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl Kind {
    /// The type of a value by its first byte.
    fn of(json: &str) -> Self {
        match json.as_bytes().first() {
            Some(b'{') => Self::Object,
            Some(b'[') => Self::Array,
            Some(b'"') => Self::String,
            Some(b't' | b'f') => Self::Bool,
            Some(b'n') | None => Self::Null,
            Some(_) => Self::Number,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "null",
            Self::Bool => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object => "an object",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a field named `a` reads as.
    fn text(json: &str) -> Option<String> {
        open(json, |object| Some(object.get("a")?.text()?.into_owned())).unwrap()
    }

    #[test]
    fn text_reads_strings_and_numbers_and_nothing_else() {
        for (json, expected) in [
            (r#"{"a":"张三"}"#, Some("张三")),
            (r#"{"a":"\u5f20\t\"\/"}"#, Some("张\t\"/")),
            (
                r#"{"a":"cut \ud83d"}"#,
                Some("cut \u{fffd}\u{fffd}\u{fffd}"),
            ),
            (r#"{"a":"\ud83d\ude00"}"#, Some("😀")),
            (r#"{"\u0061":"escaped key"}"#, Some("escaped key")),
            (r#"{"A":"other case"}"#, Some("other case")),
            (r#"{"a":"exact","A":"other case"}"#, Some("exact")),
            (r#"{"a":1,"a":2}"#, Some("2")),
            (r#"{"a":-1.50e3}"#, Some("-1.50e3")),
            (r#"{"a": "" }"#, Some("")),
            (r#"{"a":null}"#, None),
            (r#"{"a":true}"#, None),
            (r#"{"a":["x"]}"#, None),
            (r#"{"a":{"b":"x"}}"#, None),
            ("{}", None),
        ] {
            assert_eq!(text(json).as_deref(), expected, "{json}");
        }
    }

    #[test]
    fn open_tells_what_is_not_json_from_what_is_no_object() {
        let problem = |json| match open(json, |_| ()) {
            Ok(()) => "fine".to_owned(),
            Err(Unreadable::Syntax(_)) => "syntax".to_owned(),
            Err(Unreadable::NotAnObject(kind)) => kind.to_string(),
        };
        for (json, expected) in [
            (" {} ", "fine"),
            ("{\"\u{1}\":\"\u{2}\"}", "fine"),
            ("", "syntax"),
            ("{", "syntax"),
            ("{}{}", "syntax"),
            ("[1,", "syntax"),
            ("\"\u{1}", "syntax"),
            (" [1]", "an array"),
            ("\"\u{1}\"", "a string"),
            ("-0", "a number"),
            ("null", "null"),
            ("true", "a boolean"),
        ] {
            assert_eq!(problem(json), expected, "{json:?}");
        }
    }

    #[test]
    fn syntax_errors_tell_the_position_in_the_text_as_given() {
        let Err(Unreadable::Syntax(error)) = open("{\"a\":\"\u{2}\",\"b\":1", |_| ()) else {
            unreachable!()
        };
        assert_eq!((error.line(), error.column()), (1, 6));
    }
}
