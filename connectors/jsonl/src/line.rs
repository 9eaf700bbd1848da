//! One row as one line of JSON.

use chatledger_schemas::{DeadLetter, DeadLetterEvent, Message, Violation};
use serde::{Deserialize, Serialize};

/// A row with the kind of row it is. In files and on stdout: `{"kind":"message", …columns…}`.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line<'a> {
    /// An opened message.
    Message(&'a Message),
    /// A rule violation.
    Violation(&'a Violation),
    /// A dead letter.
    DeadLetter(&'a DeadLetter),
    /// An event of a dead letter.
    DeadLetterEvent(&'a DeadLetterEvent),
}

/// A row read back from a line, without its kind.
#[derive(Debug, Deserialize)]
pub(crate) struct RowLine<T> {
    #[serde(flatten)]
    pub(crate) row: T,
}

/// Appends rows to `out`, one line each.
///
/// # Errors
/// A row cannot be written as JSON, which does not happen with these types.
pub fn encode<'a>(
    lines: impl IntoIterator<Item = Line<'a>>,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    for line in lines {
        serde_json::to_writer(&mut *out, &line)?;
        out.push(b'\n');
    }
    Ok(())
}
