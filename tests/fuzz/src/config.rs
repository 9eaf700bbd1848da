//! The configuration file against its shape: the program's own source, which is no library.

#[path = "../../../pipeline/app/src/config/shape.rs"]
#[allow(unreachable_pub, reason = "there it belongs to a program")]
mod shape;

/// As the program's own: one thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    at: String,
    what: String,
}

/// A configuration file.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match shape::read(&text) {
        Ok(config) => assert!(
            config.corp.iter().all(|corp| !corp.id.is_empty()),
            "a corp without an id"
        ),
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            assert!(
                problems
                    .iter()
                    .any(|p| !p.at.is_empty() || !p.what.is_empty())
            );
        }
    }
}
