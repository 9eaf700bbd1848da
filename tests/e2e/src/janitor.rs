//! Ends and removes everything that a test binary has started, however the binary ends.
//!
//! A shell in a process group of its own reads from a pipe whose other end is ours. When we end
//! (even by SIGKILL) the pipe closes, and it kills the process groups still standing, stops the
//! brokers, unmounts what is mounted in the folder and removes it. `CHATLEDGER_E2E_KEEP=1` keeps
//! the folder and names it.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context as _, Result};

use crate::place;

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
    /// The one of this process; started at the first call.
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
            .context("make a temporary folder")?
            .keep();
        let mut shell = Command::new("bash")
            .args(["-c", SCRIPT, "janitor"])
            .arg(place::repository().join("deploy/local/kafka"))
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

    /// A new folder of this name, removed in the end.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let prefix = format!("{name}-");
        let folder = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(&self.folder);
        Ok(folder.context("make a temporary folder")?.keep())
    }

    /// A process group to be killed in the end.
    pub fn group(&self, id: u32) {
        self.tell(format_args!("group {id}"));
    }

    /// A process group that has ended; its number may be another's from now on.
    pub fn gone(&self, id: u32) {
        self.tell(format_args!("gone {id}"));
    }

    /// A broker to be stopped in the end, by its data directory.
    pub fn broker(&self, data: &Path) {
        self.tell(format_args!("broker {}", data.display()));
    }

    fn tell(&self, words: std::fmt::Arguments<'_>) {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        // If the janitor is dead, its folder and children are found by whoever killed it.
        let _ = writeln!(pipe, "{words}");
    }
}
