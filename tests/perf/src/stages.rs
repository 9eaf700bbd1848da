//! Measures the cost of each stage separately, on the same records.
//!
//! Calls the same functions as the product, with batches of the same size. Not here: queues, ledger and
//! metrics; they are the difference from the cost of the whole program.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use chatledger_clickhouse::ClickHouse;
use chatledger_clickhouse::tables::{Messages, Violations};
use chatledger_crypto::{KeyRing, Opener};
use chatledger_decode::decode;
use chatledger_parquet::{BatchEncoder, Target, Tz, Zones};
use chatledger_rules::{RuleFile, RuleSet, compile};
use chatledger_schemas::{Message, Violation};
use serde::Serialize;

use crate::drain::database;
use crate::tenant::Tenant;
use crate::usage::Cpu;

/// Database for the rows of this measurement.
const DATABASE: &str = "stages";
/// Messages kept for the matcher.
const KEPT: usize = 20_000;

/// CPU microseconds per record: user and system time of all threads of the process.
#[derive(Debug, Default, Serialize)]
pub struct StageCosts {
    /// Requesting a page and parsing its envelope.
    pub pull: f64,
    /// Parsing a record's fields, base64, RSA, AES.
    pub open: f64,
    /// JSON to rows.
    pub decode: f64,
    /// Names, departments, rooms.
    pub join: f64,
    /// The tenant's rules.
    #[serde(rename = "match")]
    pub matching: f64,
    /// Encoding and sending RowBinary, including violations.
    pub clickhouse: f64,
    /// Encoding, compressing and writing files, including violations.
    pub parquet: f64,
}

impl StageCosts {
    /// Returns the sum of all stages.
    pub fn sum(&self) -> f64 {
        self.pull
            + self.open
            + self.decode
            + self.join
            + self.matching
            + self.clickhouse
            + self.parquet
    }
}

/// Adds the CPU time since `since` to `spent` and sets `since` to now.
fn lap(since: &mut Cpu, spent: &mut Duration) -> Result<()> {
    let now = Cpu::of_process()?;
    *spent += (now - *since).total();
    *since = now;
    Ok(())
}

/// Processes all records through all stages; also returns messages for measuring the matcher.
///
/// # Errors
/// A record cannot be processed, or a service does not respond.
pub async fn measure(
    tenant: &Tenant,
    keys: &KeyRing,
    clickhouse_url: &str,
) -> Result<(StageCosts, Vec<Message>)> {
    let directory = tenant.directory().await?;
    let rules = rules(&tenant.dir.join("rules"))?;
    let tables = database(clickhouse_url, DATABASE)?;
    tables.migrate().await?;
    let zones = Zones::new(HashMap::from([(
        tenant.corp_id.clone(),
        Tz::Asia__Shanghai,
    )]));
    let mut open_files = BatchEncoder::new(zones);

    let [
        mut pulling,
        mut opening,
        mut decoding,
        mut joining,
        mut matching,
    ] = [Duration::ZERO; 5];
    let [mut inserting, mut encoding] = [Duration::ZERO; 2];
    let (mut records, mut pending, mut kept) = (0, PendingRows::default(), Vec::new());
    let mut pages = tenant.archive()?;
    let mut since = Cpu::of_process()?;
    loop {
        let page = pages.next().await?;
        lap(&mut since, &mut pulling)?;
        let Some(page) = page else { break };
        records += page.len() as u64;

        let opened = keys.open(&page);
        lap(&mut since, &mut opening)?;

        let mut messages = Vec::with_capacity(page.len());
        for (record, opened) in page.iter().zip(opened) {
            let opened = opened.map_err(|rejected| anyhow!(rejected.error))?;
            let (corp_id, version) = (&record.corp_id, opened.key_version);
            messages.push(decode(
                corp_id,
                record.seq,
                &record.msgid,
                version,
                opened.plaintext,
            )?);
        }
        lap(&mut since, &mut decoding)?;

        directory.join(&mut messages);
        lap(&mut since, &mut joining)?;

        let above = |member: &str| directory.departments_above(member);
        let violations = rules.check(&messages, above, 0);
        lap(&mut since, &mut matching)?;

        open_files.append(&messages, &violations)?;
        lap(&mut since, &mut encoding)?;

        kept.extend(
            messages
                .iter()
                .take(KEPT.saturating_sub(kept.len()))
                .cloned(),
        );
        pending.messages.extend(messages);
        pending.violations.extend(violations);
        since = Cpu::of_process()?;
        if pending.messages.len() >= tenant.batch_rows() {
            pending.insert(&tables, records).await?;
            lap(&mut since, &mut inserting)?;
        }
    }
    pending.insert(&tables, records).await?;
    lap(&mut since, &mut inserting)?;
    let target = Target::open("file:stages", &tenant.dir)?;
    for file in open_files.finish("stages", &[])? {
        target.put(file).await?;
    }
    lap(&mut since, &mut encoding)?;

    ensure!(
        records == tenant.truth.records,
        "{records} of {} records",
        tenant.truth.records
    );
    let each = |spent: Duration| spent.as_secs_f64() * 1e6 / records as f64;
    let costs = StageCosts {
        pull: each(pulling),
        open: each(opening),
        decode: each(decoding),
        join: each(joining),
        matching: each(matching),
        clickhouse: each(inserting),
        parquet: each(encoding),
    };
    Ok((costs, kept))
}

/// Rows to be inserted.
#[derive(Default)]
struct PendingRows {
    messages: Vec<Message>,
    violations: Vec<Violation>,
}

impl PendingRows {
    async fn insert(&mut self, tables: &ClickHouse, last: u64) -> Result<()> {
        let token = format!("stages-{last}");
        tables.insert(Messages, &token, &self.messages).await?;
        tables.insert(Violations, &token, &self.violations).await?;
        self.messages.clear();
        self.violations.clear();
        Ok(())
    }
}

/// Compiles the tenant's rules.
fn rules(dir: &Path) -> Result<RuleSet> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push((path.display().to_string(), std::fs::read_to_string(&path)?));
        }
    }
    files.sort();
    let sources: Vec<RuleFile<'_>> = files
        .iter()
        .map(|(name, text)| RuleFile { name, text })
        .collect();
    compile(&sources, |_, words| {
        std::fs::read_to_string(dir.join(words))
    })
    .map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        anyhow!("the tenant's rules: {}", errors.join("; "))
    })
}
