//! The ledger: every pulled record, in the order it was pulled, in a hash chain, with its outcome.
//!
//! The ledger does not depend on any sink. It is written before a sink receives a record (direct
//! driver: to a file; kafka driver: to the topic `.ledger`, in the transaction that publishes the
//! record), and no answer of a sink changes it. Its dense numbers and its hash chain prove that no
//! record was changed, removed or inserted later. Its digests prove that a row in a sink belongs to
//! a pulled record.
//!
//! The ledger contains digests only. No sealed record and no content can be read from it.
//!
//! All integers are little endian.

mod row;

use sha2::{Digest, Sha256};

use crate::CorpId;

pub use row::{RecordKey, RowDigest, RowParts};

/// The first 128 bits of a SHA-256 digest, which is enough to resist second preimages. Every digest
/// of a record, a msgid or a row has this type.
pub type Digest128 = [u8; 16];

/// Returns the first 128 bits of the SHA-256 of `text`. The equivalent in ClickHouse is
/// `substring(SHA256(text), 1, 16)`.
pub fn digest_of(text: &[u8]) -> Digest128 {
    truncated(Sha256::digest(text).into())
}

fn truncated(digest: [u8; 32]) -> Digest128 {
    let mut first = [0; 16];
    first.copy_from_slice(&digest[..16]);
    first
}

/// A value of a corp's hash chain: a SHA-256 over everything that was pulled up to and including
/// one record. Unlike [`Digest128`] it is not truncated.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainLink(pub [u8; 32]);

impl ChainLink {
    /// Returns the link before the first record of a corp.
    pub fn genesis(corp: &str) -> Self {
        let mut hasher = Sha256::new_with_prefix(b"chatledger chain 1\0");
        hasher.update(corp.as_bytes());
        Self(hasher.finalize().into())
    }

    /// Returns the link after the next record: SHA-256 over this link and the record's `number`,
    /// `seq`, gap flag, digest of the msgid and digest of the sealed record.
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

    /// Returns the link as 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |half: u8| char::from(DIGITS[usize::from(half & 15)]);
        let pair = |byte: &u8| [digit(byte >> 4), digit(*byte)];
        self.0.iter().flat_map(pair).collect()
    }

    /// Parses 64 hexadecimal digits; returns `None` for anything else.
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

impl std::fmt::Debug for ChainLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.hex()[..16])
    }
}

/// One entry of the hash chain: a record that was pulled, or a gap that an operator accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Number of the entry within its corp: starts at 1 and has no gaps, unlike `seq`.
    pub number: u64,
    /// Position in the corp's archive; for a gap, the position after which records may be missing.
    pub seq: u64,
    /// When the record was first pulled or the gap was accepted, milliseconds since the epoch, UTC.
    pub at: i64,
    /// Digest of the msgid.
    pub msgid: Digest128,
    /// Digest of the sealed record's JSON as received. For a gap, the first 8 bytes hold the time
    /// of the archive's last answer before the gap, milliseconds since the epoch, UTC.
    pub sealed: Digest128,
    /// Whether the entry is a gap.
    pub gap: bool,
    /// The hash chain up to and including this entry.
    pub link: ChainLink,
}

impl LedgerEntry {
    /// Encoded size of an entry in bytes.
    pub const BYTES: usize = 88;
    const GAP: u64 = 1 << 63;

    /// Whether this entry continues the chain from the link `before`.
    pub fn follows(&self, before: &ChainLink) -> bool {
        self.link == before.after(self.number, self.seq, self.gap, &self.msgid, &self.sealed)
    }

    /// Appends the encoded entry: number · seq · (gap << 63 | at) · msgid · sealed · link.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let gap = if self.gap { Self::GAP } else { 0 };
        out.extend(self.number.to_le_bytes());
        out.extend(self.seq.to_le_bytes());
        out.extend((gap | (self.at as u64 & (Self::GAP - 1))).to_le_bytes());
        out.extend(self.msgid);
        out.extend(self.sealed);
        out.extend(self.link.0);
    }

    /// Decodes an entry; returns `None` if `bytes` is not [`Self::BYTES`] long.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = FieldReader(bytes);
        let (number, seq, tagged) = (bytes.number()?, bytes.number()?, bytes.number()?);
        let entry = Self {
            number,
            seq,
            at: (tagged & (Self::GAP - 1)) as i64,
            msgid: bytes.array()?,
            sealed: bytes.array()?,
            gap: tagged & Self::GAP != 0,
            link: ChainLink(bytes.array()?),
        };
        bytes.0.is_empty().then_some(entry)
    }

    /// Returns when the archive last answered before a gap, milliseconds since the epoch, UTC;
    /// `None` for an entry that is not a gap.
    pub fn silent_since(&self) -> Option<i64> {
        let first = self.sealed.first_chunk::<8>()?;
        self.gap.then_some(i64::from_le_bytes(*first))
    }
}

/// Outcome of a record after opening and decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The record became a message.
    Message,
    /// The record was dead-lettered.
    DeadLetter,
    /// The archive had already returned a record with the same `msgid`.
    Duplicate,
}

/// The outcome of one record in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordOutcome {
    /// Position in the corp's archive.
    pub seq: u64,
    /// Digest of the msgid.
    pub msgid: Digest128,
    /// Outcome of the record.
    pub outcome: Outcome,
    /// Digest of the message's row ([`RowParts::digest`]); all zeros if the record is not a
    /// message.
    pub row: Digest128,
}

impl RecordOutcome {
    /// Encoded size in bytes.
    pub const BYTES: usize = 48;

    /// Appends the encoded outcome: seq · outcome · msgid · row.
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

    /// Decodes an outcome; returns `None` if the length or the outcome code is invalid.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = FieldReader(bytes);
        let record = Self {
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
        bytes.0.is_empty().then_some(record)
    }
}

/// A value on the topic `.ledger`; the record key is the corp id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerRecord {
    /// The entries of a page that the source pulled.
    Pulled(Vec<LedgerEntry>),
    /// The outcomes of a batch of records.
    Outcomes(Vec<RecordOutcome>),
}

impl LedgerRecord {
    /// Returns the encoded value: version (1), kind (`P` or `S`), then items of fixed size.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        match self {
            Self::Pulled(entries) => {
                out.push(b'P');
                for entry in entries {
                    entry.encode(&mut out);
                }
            }
            Self::Outcomes(outcomes) => {
                out.push(b'S');
                for outcome in outcomes {
                    outcome.encode(&mut out);
                }
            }
        }
        out
    }

    /// Decodes a value; returns `None` if the version, the kind or the length is invalid.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [1, b'P', rest @ ..] => Some(Self::Pulled(decode_all(
                rest,
                LedgerEntry::BYTES,
                LedgerEntry::decode,
            )?)),
            [1, b'S', rest @ ..] => Some(Self::Outcomes(decode_all(
                rest,
                RecordOutcome::BYTES,
                RecordOutcome::decode,
            )?)),
            _ => None,
        }
    }
}

fn decode_all<T>(
    bytes: &[u8],
    item_bytes: usize,
    decode: fn(&[u8]) -> Option<T>,
) -> Option<Vec<T>> {
    bytes.chunks(item_bytes).map(decode).collect()
}

/// Reads fixed-size fields from the front of a slice.
struct FieldReader<'a>(&'a [u8]);

impl FieldReader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// The hash chain at one record, stored by the sinks next to the delivered rows. To rewrite the
/// ledger without detection, every stored anchor would have to be rewritten as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainAnchor {
    /// Corp of the record.
    pub corp_id: CorpId,
    /// Position of the record in the corp's archive.
    pub seq: u64,
    /// The hash chain up to and including the record.
    pub link: ChainLink,
}

impl ChainAnchor {
    /// Returns the key of a corp's anchor in the metadata of a Parquet file.
    pub fn key(corp: &CorpId) -> String {
        format!("chatledger.chain.{corp}")
    }

    /// Returns the value in the metadata of a Parquet file: `<seq>:<link>`.
    pub fn value(&self) -> String {
        format!("{}:{}", self.seq, self.link.hex())
    }

    /// Parses a key and value of a file's metadata; returns `None` if they are not an anchor.
    pub fn parse(key: &str, value: &str) -> Option<Self> {
        let corp_id = CorpId::from(key.strip_prefix("chatledger.chain.")?);
        let (seq, link) = value.split_once(':')?;
        Some(Self {
            corp_id,
            seq: seq.parse().ok()?,
            link: ChainLink::from_hex(link)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, gap: bool, before: &ChainLink) -> LedgerEntry {
        let (msgid, sealed) = (digest_of(b"m"), digest_of(b"{}"));
        LedgerEntry {
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
    fn ledger_records_round_trip_and_damaged_bytes_are_rejected() {
        let genesis = ChainLink::genesis("ww1");
        let first = entry(1, false, &genesis);
        let pulled = LedgerRecord::Pulled(vec![first, entry(2, true, &first.link)]);
        let outcomes = LedgerRecord::Outcomes(
            [Outcome::Message, Outcome::DeadLetter, Outcome::Duplicate]
                .map(|outcome| RecordOutcome {
                    seq: 7,
                    msgid: digest_of(b"m"),
                    outcome,
                    row: digest_of(b"row"),
                })
                .to_vec(),
        );
        for record in [pulled, outcomes, LedgerRecord::Pulled(Vec::new())] {
            assert_eq!(LedgerRecord::decode(&record.encode()), Some(record));
        }
        for damaged in [&[][..], &[1], &[2, b'P'], &[1, b'P', 0], &[1, b'S', 9, 9]] {
            assert_eq!(LedgerRecord::decode(damaged), None);
        }
    }

    #[test]
    fn changing_any_chained_field_breaks_the_chain() {
        let genesis = ChainLink::genesis("ww1");
        assert_ne!(genesis, ChainLink::genesis("ww2"));
        let good = entry(1, false, &genesis);
        assert!(good.follows(&genesis) && !good.follows(&good.link));
        let mut sealed = good.sealed;
        sealed[15] ^= 1;
        for changed in [
            LedgerEntry { number: 2, ..good },
            LedgerEntry { seq: 5, ..good },
            LedgerEntry { gap: true, ..good },
            LedgerEntry {
                msgid: digest_of(b"n"),
                ..good
            },
            LedgerEntry { sealed, ..good },
        ] {
            assert!(!changed.follows(&genesis), "{changed:?}");
        }
        let anchor = ChainAnchor {
            corp_id: "ww1".into(),
            seq: 9,
            link: good.link,
        };
        assert_eq!(
            ChainAnchor::parse(&ChainAnchor::key(&anchor.corp_id), &anchor.value()),
            Some(anchor)
        );
        assert_eq!(ChainLink::from_hex("zz"), None);
    }
}
