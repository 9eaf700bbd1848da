//! Runs only an embedded ClickHouse: `serve --data-dir D --listen 127.0.0.1:8123`.
//!
//! Prints its address on stdout as soon as queries are answered; logs go to stderr. SIGTERM and SIGINT
//! stop it cleanly. It requires `CLICKHOUSE_USER` and `CLICKHOUSE_PASSWORD` if they are set.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use chatledger_embedded_clickhouse::{
    Credentials, DEFAULT_CONNECTIONS, DEFAULT_MAX_MEMORY_BYTES, Options, Server,
};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Runs an embedded ClickHouse.
#[derive(Parser)]
struct Arguments {
    /// The data directory.
    #[arg(long)]
    data_dir: PathBuf,
    /// The address to listen on; port 0 selects a free port.
    #[arg(long, default_value = "127.0.0.1:8123")]
    listen: SocketAddr,
    /// The library file, if not in the cache.
    #[arg(long)]
    lib: Option<PathBuf>,
    /// Memory limit of the engine, in bytes.
    #[arg(long, default_value_t = DEFAULT_MAX_MEMORY_BYTES)]
    max_memory_bytes: u64,
    /// Number of statements that run in parallel.
    #[arg(long, default_value_t = DEFAULT_CONNECTIONS)]
    connections: usize,
    /// The required user.
    #[arg(long, env = "CLICKHOUSE_USER", requires = "password")]
    user: Option<String>,
    /// The required password.
    #[arg(long, env = "CLICKHOUSE_PASSWORD", hide_env_values = true)]
    password: Option<String>,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()),
        )
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let options = Options {
        data_dir: arguments.data_dir,
        listen: arguments.listen,
        lib_path: arguments.lib,
        credentials: arguments
            .user
            .zip(arguments.password)
            .map(|(user, password)| Credentials {
                user,
                password: password.into(),
            }),
        max_memory_bytes: arguments.max_memory_bytes,
        connections: arguments.connections,
        unconfined: false,
    };
    let server = Server::prepare(options)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        server
            .run(shutdown, |address| {
                // The parent process reads the address; without a reader the server continues.
                let _ = writeln!(std::io::stdout(), "listening on http://{address}");
            })
            .await?;
        Ok(())
    });
    runtime.shutdown_background();
    result
}
