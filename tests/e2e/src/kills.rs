//! Kills a drain with SIGKILL at moments derived from a seed.
//!
//! A moment is defined by the progress of the process (records pulled, rows in the table) or by the
//! time since its start, plus a delay of some milliseconds. So kills happen during the start, between
//! two stages, during a write, and between a write and its confirmation.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::tenant::Tenant;
use crate::waiting::until;

/// When a process is killed.
#[derive(Clone, Copy, Debug)]
pub enum KillMoment {
    /// This time after its start.
    Started(Duration),
    /// This time after it has pulled this many records.
    Pulled(u64, Duration),
    /// This time after the table `messages` has grown by this many rows.
    Stored(u64, Duration),
}

impl fmt::Display for KillMoment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(delay) => write!(f, "{delay:?} after the start"),
            Self::Pulled(records, delay) => write!(f, "{delay:?} after {records} records pulled"),
            Self::Stored(rows, delay) => write!(f, "{delay:?} after {rows} rows stored"),
        }
    }
}

/// Returns the moments for killing a drain of `messages`. Each is so early that the drain does not
/// complete within `kills` runs.
pub fn moments(seed: u64, kills: usize, messages: u64) -> Vec<KillMoment> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let share = (messages / (2 * kills as u64)).max(1);
    (0..kills)
        .map(|kill| {
            let delay = Duration::from_micros(rng.random_range(0..80_000));
            match kill % 5 {
                0 => KillMoment::Started(Duration::from_millis(rng.random_range(50..600))),
                1 | 2 => KillMoment::Pulled(rng.random_range(1..=share), delay),
                _ => KillMoment::Stored(rng.random_range(1..=share), delay),
            }
        })
        .collect()
}

/// Starts a drain and kills it at a moment; returns false if it had already ended.
///
/// # Errors
/// The process cannot be started or watched.
pub async fn kill_at(tenant: &Tenant, moment: KillMoment) -> Result<bool> {
    let rows = async || {
        tenant
            .clickhouse
            .number("SELECT count() FROM messages")
            .await
    };
    // The table does not exist before the first migration.
    let before = rows().await.unwrap_or_default();
    let began = Instant::now();
    let mut process = tenant.chatledger("run", &["--drain"])?;
    let bound = Duration::from_secs(120);
    let delay = match moment {
        KillMoment::Started(delay) => delay.saturating_sub(began.elapsed()),
        KillMoment::Pulled(records, delay) => {
            if let Ok(endpoints) = Tenant::endpoints(&mut process).await {
                until("records pulled", bound, async || {
                    let scrape = endpoints.scrape().await;
                    let pulled = scrape.map(|s| s.sum("chatledger_records_pulled_total", &[]));
                    let done = pulled.map_or(true, |pulled| pulled >= records as f64);
                    Ok((done || process.ended()?.is_some()).then_some(()))
                })
                .await?;
            }
            delay
        }
        KillMoment::Stored(grown, delay) => {
            until("rows stored", bound, async || {
                let done = rows().await.is_ok_and(|rows| rows >= before + grown);
                Ok((done || process.ended()?.is_some()).then_some(()))
            })
            .await?;
            delay
        }
    };
    tokio::time::sleep(delay).await;
    process.kill()
}
