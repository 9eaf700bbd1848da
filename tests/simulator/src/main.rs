//! `wecom-sim`: the command line of the simulator.
//!
//! Only the ready line goes to stdout; logs go to stderr.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tracing::info;
use wecom_sim::layout::{ConfigOptions, write_folder};
use wecom_sim::options::TenantOptions;
use wecom_sim::server::{ServeOptions, SimulatorServer, ready_line};
use wecom_sim::tenant::Tenant;
use wecom_sim::truth::{Detail, TruthWriter};

/// Simulates a WeCom tenant: an archive of sealed conversations, a directory, a ready-to-use
/// configuration and the expected results.
#[derive(Parser)]
#[command(
    name = "wecom-sim",
    version,
    after_help = "\
Examples:
  wecom-sim serve --dir tenant --messages 50000 --faults broken=20,unknown_key=10
  chatledger run --config tenant/chatledger.toml --drain
  jq . tenant/truth/summary.json

Besides WeCom's APIs, the server provides
  GET  /sim/stats           calls by API, the highest seq, whether a reader has reached the end
  POST /sim/append?count=N  sends N more messages; the truth contains them before it responds"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate a tenant and serve it until SIGTERM or SIGINT. Prints one JSON line when ready:
    /// {"listen":"127.0.0.1:PORT","dir":…,"config":…}.
    Serve(ServeArgs),
    /// Generate a tenant's folder without serving it.
    Generate(GenerateArgs),
}

#[derive(Args)]
struct TenantArgs {
    /// Folder for configuration, secrets, keys, rules and truth; created if missing.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    #[command(flatten)]
    tenant: TenantOptions,

    #[command(flatten)]
    config: ConfigOptions,

    /// Which files are written to DIR/truth.
    #[arg(long, value_enum, default_value_t = Detail::Full)]
    truth: Detail,
}

#[derive(Args)]
struct ServeArgs {
    #[command(flatten)]
    common: TenantArgs,

    #[command(flatten)]
    serve: ServeOptions,
}

#[derive(Args)]
struct GenerateArgs {
    #[command(flatten)]
    common: TenantArgs,

    /// Base URL of the APIs, written to the configuration.
    #[arg(long, default_value = "http://127.0.0.1:9701", value_name = "URL")]
    base_url: String,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Generate(GenerateArgs { common, base_url }) => {
            generate(&common, &base_url)?;
            Ok(())
        }
        Command::Serve(ServeArgs { common, serve }) => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("start the async runtime")?
            .block_on(async move {
                let stop = shutdown_signal()?;
                let server = SimulatorServer::bind(serve).await?;
                let (tenant, truth) = generate(&common, &server.base_url())?;
                let dir = absolute(&common.dir)?;
                writeln!(std::io::stdout(), "{}", ready_line(server.address(), &dir))
                    .context("print the ready line")?;
                server.run(Arc::new(tenant), truth, stop).await
            }),
    }
}

fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).with_context(|| format!("resolve {}", dir.display()))
}

/// Generates the tenant and its folder.
fn generate(common: &TenantArgs, base_url: &str) -> Result<(Tenant, TruthWriter)> {
    let began = Instant::now();
    let tenant = Tenant::new(common.tenant.clone())?;
    write_folder(&common.dir, &tenant, &common.config, base_url)?;
    let mut truth = TruthWriter::create(&common.dir.join("truth"), common.truth)?;
    truth.write_directory(&tenant.org)?;
    let summary = truth.write(&tenant, 0..tenant.options.messages)?;
    info!(
        corp = summary.corp_id,
        messages = summary.messages,
        violations = summary.violations,
        dead_letters = summary.dead_letters,
        duplicates = summary.duplicates,
        seconds = began.elapsed().as_secs_f64(),
        "tenant generated"
    );
    Ok((tenant, truth))
}

/// Returns a future that completes at the first SIGTERM or SIGINT.
fn shutdown_signal() -> Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping");
    })
}
