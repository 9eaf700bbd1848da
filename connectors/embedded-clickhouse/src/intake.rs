//! Reads a request's text up to where the data of an `INSERT` begins.
//!
//! Guarantees: the text of the URL and the body form one statement, joined by a line break (as in
//! `HTTPHandler.cpp`); at most [`MAX_TEXT`] is read to classify it.
//!
//! Not here: what the statement means ([`crate::statement`]).

use std::io::Read;

use crate::exception::Exception;
use crate::statement::{self, Statement};

/// Bytes of the first read; doubled while the statement continues.
const STEP: usize = 256 << 10;

/// Limit of a statement's text, without the data of an `INSERT`.
pub(crate) const MAX_TEXT: usize = 16 << 20;

/// Reads the URL's text and as much of the body as is needed to classify the statement.
pub(crate) fn read_statement(
    query: &str,
    body: &mut dyn Read,
) -> Result<(Vec<u8>, Statement), Exception> {
    let mut text = query.as_bytes().to_vec();
    if !text.is_empty() {
        text.push(b'\n');
    }
    let mut step = STEP;
    loop {
        let before = text.len();
        text.resize(before + step, 0);
        let filled = fill(body, &mut text[before..])?;
        text.truncate(before + filled);
        let complete = filled < step;
        if text.len() > MAX_TEXT {
            return Err(Exception::new(
                229,
                "QUERY_IS_TOO_LARGE",
                format!("The statement's text has more than {MAX_TEXT} bytes"),
            ));
        }
        if let Some(statement) = statement::parse(&text, complete)? {
            return Ok((text, statement));
        }
        step = text.len();
    }
}

/// Fills `buffer`; only at the end of the body fewer bytes are read.
pub(crate) fn fill(body: &mut dyn Read, buffer: &mut [u8]) -> Result<usize, Exception> {
    let mut filled = 0;
    while filled < buffer.len() {
        match body.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(Exception::broken_body(format!(
                    "Cannot decompress the body: {error}"
                )));
            }
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn text_from_url_and_body_is_one_statement() {
        let (text, statement) =
            read_statement("INSERT INTO t FORMAT CSV", &mut b"1,2\n".as_slice()).unwrap();
        assert_eq!(
            statement,
            Statement::Insert {
                head: 14,
                format: "CSV".to_owned(),
                data: 25
            }
        );
        assert_eq!(&text[25..], b"1,2\n");
        let (text, statement) = read_statement("SELECT", &mut b"1 FORMAT JSON".as_slice()).unwrap();
        assert_eq!(text, b"SELECT\n1 FORMAT JSON");
        assert!(
            matches!(statement, Statement::Select { format: Some(name), .. } if name == "JSON")
        );
    }

    #[test]
    fn long_text_is_read_completely_and_too_long_text_refused() {
        let long = format!("SELECT '{}' FORMAT CSV", "x".repeat(3 * STEP));
        let (text, statement) = read_statement("", &mut long.as_bytes()).unwrap();
        assert_eq!(text.len(), long.len());
        assert!(matches!(
            statement,
            Statement::Select {
                format: Some(_),
                ..
            }
        ));
        let endless = format!("SELECT '{}'", "x".repeat(2 * MAX_TEXT));
        let error = read_statement("", &mut endless.as_bytes()).unwrap_err();
        assert_eq!(error.code(), 229);
    }
}
