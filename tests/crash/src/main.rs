//! `chatledger-crash`: kills chatledger and counts what is lost and what stands there twice.
//!
//! It runs the built programs, the real Kafka and the real ClickHouse engine by the means of
//! `tests/e2e`, and knows of chatledger commands, files, tables, topics and the names of its fail
//! points. `tests/crash/run` builds what it needs.
//!
//! Not here: faults of peers and rebalances between processes; those are `tests/e2e`.

#![allow(
    unreachable_pub,
    reason = "nothing outside a binary can reach it; pub says what a module offers"
)]

mod compare;
mod kill_loop;
mod matrix;
mod points;
mod progress;
mod report;
mod site;
mod topics;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use chatledger_e2e::Driver;
use clap::{Parser, ValueEnum};

use crate::matrix::Depth;
use crate::progress::Progress;
use crate::report::Report;

/// Random kills of each driver, if nothing else is said.
const FEW: u32 = 20;
/// The same with --all.
const MANY: u32 = 200;

/// Kills chatledger and compares what is stored with a run that was left alone.
///
/// Without --kills, --matrix and --all: every fail point is killed at in turn, and 20 random kills.
#[derive(Parser)]
#[command(name = "tests/crash/run", version)]
struct Cli {
    /// So many random SIGKILLs over a deployment that is kept busy.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    kills: Option<u32>,

    /// Every fail point with SIGKILL, error and delay, each in a deployment of its own.
    #[arg(long)]
    matrix: bool,

    /// --matrix, and 200 random kills unless --kills says otherwise.
    #[arg(long)]
    all: bool,

    /// Only this driver.
    #[arg(long, value_enum)]
    driver: Option<DriverName>,

    /// The tenant and the moments of the random kills follow from it.
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,

    /// Messages of the tenant of the fail points.
    #[arg(long, default_value_t = 570, value_name = "M",
          value_parser = clap::value_parser!(u64).range(300..=20_000))]
    messages: u64,

    /// One JSON object on stdout instead of tables.
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
            Some(Depth::Whole)
        } else if self.kills.is_some() {
            None
        } else {
            Some(Depth::Tour)
        }
    }

    fn kills(&self) -> Option<u32> {
        let otherwise = match (self.all, self.matrix) {
            (true, _) => Some(MANY),
            (false, true) => None,
            (false, false) => Some(FEW),
        };
        self.kills.or(otherwise)
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
    let mut report = Report::default();
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
            let found = kill_loop::run(driver, kills, cli.seed, &progress).await;
            progress.end();
            report.loops.push(found?);
        }
    }
    let text = if cli.json {
        report.json()?
    } else {
        report.text()
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(report.holds())
}
