//! The configuration file against its shape. The program is not a library, so its source is included.

#[path = "../../../pipeline/app/src/config/shape/mod.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    unused_imports,
    reason = "in the program other modules use it"
)]
mod shape;

/// As the program's own: one error in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    at: String,
    what: String,
}

/// A configuration file.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let report = shape::read(&text);
    match &report.config {
        Some(config) if report.problems.is_empty() => assert!(
            config.corp.iter().all(|corp| !corp.id.is_empty()),
            "a corp without an id"
        ),
        // Whatever is wrong in a TOML file, the rest can be validated.
        Some(_) => assert!(report.problems.iter().all(|p| !p.at.is_empty())),
        None => assert!(
            report.problems.len() == 1 && report.problems[0].what.contains("not TOML"),
            "{:?}",
            report.problems
        ),
    }
}
