//! What must answer before anything runs: asked a bounded number of times, then told plainly.

use std::future::Future;
use std::sync::Arc;

use chatledger_clickhouse::ClickHouse;
use chatledger_engine::fault::{Backoff, Fault};
use chatledger_schemas::config::Mode;
use chatledger_schemas::{Classified, FaultClass};
use chatledger_wecom::{Archive, ArchiveOptions, OnCall};
use tracing::{info, warn};

use crate::cli::StageName;
use crate::config::{Corp, Settings};
use crate::exit::{Failure, chain};
use crate::kafka_log::Names;

/// Attempts to reach what is needed at the start.
const START_ATTEMPTS: u32 = 6;

/// Asks something until it answers, a bounded number of times.
async fn attempt<T, E, F>(what: &str, mut ask: impl FnMut() -> F) -> Result<T, E>
where
    E: Classified,
    F: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::default();
    loop {
        let error = match ask().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if error.class() == FaultClass::Stop || backoff.attempts() + 1 >= START_ATTEMPTS {
            return Err(error);
        }
        let pause = backoff.pause(&Fault::local(std::fmt::Error), 0.5);
        warn!(what, error = chain(&error), ?pause, "not reached yet");
        tokio::time::sleep(pause).await;
    }
}

fn not_reached(what: &str, where_to: &str, error: &dyn std::error::Error) -> Failure {
    let error = chain(error);
    Failure::unreachable(format!(
        "{what} at {where_to} cannot be used ({error}); gave up after at most {START_ATTEMPTS} attempts"
    ))
}

/// Which of its peers a process needs: a source must not wait for a sink's outage to end.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    archive: bool,
    tables: bool,
    files: bool,
}

impl Needs {
    /// The brokers, if the driver has any, and nothing else.
    pub(super) fn nothing() -> Self {
        Self {
            archive: false,
            tables: false,
            files: false,
        }
    }

    /// Where rows are written.
    pub(super) fn sinks() -> Self {
        Self {
            archive: false,
            tables: true,
            files: true,
        }
    }

    /// What a driver with these stages needs.
    pub(super) fn of(mode: Mode, stages: &[StageName]) -> Self {
        let all = mode == Mode::Direct || stages.is_empty();
        let runs = |stage| all || stages.contains(&stage);
        Self {
            archive: runs(StageName::Source),
            tables: runs(StageName::Sink) || runs(StageName::Directory),
            files: runs(StageName::Sink),
        }
    }
}

/// Reaches everything that is needed and brings the tables up to date.
pub(super) async fn reach(
    settings: &Settings,
    needs: Needs,
) -> Result<Option<Arc<ClickHouse>>, Failure> {
    if settings.driver.mode == Mode::Kafka {
        let kafka = &settings.kafka;
        let names = Names::new(kafka, String::new());
        let topics = names.topics(kafka);
        attempt("Kafka", || {
            chatledger_kafka::ensure_topics(&kafka.brokers, &topics)
        })
        .await
        .map_err(|error| not_reached("Kafka", &kafka.brokers.bootstrap, &error))?;
    }
    if let Some(parquet) = settings.parquet.as_ref().filter(|_| needs.files) {
        attempt("Parquet target", || parquet.target.check())
            .await
            .map_err(|error| not_reached("the Parquet target", &parquet.url, &error))?;
    }
    for corp in settings.corps.iter().filter(|_| needs.archive) {
        let archive = archive(corp, Arc::new(|_, _| {}))?;
        // Behind every seq there can be: proves token and address without moving records.
        attempt("archive", || archive.page(i64::MAX as u64))
            .await
            .map_err(|error| not_reached("the archive", &corp.base_url, &error))?;
    }
    match &settings.clickhouse {
        Some(_) if needs.tables => Ok(Some(migrate(settings).await?.0)),
        _ => Ok(None),
    }
}

/// Reaches ClickHouse and brings its tables up to this program's schema.
///
/// # Errors
/// It cannot be reached, or its schema is newer than the program.
pub async fn migrate(
    settings: &Settings,
) -> Result<(Arc<ClickHouse>, chatledger_clickhouse::Migrated), Failure> {
    let (clickhouse, url) = clickhouse(settings)?;
    let done = attempt("ClickHouse", || clickhouse.migrate())
        .await
        .map_err(|error| match error {
            chatledger_clickhouse::Error::SchemaTooNew { .. } => Failure::refused(error),
            other => not_reached("ClickHouse", url, &other),
        })?;
    if done.from != done.to {
        info!(from = done.from, to = done.to, "tables brought up to date");
    }
    Ok((Arc::new(clickhouse), done))
}

/// Reaches ClickHouse and looks whether its tables have this program's schema.
///
/// # Errors
/// It cannot be reached, or the schema is another.
pub async fn migrated(settings: &Settings) -> Result<Arc<ClickHouse>, Failure> {
    use chatledger_clickhouse::Error;
    let (clickhouse, url) = clickhouse(settings)?;
    let done = attempt("ClickHouse", || clickhouse.check_schema()).await;
    done.map_err(|error| match error {
        Error::SchemaTooNew { .. } | Error::SchemaTooOld { .. } => Failure::refused(error),
        other => not_reached("ClickHouse", url, &other),
    })?;
    Ok(Arc::new(clickhouse))
}

fn clickhouse(settings: &Settings) -> Result<(ClickHouse, &str), Failure> {
    let Some(sink) = &settings.clickhouse else {
        return Err(Failure::config("there is no [sink.clickhouse]"));
    };
    let clickhouse = ClickHouse::new(sink.options.clone())
        .map_err(|error| Failure::config(format!("sink.clickhouse: {}", chain(&error))))?;
    Ok((clickhouse, &sink.options.url))
}

/// One corp's archive.
///
/// # Errors
/// The client cannot be made.
pub fn archive(corp: &Corp, on_call: OnCall) -> Result<Archive, Failure> {
    Archive::new(ArchiveOptions {
        corp_id: corp.id.clone(),
        base_url: corp.base_url.clone(),
        secret: corp.secret.clone(),
        limit: corp.batch_limit,
        timeout: corp.timeout,
        on_call,
    })
    .map_err(|error| Failure::config(format!("corp {}: {}", corp.id, chain(&error))))
}
