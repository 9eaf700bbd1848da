//! JSON values borrowed from their text and read leniently.
//!
//! Parsing is lazy: a [`JsonObject`] holds its fields as raw text, and a [`JsonValue`] is parsed only
//! when it is read, as the type that the reader expects. There is no recursion: parsing a value does
//! not parse the values inside it. A value of an unexpected type counts as absent, not as an error.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::lexical;

/// Reports why a text is not a JSON object.
#[derive(Debug)]
pub(crate) enum ObjectError {
    /// The text is not JSON. The error holds a position in the original text and none of its content.
    Syntax(serde_json::Error),
    /// The text is JSON of another type.
    NotAnObject(JsonType),
}

/// Parses `json` as an object and passes it to `read`. If `json` is not valid JSON, tries once more
/// without stray control bytes.
pub(crate) fn parse_object<R>(
    json: &str,
    read: impl FnOnce(&JsonObject<'_>) -> R,
) -> Result<R, ObjectError> {
    match JsonObject::parse(json) {
        Ok(object) => Ok(read(&object)),
        Err(ObjectError::Syntax(error)) => match lexical::without_control_bytes(json) {
            None => Err(ObjectError::Syntax(error)),
            Some(clean) => match JsonObject::parse(&clean) {
                Ok(object) => Ok(read(&object)),
                Err(ObjectError::Syntax(_)) => Err(ObjectError::Syntax(error)),
                Err(other) => Err(other),
            },
        },
        Err(other) => Err(other),
    }
}

/// The fields of an object, in the order of the text.
pub(crate) struct JsonObject<'a> {
    fields: Vec<(Cow<'a, [u8]>, &'a RawValue)>,
}

impl<'a> JsonObject<'a> {
    fn parse(json: &'a str) -> Result<Self, ObjectError> {
        serde_json::from_str(json).map_err(|error| {
            // The visitor below raises a data error only if the value is not an object.
            if error.is_data() {
                match serde_json::from_str::<IgnoredAny>(json) {
                    Ok(_) => ObjectError::NotAnObject(JsonType::of(json.trim_start())),
                    Err(error) => ObjectError::Syntax(error),
                }
            } else {
                ObjectError::Syntax(error)
            }
        })
    }

    /// Returns the field with this name, else one whose name differs in case only (`card.Userid`). If
    /// there are several, returns the last, as most JSON readers do. A `null` counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<JsonValue<'a>> {
        let name = name.as_bytes();
        let find = |same: fn(&[u8], &[u8]) -> bool| {
            let mut fields = self.fields.iter().rev();
            fields.find(|(key, value)| same(key, name) && value.get() != "null")
        };
        find(|a, b| a == b)
            .or_else(|| find(<[u8]>::eq_ignore_ascii_case))
            .map(|(_, value)| JsonValue(value))
    }

    /// Returns every field with its name, in the order of the text. Names that are not UTF-8 are left out.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, JsonValue<'a>)> {
        self.fields.iter().filter_map(|(key, value)| {
            let name = std::str::from_utf8(key).ok()?;
            Some((name, JsonValue(value)))
        })
    }

    /// Returns the first of these fields that is present.
    pub(crate) fn first(&self, names: &[&str]) -> Option<JsonValue<'a>> {
        names.iter().find_map(|name| self.get(name))
    }
}

impl<'de> Deserialize<'de> for JsonObject<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = JsonObject<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonObject<'de>, A::Error> {
                let mut fields = Vec::with_capacity(10);
                while let Some((StringBytes(key), value)) = map.next_entry()? {
                    fields.push((key, value));
                }
                Ok(JsonObject { fields })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// One JSON value, not yet parsed.
#[derive(Clone, Copy)]
pub(crate) struct JsonValue<'a>(&'a RawValue);

impl<'a> JsonValue<'a> {
    pub(crate) fn json_type(self) -> JsonType {
        JsonType::of(self.0.get())
    }

    /// Returns a string, or a number as written.
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        match self.json_type() {
            JsonType::Number => Some(Cow::Borrowed(self.0.get())),
            _ => self.string(),
        }
    }

    /// Returns a string. Unpaired surrogates, which occur in text truncated inside an emoji, become
    /// U+FFFD.
    pub(crate) fn string(self) -> Option<Cow<'a, str>> {
        let inner = self.0.get().strip_prefix('"')?.strip_suffix('"')?;
        if !inner.contains('\\') {
            return Some(Cow::Borrowed(inner));
        }
        let StringBytes(bytes) = serde_json::from_str(self.0.get()).ok()?;
        Some(Cow::Owned(
            String::from_utf8(bytes.into_owned())
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        ))
    }

    /// Passes this object, or the object serialised in this string, to `read`. Returns `None` if the
    /// value is neither.
    pub(crate) fn with_object<R>(self, read: impl FnOnce(&JsonObject<'_>) -> R) -> Option<R> {
        match self.json_type() {
            JsonType::Object => parse_object(self.0.get(), read).ok(),
            JsonType::String => parse_object(&self.string()?, read).ok(),
            _ => None,
        }
    }

    /// Passes each element of an array to `visit`. Any other type has no elements.
    pub(crate) fn each(self, visit: impl FnMut(JsonValue<'a>)) {
        struct Elements<F>(F);
        impl<'de, F: FnMut(JsonValue<'de>)> Visitor<'de> for Elements<F> {
            type Value = ();
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }
            fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
                while let Some(element) = seq.next_element()? {
                    (self.0)(JsonValue(element));
                }
                Ok(())
            }
        }
        if self.json_type() == JsonType::Array {
            let mut array = serde_json::Deserializer::from_str(self.0.get());
            // Cannot fail: the text was validated when the enclosing value was parsed.
            let _ = array.deserialize_seq(Elements(visit));
        }
    }
}

/// The unescaped bytes of a string. `serde_json` rejects unpaired surrogates for `str` but not for
/// bytes.
struct StringBytes<'a>(Cow<'a, [u8]>);

impl<'de> Deserialize<'de> for StringBytes<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringVisitor;
        impl<'de> Visitor<'de> for StringVisitor {
            type Value = StringBytes<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<StringBytes<'de>, E> {
                Ok(StringBytes(Cow::Borrowed(bytes)))
            }
            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<StringBytes<'de>, E> {
                Ok(StringBytes(Cow::Owned(bytes.to_vec())))
            }
        }
        deserializer.deserialize_bytes(StringVisitor)
    }
}

/// A JSON type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JsonType {
    Null,
    Bool,
    Number,
    String,
    Array,
    Object,
}

impl JsonType {
    /// Returns the type of a value from its first byte.
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

impl fmt::Display for JsonType {
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

    /// Reads the field `a` as text.
    fn text(json: &str) -> Option<String> {
        parse_object(json, |object| Some(object.get("a")?.text()?.into_owned())).unwrap()
    }

    #[test]
    fn text_reads_only_strings_and_numbers() {
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
    fn parse_object_distinguishes_invalid_json_from_other_types() {
        let problem = |json| match parse_object(json, |_| ()) {
            Ok(()) => "fine".to_owned(),
            Err(ObjectError::Syntax(_)) => "syntax".to_owned(),
            Err(ObjectError::NotAnObject(json_type)) => json_type.to_string(),
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
    fn syntax_errors_give_the_position_in_the_original_text() {
        let Err(ObjectError::Syntax(error)) = parse_object("{\"a\":\"\u{2}\",\"b\":1", |_| ())
        else {
            unreachable!()
        };
        assert_eq!((error.line(), error.column()), (1, 6));
    }
}
