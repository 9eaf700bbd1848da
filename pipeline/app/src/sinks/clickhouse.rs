//! The sink ClickHouse: rows into tables, sink checkpoints into the table `lanes`, audits.
//!
//! A batch that may have been sent before is inserted under its token, and then its rows are looked
//! for: a server that was killed during an insert can remember the token without the rows, and then
//! drops the repeat. Rows that stay missing are inserted under a new token. They are looked for
//! several times first, because an insert that still runs in the server shows its rows late, and
//! inserting them then would store them twice until parts are merged.

mod audit;

use std::sync::Arc;

use chatledger_clickhouse::tables::{
    DeadLetterEvents, DeadLetters, Messages, SettledDeadLetters, Violations,
};
use chatledger_clickhouse::{BatchTable, ClickHouse, Error, Options, Roots};
use chatledger_engine::batch::{Batch, BatchRange};
use chatledger_engine::failpoint::Step;
use chatledger_engine::fault::Fault;
use chatledger_engine::ports::{BatchWriter, CheckpointStore, DirectorySink, WriteAttempt};
use chatledger_engine::sink::{Limits, Probe, ProbeError, SchemaVersions, Sink, Stream};
use chatledger_engine::sink_checkpoint::SinkCheckpoint;
use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::directory::DirectoryRow;
use chatledger_schemas::{Classified, CorpId, FaultClass};
use futures::FutureExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use tracing::warn;

use self::audit::TableAudit;
use super::{LANE_BYTES, SinkConfig, SinkKind, checkpoint_name, schema_of, steps};
use crate::config::{Validator, redacted};
use crate::exit::chain;

const NAME: &str = "clickhouse";

/// This kind of sink.
pub(super) const KIND: SinkKind = SinkKind {
    name: NAME,
    schema: schema_of::<ClickHouseSection>,
    make,
    fail_points: || {
        let mut points = steps(NAME, chatledger_clickhouse::FAIL_POINTS, Step::both);
        let checkpoints = chatledger_clickhouse::CHECKPOINT_FAIL_POINTS;
        points.extend(steps(NAME, checkpoints, Step::kafka));
        points
    },
};

/// `[sink.clickhouse]`: ClickHouse tables.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ClickHouseSection {
    /// Address of the HTTP interface, without user, password or settings.
    #[schemars(regex(pattern = r"^https?://.+"))]
    url: String,
    /// Database; created if it does not exist.
    #[serde(default = "default_database")]
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"))]
    database: String,
    /// User name, if the server requires one.
    user: Option<String>,
    /// File with the user's password.
    password_file: Option<String>,
    /// PEM file with the CA certificates that the server's certificate is verified against, instead
    /// of the system's.
    ca_file: Option<String>,
    /// Number of rows after which a batch is written.
    #[serde(default = "default_batch_rows")]
    #[schemars(range(min = 1, max = 100_000))]
    batch_rows: u32,
    /// Time after which a batch is written even if it is not full.
    #[serde(default = "default_batch_interval")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    batch_interval: String,
    /// Time limit of one request.
    #[serde(default = "default_timeout")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    timeout: String,
}

fn default_database() -> String {
    "chatledger".into()
}
fn default_batch_rows() -> u32 {
    50_000
}
fn default_batch_interval() -> String {
    "1s".into()
}
fn default_timeout() -> String {
    "1m".into()
}

/// How many times missing rows are looked for, with growing pauses between, before they are taken
/// for lost: two to four seconds together.
const LOOKS: u32 = 6;

fn make(config: &mut SinkConfig<'_, '_>) -> Option<Sink> {
    let section: ClickHouseSection = config.table("sink.clickhouse")?;
    let interval = config
        .validator
        .duration("sink.clickhouse.batch_interval", &section.batch_interval);
    let limits = interval.map(|interval| Limits {
        rows: section.batch_rows as usize,
        bytes: LANE_BYTES,
        interval,
    });
    let options = options(config.validator, section);
    let (options, limits) = (options?, limits?);
    let address = options.url.clone();
    let client = ClickHouse::new(options)
        .map_err(|error| config.validator.problem("sink.clickhouse", chain(&error)));
    let client = Arc::new(client.ok()?);
    let writer = Arc::clone(&client);
    Some(Sink {
        name: NAME,
        title: "ClickHouse",
        address,
        streams: &Stream::ALL,
        limits,
        make_writer: Arc::new(move || Box::new(TableWriter::new(Arc::clone(&writer)))),
        layout: None,
        checkpoints: Arc::new(TableCheckpoints {
            client: Arc::clone(&client),
            prefix: config.prefix.to_owned(),
        }),
        probe: Arc::new(Server(Arc::clone(&client))),
        audit: Some(Arc::new(TableAudit(Arc::clone(&client)))),
        directory: Some(Arc::new(DirectoryTables(client))),
    })
}

/// Validates how the server is reached.
fn options(validator: &mut Validator<'_>, section: ClickHouseSection) -> Option<Options> {
    validator.address("sink.clickhouse.url", &section.url);
    let more_than_an_address = reqwest::Url::parse(&section.url).is_ok_and(|url| {
        let user = !url.username().is_empty() || url.password().is_some();
        user || url.query().is_some() || url.fragment().is_some()
    });
    if more_than_an_address {
        let found = redacted(section.url.split(['?', '#']).next().unwrap_or_default());
        let what = "the address without user, password and settings (use user, password_file)";
        validator.problem(
            "sink.clickhouse.url",
            format!("found more than \"{found}\"; accepted: {what}"),
        );
    }
    let timeout = validator.duration("sink.clickhouse.timeout", &section.timeout);
    let password = section
        .password_file
        .map(|file| validator.secret("sink.clickhouse.password_file", &file));
    let roots = section.ca_file.map(|file| roots(validator, &file));
    if more_than_an_address {
        return None;
    }
    Some(Options {
        url: section.url,
        database: section.database,
        user: section.user,
        password: match password {
            Some(password) => Some(password?),
            None => None,
        },
        roots: match roots {
            Some(roots) => Some(roots?),
            None => None,
        },
        timeout: timeout?,
    })
}

fn roots(validator: &mut Validator<'_>, file: &str) -> Option<Roots> {
    let roots = std::fs::read(validator.folder().join(file))
        .map_err(|error| format!("cannot be read: {error}"))
        .and_then(|pem| Roots::from_pem(&pem).map_err(|error| chain(&error)));
    roots
        .map_err(|what| validator.problem("sink.clickhouse.ca_file", format!("{file}: {what}")))
        .ok()
}

/// The server does not show all rows of a batch whose token it knows.
#[derive(Debug, thiserror::Error)]
#[error("{rows} rows of the batch are not in {table}, although the server knows its insert token")]
struct Hidden {
    table: &'static str,
    rows: usize,
}

impl Classified for Hidden {
    fn class(&self) -> FaultClass {
        FaultClass::Retry
    }
}

/// The writing end of a lane.
struct TableWriter {
    client: Arc<ClickHouse>,
    batches: Vec<Arc<Batch>>,
    bytes: usize,
    /// How many times rows of the current batch were looked for in vain.
    looks: u32,
}

impl TableWriter {
    fn new(client: Arc<ClickHouse>) -> Self {
        Self {
            client,
            batches: Vec::new(),
            bytes: 0,
            looks: 0,
        }
    }

    /// Returns a new token under which missing rows are inserted, or a fault while they may still
    /// appear. The new token is random: what happened to one token can happen again.
    fn token_for_missing(
        &mut self,
        table: &'static str,
        token: &str,
        rows: usize,
    ) -> Result<String, Fault> {
        self.looks += 1;
        if self.looks < LOOKS {
            return Err(Fault::new(Hidden { table, rows }));
        }
        self.looks = 0;
        warn!(
            table,
            token,
            rows,
            "the server knows the insert token but lost its rows; inserting them again"
        );
        Ok(format!("{token}-{:016x}", rand::random::<u64>()))
    }

    /// Inserts the rows of one table. If they may have been sent before, looks for them first, inserts those that are missing,
    /// and checks that they are there.
    async fn deliver<T: BatchTable>(
        &mut self,
        table: T,
        token: &str,
        attempt: WriteAttempt,
        records: Vec<T::Record<'_>>,
    ) -> Result<(), Fault> {
        let client = Arc::clone(&self.client);
        if attempt == WriteAttempt::First {
            let inserted = client.insert(table, token, records.iter().copied());
            return inserted.await.map(drop).map_err(Fault::new);
        }
        // The server may have forgotten the token, or the rows may be there under another name: only what is missing is
        // inserted, under the same token, because an earlier insert may still be in progress.
        let missing = client.absent(table, &records).await.map_err(Fault::new)?;
        if missing.is_empty() {
            return Ok(());
        }
        let inserted = client.insert(table, token, missing.iter().copied());
        inserted.await.map_err(Fault::new)?;
        loop {
            let absent = client.absent(table, &records).await.map_err(Fault::new)?;
            if absent.is_empty() {
                return Ok(());
            }
            let token = self.token_for_missing(T::NAME, token, absent.len())?;
            let inserted = client.insert(table, &token, absent).await;
            inserted.map_err(Fault::new)?;
        }
    }
}

/// The approximate memory a batch uses.
fn weight(batch: &Batch) -> usize {
    let messages = batch
        .messages
        .iter()
        .map(|message| message.payload.len() + message.content.len() + 600);
    let dead_letters = batch
        .dead_letters
        .iter()
        .map(|dead_letter| dead_letter.sealed.len() + 300);
    let others = batch.violations.len() + batch.events.len();
    messages.sum::<usize>() + dead_letters.sum::<usize>() + others * 500
}

impl BatchWriter for TableWriter {
    fn append(&mut self, batch: Arc<Batch>) -> BoxFuture<'_, Result<(), Fault>> {
        self.bytes += weight(&batch);
        self.batches.push(batch);
        std::future::ready(Ok(())).boxed()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn write<'a>(
        &'a mut self,
        log: &'a str,
        range: &'a BatchRange,
        attempt: WriteAttempt,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let token = range.name(log);
            let batches = self.batches.clone();
            let batches = || batches.iter().map(Arc::as_ref);
            // Messages first: no violation or dead letter is visible before its message.
            let rows = batches().flat_map(|batch| &batch.messages).collect();
            self.deliver(Messages, &token, attempt, rows).await?;
            let rows = batches().flat_map(|batch| &batch.violations).collect();
            self.deliver(Violations, &token, attempt, rows).await?;
            let rows = batches().flat_map(|batch| &batch.dead_letters).collect();
            self.deliver(DeadLetters, &token, attempt, rows).await?;
            let events = || batches().flat_map(|batch| &batch.events);
            let rows = events().filter(|event| event.event.settles()).collect();
            self.deliver(SettledDeadLetters, &token, attempt, rows)
                .await?;
            let rows = events().filter(|event| event.event != Event::Retried);
            self.deliver(DeadLetterEvents, &token, attempt, rows.collect())
                .await?;
            self.batches.clear();
            self.bytes = 0;
            self.looks = 0;
            Ok(())
        }
        .boxed()
    }
}

/// Sink checkpoints in the table `lanes`.
struct TableCheckpoints {
    client: Arc<ClickHouse>,
    prefix: String,
}

impl CheckpointStore for TableCheckpoints {
    fn load<'a>(&'a self, log: &'a str) -> BoxFuture<'a, Result<Option<SinkCheckpoint>, Fault>> {
        async move {
            let name = checkpoint_name(&self.prefix, log);
            let stored = self.client.sink_checkpoint(&name).await;
            let stored = stored.map_err(Fault::new)?;
            Ok(stored.map(|row| SinkCheckpoint {
                position: row.position,
                fingerprint: row.fingerprint,
            }))
        }
        .boxed()
    }

    fn store<'a>(
        &'a self,
        log: &'a str,
        checkpoint: SinkCheckpoint,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let name = checkpoint_name(&self.prefix, log);
            let row = chatledger_clickhouse::SinkCheckpoint {
                position: checkpoint.position,
                fingerprint: checkpoint.fingerprint,
            };
            let stored = self.client.store_sink_checkpoint(&name, row).await;
            stored.map_err(Fault::new)
        }
        .boxed()
    }
}

/// The server and its schema.
struct Server(Arc<ClickHouse>);

fn probe_error(error: Error) -> ProbeError {
    match error {
        Error::SchemaTooNew { .. } | Error::SchemaTooOld { .. } => {
            ProbeError::Refused(Fault::new(error))
        }
        other => ProbeError::Unusable(Fault::new(other)),
    }
}

impl Probe for Server {
    fn answers(&self) -> BoxFuture<'_, Result<(), ProbeError>> {
        async move { self.0.ping().await.map_err(probe_error) }.boxed()
    }

    fn readable(&self) -> BoxFuture<'_, Result<(), ProbeError>> {
        async move { self.0.check_schema().await.map_err(probe_error) }.boxed()
    }

    fn prepare(&self) -> BoxFuture<'_, Result<Option<SchemaVersions>, ProbeError>> {
        async move {
            let done = self.0.migrate().await.map_err(probe_error)?;
            Ok(Some(SchemaVersions {
                from: done.from,
                to: done.to,
            }))
        }
        .boxed()
    }
}

/// The directory tables.
struct DirectoryTables(Arc<ClickHouse>);

impl DirectorySink for DirectoryTables {
    fn store<'a>(
        &'a self,
        corp: &'a CorpId,
        taken_at: i64,
        rows: &'a [DirectoryRow],
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let stored = self.0.insert_directory(corp, taken_at, rows).await;
            stored.map_err(Fault::new)
        }
        .boxed()
    }
}
