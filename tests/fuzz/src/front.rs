//! Fuzz targets for the HTTP server of embedded ClickHouse: head and body of a request, without the
//! engine.

use chatledger_embedded_clickhouse::{Credentials, examine, rewrite};
use hyper::Request;
use hyper::header::{HeaderName, HeaderValue};

/// Checks a request: the first line is the path with parameters, then headers up to a blank line, then
/// the body.
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
    // An invalid path does not reach the server.
    let Ok(request) = request.body(()) else {
        return;
    };
    let (head, ()) = request.into_parts();
    let without_login = examine(&head, rest.to_vec(), None);
    if let Ok(examined) = &without_login {
        assert!(!examined.statement.is_empty());
    }
    let credentials = Credentials {
        user: "reader".to_owned(),
        password: "a long secret password".to_owned().into(),
    };
    let guarded = examine(&head, rest.to_vec(), Some(&credentials));
    assert!(
        guarded.is_err(),
        "accepted without the password: {guarded:?}"
    );
}

/// Rewrites blocks in the Native format: two bytes with the client's revision, then the blocks.
pub fn native(bytes: &[u8]) {
    let Some((revision, blocks)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let revision = u64::from(u16::from_le_bytes(*revision));
    if let Some(out) = rewrite(blocks, revision) {
        assert!(
            out.len() >= blocks.len(),
            "the output is shorter than the input"
        );
    }
}
