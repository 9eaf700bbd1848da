//! Parses the archive's response into sealed records (`connectors/wecom/WECOM.md` §2).
//!
//! Guarantees: every record after the requested `seq` is returned, however malformed it is; each
//! record keeps its JSON byte for byte, as a slice of the page; the records ascend by `seq`. One
//! exception: of a record larger than [`sealed::MAX_RECORD_BYTES`] only size and hash are kept, and
//! the other records of its page are copied, so that the page is freed.
//! Errors inside a record are not detected here: opening it fails, and it becomes a dead letter.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use chatledger_schemas::sealed::{MAX_MSGID_BYTES, MAX_RECORD_BYTES};
use chatledger_schemas::{CorpId, SealedRecord, sealed};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::call::{ResponseError, ResponseStatus};
use crate::lenient;

/// Largest distance between two successive records of an archive. Positions are not dense, but a corp has fewer messages than
/// this in years.
pub(crate) const MAX_JUMP: u64 = 1 << 32;
/// Largest position of the first record that is read of an archive.
const MAX_FIRST_JUMP: u64 = 1 << 40;

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(default, deserialize_with = "lenient::errcode")]
    errcode: Option<i64>,
    #[serde(default, deserialize_with = "lenient::text")]
    errmsg: String,
    #[serde(default, borrow)]
    chatdata: Option<Vec<&'a RawValue>>,
}

/// The fields of a record that are needed here.
#[derive(Default, Deserialize)]
struct RecordHead<'a> {
    #[serde(default, borrow)]
    seq: Option<&'a RawValue>,
    #[serde(default, borrow)]
    msgid: Option<&'a RawValue>,
}

struct PageRecord<'a> {
    raw: &'a RawValue,
    seq: Option<u64>,
    msgid: Box<str>,
}

impl PageRecord<'_> {
    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.raw.get().hash(&mut hasher);
        hasher.finish()
    }

    fn is_oversize(&self) -> bool {
        self.raw.get().len() > MAX_RECORD_BYTES || self.msgid.len() > MAX_MSGID_BYTES
    }
}

/// Parses a response of the archive as [`Archive::page`](crate::Archive::page) does. Returns `None` if
/// it holds an errcode or is not a page.
pub fn read_page(body: &Bytes, corp_id: &CorpId, after_seq: u64) -> Option<Vec<SealedRecord>> {
    read(body, corp_id, after_seq, &Strays::default()).ok()
}

/// Parses a page that was requested with `after_seq`.
///
/// A record whose `seq` cannot be read gets that of the next readable record of the page, else of
/// the previous one, so that the cursor passes it. A `seq` that is [out of reach](MAX_JUMP) counts as unreadable: the cursor
/// must not follow one damaged record to the end of all numbers, behind which nothing would ever be read.
///
/// # Errors
/// Fails on an errcode, on JSON with neither errcode nor `chatdata`, on a response that is not an envelope even after stray control bytes are
/// replaced, and on a record without a `seq` in a page that cannot supply one.
pub(crate) fn read(
    body: &Bytes,
    corp_id: &CorpId,
    after_seq: u64,
    strays: &Strays,
) -> Result<Vec<SealedRecord>, ResponseError> {
    match read_strictly(body, corp_id, after_seq, strays) {
        Err(malformed @ ResponseError::Malformed { .. }) => {
            // An errcode counts even if the other fields do not have the documented form.
            if let Err(refused @ ResponseError::Refused { .. }) = ResponseStatus::check(body) {
                return Err(refused);
            }
            let repaired = repair(body).ok_or(malformed)?;
            read_strictly(&repaired, corp_id, after_seq, strays)
        }
        result => result,
    }
}

fn read_strictly(
    body: &Bytes,
    corp_id: &CorpId,
    after_seq: u64,
    strays: &Strays,
) -> Result<Vec<SealedRecord>, ResponseError> {
    let envelope: Envelope<'_> = serde_json::from_slice(body)?;
    match envelope.errcode {
        None if envelope.chatdata.is_none() => return Err(ResponseError::NotAnAnswer),
        // Without records, only the errcode and its text are known to come: another field may hold the records.
        Some(0) if envelope.chatdata.is_none() && has_other_fields(body)? => {
            return Err(ResponseError::NotAnAnswer);
        }
        None | Some(0) => {}
        Some(code) => {
            return Err(ResponseError::Refused {
                code,
                message: envelope.errmsg,
            });
        }
    }
    let mut records: Vec<PageRecord<'_>> = envelope
        .chatdata
        .unwrap_or_default()
        .into_iter()
        .map(page_record)
        .collect();
    let stray = take_strays(&mut records, after_seq);
    if !stray.is_empty() && strays.drop_known(&mut records, &stray) {
        return Ok(Vec::new());
    }
    let read: Vec<Option<u64>> = records.iter().map(|record| record.seq).collect();
    let seqs = assign_seqs(&read, after_seq).ok_or(ResponseError::NoReadableSeq {
        records: records.len(),
    })?;
    strays.remember(stray);
    let has_oversize = records.iter().any(PageRecord::is_oversize);
    let mut sealed: Vec<SealedRecord> = records
        .into_iter()
        .zip(seqs)
        .filter(|(_, seq)| *seq > after_seq)
        .map(|(record, seq)| {
            let json = body.slice_ref(record.raw.get().as_bytes());
            let sealed = SealedRecord {
                corp_id: corp_id.clone(),
                seq,
                msgid: record.msgid,
                json,
            }
            .bounded();
            SealedRecord {
                json: if has_oversize {
                    Bytes::copy_from_slice(&sealed.json)
                } else {
                    sealed.json
                },
                ..sealed
            }
        })
        .collect();
    if !sealed.is_sorted_by_key(|record| record.seq) {
        sealed.sort_by_key(|record| record.seq);
    }
    Ok(sealed)
}

fn has_other_fields(body: &Bytes) -> Result<bool, ResponseError> {
    #[expect(
        clippy::zero_sized_map_values,
        reason = "JSON has maps, and only the names matter"
    )]
    let fields: HashMap<Cow<'_, str>, IgnoredAny> = serde_json::from_slice(body)?;
    let known = ["errcode", "errmsg"];
    let has_list = fields.contains_key("chatdata");
    Ok(!has_list && fields.keys().any(|name| !known.contains(&name.as_ref())))
}

fn page_record(raw: &RawValue) -> PageRecord<'_> {
    // Arrays are excluded because serde deserialises structs from them too.
    let head: RecordHead<'_> = if raw.get().starts_with('{') {
        serde_json::from_str(raw.get()).unwrap_or_default()
    } else {
        RecordHead::default()
    };
    PageRecord {
        raw,
        seq: head.seq.and_then(|seq| {
            sealed::u64_or_text(&mut serde_json::Deserializer::from_str(seq.get())).ok()
        }),
        msgid: head
            .msgid
            .and_then(|msgid| serde_json::from_str(msgid.get()).ok())
            .unwrap_or_default(),
    }
}

/// Records with a `seq` out of reach that were returned already, by the hash of their JSON. The archive returns such a record
/// again after every position, as long as it keeps it.
#[derive(Debug, Default)]
pub(crate) struct Strays(Mutex<HashSet<u64>>);

impl Strays {
    /// Most of them to remember: an archive with more is damaged as a whole.
    const MOST: usize = 10_000;

    /// Removes the known ones from a page. Returns whether nothing is left.
    fn drop_known(&self, records: &mut Vec<PageRecord<'_>>, stray: &HashSet<u64>) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|record| {
            let hash = record.hash();
            !(stray.contains(&hash) && known.contains(&hash))
        });
        records.is_empty()
    }

    fn remember(&self, stray: HashSet<u64>) {
        if stray.is_empty() {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = stray.iter().filter(|hash| !known.contains(hash)).count();
        if new > 0 {
            tracing::warn!(
                records = new,
                "records have a seq that no archive can have reached; they are kept at the position of their neighbours, and \
                 reading continues from there"
            );
        }
        if known.len() < Self::MOST {
            known.extend(stray);
        }
    }
}

/// Removes the `seq` of records that are out of reach. Returns the hashes of these records.
fn take_strays(records: &mut [PageRecord<'_>], after_seq: u64) -> HashSet<u64> {
    let read: Vec<Option<u64>> = records.iter().map(|record| record.seq).collect();
    let reached = within_reach(&read, after_seq);
    let mut stray = HashSet::new();
    for (record, reached) in records.iter_mut().zip(reached) {
        if record.seq != reached {
            stray.insert(record.hash());
            record.seq = reached;
        }
    }
    stray
}

/// Returns the `seq`s of a page without those that are out of reach of the one before them.
fn within_reach(read: &[Option<u64>], after_seq: u64) -> Vec<Option<u64>> {
    // Before the first page, nothing is known but that no corp has had more messages than this.
    let first_jump = if after_seq == 0 {
        MAX_FIRST_JUMP
    } else {
        MAX_JUMP
    };
    let mut ascending: Vec<u64> = read
        .iter()
        .copied()
        .flatten()
        .filter(|seq| *seq > after_seq)
        .collect();
    ascending.sort_unstable();
    let (mut last, mut jump) = (after_seq, first_jump);
    for seq in ascending {
        if seq - last > jump {
            break;
        }
        (last, jump) = (seq, MAX_JUMP);
    }
    let reached = |seq: &u64| *seq <= last;
    read.iter().map(|seq| seq.filter(reached)).collect()
}

/// Returns the `seq` of every record, in the order of the page. Returns `None` if one has none and no
/// record after `after_seq` can supply one.
fn assign_seqs(read: &[Option<u64>], after_seq: u64) -> Option<Vec<u64>> {
    let after = |seq: &Option<u64>| seq.filter(|seq| *seq > after_seq);
    let mut seqs = Vec::with_capacity(read.len());
    let mut substitute = read.iter().rev().find_map(after);
    // Backwards, so that the next readable seq is known.
    for seq in read.iter().rev() {
        substitute = after(seq).or(substitute);
        seqs.push(seq.or(substitute)?);
    }
    seqs.reverse();
    Some(seqs)
}

/// Replaces control bytes inside strings by spaces and invalid UTF-8 by U+FFFD
/// (`connectors/wecom/WECOM.md` §3.3). Returns `None` if there are none.
fn repair(body: &Bytes) -> Option<Bytes> {
    let text = String::from_utf8_lossy(body);
    let mut changed = matches!(text, std::borrow::Cow::Owned(_));
    let mut bytes = text.into_owned().into_bytes();
    let (mut inside, mut escaped) = (false, false);
    for byte in &mut bytes {
        if !inside {
            inside = *byte == b'"';
            continue;
        }
        if *byte < 0x20 {
            *byte = b' ';
            changed = true;
        }
        match *byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => inside = false,
            _ => {}
        }
    }
    changed.then(|| Bytes::from(bytes))
}

#[cfg(test)]
mod tests;
