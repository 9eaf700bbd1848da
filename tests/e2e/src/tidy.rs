//! Reads the repository's files for the checks that apply to every file.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::paths;

/// A file of the repository.
#[derive(Clone, Debug)]
pub struct TrackedFile {
    /// Path from the root.
    pub path: String,
    /// Its text; `None` if it is not UTF-8.
    pub text: Option<String>,
}

/// Returns every file that is tracked by git or not ignored.
///
/// # Errors
/// git is not installed or fails.
pub fn tracked() -> Result<Vec<TrackedFile>> {
    let root = paths::repository();
    let output = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(&root)
        .output()
        .context("start git")?;
    ensure!(
        output.status.success(),
        "git: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let names = String::from_utf8(output.stdout).context("a path is not UTF-8")?;
    let mut files = Vec::new();
    for path in names.split('\0').filter(|path| !path.is_empty()) {
        // Deleted, but not yet committed.
        let Ok(bytes) = std::fs::read(root.join(path)) else {
            continue;
        };
        files.push(TrackedFile {
            path: path.to_owned(),
            text: String::from_utf8(bytes).ok(),
        });
    }
    Ok(files)
}

impl TrackedFile {
    /// Returns whether it is Rust source.
    pub fn is_rust(&self) -> bool {
        self.has_extension("rs")
    }

    /// Returns whether its name has this extension, given without the dot.
    pub fn has_extension(&self, extension: &str) -> bool {
        let name = std::path::Path::new(&self.path);
        name.extension().is_some_and(|found| found == extension)
    }

    /// Returns the lines of the text.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.iter().flat_map(|text| text.lines())
    }
}
