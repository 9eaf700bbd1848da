//! `chatledger demo`: archives the conversations of an invented company on this machine.
//!
//! The simulated WeCom tenant and the embedded ClickHouse are child processes; the pipeline runs in
//! this process, connected as for `run`. Afterwards the rows in the tables are compared with the
//! simulator's account of what it sent, and the demo fails if they differ.

mod children;
mod summary;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use chatledger_engine::pull::AcceptGap;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use self::children::Children;
use super::run::stop_on_signal;
use super::say;
use crate::cli::DemoArgs;
use crate::config;
use crate::exit::Failure;
use crate::progress;
use crate::wiring::{self, RunOptions};

/// Name of the file that identifies a folder made by a demo.
const DEMO_FILE: &str = ".chatledger-demo";
/// With `--stay`: messages that arrive per second.
const MESSAGES_PER_SECOND: u32 = 3;

/// The simulator's account of what it sent.
#[derive(Debug, Deserialize)]
struct SentCounts {
    records: u64,
    messages: u64,
    violations: u64,
    dead_letters: u64,
    duplicates: u64,
}

/// Runs the demo.
pub async fn demo(args: DemoArgs) -> Result<(), Failure> {
    let dir = prepare(args.dir.clone())?;
    let (stop, abandon) = (CancellationToken::new(), CancellationToken::new());
    stop_on_signal(stop.clone(), abandon.clone())?;
    let mut children = Children::default();
    let result = show(&args, &dir, &mut children, &stop, &abandon).await;
    children.stop().await;
    result
}

async fn show(
    args: &DemoArgs,
    dir: &Path,
    children: &mut Children,
    stop: &CancellationToken,
    abandon: &CancellationToken,
) -> Result<(), Failure> {
    let clickhouse = children.clickhouse(args, &dir.join("clickhouse")).await?;
    let company = dir.join("company");
    let archive = children.company(args, &company, &clickhouse).await?;
    let summary = std::fs::read_to_string(company.join("truth/summary.json"));
    let sent: SentCounts =
        serde_json::from_str(&summary.map_err(Failure::other)?).map_err(Failure::other)?;

    let load = || config::load(&company.join("chatledger.toml")).map_err(Failure::config);
    let shown = CancellationToken::new();
    let mut bar = None;
    let started = Instant::now();
    let options = RunOptions {
        stages: Vec::new(),
        drain: true,
        accept_gap: AcceptGap::Refuse,
        stop: stop.clone(),
        abandon: abandon.clone(),
    };
    let drained = wiring::run(load()?, options, |running| {
        let show = progress::show(running.totals, Some(sent.records), shown.clone());
        bar = Some(tokio::spawn(show));
    })
    .await;
    let took = started.elapsed();
    shown.cancel();
    if let Some(bar) = bar {
        bar.await.map_err(Failure::other)?;
    }
    let totals = drained?.summary();
    if stop.is_cancelled() {
        return Ok(());
    }

    let tables = clickhouse::Client::default()
        .with_url(&clickhouse)
        .with_database("chatledger");
    let report = summary::read(&tables, took, totals)
        .await
        .map_err(Failure::other)?;
    let parquet = company.join("parquet");
    if args.json {
        say(&serde_json::to_string(&report).map_err(Failure::other)?)?;
    } else {
        say(&report.text(&clickhouse, &parquet, &company))?;
    }
    compare(&sent, &report)?;
    if !args.json {
        say("\nThe tables contain exactly what the company sent, each message once.")?;
    }
    if args.stay {
        stay(args, &clickhouse, &archive, load()?, stop, abandon).await?;
    } else if !args.json {
        say(&format!(
            "\nAll files of the demo are in {}. To keep everything running, with new messages arriving: \
             ./deploy/local/demo --stay",
            dir.display()
        ))?;
    }
    Ok(())
}

/// Returns the empty folder for the demo. Only a folder made by an earlier demo is emptied.
fn prepare(dir: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let dir = dir.unwrap_or_else(|| std::env::temp_dir().join("chatledger-demo"));
    let dir = std::path::absolute(&dir).map_err(Failure::other)?;
    let occupied = std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        if !dir.join(DEMO_FILE).exists() {
            let what = "is not empty and was not made by a demo; choose another folder with --dir";
            return Err(Failure::refused(format!("{} {what}", dir.display())));
        }
        std::fs::remove_dir_all(&dir).map_err(Failure::other)?;
    }
    std::fs::create_dir_all(&dir).map_err(Failure::other)?;
    std::fs::write(dir.join(DEMO_FILE), "").map_err(Failure::other)?;
    Ok(dir)
}

/// Compares the tables with what the simulator sent: each message once, also without FINAL.
fn compare(sent: &SentCounts, report: &summary::DemoReport) -> Result<(), Failure> {
    let counts = [
        ("records pulled", sent.records, report.run.pulled),
        ("messages", sent.messages, report.messages),
        (
            "messages without FINAL",
            sent.messages,
            report.messages_before_final,
        ),
        ("violations", sent.violations, report.violations),
        (
            "violations without FINAL",
            sent.violations,
            report.violations_before_final,
        ),
        ("dead letters", sent.dead_letters, report.dead_letters),
        ("duplicates", sent.duplicates, report.run.duplicates),
    ];
    let wrong: Vec<String> = counts
        .iter()
        .filter(|(_, sent, found)| sent != found)
        .map(|(what, sent, found)| format!("{what}: {sent} sent, {found} found"))
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure::other(anyhow::anyhow!(wrong.join("; "))))
    }
}

/// Keeps everything running, with new messages arriving, until it is stopped.
async fn stay(
    args: &DemoArgs,
    clickhouse: &str,
    archive: &str,
    settings: config::Settings,
    stop: &CancellationToken,
    abandon: &CancellationToken,
) -> Result<(), Failure> {
    let append = format!("{archive}/sim/append?count={MESSAGES_PER_SECOND}");
    let arriving = stop.clone();
    let writer = tokio::spawn(async move {
        let client = reqwest::Client::new();
        loop {
            tokio::select! {
                () = arriving.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            if let Err(error) = client.post(&append).send().await {
                tracing::warn!(error = %error.without_url(), "the simulator does not accept new messages");
            }
        }
    });
    let options = RunOptions {
        stages: Vec::new(),
        drain: false,
        accept_gap: AcceptGap::Refuse,
        stop: stop.clone(),
        abandon: abandon.clone(),
    };
    let quiet = args.json;
    let result = wiring::run(settings, options, |running| {
        if !quiet {
            let line = format!(
                "\n{MESSAGES_PER_SECOND} new messages per second are arriving. Press Ctrl-C to stop.\n\
                 ClickHouse      {clickhouse}\n\
                 Metrics         http://{}/metrics",
                running.metrics_address
            );
            say(&line).ok();
        }
    })
    .await;
    writer.await.map_err(Failure::other)?;
    result.map(drop)
}
