//! Runs an embedded ClickHouse by itself: `serve --data-dir D --listen 127.0.0.1:8123`.
//!
//! The address stands on stdout as soon as queries are answered, logs on stderr. SIGTERM and
//! SIGINT stop it in order. With `CLICKHOUSE_USER` and `CLICKHOUSE_PASSWORD` set it asks for them.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use chatledger_embedded_clickhouse::{
    Credentials, DEFAULT_CONNECTIONS, DEFAULT_MAX_MEMORY_BYTES, Options, serve,
};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Runs an embedded ClickHouse.
#[derive(Parser)]
struct Arguments {
    /// Where the data is kept.
    #[arg(long)]
    data_dir: PathBuf,
    /// Where to listen; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:8123")]
    listen: SocketAddr,
    /// The library, if not in the cache.
    #[arg(long)]
    lib: Option<PathBuf>,
    /// Memory for the engine, in bytes.
    #[arg(long, default_value_t = DEFAULT_MAX_MEMORY_BYTES)]
    max_memory_bytes: u64,
    /// Statements that run side by side.
    #[arg(long, default_value_t = DEFAULT_CONNECTIONS)]
    connections: usize,
    /// The user to ask for.
    #[arg(long, env = "CLICKHOUSE_USER", requires = "password")]
    user: Option<String>,
    /// The password to ask for.
    #[arg(long, env = "CLICKHOUSE_PASSWORD", hide_env_values = true)]
    password: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
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
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    serve(options, shutdown, |address| {
        // Whoever started this reads the address; with nobody reading, the server goes on.
        let _ = writeln!(std::io::stdout(), "listening on http://{address}");
    })
    .await?;
    Ok(())
}
