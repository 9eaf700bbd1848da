//! `chatledger-perf`: measures the CPU time per record and compares it with a baseline.
//!
//! Prints JSON objects to stdout, one per line:
//! 1. the whole program with the direct driver, ClickHouse and Parquet, and its `ratio` to RSA and AES
//!    of the same records;
//! 2. the cost of each stage;
//! 3. the matcher with a thousand words and with tens of thousands.
//!
//! The figures are ratios of CPU time in one run and have no limits; the program fails only if a record
//! is not delivered. The simulator and ClickHouse run on the same machine: their CPU time is not
//! counted, but they reduce `records_per_second`.

#![allow(
    unreachable_pub,
    reason = "in a binary, pub documents the interface of a module"
)]

mod baseline;
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

use crate::baseline::CryptoBaseline;
use crate::drain::{DrainCost, drain};
use crate::stages::StageCosts;
use crate::tenant::Tenant;

/// Words of the short list.
const FEW_WORDS: usize = 1_000;

/// Measures the CPU time per record: the whole program, its stages and the matcher.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Messages of the tenant.
    #[arg(long, default_value_t = 100_000, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1_000..))]
    messages: u64,

    /// Number of measurements of the program and the baseline.
    #[arg(long, default_value_t = 1, value_name = "K",
          value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,

    /// Seed of the tenant.
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,

    /// Folder with dialogue files (*.jsonl.gz), as for wecom-sim --corpus.
    #[arg(long, env = "CHATLEDGER_CORPUS", value_name = "DIR")]
    corpus: Option<PathBuf>,

    /// Word list for the matcher, one word per line [default: a generated list].
    #[arg(long, env = "CHATLEDGER_WORDS", value_name = "FILE")]
    words: Option<PathBuf>,
}

/// The first line. Values are medians over all rounds; seconds and bytes are of one round.
#[derive(Serialize)]
struct ProgramFigures {
    ratio: f64,
    ratio_min: f64,
    ratio_max: f64,
    cpu_seconds: f64,
    bare_cpu_seconds: f64,
    records: u64,
    records_per_second: f64,
    /// Maximum of all rounds.
    peak_rss_bytes: u64,
    user_seconds: f64,
    sys_seconds: f64,
    repeat: u32,
}

/// The second line, in CPU microseconds per record.
#[derive(Serialize)]
struct StageFigures<'a> {
    stages_us_per_record: &'a StageCosts,
    sum: f64,
    /// The whole program; the difference from the sum is startup, queues, ledger and metrics.
    whole: f64,
    /// Only RSA and AES.
    bare: f64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One thread, so that measurements on it are not disturbed and the process stays small.
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
            log(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn measure(cli: &Cli) -> Result<()> {
    let here = std::env::current_exe().context("find this program")?;
    let beside = |name: &str| here.with_file_name(name);
    let chatledger = beside("chatledger");
    let folder = tempfile::Builder::new()
        .prefix("chatledger-perf-")
        .tempdir()?;

    log(&format!(
        "starting ClickHouse, generating a tenant of {} messages",
        cli.messages
    ));
    let (_engine, url) =
        services::clickhouse(&chatledger, &folder.path().join("clickhouse")).await?;
    let dir = folder.path().join("tenant");
    let request = services::TenantRequest {
        messages: cli.messages,
        seed: cli.seed,
        corpus: cli.corpus.as_deref(),
        clickhouse_url: &url,
    };
    let _simulator = services::simulator(&beside("wecom-sim"), &dir, &request).await?;
    let tenant = Tenant::read(&dir)?;
    let keys = tenant.keys()?;

    let mut rounds = Vec::new();
    for round in 1..=cli.repeat {
        let say = |what: &str| log(&format!("round {round} of {}: {what}", cli.repeat));
        // Half of the baseline is measured before the program and half after it, so that changes of the
        // machine's speed affect both.
        let mut baseline = CryptoBaseline::new(&tenant, &keys)?;
        say("only RSA and AES, first half");
        baseline.run_until(tenant.truth.records / 2).await?;
        say("the whole program");
        let drain = drain(&chatledger, &tenant, &url).await?;
        say("only RSA and AES, second half");
        baseline.run_until(u64::MAX).await?;
        let bare = baseline.spent(tenant.truth.records)?.as_secs_f64();
        rounds.push(Round { drain, bare });
    }
    let whole = whole(&rounds);
    print(&whole)?;

    log("the single stages");
    let (stages, messages) = stages::measure(&tenant, &keys, &url).await?;
    let each = |seconds: f64| seconds * 1e6 / whole.records as f64;
    print(&StageFigures {
        sum: stages.sum(),
        stages_us_per_record: &stages,
        whole: each(whole.cpu_seconds),
        bare: each(whole.bare_cpu_seconds),
    })?;

    log("the matcher");
    measure_matcher(cli, &messages)
}

fn measure_matcher(cli: &Cli, messages: &[Message]) -> Result<()> {
    let list = match &cli.words {
        Some(path) => words::read(path)?,
        None => words::generate(messages)?,
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

/// One measurement of the program and the baseline.
struct Round {
    drain: DrainCost,
    /// CPU seconds of the baseline.
    bare: f64,
}

fn whole(rounds: &[Round]) -> ProgramFigures {
    let of = |value: fn(&Round) -> f64| -> Vec<f64> {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let ratios = of(|round| round.drain.cpu.total().as_secs_f64() / round.bare);
    ProgramFigures {
        ratio: median(&ratios),
        ratio_min: ratios.first().copied().unwrap_or(f64::NAN),
        ratio_max: ratios.last().copied().unwrap_or(f64::NAN),
        cpu_seconds: median(&of(|round| round.drain.cpu.total().as_secs_f64())),
        bare_cpu_seconds: median(&of(|round| round.bare)),
        records: rounds.first().map_or(0, |round| round.drain.records),
        records_per_second: median(&of(|round| {
            round.drain.records as f64 / round.drain.wall.as_secs_f64()
        })),
        peak_rss_bytes: rounds
            .iter()
            .map(|round| round.drain.peak_rss)
            .max()
            .unwrap_or(0),
        user_seconds: median(&of(|round| round.drain.cpu.user.as_secs_f64())),
        sys_seconds: median(&of(|round| round.drain.cpu.sys.as_secs_f64())),
        repeat: rounds.len() as u32,
    }
}

/// Returns the median of ascending values; NaN if there are none.
fn median(ascending: &[f64]) -> f64 {
    match ascending.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => ascending[n / 2],
        n => f64::midpoint(ascending[n / 2 - 1], ascending[n / 2]),
    }
}

/// Prints progress to stderr.
fn log(line: &str) {
    // Progress is optional; an error on stderr is ignored.
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
    fn median_of_even_counts_is_the_mean_of_the_two_in_the_middle() {
        assert!((median(&[1.0, 2.0, 4.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }
}
