//! Redacts error texts of peers.
//!
//! Peers echo URLs, which contain `access_token` and `corpsecret`. Guarantees that both are removed,
//! also in percent-encoded form, and that the result is one short line.

use std::fmt::Write as _;

/// Maximum characters kept.
const MAX_CHARS: usize = 200;
/// Parameters whose values are removed.
const PARAMETERS: [&str; 3] = ["access_token=", "corpsecret=", "secret="];
const MASK: &str = "***";

/// Removes `secrets` and the values of secret parameters from `text`, joins it into one line and
/// truncates it.
pub(crate) fn redact(text: &str, secrets: &[&str]) -> String {
    let mut redacted = text.to_owned();
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        redacted = redacted.replace(secret, MASK);
        redacted = redacted.replace(&percent_encoded(secret), MASK);
    }
    for parameter in PARAMETERS {
        redacted = without_values(&redacted, parameter);
    }
    let mut line: String = redacted
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_CHARS)
        .collect();
    if line.len() < redacted.len() {
        line.push('…');
    }
    line
}

fn without_values(text: &str, parameter: &str) -> String {
    let mut parts = text.split(parameter);
    let mut redacted = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        redacted.push_str(parameter);
        redacted.push_str(MASK);
        let end = part
            .find(|c: char| !(c.is_ascii_alphanumeric() || "-_.~%+/=*".contains(c)))
            .unwrap_or(part.len());
        redacted.push_str(&part[end..]);
    }
    redacted
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redact_removes_plain_and_encoded_secrets_and_parameters() {
        let text = "ip not match, /cgi-bin/x?access_token=AbC-_9&debug=1 corpsecret=zzz, \
                    s3/cr=et and s3%2Fcr%3Det\nfrom ip: 10.0.0.1";
        let shown = redact(text, &["s3/cr=et", "AbC-_9"]);
        for secret in ["AbC", "zzz", "s3", "\n"] {
            assert!(!shown.contains(secret), "{secret:?} in {shown:?}");
        }
        assert!(shown.contains("from ip: 10.0.0.1") && shown.contains("&debug=1"));
    }

    #[test]
    fn redact_truncates_long_text_at_a_character() {
        let shown = redact(&"错误".repeat(1000), &[]);
        assert_eq!(shown.chars().count(), MAX_CHARS + 1);
    }
}
