//! Turns a configuration file into [`Settings`]. Reports all errors of a file at once and repairs
//! nothing.
//!
//! [`shape`] compares the file with the JSON Schema; [`validate`] checks what a schema cannot
//! express, for every key that has passed the first step. Each [`Problem`] names the key, what was
//! found and what is accepted.

mod kafka;
pub mod secret_file;
mod shape;
#[cfg(test)]
mod tests;
mod validate;

use std::fmt;
use std::path::{Path, PathBuf};

use chatledger_schemas::config::Config;

pub use validate::{Corp, DirectorySource, Kafka, PrivateKeys, Settings, Validator, redacted};

use crate::{bounded_file, sinks};

/// Largest configuration file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// One error in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Key path, as `corp[0].archive.batch_limit`; empty for the file itself.
    pub at: String,
    /// What was found, and what is accepted.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.at.is_empty() {
            f.write_str(&self.what)
        } else {
            write!(f, "{}: {}", self.at, self.what)
        }
    }
}

/// All errors of a configuration file.
#[derive(Debug)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// The errors, in the order of their key paths.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let noun = if count == 1 { "error" } else { "errors" };
        write!(f, "{}: {count} {noun}", self.file.display())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// Reads and validates a configuration file.
///
/// # Errors
/// All errors of the file.
#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the method itself is not general over the lifetime of the validator"
)]
pub fn load(file: &Path) -> Result<Settings, Problems> {
    read(file, |validator, config| validator.settings(config))
}

/// Reads the private keys that a configuration file names, and no other file that it names.
///
/// # Errors
/// All errors in the shape of the file and in the keys.
pub fn load_keys(file: &Path) -> Result<PrivateKeys, Problems> {
    read(file, |validator, config| {
        Some(validator.private_keys(&config))
    })
}

fn read<T>(
    file: &Path,
    validate: impl FnOnce(&mut Validator<'_>, Config) -> Option<T>,
) -> Result<T, Problems> {
    let fail = |problems| Problems {
        file: file.to_owned(),
        problems,
    };
    let text = bounded_file::text(file, MAX_BYTES).map_err(|error| {
        fail(vec![Problem {
            at: String::new(),
            what: format!("cannot be read: {error}"),
        }])
    })?;
    let shape = shape::read(&text, &sinks::config_schema());
    let mut problems = shape.problems;
    let mut result = None;
    if let Some(config) = shape.config {
        let mut validator = Validator::new(file, &config, &shape.invalid);
        result = validate(&mut validator, config);
        problems.extend(validator.into_problems());
    }
    problems.sort_by(|a, b| a.at.cmp(&b.at));
    match result {
        Some(result) if problems.is_empty() => Ok(result),
        _ => Err(fail(problems)),
    }
}
