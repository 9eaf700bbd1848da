//! The ledger: every pulled record, in the order it was pulled, in a hash chain, with its outcome.
//!
//! The ledger does not depend on any sink. It is written before a sink receives a record (direct
//! driver: to a file; kafka driver: to the topic `.ledger`, in the transaction that publishes the
//! record), and no answer of a sink changes it. Its dense numbers and its hash chain prove that no
//! record, outcome or digest was changed, removed or inserted later. Its digests prove that a row in a
//! sink belongs to a pulled record and is as it was delivered.
//!
//! The ledger contains digests only. No sealed record and no content can be read from it.
//!
//! All integers are little endian.

mod row;
mod settlement;

use sha2::{Digest, Sha256};

use crate::CorpId;

pub use row::{RecordKey, RowDigest, RowParts, combined};
pub use settlement::{Destruction, Outcome, RecordOutcome, SettledChain, Settlement};

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
        let mut hasher = Sha256::new_with_prefix(b"chatledger chain 2\0");
        hasher.update(corp.as_bytes());
        Self(hasher.finalize().into())
    }

    /// Returns the link after `chained`, the encoded content of the next entry.
    #[must_use]
    fn after(&self, chained: &[u8]) -> Self {
        let mut hasher = Sha256::new_with_prefix(self.0);
        hasher.update(chained);
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

/// What an entry of the hash chain stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A record that was pulled.
    Record,
    /// A gap that an operator accepted.
    Gap,
    /// Another settlement of a record that an earlier entry stands for: a dead letter that was
    /// replayed, or a record that was processed again with another result.
    Resettled,
    /// Records that were destroyed deliberately: see [`Destruction`].
    Destroyed,
}

impl EntryKind {
    /// The two highest bits of an encoded `at`.
    fn tag(self) -> u64 {
        match self {
            Self::Record => 0,
            Self::Destroyed => 1 << 62,
            Self::Gap => 2 << 62,
            Self::Resettled => 3 << 62,
        }
    }
}

/// One entry of the hash chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Number of the entry within its corp: starts at 1 and has no gaps, unlike `seq`.
    pub number: u64,
    /// Position in the corp's archive. For a gap, the position after which records may be missing;
    /// for a further settlement and a destruction, the last position of the ledger at that time.
    pub seq: u64,
    /// When the record was first pulled, or when the entry of another kind was made, milliseconds
    /// since the epoch, UTC. Between 0 and 2^62 - 1.
    pub at: i64,
    /// Digest of the msgid; zeros for a gap. For a destruction, [`Destruction::digest`].
    pub msgid: Digest128,
    /// Digest of the sealed record's JSON as received. For other kinds it holds two numbers, see
    /// [`Self::silent_since`], [`Self::maybe_lost`], [`Self::subject`] and [`Self::destroyed`].
    pub sealed: Digest128,
    /// What the entry stands for.
    pub kind: EntryKind,
    /// The hash chain up to and including this entry.
    pub link: ChainLink,
}

/// Two numbers in the place of the digest of a sealed record.
pub fn two_numbers(first: u64, second: u64) -> Digest128 {
    (u128::from(first) | u128::from(second) << 64).to_le_bytes()
}

impl LedgerEntry {
    /// Encoded size of an entry in bytes.
    pub const BYTES: usize = 88;
    /// Of it, the content that the link covers.
    const CHAINED: usize = Self::BYTES - 32;
    const TAG: u64 = 3 << 62;

    /// The link that belongs to this entry after the link `before`: SHA-256 over `before`, the encoded
    /// entry without its link, and the settlement that is stored with it.
    pub fn link_after(&self, before: &ChainLink, settlement: Option<&Settlement>) -> ChainLink {
        let mut chained = Vec::with_capacity(Self::CHAINED + Settlement::BYTES);
        self.encode_content(&mut chained);
        if let Some(settlement) = settlement {
            settlement.encode(&mut chained);
        }
        before.after(&chained)
    }

    /// Whether this entry, with the settlement that is stored with it, continues the chain from the
    /// link `before`.
    pub fn follows(&self, before: &ChainLink, settlement: Option<&Settlement>) -> bool {
        self.link == self.link_after(before, settlement)
    }

    /// Appends the encoded entry: number · seq · (kind << 62 | at) · msgid · sealed · link.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_content(out);
        out.extend(self.link.0);
    }

    fn encode_content(&self, out: &mut Vec<u8>) {
        out.extend(self.number.to_le_bytes());
        out.extend(self.seq.to_le_bytes());
        out.extend((self.kind.tag() | (self.at as u64 & !Self::TAG)).to_le_bytes());
        out.extend(self.msgid);
        out.extend(self.sealed);
    }

    /// Decodes an entry; returns `None` if `bytes` is not [`Self::BYTES`] long.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = FieldReader(bytes);
        let (number, seq, tagged) = (bytes.number()?, bytes.number()?, bytes.number()?);
        let entry = Self {
            number,
            seq,
            at: (tagged & !Self::TAG) as i64,
            msgid: bytes.array()?,
            sealed: bytes.array()?,
            kind: match tagged >> 62 {
                0 => EntryKind::Record,
                1 => EntryKind::Destroyed,
                2 => EntryKind::Gap,
                _ => EntryKind::Resettled,
            },
            link: ChainLink(bytes.array()?),
        };
        bytes.0.is_empty().then_some(entry)
    }

    /// The two numbers of an entry that is not a record.
    fn numbers(&self) -> (u64, u64) {
        let both = u128::from_le_bytes(self.sealed);
        (both as u64, (both >> 64) as u64)
    }

    /// When the archive last answered before a gap, milliseconds since the epoch, UTC; `None` for an
    /// entry of another kind.
    pub fn silent_since(&self) -> Option<i64> {
        (self.kind == EntryKind::Gap).then(|| self.numbers().0 as i64)
    }

    /// First and last position of records that were pulled before a gap and that not every sink had when
    /// the gap was accepted: the archive may have dropped them before they could be delivered. `None` if
    /// there are none, and for an entry of another kind.
    pub fn maybe_lost(&self) -> Option<(u64, u64)> {
        let delivered = self.numbers().1;
        let some = self.kind == EntryKind::Gap && delivered < self.seq;
        some.then(|| (delivered + 1, self.seq))
    }

    /// The position of the record that is settled: of the record itself, or of the one that a further
    /// settlement is about. `None` for an entry of another kind.
    pub fn subject(&self) -> Option<u64> {
        match self.kind {
            EntryKind::Record => Some(self.seq),
            EntryKind::Resettled => Some(self.numbers().0),
            EntryKind::Gap | EntryKind::Destroyed => None,
        }
    }

    /// First and last position of the records that were destroyed; `None` for an entry of another kind.
    pub fn destroyed(&self) -> Option<(u64, u64)> {
        (self.kind == EntryKind::Destroyed).then(|| self.numbers())
    }
}

/// A value on the topic `.ledger`; the record key is the corp id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LedgerRecord {
    /// The entries of a page that the source pulled.
    Pulled(Vec<LedgerEntry>),
    /// The outcomes of a batch of records.
    Outcomes(Vec<RecordOutcome>),
    /// Records were destroyed deliberately.
    Destroyed(Destruction),
}

impl LedgerRecord {
    /// Returns the encoded value: version (2), kind, then items of fixed size (`P`, `S`) or JSON (`D`).
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![2];
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
            Self::Destroyed(destruction) => {
                out.push(b'D');
                out.extend(destruction.text().into_bytes());
            }
        }
        out
    }

    /// Decodes a value; returns `None` if the version, the kind or the length is invalid.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [2, b'P', rest @ ..] => Some(Self::Pulled(decode_all(
                rest,
                LedgerEntry::BYTES,
                LedgerEntry::decode,
            )?)),
            [2, b'S', rest @ ..] => Some(Self::Outcomes(decode_all(
                rest,
                RecordOutcome::BYTES,
                RecordOutcome::decode,
            )?)),
            [2, b'D', rest @ ..] => Some(Self::Destroyed(Destruction::parse(rest)?)),
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

    const SETTLEMENT: Settlement = Settlement {
        outcome: Outcome::Message,
        row: [5; 16],
        violations: 2,
        violation_rows: [6; 16],
    };

    fn entry(number: u64, kind: EntryKind, before: &ChainLink) -> LedgerEntry {
        let mut entry = LedgerEntry {
            number,
            seq: u64::MAX - number,
            at: 1_790_000_000_000,
            msgid: digest_of(b"m"),
            sealed: digest_of(b"{}"),
            kind,
            link: *before,
        };
        entry.link = entry.link_after(before, Some(&SETTLEMENT));
        entry
    }

    #[test]
    fn ledger_records_round_trip_and_damaged_bytes_are_rejected() {
        let genesis = ChainLink::genesis("ww1");
        let mut entries = Vec::new();
        for (number, kind) in [
            EntryKind::Record,
            EntryKind::Gap,
            EntryKind::Resettled,
            EntryKind::Destroyed,
        ]
        .into_iter()
        .enumerate()
        {
            entries.push(entry(number as u64 + 1, kind, &genesis));
        }
        let outcomes = LedgerRecord::Outcomes(
            [Outcome::Message, Outcome::DeadLetter, Outcome::Duplicate]
                .map(|outcome| RecordOutcome {
                    seq: 7,
                    msgid: digest_of(b"m"),
                    settlement: Settlement {
                        outcome,
                        ..SETTLEMENT
                    },
                })
                .to_vec(),
        );
        let destroyed = LedgerRecord::Destroyed(Destruction {
            first_seq: 3,
            last_seq: 9,
            by: "li".to_owned(),
            because: "保存期满".to_owned(),
            at: 5,
        });
        let pulled = LedgerRecord::Pulled(entries);
        for record in [
            pulled,
            outcomes,
            destroyed,
            LedgerRecord::Pulled(Vec::new()),
        ] {
            assert_eq!(LedgerRecord::decode(&record.encode()), Some(record));
        }
        for damaged in [
            &[][..],
            &[2],
            &[1, b'P'],
            &[2, b'P', 0],
            &[2, b'S', 9, 9],
            b"\x02D{}",
        ] {
            assert_eq!(LedgerRecord::decode(damaged), None);
        }
    }

    #[test]
    fn changing_any_bit_of_an_entry_or_its_settlement_breaks_the_chain() {
        let genesis = ChainLink::genesis("ww1");
        assert_ne!(genesis, ChainLink::genesis("ww2"));
        let good = entry(1, EntryKind::Record, &genesis);
        assert!(good.follows(&genesis, Some(&SETTLEMENT)));
        assert!(!good.follows(&good.link, Some(&SETTLEMENT)) && !good.follows(&genesis, None));
        let mut bytes = Vec::new();
        good.encode(&mut bytes);
        SETTLEMENT.encode(&mut bytes);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let (entry, settlement) = changed.split_at(LedgerEntry::BYTES);
            let entry = LedgerEntry::decode(entry).unwrap();
            // An unknown outcome cannot be read at all.
            if let Some(settlement) = Settlement::decode(settlement) {
                assert!(!entry.follows(&genesis, Some(&settlement)), "bit {bit}");
            }
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
