//! What must answer before anything runs: asked a limited number of times, then reported.

use std::future::Future;
use std::sync::Arc;

use chatledger_engine::fault::retry_limited;
use chatledger_engine::sink::{ProbeError, SchemaVersions, Sink};
use chatledger_schemas::Classified;
use chatledger_schemas::config::Mode;
use chatledger_wecom::{Archive, ArchiveOptions, OnCall};
use tracing::{error, info, warn};

use crate::cli::StageName;
use crate::config::{Corp, Settings, redacted};
use crate::exit::{Failure, chain};
use crate::kafka_log::Names;

/// Attempts to reach what is needed at the start.
const START_ATTEMPTS: u32 = 6;

/// Asks until there is an answer, at most [`START_ATTEMPTS`] times.
async fn attempt<T, E, F>(what: &str, ask: impl FnMut() -> F) -> Result<T, E>
where
    E: Classified + 'static,
    F: Future<Output = Result<T, E>>,
{
    let log = |error: &E, pause| warn!(what, error = chain(error), ?pause, "not reached; retrying");
    retry_limited(START_ATTEMPTS, log, ask).await
}

fn not_reached(what: &str, where_to: &str, error: &(dyn std::error::Error + 'static)) -> Failure {
    let error = chain(error);
    let where_to = redacted(where_to);
    Failure::unreachable(format!(
        "cannot use {what} at {where_to}: {error} (gave up after at most {START_ATTEMPTS} attempts)"
    ))
}

/// Which peers a process needs: a source must not wait for a sink's outage to end.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    archive: bool,
    /// Sinks, for their rows.
    sinks: bool,
    /// Sinks that take directory rows, for these.
    directory_sinks: bool,
}

impl Needs {
    /// The brokers, if the driver has any, and nothing else.
    pub(super) fn nothing() -> Self {
        Self {
            archive: false,
            sinks: false,
            directory_sinks: false,
        }
    }

    /// The sinks.
    pub(super) fn sinks() -> Self {
        Self {
            archive: false,
            sinks: true,
            directory_sinks: true,
        }
    }

    /// What a driver with these stages needs.
    pub(super) fn of(mode: Mode, stages: &[StageName]) -> Self {
        let all = mode == Mode::Direct || stages.is_empty();
        let runs = |stage| all || stages.contains(&stage);
        Self {
            archive: runs(StageName::Source),
            sinks: runs(StageName::Sink),
            directory_sinks: runs(StageName::Directory),
        }
    }

    fn needs(self, sink: &Sink) -> bool {
        self.sinks || (self.directory_sinks && sink.directory.is_some())
    }
}

/// Reaches everything that is needed and prepares the sinks for writing.
pub(super) async fn reach(settings: &Settings, needs: Needs) -> Result<(), Failure> {
    if settings.driver.mode == Mode::Kafka {
        let kafka = &settings.kafka;
        let names = Names::new(kafka, String::new());
        let topics = names.topics(kafka);
        attempt("Kafka", || {
            chatledger_kafka::ensure_topics(&kafka.brokers, &topics)
        })
        .await
        .map_err(|error| not_reached("Kafka", &kafka.brokers.bootstrap, &error))?;
        match chatledger_kafka::topic_problems(&kafka.brokers, &topics).await {
            Ok(problems) => {
                for problem in problems {
                    error!(%problem, "a topic does not fit");
                }
            }
            Err(error) => warn!(
                error = chain(&error),
                "cannot check the settings of the topics"
            ),
        }
    }
    if needs.archive {
        reach_archives(&settings.corps).await?;
    }
    for sink in settings.sinks.iter().filter(|sink| needs.needs(sink)) {
        prepare(sink).await?;
    }
    Ok(())
}

/// Reaches the archives side by side. One that cannot be reached must not stop the other corps: its puller goes on trying.
///
/// # Errors
/// None can be reached.
async fn reach_archives(corps: &[Corp]) -> Result<(), Failure> {
    let attempts = corps.iter().map(|corp| async move {
        let archive = archive(corp, Arc::new(|_, _| {}))?;
        // After every possible seq: checks token and address without moving records.
        attempt("archive", || archive.page(i64::MAX as u64))
            .await
            .map(drop)
            .map_err(|error| not_reached("the archive", &corp.base_url, &error))
    });
    let failures: Vec<(&Corp, Failure)> = futures::future::join_all(attempts)
        .await
        .into_iter()
        .zip(corps)
        .filter_map(|(reached, corp)| Some((corp, reached.err()?)))
        .collect();
    if failures.len() < corps.len() {
        for (corp, error) in &failures {
            error!(corp = %corp.id, %error, "the archive of this corp cannot be reached; trying on while the others are read");
        }
        return Ok(());
    }
    failures
        .into_iter()
        .next()
        .map_or(Ok(()), |(_, error)| Err(error))
}

/// Prepares a sink for writing.
async fn prepare(sink: &Sink) -> Result<Option<SchemaVersions>, Failure> {
    let prepared = attempt(sink.title, || sink.probe.prepare()).await;
    let versions = prepared.map_err(|error| unusable(sink, &error))?;
    if let Some(SchemaVersions { from, to }) = versions.filter(|done| done.from != done.to) {
        info!(sink = sink.name, from, to, "schema migrated");
    }
    Ok(versions)
}

/// Prepares every sink that has a schema. Returns the versions by sink.
///
/// # Errors
/// A sink cannot be reached, or its schema is newer than the program.
pub async fn migrate(sinks: &[Sink]) -> Result<Vec<(&'static str, SchemaVersions)>, Failure> {
    let mut migrated = Vec::new();
    for sink in sinks {
        if let Some(versions) = prepare(sink).await? {
            migrated.push((sink.title, versions));
        }
    }
    Ok(migrated)
}

/// Reaches sinks that are only read. Changes nothing.
///
/// # Errors
/// A sink cannot be reached, or its schema is not this program's.
pub async fn reach_readable(sinks: &[Sink]) -> Result<(), Failure> {
    for sink in sinks {
        attempt(sink.title, || sink.probe.readable())
            .await
            .map_err(|error| unusable(sink, &error))?;
    }
    Ok(())
}

fn unusable(sink: &Sink, error: &ProbeError) -> Failure {
    match error {
        ProbeError::Refused(fault) => Failure::refused(fault),
        ProbeError::Unusable(fault) => not_reached(sink.title, &sink.address, fault),
    }
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
