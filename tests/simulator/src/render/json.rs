//! Writes JSON with its keys in a given order, in the styles of different gateways.
//!
//! Guarantee: valid JSON, except that a placeholder for a stray control byte is written as that raw
//! byte, as real archives do.

use std::fmt::{Display, Write};

/// U+E000 + b is the placeholder for the control byte b.
pub(crate) const STRAY: char = '\u{e000}';

fn stray(c: char) -> Option<char> {
    let byte = u32::from(c).checked_sub(u32::from(STRAY))?;
    (byte < 0x20).then(|| char::from(byte as u8))
}

/// Returns the text without placeholders for stray control bytes.
pub(crate) fn without_strays(text: &str) -> String {
    text.chars().filter(|&c| stray(c).is_none()).collect()
}

/// The style of written values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Whether numbers are written as strings.
    pub numbers_as_text: bool,
    /// Whether non-ASCII characters are written as `\u` escapes and `/` as `\/`.
    pub ascii_only: bool,
}

/// A JSON object being written.
#[derive(Clone, Debug)]
pub struct JsonObject {
    text: String,
    style: Style,
}

impl JsonObject {
    /// Creates an empty object.
    pub fn new(style: Style) -> Self {
        Self {
            text: String::from("{"),
            style,
        }
    }

    fn key(&mut self, key: &str) -> &mut Self {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        self.text.push('"');
        self.text.push_str(key);
        self.text.push_str("\":");
        self
    }

    /// Adds a string.
    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        escape(&mut self.text, value, self.style);
        self
    }

    /// Adds a number.
    pub fn number(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.key(key);
        let quote = if self.style.numbers_as_text { "\"" } else { "" };
        let written = write!(self.text, "{quote}{value}{quote}");
        debug_assert!(written.is_ok(), "writing to a String never fails");
        self
    }

    /// Adds `true` or `false`.
    pub fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.json(key, if value { "true" } else { "false" })
    }

    /// Adds a value that is already JSON.
    pub fn json(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        self.text.push_str(value);
        self
    }

    /// Adds a list of strings.
    pub fn texts<'a>(&mut self, key: &str, values: impl IntoIterator<Item = &'a str>) -> &mut Self {
        self.key(key);
        self.text.push('[');
        for (n, value) in values.into_iter().enumerate() {
            if n > 0 {
                self.text.push(',');
            }
            escape(&mut self.text, value, self.style);
        }
        self.text.push(']');
        self
    }

    /// Adds a list of objects.
    pub fn list(&mut self, key: &str, values: impl IntoIterator<Item = String>) -> &mut Self {
        let items: Vec<String> = values.into_iter().collect();
        self.json(key, &format!("[{}]", items.join(",")))
    }

    /// Adds the members of another object.
    pub fn members_of(&mut self, other: &Self) -> &mut Self {
        if other.text.len() > 1 {
            self.text.push(',');
            self.text.push_str(&other.text[1..]);
        }
        self
    }

    /// Returns the JSON text.
    pub fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

fn escape(out: &mut String, value: &str, style: Style) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '/' if style.ascii_only => out.push_str("\\/"),
            c if c < ' ' => escape_units(out, c),
            c if c.is_ascii() => out.push(c),
            c => match stray(c) {
                Some(byte) => out.push(byte),
                None if style.ascii_only => escape_units(out, c),
                None => out.push(c),
            },
        }
    }
    out.push('"');
}

fn escape_units(out: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let written = write!(out, "\\u{unit:04x}");
        debug_assert!(written.is_ok(), "writing to a String never fails");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn objects_are_parsed_back_to_the_values_written() {
        for (numbers_as_text, ascii_only) in [(false, false), (true, true)] {
            let mut object = JsonObject::new(Style {
                numbers_as_text,
                ascii_only,
            });
            object
                .text("a", "引\"\\/\n\u{1}😊")
                .number("n", 7)
                .texts("l", ["x", "好"])
                .flag("f", true);
            let mut more = JsonObject::new(Style::default());
            more.text("b", "");
            object.members_of(&more);
            let value: serde_json::Value = serde_json::from_str(&object.finish()).unwrap();
            assert_eq!(value["a"], "引\"\\/\n\u{1}😊");
            assert_eq!(value["n"].is_string(), numbers_as_text);
            assert_eq!(value["l"][1], "好");
            assert_eq!(value["b"], "");
        }
    }

    #[test]
    fn stray_bytes_are_written_raw_and_removed_from_the_content() {
        let mut object = JsonObject::new(Style::default());
        let text = format!("a{}b", '\u{e00b}');
        object.text("t", &text);
        assert_eq!(object.finish(), "{\"t\":\"a\u{b}b\"}");
        assert_eq!(without_strays(&text), "ab");
    }
}
