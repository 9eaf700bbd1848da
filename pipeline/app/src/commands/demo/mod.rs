//! `chatledger demo`: a made-up company, its archive, the engine and the pipeline, on one machine.
//!
//! The simulator and the embedded ClickHouse are children of this process; the pipeline runs in it,
//! with the same wiring as `run`. What the tables hold afterwards is compared with what the
//! simulator says it has sent, and the demo fails if the two differ.

mod children;
mod summary;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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

/// Marks a folder as one that a demo may empty.
const MARK: &str = ".chatledger-demo";
/// With `--stay`: messages that arrive in a second.
const ARRIVING: u32 = 3;

/// What the simulator says it has sent.
#[derive(Debug, Deserialize)]
struct Truth {
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
    let truth = std::fs::read_to_string(company.join("truth/summary.json"));
    let truth: Truth =
        serde_json::from_str(&truth.map_err(Failure::other)?).map_err(Failure::other)?;

    let load = || config::load(&company.join("chatledger.toml")).map_err(Failure::config);
    let shown = CancellationToken::new();
    let mut bar = None;
    let started = Instant::now();
    let options = RunOptions {
        stages: Vec::new(),
        drain: true,
        accept_gap: false,
        stop: stop.clone(),
        abandon: abandon.clone(),
    };
    let drained = wiring::run(load()?, options, |running| {
        let show = progress::show(running.totals, Some(truth.records), shown.clone());
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

    let settings = load()?;
    let (tables, _) = wiring::migrate(&settings).await?;
    let report = summary::read(tables.client(), took, totals)
        .await
        .map_err(Failure::other)?;
    let parquet = company.join("parquet");
    if args.json {
        say(&serde_json::to_string(&report).map_err(Failure::other)?)?;
    } else {
        say(&report.for_people(&clickhouse, &parquet, &company))?;
    }
    compare(&truth, &report)?;
    if !args.json {
        say("\nThe tables hold exactly what the company sent, each message once.")?;
    }
    if args.stay {
        stay(args, &clickhouse, &archive, load()?, stop, abandon).await?;
    } else if !args.json {
        say(&format!(
            "\nEverything it made lies in {}. To look around with everything running and new messages \
             arriving: ./deploy/local/demo --stay",
            dir.display()
        ))?;
    }
    Ok(())
}

/// The folder, empty. Only what an earlier demo made is removed.
fn prepare(dir: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let dir = dir.unwrap_or_else(|| std::env::temp_dir().join("chatledger-demo"));
    let dir = std::path::absolute(&dir).map_err(Failure::other)?;
    let occupied = std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied {
        if !dir.join(MARK).exists() {
            let what = "is not empty and not from an earlier demo; name another folder with --dir";
            return Err(Failure::refused(format!("{} {what}", dir.display())));
        }
        std::fs::remove_dir_all(&dir).map_err(Failure::other)?;
    }
    std::fs::create_dir_all(&dir).map_err(Failure::other)?;
    std::fs::write(dir.join(MARK), "").map_err(Failure::other)?;
    Ok(dir)
}

/// The tables must hold what the simulator has sent: each good message once, also without FINAL.
fn compare(truth: &Truth, report: &summary::Report) -> Result<(), Failure> {
    let wanted = [
        ("records pulled", truth.records, report.run.pulled),
        ("messages", truth.messages, report.messages),
        (
            "messages before FINAL",
            truth.messages,
            report.messages_before_final,
        ),
        ("violations", truth.violations, report.violations),
        (
            "violations before FINAL",
            truth.violations,
            report.violations_before_final,
        ),
        ("dead letters", truth.dead_letters, report.dead_letters),
        ("duplicates", truth.duplicates, report.run.duplicates),
    ];
    let wrong: Vec<String> = wanted
        .iter()
        .filter(|(_, sent, found)| sent != found)
        .map(|(what, sent, found)| format!("{what}: the company sent {sent}, found {found}"))
        .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure::other(anyhow::anyhow!(wrong.join("; "))))
    }
}

/// Leaves everything running, with new messages arriving, until the signal to stop.
async fn stay(
    args: &DemoArgs,
    clickhouse: &str,
    archive: &str,
    settings: config::Settings,
    stop: &CancellationToken,
    abandon: &CancellationToken,
) -> Result<(), Failure> {
    let append = format!("{archive}/sim/append?count={ARRIVING}");
    let arriving = stop.clone();
    let writer = tokio::spawn(async move {
        let client = reqwest::Client::new();
        loop {
            tokio::select! {
                () = arriving.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            if let Err(error) = client.post(&append).send().await {
                tracing::warn!(error = %error.without_url(), "the company has gone quiet");
            }
        }
    });
    let options = RunOptions {
        stages: Vec::new(),
        drain: false,
        accept_gap: false,
        stop: stop.clone(),
        abandon: abandon.clone(),
    };
    let quiet = args.json;
    let result = wiring::run(settings, options, |running| {
        if !quiet {
            let line = format!(
                "\n{ARRIVING} messages a second arrive now. ClickHouse: {clickhouse}  metrics: \
                 http://{}/metrics  Ctrl-C ends it.",
                running.metrics_address
            );
            say(&line).ok();
        }
    })
    .await;
    writer.await.map_err(Failure::other)?;
    result.map(drop)
}
