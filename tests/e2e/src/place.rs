//! Where things are: the repository, the built programs, the scripts of `deploy/local`.
//!
//! Programs are those beside the running test, so a test never meets a build of another profile.
//! Not here: building them; a missing one is an error that says what to run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// The repository's root.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// A program of this workspace, built by cargo beside this test.
///
/// # Errors
/// It has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("find the running test")?;
    // target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM
    let folder = test
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .context("the test lies in no target folder")?;
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is not there; run: cargo build --release --workspace --bins",
        path.display()
    );
    Ok(path)
}

/// Runs a script of the repository to its end and gives what it printed, without the line end.
///
/// # Errors
/// It cannot be started, or fails; its messages are in the error.
pub fn script<S: AsRef<OsStr>>(path: &str, arguments: &[S]) -> Result<String> {
    let output = Command::new(repository().join(path))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {path}"))?;
    if !output.status.success() {
        bail!(
            "{path}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}

/// An interpreter with the packages of `deploy/local/tools/python-checks.txt`: readers that share
/// no code with chatledger.
///
/// # Errors
/// It cannot be installed.
pub fn python() -> Result<PathBuf> {
    Ok(script("deploy/local/tools/install", &["python-checks"])?.into())
}

/// A script of this crate's `python/`.
pub fn python_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("python")
        .join(name)
}
