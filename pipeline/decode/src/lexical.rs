//! Scans of JSON text that look only at strings and brackets.
//!
//! Guarantees at most two passes over any text and no recursion. Does not check that the text is
//! JSON.

/// Maximum nesting of arrays and objects: the limit of `serde_json` and of most other readers of the
/// payload.
pub(crate) const MAX_DEPTH: usize = 127;

/// Returns whether arrays and objects are nested deeper than [`MAX_DEPTH`].
pub(crate) fn is_too_deep(json: &str) -> bool {
    // A cheap upper bound, which also counts brackets in strings, is enough for nearly all messages.
    let brackets = json.bytes().filter(|b| matches!(b, b'[' | b'{')).count();
    if brackets <= MAX_DEPTH {
        return false;
    }
    let mut strings = StringScanner::default();
    let mut depth = 0_usize;
    for byte in json.bytes() {
        if strings.step(byte) {
            continue;
        }
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Removes the control bytes that JSON forbids: those below 0x20, except whitespace between tokens.
/// Returns `None` if there are none.
///
/// WeCom delivers them inside strings (`connectors/wecom/WECOM.md` §3.3).
pub(crate) fn without_control_bytes(json: &str) -> Option<String> {
    let mut strings = StringScanner::default();
    let mut clean = String::new();
    let mut copied = 0;
    for (at, byte) in json.bytes().enumerate() {
        let inside = strings.step(byte);
        if byte < 0x20 && (inside || !matches!(byte, b'\t' | b'\n' | b'\r')) {
            clean.push_str(json.get(copied..at)?);
            copied = at + 1;
        }
    }
    if copied == 0 {
        return None;
    }
    clean.push_str(json.get(copied..)?);
    Some(clean)
}

/// Tracks, byte by byte, which part of the text is inside a string.
#[derive(Default)]
struct StringScanner {
    inside: bool,
    escaped: bool,
}

impl StringScanner {
    /// Processes the next byte. Returns whether it belongs to a string, quotes included.
    fn step(&mut self, byte: u8) -> bool {
        if !self.inside {
            self.inside = byte == b'"';
            return self.inside;
        }
        if self.escaped {
            // A control byte between a backslash and the escaped character is going to be removed.
            self.escaped = byte < 0x20;
        } else if byte == b'\\' {
            self.escaped = true;
        } else if byte == b'"' {
            self.inside = false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_are_removed_from_strings_and_whitespace_between_tokens_is_kept() {
        let clean = |json| without_control_bytes(json);
        assert_eq!(clean("{\n\t\"a\": 1\r\n}"), None);
        assert_eq!(
            clean("\0{\"a\":\u{1}1}\n\u{1f}"),
            Some("{\"a\":1}\n".into())
        );
        assert_eq!(
            clean("{\n\"张\u{1}三\n\t\":\"\u{1f}\"}"),
            Some("{\n\"张三\":\"\"}".into())
        );
        assert_eq!(clean("\"\\\"\n\" \n"), Some("\"\\\"\" \n".into()));
        assert_eq!(clean("\"\\\u{2}\"\n\" \n"), Some("\"\\\"\" \n".into()));
        assert_eq!(clean(""), None);
    }

    #[test]
    fn depth_counts_only_brackets_outside_strings() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_too_deep(&nested(MAX_DEPTH)));
        assert!(is_too_deep(&nested(MAX_DEPTH + 1)));
        assert!(is_too_deep(&"{\"a\":".repeat(MAX_DEPTH + 1)));
        assert!(!is_too_deep(&format!("[\"{}\"]", "[".repeat(10_000))));
        assert!(!is_too_deep(&"[]".repeat(10_000)));
        assert!(!is_too_deep(&"]".repeat(10_000)));
    }
}
