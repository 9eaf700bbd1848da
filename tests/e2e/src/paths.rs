//! Paths of the repository, the built programs and the scripts of `deploy/local`.
//!
//! Programs are in the target folder of the running test, so a test never uses a build of another
//! profile. Not here: building them; the error for a missing program contains the build command.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

/// Returns the root of the repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Returns the path of a program of this workspace, built by cargo in the target folder of this test.
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
        .context("the test is not in a target folder")?;
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is missing; run: cargo build --release --workspace --bins",
        path.display()
    );
    Ok(path)
}

/// Runs a script of the repository and returns its output without the final line break.
///
/// # Errors
/// It cannot be started or fails; the error contains its messages.
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

/// Returns a Python interpreter with the packages of `deploy/local/tools/python-checks.txt`: readers
/// that share no code with chatledger.
///
/// # Errors
/// It cannot be installed.
pub fn python() -> Result<PathBuf> {
    Ok(script("deploy/local/tools/install", &["python-checks"])?.into())
}

/// Returns the path of a script in this crate's `python/`.
pub fn python_script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("python")
        .join(name)
}
