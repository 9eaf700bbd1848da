//! Makes what a peer says about a failure fit to be shown.
//!
//! Peers echo addresses, and addresses carry `access_token` and `corpsecret`. Guarantees that
//! neither survives, also percent-encoded, and that the text is one short line.

use std::fmt::Write as _;

/// Characters of a peer's text that are kept.
const MAX_CHARS: usize = 200;
/// Parameters whose values are never shown.
const PARAMETERS: [&str; 3] = ["access_token=", "corpsecret=", "secret="];
const STARS: &str = "***";

/// `text` without `secrets`, without the values of secret parameters, on one line, cut short.
pub(crate) fn clean(text: &str, secrets: &[&str]) -> String {
    let mut clean = text.to_owned();
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        clean = clean.replace(secret, STARS);
        clean = clean.replace(&percent_encoded(secret), STARS);
    }
    for parameter in PARAMETERS {
        clean = without_values(&clean, parameter);
    }
    let mut line: String = clean
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_CHARS)
        .collect();
    if line.len() < clean.len() {
        line.push('…');
    }
    line
}

fn without_values(text: &str, parameter: &str) -> String {
    let mut parts = text.split(parameter);
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        clean.push_str(parameter);
        clean.push_str(STARS);
        let end = part
            .find(|c: char| !(c.is_ascii_alphanumeric() || "-_.~%+/=*".contains(c)))
            .unwrap_or(part.len());
        clean.push_str(&part[end..]);
    }
    clean
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
    fn clean_removes_secrets_plain_encoded_and_as_parameters() {
        let said = "ip not match, /cgi-bin/x?access_token=AbC-_9&debug=1 corpsecret=zzz, \
                    s3/cr=et and s3%2Fcr%3Det\nfrom ip: 10.0.0.1";
        let shown = clean(said, &["s3/cr=et", "AbC-_9"]);
        for hidden in ["AbC", "zzz", "s3", "\n"] {
            assert!(!shown.contains(hidden), "{hidden:?} in {shown:?}");
        }
        assert!(shown.contains("from ip: 10.0.0.1") && shown.contains("&debug=1"));
    }

    #[test]
    fn clean_cuts_long_texts_at_a_character() {
        let shown = clean(&"错误".repeat(1000), &[]);
        assert_eq!(shown.chars().count(), MAX_CHARS + 1);
    }
}
