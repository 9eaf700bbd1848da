//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chatledger_schemas::Reason;

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
    /// Show that every record that was pulled is in exactly one place; exit code 0 only if so.
    Reconcile(ReconcileArgs),
    /// Follow the hash chain over everything pulled, and compare rows with it; exit code 0 only if
    /// nothing was changed, removed or inserted.
    Verify(VerifyArgs),
    /// Dead letters: list them, show one, try them again, do without them.
    Dlq(DlqArgs),
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
    /// Go on though an archive was not read for longer than the five days it keeps messages; the
    /// gap is written into the ledger. Without it such a start is refused (exit code 4).
    #[arg(long)]
    pub accept_gap: bool,
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

/// `chatledger reconcile`
#[derive(Debug, Args)]
pub struct ReconcileArgs {
    /// The configuration file.
    #[arg(long)]
    pub config: PathBuf,
    /// Only this corp.
    #[arg(long)]
    pub corp: Option<String>,
    /// Only records from this position of the archive on.
    #[arg(long)]
    pub from_seq: Option<u64>,
    /// Only records up to this position. Default: what every sink has reached.
    #[arg(long)]
    pub to_seq: Option<u64>,
    /// How long to wait for records that are on their way (as 30s, 2m). Default: with Kafka the time
    /// in which Parquet files are closed and 30 s, otherwise none.
    #[arg(long)]
    pub wait: Option<humantime::Duration>,
    /// Show every block of 1,000 positions, not only those in which something is wrong.
    #[arg(long)]
    pub blocks: bool,
    /// Print one JSON object, with every block, instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `chatledger verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The configuration file.
    #[arg(long)]
    pub config: PathBuf,
    /// Only this corp.
    #[arg(long)]
    pub corp: Option<String>,
    /// Messages pulled less than so long ago may be on their way and are not told as removed (as 30s,
    /// 2m). Default: with Kafka the time in which Parquet files are closed and 30 s, otherwise none.
    #[arg(long)]
    pub settle: Option<humantime::Duration>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `chatledger dlq`
#[derive(Debug, Args)]
pub struct DlqArgs {
    /// The configuration file.
    #[arg(long, global = true)]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: DlqCommand,
}

/// What can be done about dead letters.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// List the open letters: why, how many, since when, how often tried.
    List {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// Letters shown one by one; the counts are over all.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Print one JSON object instead of tables.
        #[arg(long)]
        json: bool,
    },
    /// Show one letter with its sealed record.
    Show {
        /// Its corp; needed if there are several.
        #[arg(long)]
        corp: Option<String>,
        /// Its position in the archive.
        #[arg(long)]
        seq: u64,
        /// Its msgid, if several letters have this position.
        #[arg(long)]
        msgid: Option<String>,
        /// Print one JSON object a letter.
        #[arg(long)]
        json: bool,
    },
    /// Open letters again with the keys there are now: what opens is delivered once and settled,
    /// what does not stays, one attempt more.
    Replay {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// Say what would open, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for the running process, or, with Kafka, for the stage `process`.
        #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
        wait: Duration,
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Do without letters, for good; who did so, when and why is kept.
    Drop {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// Why; kept with each letter.
        #[arg(long)]
        because: String,
        /// Really do it.
        #[arg(long)]
        yes: bool,
        /// Say what would be dropped, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for the running process.
        #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
        wait: Duration,
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
}

/// Which letters are meant; without any of these, all that are open.
#[derive(Debug, Args)]
pub struct Which {
    /// Of this corp.
    #[arg(long)]
    pub corp: Option<String>,
    /// Parked for this reason; several separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = parse_reason)]
    pub reason: Vec<Reason>,
    /// At this position in the archive or behind it.
    #[arg(long)]
    pub from_seq: Option<u64>,
    /// At this position or before it.
    #[arg(long)]
    pub to_seq: Option<u64>,
    /// First parked at this time or later: 2026-07-01T08:00:00Z, or 2h for two hours ago.
    #[arg(long, value_parser = parse_time)]
    pub since: Option<i64>,
    /// First parked before this time.
    #[arg(long, value_parser = parse_time)]
    pub until: Option<i64>,
}

fn parse_reason(text: &str) -> Result<Reason, String> {
    let known = Reason::ALL.iter().find(|reason| reason.as_str() == text);
    known.copied().ok_or_else(|| {
        let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        format!("accepted: {}", names.join(", "))
    })
}

/// Milliseconds since the epoch of a moment, or of one so long ago.
fn parse_time(text: &str) -> Result<i64, String> {
    let moment = humantime::parse_rfc3339_weak(text).or_else(|_| {
        let ago = humantime::parse_duration(text).map_err(|_| ())?;
        SystemTime::now().checked_sub(ago).ok_or(())
    });
    let since = moment
        .ok()
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let millis = since.and_then(|since| i64::try_from(since.as_millis()).ok());
    millis.ok_or_else(|| "accepted: 2026-07-01T08:00:00Z (UTC), or a duration such as 2h".into())
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
    let quiet = matches!(
        cli.command,
        Command::Demo(_)
            | Command::Check(_)
            | Command::Dlq(_)
            | Command::Reconcile(_)
            | Command::Verify(_)
    );
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
