//! The floor: RSA and AES of the tenant's records, with the product's engine and nothing else.
//!
//! Pulling, the envelope and base64 happen outside the measured time, page by page, so that this
//! process stays small and what it measures is what a program without overhead would spend.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chatledger_crypto::KeyRing;

use crate::tenant::Tenant;
use crate::usage::Cpu;

struct Sealed {
    version: u32,
    block: Vec<u8>,
    body: Vec<u8>,
}

/// CPU time of opening every record of the tenant once, on one thread.
///
/// # Errors
/// A record does not open, or there are not as many as there should be.
pub async fn open_all(tenant: &Tenant, keys: &KeyRing) -> Result<Duration> {
    let mut pages = tenant.archive()?;
    let (mut spent, mut records) = (Duration::ZERO, 0);
    while let Some(page) = pages.next().await? {
        let mut sealed = Vec::with_capacity(page.len());
        for record in &page {
            let fields = record.fields().context("read a record's envelope")?;
            sealed.push(Sealed {
                version: fields.publickey_ver,
                block: STANDARD.decode(&*fields.encrypt_random_key)?,
                body: STANDARD.decode(&*fields.encrypt_chat_msg)?,
            });
        }
        records += page.len() as u64;
        spent += open_page(keys, &mut sealed)?;
    }
    ensure!(
        records == tenant.truth.records,
        "{records} of {} records",
        tenant.truth.records
    );
    Ok(spent)
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
