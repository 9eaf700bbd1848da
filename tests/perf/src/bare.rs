//! The floor: RSA and AES of the tenant's records, with the product's engine and nothing else.
//!
//! Pulling, the envelope and base64 happen outside the measured time, page by page, so that this
//! process stays small and what it measures is what a program without overhead would spend.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chatledger_crypto::KeyRing;

use crate::tenant::{Pages, Tenant};
use crate::usage::Cpu;

struct Sealed {
    version: u32,
    block: Vec<u8>,
    body: Vec<u8>,
}

/// A pass over all records of a tenant, taken in parts.
pub struct Floor<'a> {
    keys: &'a KeyRing,
    pages: Pages,
    records: u64,
    spent: Duration,
}

impl<'a> Floor<'a> {
    /// Stands before the first record.
    ///
    /// # Errors
    /// The archive's client cannot be made.
    pub fn new(tenant: &Tenant, keys: &'a KeyRing) -> Result<Self> {
        Ok(Self {
            keys,
            pages: tenant.archive()?,
            records: 0,
            spent: Duration::ZERO,
        })
    }

    /// Opens whole pages on one thread until at least so many records have been opened, or all.
    ///
    /// # Errors
    /// A record does not open, or the archive does not answer.
    pub async fn reach(&mut self, records: u64) -> Result<()> {
        while self.records < records
            && let Some(page) = self.pages.next().await?
        {
            let mut sealed = Vec::with_capacity(page.len());
            for record in &page {
                let fields = record.fields().context("read a record's envelope")?;
                sealed.push(Sealed {
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

    /// CPU time of the whole pass, now that it is done.
    ///
    /// # Errors
    /// There were not as many records as there should be.
    pub fn spent(&self, records: u64) -> Result<Duration> {
        ensure!(
            self.records == records,
            "{} of {records} records",
            self.records
        );
        Ok(self.spent)
    }
}

fn open_page(keys: &KeyRing, page: &mut [Sealed]) -> Result<Duration> {
    let before = Cpu::of_thread()?;
    for Sealed {
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
