//! `chatledger-crash`: kills chatledger and counts lost and duplicated rows.
//!
//! It uses `tests/e2e` to run the built programs, a real Kafka and a real ClickHouse engine. Of
//! chatledger it knows only commands, files, tables, topics and the names of its fail points.
//! `tests/crash/run` builds the programs.
//!
//! Not here: faults of peers and rebalances between processes; see `tests/e2e`.

#![allow(
    unreachable_pub,
    reason = "in a binary, pub documents the interface of a module"
)]

mod compare;
mod deployment;
mod kill_loop;
mod matrix;
mod points;
mod progress;
mod report;
mod topics;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use chatledger_e2e::Driver;
use clap::{Parser, ValueEnum};

use crate::matrix::Depth;
use crate::progress::Progress;
use crate::report::CrashReport;

/// Random kills of each driver by default.
const DEFAULT_KILLS: u32 = 20;
/// Random kills of each driver with --all.
const KILLS_OF_ALL: u32 = 200;

/// Kills chatledger and compares the stored data with an undisturbed run.
///
/// Without --kills, --matrix and --all: kills once at every fail point, and 20 times at random.
#[derive(Parser)]
#[command(name = "tests/crash/run", version)]
struct Cli {
    /// Number of random SIGKILLs of a busy deployment.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    kills: Option<u32>,

    /// Test every fail point with SIGKILL, error and delay, each in its own deployment.
    #[arg(long)]
    matrix: bool,

    /// Same as --matrix, plus 200 random kills unless --kills is given.
    #[arg(long)]
    all: bool,

    /// Test only this driver.
    #[arg(long, value_enum)]
    driver: Option<DriverName>,

    /// Seed of the tenant and the moments of the random kills.
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,

    /// Messages of the tenant for the fail points.
    #[arg(long, default_value_t = 570, value_name = "M",
          value_parser = clap::value_parser!(u64).range(300..=20_000))]
    messages: u64,

    /// Print one JSON object instead of tables.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum DriverName {
    Direct,
    Kafka,
}

impl Cli {
    fn drivers(&self) -> &'static [Driver] {
        match self.driver {
            None => &[Driver::Direct, Driver::Kafka],
            Some(DriverName::Direct) => &[Driver::Direct],
            Some(DriverName::Kafka) => &[Driver::Kafka],
        }
    }

    fn depth(&self) -> Option<Depth> {
        if self.matrix || self.all {
            Some(Depth::Matrix)
        } else if self.kills.is_some() {
            None
        } else {
            Some(Depth::KillAtEach)
        }
    }

    fn kills(&self) -> Option<u32> {
        let default = match (self.all, self.matrix) {
            (true, _) => Some(KILLS_OF_ALL),
            (false, true) => None,
            (false, false) => Some(DEFAULT_KILLS),
        };
        self.kills.or(default)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "tests/crash/run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> Result<bool> {
    let mut report = CrashReport::default();
    points::release_has_none()?;
    for &driver in cli.drivers() {
        if let Some(depth) = cli.depth() {
            let progress = Progress::of(&format!("{driver}: fail points"))?;
            let cases = matrix::run(driver, depth, cli.messages, cli.seed, &progress).await;
            progress.end();
            report.cases.extend(cases?);
        }
        if let Some(kills) = cli.kills() {
            let progress = Progress::of(&format!("{driver}: random kills"))?;
            let result = kill_loop::run(driver, kills, cli.seed, &progress).await;
            progress.end();
            report.loops.push(result?);
        }
    }
    let text = if cli.json {
        report.json()?
    } else {
        report.text()
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(report.passed())
}
