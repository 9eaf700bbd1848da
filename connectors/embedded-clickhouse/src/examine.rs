//! Reads a request as the front does, without running it: for fuzz tests.

use hyper::http::request::Parts;

use crate::intake::read_statement;
use crate::native;
use crate::options::Credentials;
use crate::request::QueryRequest;
use crate::spool::Spool;

/// A request as the front has read it.
#[derive(Debug, PartialEq, Eq)]
pub struct ExaminedRequest {
    /// Bytes of the statement's text that were read to classify it.
    pub text: usize,
    /// The statement, formatted for test output.
    pub statement: String,
}

/// Reads a request's head and body; without `credentials` everybody is accepted.
///
/// # Errors
/// The code of the exception that the front would answer with.
pub fn examine(
    head: &Parts,
    body: Vec<u8>,
    credentials: Option<&Credentials>,
) -> Result<ExaminedRequest, i32> {
    let run = || {
        let request = QueryRequest::read(head)?;
        request.authorize(credentials)?;
        let mut body = Spool::of(body).reader(request.encoding.as_deref())?;
        let (text, statement) = read_statement(&request.query, &mut *body)?;
        Ok(ExaminedRequest {
            text: text.len(),
            statement: format!("{statement:?}"),
        })
    };
    run().map_err(|exception: crate::exception::Exception| exception.code())
}

/// Rewrites blocks of the Native format for a client of a newer protocol, as in an answer; `None` if
/// they cannot be read.
pub fn rewrite(blocks: &[u8], revision: u64) -> Option<Vec<u8>> {
    native::upgrade(blocks, revision).ok()
}
