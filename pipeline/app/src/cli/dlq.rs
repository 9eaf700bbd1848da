//! The options of `chatledger dlq`.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chatledger_schemas::Reason;
use clap::{Args, Subcommand};
pub(super) const DLQ_HELP: &str = "\
Examples:
  chatledger dlq list --config chatledger.toml
  chatledger dlq list --config chatledger.toml --since 2h \\
      --reason unknown_key_version
  chatledger dlq show --config chatledger.toml --seq 4711
  chatledger dlq replay --config chatledger.toml --dry-run
  chatledger dlq drop --config chatledger.toml --from-seq 10 --to-seq 20 \\
      --because \"test data\" --yes

Exit codes:
  0  success
  2  the configuration or the command line is wrong
  3  a system that is needed cannot be reached, or the running process does
     not answer in time
  4  refused: `drop` without --yes, or `show` and no dead letter matches
  1  any other error";

/// `chatledger dlq`
#[derive(Debug, Args)]
pub struct DlqArgs {
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: DlqCommand,
}

/// The subcommands of `chatledger dlq`.
#[derive(Debug, Subcommand)]
pub enum DlqCommand {
    /// List the open dead letters: reasons, counts, age, attempts.
    #[command(after_long_help = DLQ_HELP)]
    List {
        /// Which dead letters.
        #[command(flatten)]
        which: FilterArgs,
        /// Number of dead letters listed individually; the counts cover all of them.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Print one JSON object instead of tables.
        #[arg(long)]
        json: bool,
    },
    /// Show a dead letter with its sealed record.
    #[command(after_long_help = DLQ_HELP)]
    Show {
        /// Its corp; required if the configuration has several.
        #[arg(long)]
        corp: Option<String>,
        /// Its seq.
        #[arg(long)]
        seq: u64,
        /// Its msgid, if several dead letters have this seq.
        #[arg(long)]
        msgid: Option<String>,
        /// Print one JSON object per dead letter.
        #[arg(long)]
        json: bool,
    },
    /// Process dead letters again with the current keys.
    ///
    /// A record that can be opened now is delivered once, and its dead letter is settled. Otherwise
    /// the dead letter stays open and its number of attempts increases.
    #[command(after_long_help = DLQ_HELP)]
    Replay {
        /// Which dead letters.
        #[command(flatten)]
        which: FilterArgs,
        /// Only print what would be delivered.
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for the running process or, with the kafka driver, for the stage
        /// `process`.
        #[arg(long, default_value = "60s", value_parser = humantime::parse_duration, value_name = "DURATION")]
        wait: Duration,
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Discard dead letters permanently.
    ///
    /// Who discarded a dead letter, when and why stays recorded.
    #[command(after_long_help = DLQ_HELP)]
    Drop {
        /// Which dead letters.
        #[command(flatten)]
        which: FilterArgs,
        /// The reason; recorded with each dead letter.
        #[arg(long, value_name = "TEXT")]
        because: String,
        /// Confirm that the dead letters are to be discarded.
        #[arg(long)]
        yes: bool,
        /// Only print what would be discarded.
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for the running process.
        #[arg(long, default_value = "60s", value_parser = humantime::parse_duration, value_name = "DURATION")]
        wait: Duration,
        /// Print one JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
}

/// Selects dead letters. Without any option it selects all open ones.
#[derive(Debug, Args)]
pub struct FilterArgs {
    /// Only of this corp.
    #[arg(long)]
    pub corp: Option<String>,
    /// Only with one of these reasons, separated by commas.
    #[arg(long, value_delimiter = ',', value_parser = parse_reason)]
    pub reason: Vec<Reason>,
    /// Only with this seq or a higher one.
    #[arg(long, value_name = "SEQ")]
    pub from_seq: Option<u64>,
    /// Only with this seq or a lower one.
    #[arg(long, value_name = "SEQ")]
    pub to_seq: Option<u64>,
    /// Only those first dead-lettered at this time or later: 2026-07-01T08:00:00Z, or 2h for two
    /// hours ago.
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub since: Option<i64>,
    /// Only those first dead-lettered before this time.
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    pub until: Option<i64>,
}

fn parse_reason(text: &str) -> Result<Reason, String> {
    let known = Reason::ALL.iter().find(|reason| reason.as_str() == text);
    known.copied().ok_or_else(|| {
        let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        format!("accepted: {}", names.join(", "))
    })
}

/// Parses a moment, or a duration before now, into milliseconds since the Unix epoch.
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
