//! A cut's rows on their way into the tables, and the lanes' marks beside them.
//!
//! A cut that may have been sent before is inserted under its token and then looked for: a server
//! that was killed in the middle of an insert can remember the token without the rows, and drops
//! the repeat. Rows that stay missing are inserted under another token. They are looked for several
//! times first, because an insert that is still at work in the server shows its rows late; written
//! then, they would stand there twice until merged.

use std::sync::Arc;

use chatledger_clickhouse::tables::{
    DeadLetterEvents, DeadLetters, Messages, SettledDeadLetters, Violations,
};
use chatledger_clickhouse::{BatchTable, ClickHouse, SinkCheckpoint};
use chatledger_engine::batch::Batch;
use chatledger_engine::fault::Fault;
use chatledger_engine::lane::Cut;
use chatledger_engine::mark::Mark;
use chatledger_engine::ports::{Attempt, CutWriter, Marks};
use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::{Classified, FaultClass};
use futures::FutureExt;
use futures::future::BoxFuture;
use tracing::warn;

/// How often rows that a token hides are looked for, with the growing pauses between attempts,
/// before they are taken to be lost: two to four seconds.
const LOOKS: u32 = 6;

/// The server knows a cut's token and does not show all of its rows.
#[derive(Debug, thiserror::Error)]
#[error("{rows} rows of the cut are not in {table} though its token is known")]
struct Hidden {
    table: &'static str,
    rows: usize,
}

impl Classified for Hidden {
    fn class(&self) -> FaultClass {
        FaultClass::Retry
    }
}

/// A cut's rows on their way into the tables.
pub struct TableWriter {
    clickhouse: Arc<ClickHouse>,
    batches: Vec<Arc<Batch>>,
    bytes: usize,
    /// How often rows of this cut have been looked for in vain.
    looks: u32,
}

impl TableWriter {
    /// An empty cut.
    pub fn new(clickhouse: Arc<ClickHouse>) -> Self {
        Self {
            clickhouse,
            batches: Vec::new(),
            bytes: 0,
            looks: 0,
        }
    }

    /// What to do about rows that are not there: an error as long as they may yet show themselves,
    /// then a token under which they are inserted once more. It has never been used before: what
    /// happened to a token once can happen again.
    fn again(&mut self, table: &'static str, token: &str, rows: usize) -> Result<String, Fault> {
        self.looks += 1;
        if self.looks < LOOKS {
            return Err(Fault::new(Hidden { table, rows }));
        }
        self.looks = 0;
        warn!(
            table,
            token, rows, "the server knows the cut's token and has lost its rows; inserting them"
        );
        Ok(format!("{token}-{:016x}", rand::random::<u64>()))
    }
}

impl TableWriter {
    /// Inserts the rows of one table and, if they may have been sent before, checks that they are
    /// there.
    async fn deliver<T: BatchTable>(
        &mut self,
        table: T,
        token: &str,
        attempt: Attempt,
        records: Vec<T::Record<'_>>,
    ) -> Result<(), Fault> {
        let clickhouse = Arc::clone(&self.clickhouse);
        let inserted = clickhouse.insert(table, token, records.iter().copied());
        inserted.await.map_err(Fault::new)?;
        if attempt == Attempt::First {
            return Ok(());
        }
        loop {
            let absent = clickhouse.absent(table, &records).await;
            let absent = absent.map_err(Fault::new)?;
            if absent.is_empty() {
                return Ok(());
            }
            let token = self.again(T::NAME, token, absent.len())?;
            let inserted = clickhouse.insert(table, &token, absent).await;
            inserted.map_err(Fault::new)?;
        }
    }
}

/// What a batch holds in memory, about.
fn weight(batch: &Batch) -> usize {
    let messages = batch
        .messages
        .iter()
        .map(|m| m.payload.len() + m.content.len() + 600);
    let letters = batch
        .dead_letters
        .iter()
        .map(|letter| letter.sealed.len() + 300);
    let others = batch.violations.len() + batch.events.len();
    messages.sum::<usize>() + letters.sum::<usize>() + others * 500
}

impl CutWriter for TableWriter {
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
        cut: &'a Cut,
        attempt: Attempt,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let token = cut.name(log);
            let batches = self.batches.clone();
            let batches = || batches.iter().map(Arc::as_ref);
            // Messages first: a violation or dead letter never stands there before its message does.
            let messages = batches().flat_map(|batch| &batch.messages).collect();
            self.deliver(Messages, &token, attempt, messages).await?;
            let violations = batches().flat_map(|batch| &batch.violations).collect();
            self.deliver(Violations, &token, attempt, violations)
                .await?;
            let letters = batches().flat_map(|batch| &batch.dead_letters).collect();
            self.deliver(DeadLetters, &token, attempt, letters).await?;
            let events = || batches().flat_map(|batch| &batch.events);
            let settling = events().filter(|event| event.event.closes()).collect();
            self.deliver(SettledDeadLetters, &token, attempt, settling)
                .await?;
            let told = events().filter(|event| event.event != Event::Retried);
            self.deliver(DeadLetterEvents, &token, attempt, told.collect())
                .await?;
            self.batches.clear();
            self.bytes = 0;
            self.looks = 0;
            Ok(())
        }
        .boxed()
    }
}

/// The marks in the table `lanes`.
pub struct TableMarks {
    clickhouse: Arc<ClickHouse>,
    prefix: String,
}

impl TableMarks {
    /// Marks of logs whose names begin with `prefix` there.
    pub fn new(clickhouse: Arc<ClickHouse>, prefix: String) -> Self {
        Self { clickhouse, prefix }
    }
}

impl Marks for TableMarks {
    fn held<'a>(&'a self, log: &'a str) -> BoxFuture<'a, Result<Option<Mark>, Fault>> {
        async move {
            let name = format!("{}.{log}", self.prefix);
            let mark = self.clickhouse.sink_checkpoint(&name).await;
            let mark = mark.map_err(Fault::new)?;
            Ok(mark.map(|mark| Mark {
                position: mark.position,
                witness: mark.fingerprint,
            }))
        }
        .boxed()
    }

    fn keep<'a>(&'a self, log: &'a str, mark: Mark) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let name = format!("{}.{log}", self.prefix);
            let checkpoint = SinkCheckpoint {
                position: mark.position,
                fingerprint: mark.witness,
            };
            let kept = self
                .clickhouse
                .store_sink_checkpoint(&name, checkpoint)
                .await;
            kept.map_err(Fault::new)
        }
        .boxed()
    }
}
