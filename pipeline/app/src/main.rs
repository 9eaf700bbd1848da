//! The program `chatledger`: reads the configuration, connects the parts and runs them.
//!
//! It does not process records itself: stages and drivers are in the engine, access to other systems
//! is in the connectors. They are connected in [`wiring`] only.

#![allow(
    unreachable_pub,
    reason = "nothing outside a binary can reach it; pub says what a module offers"
)]

mod bounded_file;
mod cli;
mod commands;
mod config;
mod exit;
#[cfg(feature = "failpoints")]
mod failpoints;
mod kafka_log;
mod key_files;
mod observe;
mod progress;
mod rules_dir;
mod sinks;
mod text_encoding;
mod wecom;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    cli::init_logs(&cli);
    protect();
    #[cfg(feature = "failpoints")]
    match failpoints::arm() {
        Ok(failpoints::Armed::ToRun) => {}
        Ok(failpoints::Armed::ForTheList) => return ExitCode::SUCCESS,
        Err(error) => return exit::report(&exit::Failure::config(error)),
    }
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => exit::report(&failure),
    }
}

/// Keeps plain text and keys from other users of the machine: files and folders that this process creates are its owner's
/// alone (a default ACL of a folder can admit readers), and its memory is neither dumped nor readable by its user's other
/// processes.
fn protect() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    if let Err(error) =
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
    {
        tracing::warn!(%error, "cannot exclude the memory of this process from dumps");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn protected_process_is_not_dumped_and_creates_files_for_its_owner_alone() {
        super::protect();
        let dumped = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(dumped, rustix::process::DumpableBehavior::NotDumpable);
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        let file = inner.join("c");
        std::fs::write(&file, "x").unwrap();
        for (path, mode) in [(inner, 0o700), (file, 0o600)] {
            let found = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{}", path.display());
        }
    }
}
