//! An archive in memory, and an opener for its records that needs no RSA.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chatledger_crypto::{OpenError, OpenedRecord, Opener};
use chatledger_schemas::{CorpId, Reason, SealedRecord};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::{Dice, SimulatedProcess, lock};
use crate::fault::Fault;
use crate::ports::Source;
use crate::pull::ARCHIVE_RETENTION;

/// A word that breaks the rule of the tests.
pub const FORBIDDEN: &str = "forbidden";

/// What a record of the archive is expected to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedOutcome {
    /// A message.
    Message {
        /// It breaks the rule of the tests.
        violates: bool,
    },
    /// A dead letter.
    DeadLetter,
    /// A duplicate of an earlier record.
    Duplicate,
}

/// A record of the archive and what it is expected to become.
#[derive(Debug, Clone)]
pub struct ArchivedRecord {
    /// The record.
    pub record: SealedRecord,
    /// Its outcome.
    pub expected: ExpectedOutcome,
}

/// An archive of one corp. It returns what has been released, in pages of random size, and drops
/// records five days after their release.
#[derive(Clone)]
pub struct FakeArchive {
    corp_id: CorpId,
    state: Arc<Mutex<ArchiveState>>,
}

#[derive(Default)]
struct ArchiveState {
    records: Vec<ArchivedRecord>,
    released: Vec<Instant>,
}

impl FakeArchive {
    /// Fills an archive with `count` records: positions with gaps, messages that come twice, records
    /// that cannot be opened. No message comes twice more than `reach` records apart.
    pub fn new(corp_id: CorpId, count: usize, reach: usize, dice: &mut Dice) -> Self {
        let archive = Self {
            corp_id,
            state: Arc::default(),
        };
        archive.extend(count, reach, dice);
        archive
    }

    /// Adds `count` records that are not released yet.
    pub fn extend(&self, count: usize, reach: usize, dice: &mut Dice) {
        let mut state = lock(&self.state);
        for _ in 0..count {
            let number = state.records.len();
            let seq = state.records.last().map_or(0, |last| last.record.seq);
            let seq = seq
                + if dice.chance(0.2) {
                    dice.within(2..50)
                } else {
                    1
                };
            let earlier = state.records[number.saturating_sub(reach)..].iter();
            let originals: Vec<&ArchivedRecord> = earlier
                .filter(|record| matches!(record.expected, ExpectedOutcome::Message { .. }))
                .collect();
            let next = if dice.chance(0.1) && !originals.is_empty() {
                let original = originals[dice.within(0..originals.len() as u64) as usize];
                let fields = original.record.fields().ok();
                let body = fields.map_or_else(String::new, |f| f.encrypt_chat_msg.into_owned());
                let msgid = original.record.msgid.to_string();
                let record = self.record(seq, &msgid, 1, &body);
                ArchivedRecord {
                    record,
                    expected: ExpectedOutcome::Duplicate,
                }
            } else {
                self.original(seq, &format!("m{number}"), dice)
            };
            state.records.push(next);
        }
    }

    fn original(&self, seq: u64, msgid: &str, dice: &mut Dice) -> ArchivedRecord {
        if dice.chance(0.1) {
            let missing_key = dice.chance(0.5);
            let record = self.record(seq, msgid, if missing_key { 2 } else { 1 }, "broken");
            return ArchivedRecord {
                record,
                expected: ExpectedOutcome::DeadLetter,
            };
        }
        let violates = dice.chance(0.2);
        let word = if violates { FORBIDDEN } else { "hello" };
        let body = serde_json::json!({
            "msgid": msgid, "action": "send", "from": format!("member-{}", dice.within(0..5)),
            "tolist": ["member-9"], "msgtime": super::EPOCH_MS + seq as i64,
            "msgtype": "text", "text": {"content": format!("{word} {msgid}")},
        });
        ArchivedRecord {
            record: self.record(seq, msgid, 1, &body.to_string()),
            expected: ExpectedOutcome::Message { violates },
        }
    }

    fn record(&self, seq: u64, msgid: &str, version: u32, body: &str) -> SealedRecord {
        let json = serde_json::json!({
            "seq": seq, "msgid": msgid, "publickey_ver": version,
            "encrypt_random_key": "", "encrypt_chat_msg": body,
        });
        SealedRecord {
            corp_id: self.corp_id.clone(),
            seq,
            msgid: msgid.into(),
            json: json.to_string().into(),
        }
    }

    /// Lets the archive return its next records.
    pub fn release(&self, count: usize) {
        let mut state = lock(&self.state);
        let released = state.records.len().min(state.released.len() + count);
        state.released.resize(released, Instant::now());
    }

    /// Lets it return all of its records.
    pub fn release_all(&self) {
        self.release(usize::MAX >> 1);
    }

    /// All records, released or not.
    pub fn records(&self) -> Vec<ArchivedRecord> {
        lock(&self.state).records.clone()
    }

    /// The archive as a process reads it.
    pub fn source(&self, process: &SimulatedProcess) -> Arc<dyn Source> {
        Arc::new(FakeSource {
            archive: self.clone(),
            process: process.clone(),
        })
    }

    fn page(&self, after: u64, limit: usize) -> Vec<SealedRecord> {
        let state = lock(&self.state);
        let kept = |released: &Instant| released.elapsed() <= ARCHIVE_RETENTION;
        let records = state.records.iter().zip(&state.released);
        records
            .filter(|(archived, released)| archived.record.seq > after && kept(released))
            .take(limit)
            .map(|(archived, _)| archived.record.clone())
            .collect()
    }
}

struct FakeSource {
    archive: FakeArchive,
    process: SimulatedProcess,
}

impl Source for FakeSource {
    fn page(&self, after: u64) -> BoxFuture<'_, Result<Vec<SealedRecord>, Fault>> {
        async move {
            let limit = self.process.simulation().draw(|dice| dice.within(1..12));
            let page = || Ok(self.archive.page(after, limit as usize));
            let answer = self.process.call("archive.page", page).await;
            answer.map_err(|fault| fault.after(Some(Duration::from_millis(500))))
        }
        .boxed()
    }
}

/// Opens the records of [`FakeArchive`]: their ciphertext is the plaintext. Versions of keys can be
/// missing, and a body that says `broken` does not open.
#[derive(Debug)]
pub struct FakeOpener {
    versions: Mutex<BTreeSet<u32>>,
}

impl Default for FakeOpener {
    fn default() -> Self {
        Self {
            versions: Mutex::new(BTreeSet::from([1])),
        }
    }
}

impl FakeOpener {
    /// Adds the key of a version.
    pub fn add_key(&self, version: u32) {
        lock(&self.versions).insert(version);
    }

    fn open_one(&self, record: &SealedRecord) -> Result<OpenedRecord, OpenError> {
        let rejected = |reason, error: &str, key_version| OpenError {
            reason,
            error: error.to_owned(),
            key_version,
        };
        let fields = record
            .fields()
            .map_err(|_| rejected(Reason::BadEnvelope, "a field is missing", 0))?;
        let version = fields.publickey_ver;
        if !lock(&self.versions).contains(&version) {
            let error = "no private key of this version";
            return Err(rejected(Reason::UnknownKeyVersion, error, version));
        }
        if fields.encrypt_chat_msg == "broken" {
            return Err(rejected(
                Reason::BadPadding,
                "the padding is invalid",
                version,
            ));
        }
        Ok(OpenedRecord {
            key_version: version,
            plaintext: fields.encrypt_chat_msg.into_owned().into_bytes(),
        })
    }
}

impl Opener for FakeOpener {
    fn open(&self, batch: &[SealedRecord]) -> Vec<Result<OpenedRecord, OpenError>> {
        batch.iter().map(|record| self.open_one(record)).collect()
    }
}
