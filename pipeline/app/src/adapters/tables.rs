//! A cut's rows on their way into the tables, and the lanes' marks beside them.
//!
//! A cut that may have been sent before is inserted under its token and then looked for: a server
//! that was killed in the middle of an insert can remember the token without the rows, and drops
//! the repeat. Rows that stay missing are inserted under another token. They are looked for several
//! times first, because an insert that is still at work in the server shows its rows late; written
//! then, they would stand there twice until merged.

use std::sync::Arc;

use chatledger_clickhouse::{ClickHouse, LaneMark};
use chatledger_engine::batch::Batch;
use chatledger_engine::fault::Fault;
use chatledger_engine::lane::Cut;
use chatledger_engine::mark::Mark;
use chatledger_engine::ports::{Attempt, CutWriter, Marks};
use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::{Classified, DeadLetter, DeadLetterEvent, FaultClass, Message, Violation};
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

/// Inserts the cut's rows of one table and, if they may have been sent before, sees to it that they
/// are there.
macro_rules! table {
    ($name:ident, $row:ty, $rows:expr, $insert:ident, $absent:ident) => {
        async fn $name(&mut self, token: &str, attempt: Attempt) -> Result<(), Fault> {
            let batches = self.batches.clone();
            let clickhouse = Arc::clone(&self.clickhouse);
            let rows: Vec<&$row> = batches.iter().flat_map($rows).collect();
            let inserted = clickhouse.$insert(token, rows.iter().copied()).await;
            inserted.map_err(Fault::new)?;
            if attempt == Attempt::First {
                return Ok(());
            }
            loop {
                let absent = clickhouse.$absent(&rows).await.map_err(Fault::new)?;
                if absent.is_empty() {
                    return Ok(());
                }
                let token = self.again(stringify!($name), token, absent.len())?;
                let inserted = clickhouse.$insert(&token, absent).await;
                inserted.map_err(Fault::new)?;
            }
        }
    };
}

impl TableWriter {
    table!(
        messages,
        Message,
        |b| &b.messages,
        insert_messages,
        absent_messages
    );
    table!(
        violations,
        Violation,
        |b| &b.violations,
        insert_violations,
        absent_violations
    );
    table!(
        dead_letters,
        DeadLetter,
        |b| &b.dead_letters,
        insert_dead_letters,
        absent_dead_letters
    );
    table!(
        settled_letters,
        DeadLetterEvent,
        |b| b.events.iter().filter(|event| event.event.settles()),
        insert_settled_letters,
        absent_settled_letters
    );
    table!(
        dead_letter_events,
        DeadLetterEvent,
        |b| b
            .events
            .iter()
            .filter(|event| event.event != Event::Retried),
        insert_dead_letter_events,
        absent_dead_letter_events
    );
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
            // Messages first: a violation or dead letter never stands there before its message does.
            self.messages(&token, attempt).await?;
            self.violations(&token, attempt).await?;
            self.dead_letters(&token, attempt).await?;
            self.settled_letters(&format!("{token}-settled"), attempt)
                .await?;
            self.dead_letter_events(&token, attempt).await?;
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
            let mark = self.clickhouse.lane_mark(&name).await.map_err(Fault::new)?;
            Ok(mark.map(|LaneMark { position, witness }| Mark { position, witness }))
        }
        .boxed()
    }

    fn keep<'a>(&'a self, log: &'a str, mark: Mark) -> BoxFuture<'a, Result<(), Fault>> {
        async move {
            let name = format!("{}.{log}", self.prefix);
            let Mark { position, witness } = mark;
            let mark = LaneMark { position, witness };
            let kept = self.clickhouse.keep_lane_mark(&name, mark).await;
            kept.map_err(Fault::new)
        }
        .boxed()
    }
}
