//! Fuzz target for parsing the configuration file; it includes the source file of the program.

#[path = "../../../pipeline/app/src/config/shape/mod.rs"]
#[allow(
    unreachable_pub,
    dead_code,
    unused_imports,
    reason = "in the program other modules use it"
)]
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
    let schema = schemars::schema_for!(chatledger_schemas::config::Config).to_value();
    let report = shape::read(&text, &schema);
    match &report.config {
        Some(config) if report.problems.is_empty() => assert!(
            config.corp.iter().all(|corp| !corp.id.is_empty()),
            "a corp has no id"
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
