//! The baseline: only RSA and AES of the tenant's records, with the product's implementation.
//!
//! Pulling, envelope and base64 are not measured; they are done page by page to keep the process small.
//! The result is the cost of a program without overhead.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chatledger_crypto::KeyRing;

use crate::tenant::{Pages, Tenant};
use crate::usage::Cpu;

struct DecodedRecord {
    version: u32,
    block: Vec<u8>,
    body: Vec<u8>,
}

/// A pass over all records of a tenant, done in parts.
pub struct CryptoBaseline<'a> {
    keys: &'a KeyRing,
    pages: Pages,
    records: u64,
    spent: Duration,
}

impl<'a> CryptoBaseline<'a> {
    /// Starts before the first record.
    ///
    /// # Errors
    /// The archive's client cannot be created.
    pub fn new(tenant: &Tenant, keys: &'a KeyRing) -> Result<Self> {
        Ok(Self {
            keys,
            pages: tenant.archive()?,
            records: 0,
            spent: Duration::ZERO,
        })
    }

    /// Opens pages on one thread until at least `records` records, or all of them, have been opened.
    ///
    /// # Errors
    /// A record cannot be opened, or the archive does not respond.
    pub async fn run_until(&mut self, records: u64) -> Result<()> {
        while self.records < records
            && let Some(page) = self.pages.next().await?
        {
            let mut sealed = Vec::with_capacity(page.len());
            for record in &page {
                let fields = record.fields().context("parse a record's envelope")?;
                sealed.push(DecodedRecord {
                    version: fields.publickey_ver,
                    block: STANDARD.decode(&*fields.encrypt_random_key)?,
                    body: STANDARD.decode(&*fields.encrypt_chat_msg)?,
                });
            }
            self.records += page.len() as u64;
            self.spent += open_page(self.keys, &mut sealed)?;
        }
        Ok(())
    }

    /// Returns the CPU time of the completed pass.
    ///
    /// # Errors
    /// The number of records is not `records`.
    pub fn spent(&self, records: u64) -> Result<Duration> {
        ensure!(
            self.records == records,
            "{} of {records} records",
            self.records
        );
        Ok(self.spent)
    }
}

fn open_page(keys: &KeyRing, page: &mut [DecodedRecord]) -> Result<Duration> {
    let before = Cpu::of_thread()?;
    for DecodedRecord {
        version,
        block,
        body,
    } in page
    {
        let key = keys
            .unwrap_key(*version, block)
            .map_err(|rejected| anyhow!(rejected.error))?;
        key.open(body).map_err(|(_, error)| anyhow!(error))?;
    }
    Ok((Cpu::of_thread()? - before).total())
}
