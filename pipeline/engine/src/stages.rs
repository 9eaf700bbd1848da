//! What happens to records: drop repeats, open, decode, join, match. One function over a batch.
//!
//! Pure: the same records with the same keys, directory, rules and window give the same rows. Times
//! come in with the records; how long a stage takes is measured by whoever is told of its end.

use std::collections::HashMap;

use chatledger_crypto::{Opener, Rejected};
use chatledger_decode::decode;
use chatledger_directory::{Directory, Unresolved};
use chatledger_rules::RuleSet;
use chatledger_schemas::ledger::{Digest128, Outcome, RowParts};
use chatledger_schemas::{CorpId, DeadLetter, Message, Reason, SealedRecord};

use crate::batch::{Batch, Extent};
use crate::window::{MsgHash, Window, body_hash, msg_hash};

/// The stages, in their order; the metric label `stage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// RSA and AES.
    Open,
    /// JSON to rows.
    Decode,
    /// Names, departments, rooms.
    Join,
    /// Rules.
    Match,
}

impl Stage {
    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Decode => "decode",
            Self::Join => "join",
            Self::Match => "match",
        }
    }
}

/// What the stages need to know, for one corp.
pub struct Tools<'a> {
    /// The corp.
    pub corp_id: &'a CorpId,
    /// Its keys.
    pub opener: &'a dyn Opener,
    /// Who is who there.
    pub directory: &'a Directory,
    /// What is looked for.
    pub rules: &'a RuleSet,
}

/// A record and when it was pulled (milliseconds since the epoch, UTC): the time at which a
/// violation in it was found and a dead letter first seen, also when it is processed again.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The record.
    pub record: SealedRecord,
    /// When the archive gave it first.
    pub at: i64,
}

/// What became of one record, for the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    /// Position of the record.
    pub seq: u64,
    /// Hash of its msgid.
    pub hash: MsgHash,
    /// When it was pulled.
    pub at: i64,
    /// What became of it.
    pub outcome: Outcome,
    /// Digest of its row; zeros if it is no message.
    pub row: Digest128,
}

/// A batch and what is to be told about it.
pub struct Processed {
    /// The rows.
    pub batch: Batch,
    /// What became of each record, in their order.
    pub fates: Vec<Fate>,
    /// Ids that the directory does not know.
    pub unresolved: Unresolved,
}

impl Processed {
    /// Records whose message had been there before.
    pub fn duplicates(&self) -> u64 {
        self.fates
            .iter()
            .filter(|fate| fate.outcome == Outcome::Duplicate)
            .count() as u64
    }
}

/// Takes a run of records, ascending by `seq`, through all stages; `None` if there are none.
/// `done` is told when a stage has ended.
pub fn process(
    tools: &Tools<'_>,
    pulled: Vec<Pulled>,
    window: &mut Window,
    mut done: impl FnMut(Stage),
) -> Option<Processed> {
    let extent = Extent::over(
        pulled
            .iter()
            .map(|pulled| (pulled.record.seq, &*pulled.record.msgid)),
    )?;
    let mut fates: Vec<Fate> = pulled
        .iter()
        .map(|pulled| Fate {
            seq: pulled.record.seq,
            hash: msg_hash(&pulled.record.msgid),
            at: pulled.at,
            outcome: Outcome::Message,
            row: [0; 16],
        })
        .collect();

    // Repeats of what has been opened before are not worth an RSA operation. A record without an
    // id is never a repeat.
    let mut sealed = Vec::with_capacity(pulled.len());
    let mut places = Vec::with_capacity(pulled.len());
    for (place, pulled) in pulled.into_iter().enumerate() {
        let repeats = || window.repeats(fates[place].hash, || body_hash(&pulled.record));
        if !pulled.record.msgid.is_empty() && repeats() {
            fates[place].outcome = Outcome::Duplicate;
        } else {
            sealed.push(pulled.record);
            places.push(place);
        }
    }

    let opened = tools.opener.open(&sealed);
    done(Stage::Open);

    let mut messages: Vec<Message> = Vec::with_capacity(sealed.len());
    let mut dead_letters = Vec::new();
    for ((record, opened), place) in sealed.iter().zip(opened).zip(places) {
        let fate = &mut fates[place];
        let decoded = opened.and_then(|opened| {
            let version = opened.key_version;
            decode(
                &record.corp_id,
                record.seq,
                &record.msgid,
                version,
                opened.plaintext,
            )
            .map_err(|rejected| Rejected {
                reason: rejected.reason,
                error: rejected.error,
                key_version: version,
            })
        });
        match decoded {
            // Within one batch a message may stand twice; the first is kept.
            Ok(_) if !record.msgid.is_empty() && !window.opened(fate.hash) => {
                fate.outcome = Outcome::Duplicate;
            }
            Ok(message) => {
                fate.row = RowParts::from(&message).digest();
                messages.push(message);
            }
            Err(rejected) => {
                fate.outcome = Outcome::DeadLetter;
                dead_letters.push(dead_letter(record, rejected, fate.at));
            }
        }
    }
    done(Stage::Decode);

    let unresolved = tools.directory.join(&mut messages);
    done(Stage::Join);

    let mut violations = tools.rules.check(
        &messages,
        |member| tools.directory.departments_above(member),
        0,
    );
    if !violations.is_empty() {
        let times: HashMap<u64, i64> = fates.iter().map(|fate| (fate.seq, fate.at)).collect();
        for violation in &mut violations {
            violation.detected_at = times.get(&violation.seq).copied().unwrap_or_default();
        }
    }
    done(Stage::Match);

    Some(Processed {
        batch: Batch {
            extent,
            messages,
            violations,
            dead_letters,
            anchors: Vec::new(),
        },
        fates,
        unresolved,
    })
}

fn dead_letter(record: &SealedRecord, rejected: Rejected, first_seen: i64) -> DeadLetter {
    DeadLetter {
        corp_id: record.corp_id.clone(),
        seq: record.seq,
        msgid: record.msgid.to_string(),
        reason: rejected.reason,
        error: rejected.error,
        key_version: rejected.key_version,
        sealed: record.json_text().into_owned(),
        first_seen,
    }
}

/// Reasons under which dead letters of a batch are parked, each with its number.
pub fn reasons(batch: &Batch) -> impl Iterator<Item = (Reason, u64)> {
    Reason::ALL.into_iter().filter_map(|reason| {
        let count = batch
            .dead_letters
            .iter()
            .filter(|letter| letter.reason == reason)
            .count();
        (count > 0).then_some((reason, count as u64))
    })
}
