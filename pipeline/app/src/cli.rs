//! The command line.

mod dlq;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

pub use self::dlq::{DlqArgs, DlqCommand, FilterArgs};

/// Archives a company's WeCom (企业微信) conversations in ClickHouse and Parquet.
///
/// Pulls the sealed records of the conversation archive (会话内容存档), opens them with the company's
/// private keys, adds the names of members, customers and rooms, finds violations of the company's
/// rules, and writes messages and violations to ClickHouse tables and Parquet files.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, after_long_help = OVERVIEW)]
pub struct Cli {
    /// Format of the log lines on stderr.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  any other error
  2  the configuration or the command line is wrong
  3  a system that is needed cannot be reached
  4  refused for safety";

const OVERVIEW: &str = "\
Examples:
  Try it on this machine with an invented company:
    ./deploy/local/demo
  Find all errors in a configuration:
    chatledger check --config chatledger.toml
  Run the pipeline until SIGTERM or Ctrl-C:
    chatledger run --config chatledger.toml
  Process everything that is available, then stop:
    chatledger run --config chatledger.toml --drain

Logs:
  Logs go to stderr, results to stdout. CHATLEDGER_LOG sets the log level:
  error, warn, info, debug, or a tracing filter, as chatledger_engine=debug.

Exit codes:
  0  success
  1  any other error
  2  the configuration, a file it names, or the command line is wrong
  3  a system that is needed cannot be reached; trying again may succeed
  4  refused for safety: for example, the tables are newer than this program,
     or the archive may have deleted records since the last run
  deploy/runbooks describes what to do for each code.";

/// Format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain text.
    Text,
    /// One JSON object per line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the pipeline.
    ///
    /// Runs until SIGTERM or Ctrl-C, and delivers what it has pulled before it stops. With --drain it
    /// stops when the archive has no more records and everything pulled is delivered.
    #[command(after_long_help = RUN_HELP)]
    Run(RunArgs),
    /// Check a configuration and the files it names.
    ///
    /// Reports all errors of the configuration at once: unknown keys, wrong types, values out of
    /// range, unreadable files, invalid keys and addresses. Then checks the rule files and lists the
    /// rules with the reason why a rule is not in effect. Needs no network without --connect.
    #[command(after_long_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Create or upgrade the tables in ClickHouse.
    ///
    /// `run` does the same at its start. Does nothing if the tables have this program's schema.
    #[command(after_long_help = MIGRATE_HELP)]
    Migrate {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Prove that every pulled record is in exactly one place.
    ///
    /// Compares the ledger with the sinks, in blocks of 1,000 positions: every record that was pulled
    /// must be a message, a duplicate of a message, or a dead letter. Changes nothing, and can be used
    /// while `run` is active.
    #[command(after_long_help = RECONCILE_HELP)]
    Reconcile(ReconcileArgs),
    /// Verify that nothing was changed, removed or inserted afterwards.
    ///
    /// Recomputes the hash chain over everything that was pulled and compares the rows in the sinks
    /// with it. Changes nothing, and can be used while `run` is active.
    #[command(after_long_help = VERIFY_HELP)]
    Verify(VerifyArgs),
    /// List, show, replay or discard dead letters.
    ///
    /// A dead letter is a record that could not be opened or decoded. It is kept with the reason and
    /// the sealed record until it is replayed or discarded.
    #[command(after_long_help = dlq::DLQ_HELP)]
    Dlq(DlqArgs),
    /// Serve an embedded ClickHouse over its HTTP interface.
    ///
    /// Loads the ClickHouse engine from its shared library (libchdb.so), which
    /// deploy/local/fetch-libchdb downloads. For trials and small installations; runs until SIGTERM or
    /// Ctrl-C.
    #[command(after_long_help = EMBEDDED_HELP)]
    EmbeddedClickhouse(EmbeddedArgs),
    /// Archive the conversations of an invented company on this machine.
    ///
    /// Starts an embedded ClickHouse and a simulated WeCom tenant, runs the pipeline until everything
    /// is delivered, compares the tables with what the tenant sent, and prints a summary.
    /// ./deploy/local/demo builds what it needs and then starts this command.
    #[command(after_long_help = DEMO_HELP)]
    Demo(DemoArgs),
}

const RUN_HELP: &str = "\
Examples:
  chatledger run --config direct.toml
  chatledger run --config direct.toml --drain | jq .messages
  chatledger run --config kafka.toml --stages source,directory
  chatledger run --config kafka.toml --stages process,sink

Signals:
  SIGTERM, SIGINT  Stop pulling and wait up to 25 s for the sinks. A second
                   signal stops at once. What is not delivered is processed
                   again at the next start.
  SIGHUP           Read the private keys again.

Exit codes:
  0  stopped by a signal, or drained
  2  the configuration, a key or a rule file is wrong
  3  the archive, Kafka or a sink cannot be reached
  4  refused: another process uses the state folder, the tables are newer
     than this program, a sink has no recorded position, or the archive was
     not read for five days (see --accept-gap). With several corps, those
     that are not refused are archived until the program is stopped
  1  any other error";

const CHECK_HELP: &str = "\
Examples:
  chatledger check --config chatledger.toml
  chatledger check --config chatledger.toml --connect
  chatledger check --config chatledger.toml --json | jq .rules

Exit codes:
  0  no errors
  2  the configuration, a file it names, or a rule file is wrong
  3  with --connect: a system does not answer
  1  any other error";

const MIGRATE_HELP: &str = "\
Example:
  chatledger migrate --config chatledger.toml

Exit codes:
  0  the tables have this program's schema
  2  the configuration is wrong
  3  ClickHouse cannot be reached
  4  the tables are newer than this program
  1  any other error";

const RECONCILE_HELP: &str = "\
Examples:
  chatledger reconcile --config chatledger.toml
  chatledger reconcile --config chatledger.toml --corp ww0123 --blocks
  chatledger reconcile --config chatledger.toml --from-seq 1000 --json

Exit codes:
  0  every record is in exactly one place
  1  a record is missing or in more than one place, or any other error
  2  the configuration or the command line is wrong
  3  a system that is needed cannot be reached
  4  there is no ledger to compare with";

const VERIFY_HELP: &str = "\
Examples:
  chatledger verify --config chatledger.toml
  chatledger verify --config chatledger.toml --settle 5m --json >verify-2026-11.json
  chatledger verify --config chatledger.toml --kept verify-2026-11.json

Exit codes:
  0  nothing was changed, removed or inserted
  1  something was, or any other error
  2  the configuration or the command line is wrong
  3  a system that is needed cannot be reached
  4  there is no ledger to compare with";

const EMBEDDED_HELP: &str = "\
Examples:
  chatledger embedded-clickhouse --data-dir /var/lib/chatledger/clickhouse
  chatledger embedded-clickhouse --data-dir data --listen 0.0.0.0:8123 \\
      --user chatledger --password-file clickhouse.password

Exit codes:
  0  stopped by a signal
  2  an address that other machines can reach was given without a user
  1  any other error";

const DEMO_HELP: &str = "\
Examples:
  ./deploy/local/demo
  ./deploy/local/demo --messages 5000 --seed 7
  ./deploy/local/demo --stay --clickhouse-listen 127.0.0.1:8123

Exit codes:
  0  the tables hold exactly what the tenant sent
  1  they do not, or any other error
  3  the embedded ClickHouse or the simulator cannot be started
  4  the folder given with --dir is not empty and was not made by a demo";

/// `chatledger run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Stages that this process runs [default: all]. Only with the kafka driver; the direct driver
    /// always runs all of them.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub stages: Vec<StageName>,
    /// Stop when the archive has no more records and everything pulled is delivered. The last line on
    /// stdout is then a JSON object with the counts.
    #[arg(long)]
    pub drain: bool,
    /// Read an archive although it was not read for longer than the five days for which it keeps records. The gap is
    /// recorded in the ledger. With CORP, only for this corp; can be repeated. Without this option the archive of such a
    /// corp is not read, and the exit code is 4; other corps are.
    #[arg(long, value_name = "CORP", num_args = 0..=1)]
    pub accept_gap: Option<Vec<String>>,
}

/// The stages that can run in separate processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StageName {
    /// Pulls the archive into the topic [raw].
    Source,
    /// Opens, decodes and matches [raw] into [messages], [violations] and [deadletter].
    Process,
    /// Writes [messages], [violations] and [deadletter] to the sinks.
    Sink,
    /// Synchronizes the directory into the topic [directory].
    Directory,
}

/// `chatledger check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Also ask what `run` asks: the archive, the directory with each secret, the sinks and, with the kafka driver, Kafka
    /// and whether existing topics fit.
    #[arg(long)]
    pub connect: bool,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `chatledger reconcile`
#[derive(Debug, Args)]
pub struct ReconcileArgs {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only this corp.
    #[arg(long)]
    pub corp: Option<String>,
    /// Only records with this seq or a higher one.
    #[arg(long, value_name = "SEQ")]
    pub from_seq: Option<u64>,
    /// Only records with this seq or a lower one [default: the position that every sink has reached].
    #[arg(long, value_name = "SEQ")]
    pub to_seq: Option<u64>,
    /// How long to wait for records that are not delivered yet, such as 30s or 2m [default: with the
    /// kafka driver 30 s more than sink.parquet.roll_interval, otherwise none].
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<humantime::Duration>,
    /// Print every block of 1,000 positions, not only those with errors.
    #[arg(long)]
    pub blocks: bool,
    /// Print one JSON object, with every block, instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// `chatledger verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Only this corp.
    #[arg(long)]
    pub corp: Option<String>,
    /// Age below which a missing message is not reported, because it may not be delivered yet, such
    /// as 30s or 2m [default: with the kafka driver 30 s more than sink.parquet.roll_interval,
    /// otherwise none].
    #[arg(long, value_name = "DURATION")]
    pub settle: Option<humantime::Duration>,
    /// Report of an earlier `verify --json`, kept where nobody who can write the archive can. Its links
    /// must be in the ledger.
    #[arg(long, value_name = "FILE")]
    pub kept: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `chatledger embedded-clickhouse`
#[derive(Debug, Args)]
pub struct EmbeddedArgs {
    /// Folder for the data. Only one process can use it at a time.
    #[arg(long, value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// Address to listen on; port 0 selects a free port. The address is printed on stdout as soon as
    /// the engine answers.
    #[arg(long, default_value = "127.0.0.1:8123", value_name = "IP:PORT")]
    pub listen: SocketAddr,
    /// Path of libchdb.so [default: CHATLEDGER_LIBCHDB, then the folder into which
    /// deploy/local/fetch-libchdb downloads it].
    #[arg(long, value_name = "FILE")]
    pub lib: Option<PathBuf>,
    /// User name that clients must send. Required to listen on an address other than the loopback. Without it,
    /// only programs of this user and of root are answered.
    #[arg(long, requires = "password_file")]
    pub user: Option<String>,
    /// File with the user's password.
    #[arg(long, requires = "user", value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Accept a password file that other users can read.
    #[arg(long)]
    pub allow_open_secrets: bool,
    /// Memory limit of the engine in MiB.
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    pub max_memory_mib: u64,
    /// Start although the kernel cannot confine the process (Linux before 5.19, or without Landlock). A
    /// client can then read every file that this user can read.
    #[arg(long)]
    pub unconfined: bool,
}

/// `chatledger demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Number of messages that the company sends.
    #[arg(long, default_value_t = 50_000)]
    pub messages: u64,
    /// Seed of the random generator; the same seed produces the same company.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder for everything the demo creates. The files of an earlier demo in it are removed
    /// [default: chatledger-demo in the system's temporary folder].
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
    /// Folder of dialogue files (*.jsonl.gz) to use instead of the built-in texts.
    #[arg(long, value_name = "FOLDER")]
    pub corpus: Option<PathBuf>,
    /// Faults that the simulator produces (see wecom-sim --help).
    #[arg(long, default_value = "broken=20,unknown_key=10,duplicates=25")]
    pub faults: String,
    /// Keep everything running afterwards, with new messages arriving, until Ctrl-C.
    #[arg(long)]
    pub stay: bool,
    /// Address of the embedded ClickHouse; port 0 selects a free port.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "IP:PORT")]
    pub clickhouse_listen: SocketAddr,
    /// Address of the metrics endpoints; port 0 selects a free port.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "IP:PORT")]
    pub metrics_listen: SocketAddr,
    /// Path of the simulator [default: wecom-sim in the folder of this program].
    #[arg(long, value_name = "FILE")]
    pub simulator: Option<PathBuf>,
    /// Path of libchdb.so, as for embedded-clickhouse.
    #[arg(long, value_name = "FILE")]
    pub lib: Option<PathBuf>,
    /// Print one JSON object instead of the summary.
    #[arg(long)]
    pub json: bool,
}

/// Initializes logging to stderr. The default level is `info` for commands that keep running and
/// `warn` for commands that print a result.
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
    // The client's debug lines contain the server's exceptions, which may contain rows.
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
