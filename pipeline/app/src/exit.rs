//! Exit codes, and the error message that goes with them.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

pub use chatledger_engine::fault::error_chain as chain;

/// An error that ends the program, with its exit code.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    text: String,
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl Failure {
    /// 2: the configuration is wrong.
    pub fn config(text: impl Display) -> Self {
        Self {
            code: 2,
            text: text.to_string(),
        }
    }

    /// 3: something it needs cannot be reached.
    pub fn unreachable(text: impl Display) -> Self {
        Self {
            code: 3,
            text: text.to_string(),
        }
    }

    /// 4: refused for safety.
    pub fn refused(text: impl Display) -> Self {
        Self {
            code: 4,
            text: text.to_string(),
        }
    }

    /// 1: anything else. Prints the error with its causes.
    pub fn other(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: 1,
            text: format!("{:#}", error.into()),
        }
    }
}

/// Prints the error on stderr and returns the exit code.
pub fn report(failure: &Failure) -> ExitCode {
    // If stderr is closed, the exit code is all that can be reported.
    let _ = writeln!(std::io::stderr(), "chatledger: {}", failure.text);
    ExitCode::from(failure.code)
}
