//! The tenant: any message of it, sealed or open, by its number.
//!
//! Guarantee: everything follows from [`TenantOptions`]; nothing is kept but the people, the texts
//! and a few planned blocks, so a tenant of ten million messages costs no more memory than one of
//! ten thousand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::Result;
use rayon::prelude::*;

use crate::faults::{Broken, FaultTable};
use crate::options::TenantOptions;
use crate::org::Org;
use crate::plan::{Block, Planner};
use crate::random::{Purpose, number};
use crate::render::{self, Plain};
use crate::rhythm::Rhythm;
use crate::rules::{RuleFile, Watch, rule_files};
use crate::seal::Sealer;
use crate::texts::Texts;

/// Planned blocks kept.
const KEPT_BLOCKS: usize = 12;
/// Places in `seq` for every record; which of them is taken is chance, so there are gaps.
const STRIDE: u64 = 3;

/// A company's archive and directory.
#[derive(Debug)]
pub struct Tenant {
    /// What it was made from.
    pub options: TenantOptions,
    /// People and places.
    pub org: Org,
    /// Rules as files.
    pub rules: Vec<RuleFile>,
    /// Rules as the truth finds them.
    pub watch: Watch,
    /// Keys.
    pub sealer: Sealer,
    /// What is spoilt and what comes twice.
    pub faults: FaultTable,
    texts: Texts,
    planner: Planner,
    blocks: Mutex<VecDeque<(u64, Arc<Block>)>>,
    /// When the messages after the backlog were sent, milliseconds since the epoch.
    live: RwLock<Vec<i64>>,
    first_seq: u64,
}

impl Tenant {
    /// Makes a tenant.
    ///
    /// # Errors
    /// The dialogue files cannot be read, or keys cannot be made.
    pub fn new(options: TenantOptions) -> Result<Self> {
        let options = options.settle()?;
        let seed = options.seed;
        let texts = Texts::load(options.corpus.as_deref())?;
        let org = Org::new(&options, &texts);
        let rules = rule_files(&org);
        let rhythm = Rhythm::new(options.until_ms(), options.days);
        Ok(Self {
            sealer: Sealer::new(seed, options.keys)?,
            faults: FaultTable::new(&options.faults, options.messages, seed),
            watch: Watch::new(&rules),
            planner: Planner::new(seed, options.messages, rhythm),
            blocks: Mutex::default(),
            live: RwLock::default(),
            first_seq: 10_000 + number(seed, Purpose::Sequence, u64::MAX) % 90_000,
            options,
            org,
            rules,
            texts,
        })
    }

    /// Records of the backlog: messages, and those that come twice.
    pub fn backlog_records(&self) -> u64 {
        self.options.messages + self.faults.repeats()
    }

    /// The `seq` of the record at a position.
    pub fn seq(&self, record: u64) -> u64 {
        let chance = number(self.options.seed, Purpose::Sequence, record) % STRIDE;
        let jump = if record < self.middle() {
            0
        } else {
            self.options.faults.jump
        };
        // Readers may ask behind everything there can be.
        let steps = record.saturating_mul(STRIDE).saturating_add(chance);
        self.first_seq.saturating_add(jump).saturating_add(steps)
    }

    /// The record before which `seq` jumps.
    fn middle(&self) -> u64 {
        self.backlog_records() / 2
    }

    /// The first position whose `seq` is greater.
    pub fn after(&self, seq: u64) -> u64 {
        let Some(offset) = seq.checked_sub(self.first_seq) else {
            return 0;
        };
        let (middle, jump) = (self.middle(), self.options.faults.jump);
        let record = match offset.checked_sub(jump) {
            Some(offset) if offset / STRIDE >= middle => offset / STRIDE,
            // In the gap: the next is the first behind it.
            _ if offset / STRIDE >= middle => return middle,
            _ => offset / STRIDE,
        };
        if self.seq(record) > seq {
            record
        } else {
            record + 1
        }
    }

    /// Sends more messages: their times, milliseconds since the epoch. Returns the first number.
    pub fn send(&self, times: &[i64]) -> u64 {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        let first = self.options.messages + live.len() as u64;
        let mut latest = live.last().copied().unwrap_or(self.options.until_ms());
        for &time in times {
            latest = latest.max(time);
            live.push(latest);
        }
        first
    }

    /// The block a message is in.
    pub fn block(&self, number: u64) -> Arc<Block> {
        let lock = || self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = lock().iter().find(|(kept, _)| *kept == number) {
            return Arc::clone(block);
        }
        let block = Arc::new(self.planner.plan(number, &self.org, &self.texts));
        let mut kept = lock();
        if kept.len() == KEPT_BLOCKS {
            kept.pop_front();
        }
        kept.push_back((number, Arc::clone(&block)));
        block
    }

    /// A message.
    pub fn message(&self, index: u64) -> Plain {
        let block = self.block(self.planner.block_of(index));
        let position = (index - block.first) as usize;
        let msgtime = match index.checked_sub(self.options.messages) {
            None => block.slots[position].at_ms,
            Some(live) => {
                let times = self.live.read().unwrap_or_else(PoisonError::into_inner);
                times.get(live as usize).copied().unwrap_or_default()
            }
        };
        let (org, texts) = (&self.org, &self.texts);
        render::message(self.options.seed, org, texts, &block, position, msgtime)
    }

    /// The key version that seals a message, before faults: versions take turns over the backlog,
    /// with a few stragglers after each change.
    pub fn key_version(&self, message: u64) -> u32 {
        let (keys, messages) = (u64::from(self.options.keys), self.options.messages.max(1));
        let of = |message: u64| (message.min(messages - 1) * keys / messages) as u32 + 1;
        let now = of(message);
        let before = of(message.saturating_sub(50));
        if before < now && number(self.options.seed, Purpose::Key, message).is_multiple_of(4) {
            before
        } else {
            now
        }
    }

    /// How a message is spoilt.
    pub fn broken(&self, message: u64) -> Option<Broken> {
        self.faults.broken(message)
    }

    /// The record at a position, as JSON.
    pub fn record(&self, record: u64) -> String {
        let message = self.faults.place(record).message;
        let plain = self.message(message);
        let broken = self.broken(message);
        let version = self.key_version(message);
        let sealed = self.sealer.seal(message, &plain.payload, version, broken);
        let mut json = render::Object::new(render::Style::default());
        json.number("seq", self.seq(record))
            .text("msgid", &plain.msgid)
            .number("publickey_ver", sealed.version)
            .text("encrypt_random_key", &sealed.random_key);
        if let Some(text) = sealed.chat_msg {
            json.text("encrypt_chat_msg", &text);
        }
        json.finish()
    }

    /// The records of a range of positions, as a JSON list, sealed on all cores.
    pub fn records(&self, range: std::ops::Range<u64>) -> String {
        let range: Vec<u64> = range.collect();
        let records: Vec<String> = range
            .into_par_iter()
            .with_min_len(16)
            .map(|record| self.record(record))
            .collect();
        format!("[{}]", records.join(","))
    }
}
