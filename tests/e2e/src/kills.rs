//! `kill -9` at moments that follow from a seed, spread over a drain.
//!
//! A moment is told by what the process has done (records pulled, rows in the table) or by the time
//! since its start, and a further delay of some milliseconds; so kills fall into the start, between
//! two stages, into a write and between a write and its confirmation.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::tenant::Tenant;
use crate::waiting::until;

/// A moment in the life of a process.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// So long after its start.
    Started(Duration),
    /// So long after it has pulled so many records.
    Pulled(u64, Duration),
    /// So long after the table `messages` has grown by so many rows.
    Stored(u64, Duration),
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started(delay) => write!(f, "{delay:?} after the start"),
            Self::Pulled(records, delay) => write!(f, "{delay:?} after {records} records pulled"),
            Self::Stored(rows, delay) => write!(f, "{delay:?} after {rows} rows stored"),
        }
    }
}

/// Moments for kills of a drain of `messages`. Each lets through so little that `kills` of them do
/// not reach the end of the drain.
pub fn moments(seed: u64, kills: usize, messages: u64) -> Vec<Moment> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let share = (messages / (2 * kills as u64)).max(1);
    (0..kills)
        .map(|kill| {
            let delay = Duration::from_micros(rng.random_range(0..80_000));
            match kill % 5 {
                0 => Moment::Started(Duration::from_millis(rng.random_range(50..600))),
                1 | 2 => Moment::Pulled(rng.random_range(1..=share), delay),
                _ => Moment::Stored(rng.random_range(1..=share), delay),
            }
        })
        .collect()
}

/// Starts a drain and kills it at a moment; false if it had ended by itself before.
///
/// # Errors
/// The process cannot be started or watched.
pub async fn kill_at(tenant: &Tenant, moment: Moment) -> Result<bool> {
    let rows = async || {
        tenant
            .clickhouse
            .number("SELECT count() FROM messages")
            .await
    };
    // Before the first migration there is no table.
    let before = rows().await.unwrap_or_default();
    let began = Instant::now();
    let mut process = tenant.chatledger("run", &["--drain"])?;
    let bound = Duration::from_secs(120);
    let delay = match moment {
        Moment::Started(delay) => delay.saturating_sub(began.elapsed()),
        Moment::Pulled(records, delay) => {
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
        Moment::Stored(grown, delay) => {
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
