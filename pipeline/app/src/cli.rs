//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Archives a company's WeCom (企业微信) conversations: pulls the sealed records, opens them, joins
/// who is who, finds what breaks the rules, and keeps it all in ClickHouse and Parquet.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done · 2 the configuration is wrong · 3 something it needs cannot \
                  be reached · 4 refused for safety (schema newer than the program, …) · 1 anything \
                  else.\nLogs go to stderr; CHATLEDGER_LOG sets their detail (error, warn, info, \
                  debug, or as tracing's env filter).\n\nTo see it work on this machine: \
                  ./deploy/local/demo"
)]
pub struct Cli {
    /// How logs are written.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the pipeline, until stopped or, with --drain, until there is nothing more.
    Run(RunArgs),
    /// Check the configuration, keys and rules; with --connect also whether everything answers.
    Check(CheckArgs),
    /// Bring the tables in ClickHouse up to this program's schema.
    Migrate {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Serve the ClickHouse engine from its shared library, over ClickHouse's HTTP interface.
    EmbeddedClickhouse(EmbeddedArgs),
    /// Show the whole on a made-up company: used by ./deploy/local/demo.
    Demo(DemoArgs),
}

/// `chatledger run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration file.
    #[arg(long)]
    pub config: PathBuf,
    /// Which stages this process runs (kafka driver; the direct driver always runs them all).
    #[arg(long, value_enum, value_delimiter = ',')]
    pub stages: Vec<StageName>,
    /// Stop by itself when the archive has nothing more and everything pulled is delivered. The
    /// last line on stdout is then a JSON object with the counts.
    #[arg(long)]
    pub drain: bool,
}

/// The stages that can run in processes of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StageName {
    /// Archive to [raw].
    Source,
    /// [raw] to [messages], [violations], [deadletter].
    Process,
    /// [messages], [violations], [deadletter] to ClickHouse and Parquet.
    Sink,
    /// Directory to [directory].
    Directory,
}

/// `chatledger check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The configuration file.
    #[arg(long)]
    pub config: PathBuf,
    /// Also ask ClickHouse, the archive, the Parquet target and, if used, Kafka.
    #[arg(long)]
    pub connect: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `chatledger embedded-clickhouse`
#[derive(Debug, Args)]
pub struct EmbeddedArgs {
    /// Where everything is kept; one process at a time.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Where to listen; port 0 picks a free one. The address is printed on stdout once it answers.
    #[arg(long, default_value = "127.0.0.1:8123")]
    pub listen: SocketAddr,
    /// The library (libchdb.so); without it CHATLEDGER_LIBCHDB and the cache are looked at.
    #[arg(long)]
    pub lib: Option<PathBuf>,
    /// User that clients must name; needed to listen on more than the loopback.
    #[arg(long, requires = "password_file")]
    pub user: Option<String>,
    /// File with that user's password.
    #[arg(long, requires = "user")]
    pub password_file: Option<PathBuf>,
    /// Take the password from a file that others than its owner can read.
    #[arg(long)]
    pub allow_open_secrets: bool,
    /// Memory the engine may take, in MiB.
    #[arg(long, default_value_t = 2048)]
    pub max_memory_mib: u64,
}

/// `chatledger demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Messages of the made-up company.
    #[arg(long, default_value_t = 50_000)]
    pub messages: u64,
    /// The same seed gives the same company.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder for everything the demo makes; emptied of an earlier demo first. Default: a folder of
    /// its own under the system's temporary one.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Dialogue files (*.jsonl.gz) to speak from instead of the built-in texts.
    #[arg(long)]
    pub corpus: Option<PathBuf>,
    /// Faults the simulator makes (see wecom-sim --help).
    #[arg(long, default_value = "broken=20,unknown_key=10,duplicates=25")]
    pub faults: String,
    /// Leave everything running afterwards, with new messages arriving, until Ctrl-C.
    #[arg(long)]
    pub stay: bool,
    /// Where the embedded ClickHouse listens.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub clickhouse_listen: SocketAddr,
    /// Where metrics are served.
    #[arg(long, default_value = "127.0.0.1:0")]
    pub metrics_listen: SocketAddr,
    /// The simulator; default: wecom-sim beside this program.
    #[arg(long)]
    pub simulator: Option<PathBuf>,
    /// The library (libchdb.so), as for embedded-clickhouse.
    #[arg(long)]
    pub lib: Option<PathBuf>,
    /// Print one JSON object instead of the summary.
    #[arg(long)]
    pub json: bool,
}

/// Sets logging up: to stderr, `info` unless told otherwise (the demo: `warn`).
pub fn init_logs(cli: &Cli) {
    let quiet = matches!(cli.command, Command::Demo(_) | Command::Check(_));
    let default = if quiet { "warn" } else { "info" };
    let mut filter = EnvFilter::try_from_env("CHATLEDGER_LOG").unwrap_or_else(|_| default.into());
    // The client's debug lines quote the server's exceptions, and these may quote rows.
    if let Ok(quiet) = "clickhouse=info".parse() {
        filter = filter.add_directive(quiet);
    }
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match cli.log_format {
        LogFormat::Text => {
            let color = std::io::IsTerminal::is_terminal(&std::io::stderr());
            logs.with_ansi(color).init();
        }
        LogFormat::Json => logs.json().init(),
    }
}
