//! Turns the bytes of a file that a person edited into text, where their meaning is certain.
//!
//! UTF-8 with or without a byte order mark, UTF-16 with one (Notepad, spreadsheets), and GBK if every character that is not
//! ASCII is Chinese (text files of older Windows). Anything else is refused: a guess would change words without notice.

use encoding_rs::{GBK, UTF_16BE, UTF_16LE};

/// Returns the text without a byte order mark; `None` if its encoding is not certain.
pub fn decode(bytes: &[u8]) -> Option<String> {
    if let Some(bytes) = bytes.strip_prefix(b"\xef\xbb\xbf") {
        return String::from_utf8(bytes.to_vec()).ok();
    }
    for (mark, encoding) in [(b"\xff\xfe", UTF_16LE), (b"\xfe\xff", UTF_16BE)] {
        if let Some(bytes) = bytes.strip_prefix(mark) {
            let text = encoding.decode_without_bom_handling_and_without_replacement(bytes)?;
            return Some(text.into_owned());
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Some(text.to_owned());
    }
    let text = GBK.decode_without_bom_handling_and_without_replacement(bytes)?;
    text.chars()
        .all(|c| c.is_ascii() || is_chinese(c))
        .then(|| text.into_owned())
}

fn is_chinese(character: char) -> bool {
    matches!(character,
        '\u{4e00}'..='\u{9fff}' | '\u{3000}'..='\u{303f}' | '\u{ff01}'..='\u{ff5e}' | '\u{2014}'..='\u{2026}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(to_bytes).collect()
    }

    #[test]
    fn files_of_every_common_editor_are_read() {
        let text = "加我微信\r\n转我，私账\n";
        for bytes in [
            text.as_bytes().to_vec(),
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            utf16(text, u16::to_le_bytes),
            utf16(text, u16::to_be_bytes),
            GBK.encode(text).0.into_owned(),
        ] {
            assert_eq!(decode(&bytes).as_deref(), Some(text), "{bytes:?}");
        }
        assert_eq!(decode(b"").as_deref(), Some(""));
    }

    #[test]
    fn bytes_whose_meaning_is_not_certain_are_refused() {
        for bytes in [
            b"\xff\xff\xff\xff".as_slice(),
            b"ab\xe9",           // Latin-1
            b"\xff\xfea",        // half a character
            b"\xef\xbb\xbf\xff", // UTF-8 in name only
            b"\xa6\xc1\xa6\xc2", // Greek in GBK
        ] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }
}
