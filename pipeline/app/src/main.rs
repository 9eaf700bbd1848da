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
    #[cfg(feature = "failpoints")]
    match failpoints::arm() {
        Ok(failpoints::Armed::ToRun) => {}
        Ok(failpoints::Armed::ForTheList) => return ExitCode::SUCCESS,
        Err(error) => return exit::report(&exit::Failure::config(error)),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&exit::Failure::other(error)),
    };
    let result = runtime.block_on(commands::run(cli));
    // A blocking call into a C library may still be running; do not wait for it.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => exit::report(&failure),
    }
}
