//! What `reconcile` and `verify` share: reading the ledger and the places where rows stand.

mod ledger;
pub mod reconcile;
pub mod verify;

use std::path::Path;
use std::time::Duration;

use chatledger_clickhouse::ClickHouse;
use chatledger_parquet::{MessageFile, Target};
use chatledger_schemas::CorpId;
use chatledger_schemas::config::Mode;
use futures::{Stream, StreamExt, TryStreamExt};
use indicatif::{ProgressBar, ProgressStyle};

pub use self::ledger::{LedgerReader, Step};
use crate::config::{self, Corp, Settings};
use crate::exit::{Failure, chain};

/// Files that are read at once.
const FILES: usize = 2;

/// What is added to the time in which Parquet files are closed, for delivering them.
const DELIVERY: Duration = Duration::from_secs(30);

/// The corps that are asked for: one by its id, or all.
fn corps<'a>(settings: &'a Settings, wanted: Option<&str>) -> Result<Vec<&'a Corp>, Failure> {
    let Some(wanted) = wanted else {
        return Ok(settings.corps.iter().collect());
    };
    let found = settings
        .corps
        .iter()
        .find(|corp| corp.id.as_str() == wanted);
    found.map(|corp| vec![corp]).ok_or_else(|| {
        let known: Vec<&str> = settings.corps.iter().map(|corp| corp.id.as_str()).collect();
        let known = known.join(", ");
        Failure::config(format!(
            "--corp {wanted}: not configured; there are {known}"
        ))
    })
}

fn load(file: &Path) -> Result<Settings, Failure> {
    config::load(file).map_err(Failure::config)
}

/// ClickHouse, if it is a sink. Who audits changes no table, and may not have the right to.
async fn clickhouse(settings: &Settings) -> Result<Option<std::sync::Arc<ClickHouse>>, Failure> {
    match &settings.clickhouse {
        Some(_) => Ok(Some(crate::wiring::migrated(settings).await?)),
        None => Ok(None),
    }
}

/// How long what was pulled may be on its way to the sinks. With Kafka they write down offsets and not
/// positions, so that nobody knows how far they are.
fn patience(settings: &Settings) -> Duration {
    match settings.driver.mode {
        Mode::Direct => Duration::ZERO,
        Mode::Kafka => settings
            .parquet
            .as_ref()
            .map_or(DELIVERY, |parquet| parquet.roll_interval + DELIVERY),
    }
}

fn unanswered(error: &dyn std::error::Error) -> Failure {
    Failure::unreachable(chain(error))
}

/// A file of messages, or the reason why it cannot be read as one.
struct Opened {
    path: String,
    contents: MessageFile,
}

/// A corp's message files, a few at a time, in their order.
async fn files<'a>(
    target: &'a Target,
    corp: &CorpId,
) -> Result<(usize, impl Stream<Item = Result<Opened, Failure>> + 'a), Failure> {
    let paths = target
        .messages(corp)
        .await
        .map_err(|error| unanswered(&error))?;
    let count = paths.len();
    let read = futures::stream::iter(paths).map(move |path| async move {
        let bytes = target
            .read(&path)
            .await
            .map_err(|error| unanswered(&error))?;
        let contents = MessageFile::new(path.clone(), bytes);
        Ok(Opened { path, contents })
    });
    Ok((count, read.buffered(FILES)))
}

/// Does CPU work on every file of a corp. What cannot be read as a file of messages is handed back
/// by its path.
async fn each_file<T: Send + 'static>(
    target: &Target,
    corp: &CorpId,
    work: impl Fn(&Opened) -> Result<T, chatledger_parquet::Error> + Clone + Send + 'static,
    mut done: impl FnMut(String, T),
) -> Result<Vec<String>, Failure> {
    let (count, files) = files(target, corp).await?;
    let bar = bar("message files", count as u64);
    let results = files
        .map_ok(|file| {
            let work = work.clone();
            async move {
                let worked = tokio::task::spawn_blocking(move || {
                    let worked = work(&file);
                    (file.path, worked)
                });
                worked.await.map_err(Failure::other)
            }
        })
        .try_buffered(FILES);
    let mut results = std::pin::pin!(results);
    let mut unreadable = Vec::new();
    while let Some((path, worked)) = results.try_next().await? {
        match worked {
            Ok(worked) => done(path, worked),
            Err(error) => {
                tracing::warn!(path, error = chain(&error), "not a file of messages");
                unreadable.push(path);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(unreadable)
}

/// A bar on a terminal; nothing elsewhere.
fn bar(what: &'static str, length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template("{elapsed_precise} [{bar:36}] {pos}/{len} {msg}");
    if let Ok(style) = style {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
