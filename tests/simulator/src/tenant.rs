//! The tenant: gives any message, sealed or in plaintext, by its number.
//!
//! Guarantee: everything is derived from [`TenantOptions`]. Only the organisation, the texts and a few
//! planned blocks are kept in memory, so memory does not grow with the number of messages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use anyhow::Result;
use rayon::prelude::*;

use crate::faults::{Defect, FaultTable};
use crate::options::TenantOptions;
use crate::org::Org;
use crate::plan::{MessageBlock, Planner};
use crate::random::{Purpose, number};
use crate::render::{self, Plain};
use crate::rhythm::Rhythm;
use crate::rules::{RuleFile, RuleMatcher, rule_files};
use crate::seal::RecordSealer;
use crate::texts::Texts;

/// Number of planned blocks kept in memory.
const KEPT_BLOCKS: usize = 12;
/// Number of `seq` values per record; one of them is used at random, so that there are gaps.
const STRIDE: u64 = 3;

/// The archive and directory of a company.
#[derive(Debug)]
pub struct Tenant {
    /// The options it was generated from.
    pub options: TenantOptions,
    /// The organisation.
    pub org: Org,
    /// The rule files.
    pub rules: Vec<RuleFile>,
    /// The matcher of the truth.
    pub matcher: RuleMatcher,
    /// The keys.
    pub sealer: RecordSealer,
    /// Damaged records and duplicates.
    pub faults: FaultTable,
    texts: Texts,
    planner: Planner,
    blocks: Mutex<VecDeque<(u64, Arc<MessageBlock>)>>,
    /// Times of the messages after the backlog, in milliseconds since the epoch.
    live: RwLock<Vec<i64>>,
    first_seq: u64,
}

impl Tenant {
    /// Generates a tenant.
    ///
    /// # Errors
    /// The options are inconsistent, a dialogue file cannot be read, or a key cannot be generated.
    pub fn new(options: TenantOptions) -> Result<Self> {
        let options = options.resolve()?;
        let seed = options.seed;
        let texts = Texts::load(options.corpus.as_deref())?;
        let org = Org::new(&options, &texts);
        let rules = rule_files(&org);
        let rhythm = Rhythm::new(options.until_ms(), options.days);
        Ok(Self {
            sealer: RecordSealer::new(seed, options.keys)?,
            faults: FaultTable::new(&options.faults, options.messages, seed),
            matcher: RuleMatcher::new(&rules),
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

    /// Returns the number of records in the backlog: messages and duplicates.
    pub fn backlog_records(&self) -> u64 {
        self.options.messages + self.faults.duplicates()
    }

    /// Returns the `seq` of the record at a position.
    pub fn seq(&self, record: u64) -> u64 {
        let chance = number(self.options.seed, Purpose::Sequence, record) % STRIDE;
        let jump = if record < self.middle() {
            0
        } else {
            self.options.faults.jump
        };
        // Readers may ask for positions beyond any record.
        let steps = record.saturating_mul(STRIDE).saturating_add(chance);
        self.first_seq.saturating_add(jump).saturating_add(steps)
    }

    /// Returns the position of the record before which `seq` jumps.
    fn middle(&self) -> u64 {
        self.backlog_records() / 2
    }

    /// Returns the first position whose `seq` is greater.
    pub fn after(&self, seq: u64) -> u64 {
        let Some(offset) = seq.checked_sub(self.first_seq) else {
            return 0;
        };
        let (middle, jump) = (self.middle(), self.options.faults.jump);
        let record = match offset.checked_sub(jump) {
            Some(offset) if offset / STRIDE >= middle => offset / STRIDE,
            // `seq` is in the gap; the next record is the first one after it.
            _ if offset / STRIDE >= middle => return middle,
            _ => offset / STRIDE,
        };
        if self.seq(record) > seq {
            record
        } else {
            record + 1
        }
    }

    /// Sends one message per time (milliseconds since the epoch); returns the number of the first.
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

    /// Returns a block by its number.
    pub fn block(&self, number: u64) -> Arc<MessageBlock> {
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

    /// Returns a message by its number.
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

    /// Returns the key version that seals a message without defects. Each version covers a part of the
    /// backlog; a few messages after each change still use the previous version.
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

    /// Returns the defect of a message, if it has one.
    pub fn defect(&self, message: u64) -> Option<Defect> {
        self.faults.defect(message)
    }

    /// Returns the record at a position as JSON.
    pub fn record(&self, record: u64) -> String {
        let message = self.faults.content(record).message;
        let plain = self.message(message);
        let defect = self.defect(message);
        let version = self.key_version(message);
        let sealed = self.sealer.seal(message, &plain.payload, version, defect);
        let mut json = render::JsonObject::new(render::Style::default());
        json.number("seq", self.seq(record))
            .text("msgid", &plain.msgid)
            .number("publickey_ver", sealed.version)
            .text("encrypt_random_key", &sealed.random_key);
        if let Some(text) = sealed.chat_msg {
            json.text("encrypt_chat_msg", &text);
        }
        json.finish()
    }

    /// Returns the records of a range of positions as a JSON list; seals them on all cores.
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
