//! `chatledger-perf`: measures what a record costs, side by side with the floor under it.
//!
//! Prints JSON objects on stdout, one a line, and nothing else there:
//! 1. the whole program in the direct driver, with ClickHouse and Parquet, and its `ratio` to the
//!    bare RSA and AES of the same records;
//! 2. what each stage costs by itself;
//! 3. the matcher against a thousand words and against tens of thousands.
//!
//! Figures are ratios of CPU time taken in one run, and never pass or fail; what makes this program
//! fail is a record that did not arrive. The simulator seals its records while it serves them, and
//! it and ClickHouse share the machine with what is measured: their CPU time is not counted, but
//! `records_per_second` is what remains beside them.

#![allow(
    unreachable_pub,
    reason = "nothing outside a binary can reach it; pub says what a module offers"
)]

mod bare;
mod drain;
mod matcher;
mod services;
mod stages;
mod tenant;
mod usage;
mod words;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use chatledger_schemas::Message;
use clap::Parser;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::bare::Floor;
use crate::drain::{Drained, drain};
use crate::stages::Stages;
use crate::tenant::Tenant;

/// Words of the short list.
const FEW_WORDS: usize = 1_000;

/// Measures what a record costs: the whole program, its stages, the matcher.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Messages of the tenant.
    #[arg(long, default_value_t = 100_000, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1_000..))]
    messages: u64,

    /// Times the program and the floor are measured, in turn.
    #[arg(long, default_value_t = 1, value_name = "K",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,

    /// The same seed gives the same tenant.
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,

    /// Folder with dialogue files (*.jsonl.gz) to speak from, as for wecom-sim.
    #[arg(long, env = "CHATLEDGER_CORPUS", value_name = "DIR")]
    corpus: Option<PathBuf>,

    /// List of words for the matcher, one a line; made up if not given.
    #[arg(long, env = "CHATLEDGER_WORDS", value_name = "FILE")]
    words: Option<PathBuf>,
}

/// The first line. Of several rounds, medians; seconds and bytes are of one round.
#[derive(Serialize)]
struct Whole {
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    cpu_seconds: f64,
    bare_cpu_seconds: f64,
    records: u64,
    records_per_second: f64,
    /// The largest of all rounds.
    peak_rss_bytes: u64,
    user_seconds: f64,
    sys_seconds: f64,
    repeat: u32,
}

/// The second line, in CPU microseconds a record.
#[derive(Serialize)]
struct Parts<'a> {
    stages_us_per_record: &'a Stages,
    sum: f64,
    /// The whole program; what it has over the sum is start, queues, ledger, metrics.
    whole: f64,
    /// RSA and AES alone.
    bare: f64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread: what is timed on it has it to itself, and the process stays small.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = runtime
        .context("start the async runtime")
        .and_then(|runtime| {
            runtime.block_on(async {
                let mut terminate = signal(SignalKind::terminate())?;
                let mut interrupt = signal(SignalKind::interrupt())?;
                tokio::select! {
                    measured = measure(&cli) => measured,
                    _ = terminate.recv() => anyhow::bail!("stopped"),
                    _ = interrupt.recv() => anyhow::bail!("stopped"),
                }
            })
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn measure(cli: &Cli) -> Result<()> {
    let here = std::env::current_exe().context("find this program")?;
    let beside = |name: &str| here.with_file_name(name);
    let chatledger = beside("chatledger");
    let room = tempfile::Builder::new()
        .prefix("chatledger-perf-")
        .tempdir()?;

    tell(&format!(
        "starting ClickHouse, making a tenant of {} messages",
        cli.messages
    ));
    let (_engine, url) = services::clickhouse(&chatledger, &room.path().join("clickhouse")).await?;
    let dir = room.path().join("tenant");
    let wanted = services::Wanted {
        messages: cli.messages,
        seed: cli.seed,
        corpus: cli.corpus.as_deref(),
        clickhouse_url: &url,
    };
    let _simulator = services::simulator(&beside("wecom-sim"), &dir, &wanted).await?;
    let tenant = Tenant::read(&dir)?;
    let keys = tenant.keys()?;

    let mut rounds = Vec::new();
    for round in 1..=cli.repeat {
        let say = |what: &str| tell(&format!("round {round} of {}: {what}", cli.repeat));
        // Half of the floor before, half after: drift of the machine's speed falls on both.
        let mut floor = Floor::new(&tenant, &keys)?;
        say("RSA and AES alone, first half");
        floor.reach(tenant.truth.records / 2).await?;
        say("the whole program");
        let drained = drain(&chatledger, &tenant, &url).await?;
        say("RSA and AES alone, second half");
        floor.reach(u64::MAX).await?;
        let bare = floor.spent(tenant.truth.records)?.as_secs_f64();
        rounds.push(Round { drained, bare });
    }
    let whole = whole(&rounds);
    print(&whole)?;

    tell("the stages one by one");
    let (stages, messages) = stages::measure(&tenant, &keys, &url).await?;
    let each = |seconds: f64| seconds * 1e6 / whole.records as f64;
    print(&Parts {
        sum: stages.sum(),
        stages_us_per_record: &stages,
        whole: each(whole.cpu_seconds),
        bare: each(whole.bare_cpu_seconds),
    })?;

    tell("the matcher");
    measure_matcher(cli, &messages)
}

fn measure_matcher(cli: &Cli, messages: &[Message]) -> Result<()> {
    let list = match &cli.words {
        Some(path) => words::read(path)?,
        None => words::make(messages)?,
    };
    print(&matcher::measure(
        &words::sample(&list, FEW_WORDS),
        messages,
    )?)?;
    print(&matcher::measure(
        &words::sample(&list, list.len()),
        messages,
    )?)
}

/// The program and the floor, taken around it.
struct Round {
    drained: Drained,
    /// Seconds.
    bare: f64,
}

fn whole(rounds: &[Round]) -> Whole {
    let of = |value: fn(&Round) -> f64| -> Vec<f64> {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let ratios = of(|round| round.drained.cpu.total().as_secs_f64() / round.bare);
    Whole {
        ratio: median(&ratios),
        ratio_min: ratios.first().copied().unwrap_or(f64::NAN),
        ratio_max: ratios.last().copied().unwrap_or(f64::NAN),
        cpu_seconds: median(&of(|round| round.drained.cpu.total().as_secs_f64())),
        bare_cpu_seconds: median(&of(|round| round.bare)),
        records: rounds.first().map_or(0, |round| round.drained.records),
        records_per_second: median(&of(|round| {
            round.drained.records as f64 / round.drained.wall.as_secs_f64()
        })),
        peak_rss_bytes: rounds
            .iter()
            .map(|round| round.drained.peak_rss)
            .max()
            .unwrap_or(0),
        user_seconds: median(&of(|round| round.drained.cpu.user.as_secs_f64())),
        sys_seconds: median(&of(|round| round.drained.cpu.sys.as_secs_f64())),
        repeat: rounds.len() as u32,
    }
}

/// The middle of ascending values; between two of them, their mean.
fn median(ascending: &[f64]) -> f64 {
    match ascending.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => ascending[n / 2],
        n => f64::midpoint(ascending[n / 2 - 1], ascending[n / 2]),
    }
}

/// Says what goes on, on stderr.
fn tell(line: &str) {
    // Whoever closed stderr does not want to know.
    writeln!(std::io::stderr(), "perf: {line}").ok();
}

fn print(line: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(line)?;
    writeln!(std::io::stdout(), "{line}").context("write to stdout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_even_counts_lies_between_the_two_in_the_middle() {
        assert!((median(&[1.0, 2.0, 4.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }
}
