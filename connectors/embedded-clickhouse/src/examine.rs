//! A request read as the front reads it, up to the engine's door: for tests that send anything.
//!
//! Deliberately not here: the engine. Nothing is run.

use hyper::http::request::Parts;

use crate::intake::read_statement;
use crate::native;
use crate::options::Credentials;
use crate::request::Ask;
use crate::spool::Spool;

/// What the front makes of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Examined {
    /// Bytes of the statement's text that were read to know what it is.
    pub text: usize,
    /// The statement, as for a log of a test.
    pub statement: String,
}

/// Reads a request's head and body; without `credentials` everybody may come in.
///
/// # Errors
/// The code of the exception with which the front would answer.
pub fn examine(
    head: &Parts,
    body: Vec<u8>,
    credentials: Option<&Credentials>,
) -> Result<Examined, i32> {
    let run = || {
        let ask = Ask::read(head)?;
        ask.authorize(credentials)?;
        let mut body = Spool::of(body).reader(ask.encoding.as_deref())?;
        let (text, statement) = read_statement(&ask.query, &mut *body)?;
        Ok(Examined {
            text: text.len(),
            statement: format!("{statement:?}"),
        })
    };
    run().map_err(|exception: crate::exception::Exception| exception.code())
}

/// Rewrites blocks of the Native format for a client of a newer protocol, as an answer is; `None`
/// if they cannot be followed.
pub fn rewrite(blocks: &[u8], revision: u64) -> Option<Vec<u8>> {
    native::upgrade(blocks, revision).ok()
}
