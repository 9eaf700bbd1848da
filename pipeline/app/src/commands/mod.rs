//! The commands.

mod audit;
mod check;
mod demo;
mod dlq;
mod embedded;
mod run;

pub use self::run::stop_on_signal;
use crate::cli::{Cli, Command};
use crate::config;
use crate::exit::Failure;
use crate::wiring;

/// Runs the command.
///
/// # Errors
/// The reason for an exit code other than 0.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        // It confines the process, which must have one thread until then.
        Command::EmbeddedClickhouse(args) => embedded::serve(args),
        command => on_runtime(run_command(command)),
    }
}

/// Runs `future` on a multi-threaded runtime.
fn on_runtime(future: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::other)?;
    let result = runtime.block_on(future);
    // A blocking call into a C library may still be running; do not wait for it.
    runtime.shutdown_background();
    result
}

async fn run_command(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(args).await,
        Command::Check(args) => check::check(args).await,
        Command::Migrate { config } => {
            let settings = config::load(&config).map_err(Failure::config)?;
            let migrated = wiring::migrate(&settings.sinks).await?;
            if migrated.is_empty() {
                say("no configured sink has a schema")?;
            }
            for (sink, versions) in migrated {
                say(&match (versions.from, versions.to) {
                    (from, to) if from == to => format!("{sink}: schema {to}, nothing to do"),
                    (from, to) => format!("{sink}: schema upgraded from {from} to {to}"),
                })?;
            }
            Ok(())
        }
        Command::Reconcile(args) => audit::reconcile::reconcile(args).await,
        Command::Verify(args) => audit::verify::verify(args).await,
        Command::Dlq(args) => dlq::dlq(args).await,
        Command::EmbeddedClickhouse(args) => embedded::serve(args),
        Command::Demo(args) => demo::demo(args).await,
    }
}

/// Prints a line on stdout.
///
/// # Errors
/// Stdout is closed.
pub fn say(line: &str) -> Result<(), Failure> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").map_err(Failure::other)
}
