//! Reads the repository's files as git has them, for the rules that every file keeps.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::place;

/// One file of the repository.
#[derive(Clone, Debug)]
pub struct Tracked {
    /// Path from the root.
    pub path: String,
    /// Its text; `None` if it is not UTF-8.
    pub text: Option<String>,
}

/// Every file that git tracks or would track.
///
/// # Errors
/// git is not there, or a file cannot be read.
pub fn tracked() -> Result<Vec<Tracked>> {
    let root = place::repository();
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
        // Deleted and not committed yet.
        let Ok(bytes) = std::fs::read(root.join(path)) else {
            continue;
        };
        files.push(Tracked {
            path: path.to_owned(),
            text: String::from_utf8(bytes).ok(),
        });
    }
    Ok(files)
}

impl Tracked {
    /// Whether it is Rust source.
    pub fn is_rust(&self) -> bool {
        self.ends_in("rs")
    }

    /// Whether its name has this ending, given without the dot.
    pub fn ends_in(&self, ending: &str) -> bool {
        let name = std::path::Path::new(&self.path);
        name.extension().is_some_and(|found| found == ending)
    }

    /// Lines of the text.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.iter().flat_map(|text| text.lines())
    }
}
