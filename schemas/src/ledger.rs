//! The ledger: what was pulled, in the order it was pulled, chained by hash, and what became of it.
//!
//! The ledger does not depend on any sink: it is written before a sink sees a record (direct driver:
//! a file; kafka driver: the topic `.ledger`, in the transaction that publishes the record), and
//! nothing that a sink answers changes it. By its dense numbers and its chain it can be shown that
//! no record was changed, removed or inserted afterwards; by what it holds of each record, that a
//! row in a sink is the record's own.
//!
//! It holds digests only: neither sealed records nor anything that was in them can be read from it.
//!
//! All integers are little endian.

use sha2::{Digest, Sha256};

use crate::{CorpId, Message};

/// The first 128 bits of a SHA-256, which is enough against a second preimage.
pub type Digest128 = [u8; 16];

/// The first 128 bits of a text's SHA-256. ClickHouse computes the same:
/// `substring(SHA256(text), 1, 16)`.
pub fn digest_of(text: &[u8]) -> Digest128 {
    truncated(Sha256::digest(text).into())
}

fn truncated(digest: [u8; 32]) -> Digest128 {
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    first
}

/// A link of a corp's hash chain: a SHA-256 over everything that was pulled up to a record.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link(pub [u8; 32]);

impl Link {
    /// The link before a corp's first record.
    pub fn genesis(corp: &str) -> Self {
        let mut hasher = Sha256::new_with_prefix(b"chatledger chain 1\0");
        hasher.update(corp.as_bytes());
        Self(hasher.finalize().into())
    }

    /// The link after a further record: SHA-256 of this link, then the record's `number`, `seq`,
    /// kind, digest of msgid and digest of the sealed record.
    #[must_use]
    pub fn after(
        &self,
        number: u64,
        seq: u64,
        gap: bool,
        msgid: &Digest128,
        sealed: &Digest128,
    ) -> Self {
        let mut hasher = Sha256::new_with_prefix(self.0);
        hasher.update(number.to_le_bytes());
        hasher.update(seq.to_le_bytes());
        hasher.update([u8::from(gap)]);
        hasher.update(msgid);
        hasher.update(sealed);
        Self(hasher.finalize().into())
    }

    /// As hexadecimal digits.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |half: u8| char::from(DIGITS[usize::from(half & 15)]);
        let pair = |byte: &u8| [digit(byte >> 4), digit(*byte)];
        self.0.iter().flat_map(pair).collect()
    }

    /// Reads hexadecimal digits; `None` if these are not 64 of them.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut link = [0; 32];
        for (byte, pair) in link.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |digit: u8| char::from(digit).to_digit(16);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Some(Self(link))
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.hex()[..16])
    }
}

/// One step of the chain: a record that was pulled, or a gap that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// 1 for a corp's first entry, then one more each: dense, unlike `seq`.
    pub number: u64,
    /// Position in the corp's archive; for a gap the position behind which records may be missing.
    pub seq: u64,
    /// When it was pulled first, or the gap accepted: milliseconds since the epoch, UTC.
    pub at: i64,
    /// Digest of the msgid.
    pub msgid: Digest128,
    /// Digest of the sealed record's JSON as received. For a gap its first 8 bytes are the time of
    /// the last answer before it, milliseconds since the epoch, UTC.
    pub sealed: Digest128,
    /// Whether this is a gap.
    pub gap: bool,
    /// The chain up to and including this entry.
    pub link: Link,
}

impl Entry {
    /// Bytes of an entry.
    pub const BYTES: usize = 88;
    const GAP: u64 = 1 << 63;

    /// Whether its link follows from `before`.
    pub fn follows(&self, before: &Link) -> bool {
        self.link == before.after(self.number, self.seq, self.gap, &self.msgid, &self.sealed)
    }

    /// Appends its bytes: number · seq · (gap << 63 | at) · msgid · sealed · link.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let gap = if self.gap { Self::GAP } else { 0 };
        out.extend(self.number.to_le_bytes());
        out.extend(self.seq.to_le_bytes());
        out.extend((gap | (self.at as u64 & (Self::GAP - 1))).to_le_bytes());
        out.extend(self.msgid);
        out.extend(self.sealed);
        out.extend(self.link.0);
    }

    /// Reads an entry; `None` if these are not [`Self::BYTES`] bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(bytes);
        let (number, seq, tagged) = (bytes.number()?, bytes.number()?, bytes.number()?);
        let entry = Self {
            number,
            seq,
            at: (tagged & (Self::GAP - 1)) as i64,
            msgid: bytes.array()?,
            sealed: bytes.array()?,
            gap: tagged & Self::GAP != 0,
            link: Link(bytes.array()?),
        };
        bytes.0.is_empty().then_some(entry)
    }

    /// When the archive last answered before a gap, milliseconds since the epoch, UTC.
    pub fn silent_since(&self) -> Option<i64> {
        let first = self.sealed.first_chunk::<8>()?;
        self.gap.then_some(i64::from_le_bytes(*first))
    }
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is a message.
    Message,
    /// It is parked.
    DeadLetter,
    /// Its message had been there before.
    Duplicate,
}

/// What became of one record of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Position in the corp's archive.
    pub seq: u64,
    /// Digest of the msgid.
    pub msgid: Digest128,
    /// What became of it.
    pub outcome: Outcome,
    /// Digest of the message's row ([`RowParts::digest`]); zeros unless it is a message.
    pub row: Digest128,
}

impl Settled {
    /// Bytes of one.
    pub const BYTES: usize = 48;

    /// Appends its bytes: seq · outcome · msgid · row.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let outcome: u64 = match self.outcome {
            Outcome::Message => 1,
            Outcome::DeadLetter => 2,
            Outcome::Duplicate => 3,
        };
        out.extend(self.seq.to_le_bytes());
        out.extend(outcome.to_le_bytes());
        out.extend(self.msgid);
        out.extend(self.row);
    }

    /// Reads one; `None` if these are not the bytes of one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(bytes);
        let settled = Self {
            seq: bytes.number()?,
            outcome: match bytes.number()? {
                1 => Outcome::Message,
                2 => Outcome::DeadLetter,
                3 => Outcome::Duplicate,
                _ => return None,
            },
            msgid: bytes.array()?,
            row: bytes.array()?,
        };
        bytes.0.is_empty().then_some(settled)
    }
}

/// A value on the topic `.ledger`; its key is the corp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerRecord {
    /// A page as the source pulled it.
    Pulled(Vec<Entry>),
    /// What became of a batch.
    Settled(Vec<Settled>),
}

impl LedgerRecord {
    /// Its bytes: version 1, kind (`P` or `S`), then entries of one length.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        match self {
            Self::Pulled(entries) => {
                out.push(b'P');
                for entry in entries {
                    entry.encode(&mut out);
                }
            }
            Self::Settled(settled) => {
                out.push(b'S');
                for one in settled {
                    one.encode(&mut out);
                }
            }
        }
        out
    }

    /// Reads one; `None` if no program of this version wrote it.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [1, b'P', rest @ ..] => Some(Self::Pulled(all(rest, Entry::BYTES, Entry::decode)?)),
            [1, b'S', rest @ ..] => {
                Some(Self::Settled(all(rest, Settled::BYTES, Settled::decode)?))
            }
            _ => None,
        }
    }
}

fn all<T>(bytes: &[u8], size: usize, one: fn(&[u8]) -> Option<T>) -> Option<Vec<T>> {
    bytes.chunks(size).map(one).collect()
}

/// Bytes being taken from the front.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// What a message's row holds of the message itself: every field that follows from the sealed
/// record alone. Names, departments and kinds are left out: they come from the directory, and a
/// later snapshot may know better.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the columns of the table `messages`")]
pub struct RowParts<'a, Id> {
    pub seq: u64,
    pub msgid: &'a str,
    pub action: &'a str,
    pub msgtype: &'a str,
    pub msgtime: i64,
    pub conversation_id: &'a str,
    pub room_id: &'a str,
    pub from_id: &'a str,
    pub to_ids: &'a [Id],
    pub content: &'a str,
    pub payload: &'a str,
    pub key_version: u32,
}

impl<'a> From<&'a Message> for RowParts<'a, String> {
    fn from(message: &'a Message) -> Self {
        Self {
            seq: message.seq,
            msgid: &message.msgid,
            action: &message.action,
            msgtype: &message.msgtype,
            msgtime: message.msgtime,
            conversation_id: &message.conversation_id,
            room_id: &message.room_id,
            from_id: &message.from_id,
            to_ids: &message.to_ids,
            content: &message.content,
            payload: &message.payload,
            key_version: message.key_version,
        }
    }
}

impl<Id: AsRef<str>> RowParts<'_, Id> {
    /// The digest that the ledger holds of the row.
    pub fn digest(&self) -> Digest128 {
        let mut hasher = Sha256::new();
        let mut text = |text: &str| {
            hasher.update((text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        text(self.msgid);
        text(self.action);
        text(self.msgtype);
        text(self.conversation_id);
        text(self.room_id);
        text(self.from_id);
        text(self.content);
        text(self.payload);
        for id in self.to_ids {
            text(id.as_ref());
        }
        hasher.update((self.to_ids.len() as u64).to_le_bytes());
        hasher.update(self.seq.to_le_bytes());
        hasher.update(self.msgtime.to_le_bytes());
        hasher.update(self.key_version.to_le_bytes());
        truncated(hasher.finalize().into())
    }
}

/// Identifies one record of a corp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordKey {
    /// Position in the corp's archive.
    pub seq: u64,
    /// Digest of the msgid.
    pub msgid: Digest128,
}

/// A message's row as a sink holds it, read for an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowDigest {
    /// The record it was made from.
    pub key: RecordKey,
    /// [`RowParts::digest`] of the row.
    pub digest: Digest128,
}

impl<Id: AsRef<str>> From<&RowParts<'_, Id>> for RowDigest {
    fn from(parts: &RowParts<'_, Id>) -> Self {
        Self {
            key: RecordKey {
                seq: parts.seq,
                msgid: digest_of(parts.msgid.as_bytes()),
            },
            digest: parts.digest(),
        }
    }
}

/// The chain at one record, written where the record was delivered: whoever rewrites the ledger has
/// to rewrite every place that holds one of these too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The corp.
    pub corp_id: CorpId,
    /// The record's position.
    pub seq: u64,
    /// The chain up to and including it.
    pub link: Link,
}

impl Anchor {
    /// Key under which a Parquet file's metadata holds the anchor of a corp.
    pub fn key(corp: &CorpId) -> String {
        format!("chatledger.chain.{corp}")
    }

    /// The value in a file's metadata: `<seq>:<link>`.
    pub fn value(&self) -> String {
        format!("{}:{}", self.seq, self.link.hex())
    }

    /// Reads a file's metadata; `None` if it is no anchor.
    pub fn parse(key: &str, value: &str) -> Option<Self> {
        let corp_id = CorpId::from(key.strip_prefix("chatledger.chain.")?);
        let (seq, link) = value.split_once(':')?;
        Some(Self {
            corp_id,
            seq: seq.parse().ok()?,
            link: Link::from_hex(link)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, gap: bool, before: &Link) -> Entry {
        let (msgid, sealed) = (digest_of(b"m"), digest_of(b"{}"));
        Entry {
            number,
            seq: u64::MAX - number,
            at: 1_790_000_000_000,
            msgid,
            sealed,
            gap,
            link: before.after(number, u64::MAX - number, gap, &msgid, &sealed),
        }
    }

    #[test]
    fn records_of_the_ledger_come_back_as_they_were() {
        let genesis = Link::genesis("ww1");
        let first = entry(1, false, &genesis);
        let pulled = LedgerRecord::Pulled(vec![first, entry(2, true, &first.link)]);
        let settled = LedgerRecord::Settled(
            [Outcome::Message, Outcome::DeadLetter, Outcome::Duplicate]
                .map(|outcome| Settled {
                    seq: 7,
                    msgid: digest_of(b"m"),
                    outcome,
                    row: digest_of(b"row"),
                })
                .to_vec(),
        );
        for record in [pulled, settled, LedgerRecord::Pulled(Vec::new())] {
            assert_eq!(LedgerRecord::decode(&record.encode()), Some(record));
        }
        for damaged in [&[][..], &[1], &[2, b'P'], &[1, b'P', 0], &[1, b'S', 9, 9]] {
            assert_eq!(LedgerRecord::decode(damaged), None);
        }
    }

    #[test]
    fn link_follows_from_everything_the_chain_is_over() {
        let genesis = Link::genesis("ww1");
        assert_ne!(genesis, Link::genesis("ww2"));
        let good = entry(1, false, &genesis);
        assert!(good.follows(&genesis) && !good.follows(&good.link));
        let mut sealed = good.sealed;
        sealed[15] ^= 1;
        for changed in [
            Entry { number: 2, ..good },
            Entry { seq: 5, ..good },
            Entry { gap: true, ..good },
            Entry {
                msgid: digest_of(b"n"),
                ..good
            },
            Entry { sealed, ..good },
        ] {
            assert!(!changed.follows(&genesis), "{changed:?}");
        }
        let anchor = Anchor {
            corp_id: "ww1".into(),
            seq: 9,
            link: good.link,
        };
        assert_eq!(
            Anchor::parse(&Anchor::key(&anchor.corp_id), &anchor.value()),
            Some(anchor)
        );
        assert_eq!(Link::from_hex("zz"), None);
    }
}
