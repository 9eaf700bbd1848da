//! Stops and removes everything that a test binary has started, even if the binary is killed.
//!
//! A shell in its own process group reads from a pipe held by the test binary. When the binary ends
//! (even by SIGKILL), the pipe closes. Then the shell kills the remaining process groups, stops the
//! brokers, unmounts file systems in the folder and removes it. `CHATLEDGER_E2E_KEEP=1` keeps the
//! folder and prints its path.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result};

use crate::paths;

const SCRIPT: &str = r#"
trap '' INT TERM HUP
declare -A groups=() brokers=()
while read -r word value; do
  case $word in
    group) groups[$value]=1 ;;
    gone) unset "groups[$value]" ;;
    broker) brokers[$value]=1 ;;
  esac
done
for group in "${!groups[@]}"; do kill -KILL -- "-$group" 2>/dev/null; done
for broker in "${!brokers[@]}"; do "$1" stop --data-dir "$broker" 2>/dev/null; done
while read -r _ at _; do [[ $at != "$2"/* ]] || umount --lazy "$at"; done </proc/mounts
if [[ ${CHATLEDGER_E2E_KEEP:-} ]]; then echo "kept: $2" >&2; else rm -rf -- "$2"; fi
"#;

/// The janitor of this test binary.
#[derive(Debug)]
pub struct Janitor {
    folder: PathBuf,
    pipe: Mutex<ChildStdin>,
}

static JANITOR: OnceLock<std::result::Result<Janitor, String>> = OnceLock::new();

impl Janitor {
    /// Returns the janitor of this process; the first call starts it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn get() -> Result<&'static Self> {
        JANITOR
            .get_or_init(|| Self::start().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow::anyhow!("the janitor: {error}"))
    }

    fn start() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("chatledger-e2e-")
            .tempdir()
            .context("create a temporary folder")?
            .keep();
        let mut shell = Command::new("bash")
            .args(["-c", SCRIPT, "janitor"])
            .arg(paths::repository().join("deploy/local/kafka"))
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start bash")?;
        let pipe = shell.stdin.take().context("bash has no standard input")?;
        Ok(Self {
            folder,
            pipe: Mutex::new(pipe),
        })
    }

    /// Creates a folder whose name begins with `name`; it is removed in the end.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let prefix = format!("{name}-");
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(&self.folder);
        Ok(folder.context("create a temporary folder")?.keep())
    }

    /// Registers a process group, which is killed in the end.
    pub fn group(&self, id: u32) {
        self.send(format_args!("group {id}"));
    }

    /// Unregisters a process group that has ended; its number can be reused.
    pub fn gone(&self, id: u32) {
        self.send(format_args!("gone {id}"));
    }

    /// Registers a broker by its data directory; it is stopped in the end.
    pub fn broker(&self, data: &Path) {
        self.send(format_args!("broker {}", data.display()));
    }

    fn send(&self, words: std::fmt::Arguments<'_>) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        // If the janitor was killed, nothing can be cleaned up.
        let _ = writeln!(pipe, "{words}");
    }
}
