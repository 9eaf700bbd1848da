//! Fuzz target for parsing the configuration file; it includes the source file of the program.

#[path = "../../../pipeline/app/src/config/shape.rs"]
#[allow(unreachable_pub, reason = "the file is part of a program")]
mod shape;

/// The type that the included file expects: one error.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    at: String,
    what: String,
}

/// Parses a configuration file.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match shape::read(&text) {
        Ok(config) => assert!(
            config.corp.iter().all(|corp| !corp.id.is_empty()),
            "a corp has no id"
        ),
        Err(problems) => {
            assert!(!problems.is_empty(), "rejected without an error");
            assert!(
                problems
                    .iter()
                    .any(|p| !p.at.is_empty() || !p.what.is_empty())
            );
        }
    }
}
