//! The HTTP front of embedded ClickHouse: a request's head and body, up to the engine's door.

use chatledger_embedded_clickhouse::{Credentials, examine, rewrite};
use hyper::Request;
use hyper::header::{HeaderName, HeaderValue};

/// A request: its path with parameters in the first line, headers up to a blank line, then the
/// body.
pub fn front(bytes: &[u8]) {
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let path = lines.next().unwrap_or_default();
    let mut rest = lines.next().unwrap_or_default();
    let mut request = Request::builder().method("POST").uri(path);
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            break;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            request = request.header(name, value);
        }
    }
    // A path that is no address does not reach the front.
    let Ok(request) = request.body(()) else {
        return;
    };
    let (head, ()) = request.into_parts();
    let open = examine(&head, rest.to_vec(), None);
    if let Ok(examined) = &open {
        assert!(!examined.statement.is_empty());
    }
    let guarded = Credentials {
        user: "reader".to_owned(),
        password: "a password nobody guesses".to_owned().into(),
    };
    let shut = examine(&head, rest.to_vec(), Some(&guarded));
    assert!(shut.is_err(), "let in without the password: {shut:?}");
}

/// Blocks of the Native format: two bytes of the client's revision, then the blocks.
pub fn native(bytes: &[u8]) {
    let Some((revision, blocks)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let revision = u64::from(u16::from_le_bytes(*revision));
    if let Some(out) = rewrite(blocks, revision) {
        assert!(out.len() >= blocks.len(), "something was left out");
    }
}
