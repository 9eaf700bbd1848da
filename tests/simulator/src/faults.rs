//! The faults of a tenant: which records are damaged and how, which messages the archive gives
//! twice, and the mapping between the stream of records and the messages in it.
//!
//! Guarantee: there are exactly as many faults as requested, at positions derived from the seed.
//! Faults of API calls are specified here and injected by `server::api_faults`.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use rand::RngExt;

use crate::random::{Purpose, generator};

/// The value of `--faults`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultSpec {
    /// Records damaged by the defects of [`Defect::ALL`], in turn.
    pub broken: u64,
    /// Records sealed with a key that is missing from the configuration.
    pub unknown_key: u64,
    /// Records that lack a field of the envelope.
    pub envelope: u64,
    /// Messages that the archive gives again under a later `seq`.
    pub duplicates: u64,
    /// Share of archive calls that fail, from 0 to 0.9.
    pub api: f64,
    /// Kinds of failure, in turn; empty means all.
    pub api_kinds: Vec<ApiFault>,
    /// Share of archive calls answered with an empty page although more records follow.
    pub empty: f64,
    /// Minimum duration of every archive call, in milliseconds.
    pub slow_ms: u64,
    /// Number of `seq` values skipped in the middle of the backlog.
    pub jump: u64,
}

impl FromStr for FaultSpec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut spec = Self::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .with_context(|| format!("`{part}` does not have the form name=value"))?;
            let whole = || {
                value
                    .parse::<u64>()
                    .with_context(|| format!("`{key}` takes a whole number, not `{value}`"))
            };
            let share = |value: &str| match value.parse::<f64>() {
                Ok(share) if (0.0..=0.9).contains(&share) => Ok(share),
                _ => Err(anyhow!(
                    "`{key}` takes a share from 0 to 0.9, not `{value}`"
                )),
            };
            match key {
                "broken" => spec.broken = whole()?,
                "unknown_key" => spec.unknown_key = whole()?,
                "envelope" => spec.envelope = whole()?,
                "duplicates" => spec.duplicates = whole()?,
                "slow" => spec.slow_ms = whole()?,
                "jump" => spec.jump = whole()?,
                "empty" => spec.empty = share(value)?,
                "api" => {
                    let (number, kinds) = value.split_once('@').unwrap_or((value, ""));
                    spec.api = share(number)?;
                    spec.api_kinds = kinds
                        .split('+')
                        .filter(|kind| !kind.is_empty())
                        .map(ApiFault::from_str)
                        .collect::<Result<_>>()?;
                }
                _ => bail!(
                    "unknown fault `{key}`; accepted: broken, unknown_key, envelope, duplicates, api, empty, slow, jump"
                ),
            }
        }
        Ok(spec)
    }
}

/// How an archive call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiFault {
    /// errcode -1.
    Busy,
    /// errcode 45009.
    Rate,
    /// errcode 45033.
    Concurrency,
    /// errcode 42001; the token is invalid from then on.
    Expired,
    /// errcode 40014; the token is invalid from then on.
    Invalid,
    /// HTTP 500.
    E500,
    /// HTTP 502.
    E502,
    /// The connection is closed in the middle of the body. Named `cut` in `--faults`.
    Disconnect,
    /// A complete HTTP response with truncated JSON.
    Truncated,
    /// errcode 6000 with records in the same body, which must be ignored.
    Error,
    /// The correct response, two seconds late.
    Slow,
}

impl ApiFault {
    /// Every kind, in the order in which they are injected.
    pub const ALL: [Self; 11] = [
        Self::Busy,
        Self::Disconnect,
        Self::E502,
        Self::Expired,
        Self::Truncated,
        Self::Concurrency,
        Self::E500,
        Self::Error,
        Self::Slow,
        Self::Invalid,
        Self::Rate,
    ];

    /// Returns its name in `--faults`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
            Self::Expired => "expired",
            Self::Invalid => "invalid",
            Self::E500 => "e500",
            Self::E502 => "e502",
            Self::Disconnect => "cut",
            Self::Truncated => "truncated",
            Self::Error => "error",
            Self::Slow => "slow",
        }
    }
}

impl FromStr for ApiFault {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .with_context(|| {
                let names = Self::ALL.map(Self::as_str).join(", ");
                format!("unknown kind of API failure `{text}`; accepted: {names}")
            })
    }
}

/// How a record is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// One of the two encrypted fields is not base64.
    Base64,
    /// The ciphertext ends in the middle of a block.
    Truncated,
    /// The plaintext has no valid PKCS#7 padding.
    Padding,
    /// The plaintext is not UTF-8.
    Utf8,
    /// The plaintext is not JSON.
    Json,
    /// The plaintext is JSON but not a message.
    Message,
    /// It is sealed with a different key from the one it names.
    WrongKey,
    /// It names a key version that is missing from the configuration.
    UnknownKey,
    /// A field of the envelope is missing.
    Envelope,
}

impl Defect {
    /// The defects of `broken=N`, in turn.
    pub const ALL: [Self; 7] = [
        Self::Base64,
        Self::Truncated,
        Self::Padding,
        Self::Utf8,
        Self::Json,
        Self::Message,
        Self::WrongKey,
    ];

    /// Returns the reason of the resulting dead letter.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Base64 => "bad_base64",
            Self::Truncated => "truncated_ciphertext",
            Self::Padding => "bad_padding",
            Self::Utf8 => "bad_utf8",
            Self::Json => "bad_json",
            Self::Message => "bad_message",
            Self::WrongKey => "wrong_key",
            Self::UnknownKey => "unknown_key_version",
            Self::Envelope => "bad_envelope",
        }
    }
}

/// What one record of the stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordContent {
    /// Number of the message it holds.
    pub message: u64,
    /// Whether an earlier record of the stream holds the same message.
    pub duplicate: bool,
}

/// Positions of the faults in the backlog.
#[derive(Clone, Debug, Default)]
pub struct FaultTable {
    defects: BTreeMap<u64, Defect>,
    /// (position in the stream of records, message given again), ascending.
    duplicates: Vec<(u64, u64)>,
    /// For every duplicate, the message it follows.
    follows: Vec<u64>,
}

impl FaultTable {
    /// Chooses the positions.
    pub fn new(spec: &FaultSpec, messages: u64, seed: u64) -> Self {
        let mut rng = generator(seed, Purpose::RecordFaults, 0);
        let mut defects = BTreeMap::new();
        let kinds = (0..spec.broken)
            .map(|n| Defect::ALL[n as usize % Defect::ALL.len()])
            .chain((0..spec.unknown_key).map(|_| Defect::UnknownKey))
            .chain((0..spec.envelope).map(|_| Defect::Envelope));
        for kind in kinds {
            loop {
                let message = rng.random_range(0..messages);
                if let std::collections::btree_map::Entry::Vacant(free) = defects.entry(message) {
                    free.insert(kind);
                    break;
                }
            }
        }
        let mut sources = std::collections::BTreeSet::new();
        let mut after = Vec::new();
        while (sources.len() as u64) < spec.duplicates {
            let source = rng.random_range(0..messages);
            if defects.contains_key(&source) || !sources.insert(source) {
                continue;
            }
            // Half of them soon after the original, often on the same page; the others anywhere later.
            let last = messages - 1;
            let follows = if rng.random_bool(0.5) {
                (source + rng.random_range(0..40)).min(last)
            } else {
                rng.random_range(source..=last)
            };
            after.push((follows, source));
        }
        after.sort_unstable();
        Self {
            defects,
            duplicates: (0u64..)
                .zip(&after)
                .map(|(n, &(follows, source))| (follows + 1 + n, source))
                .collect(),
            follows: after.into_iter().map(|(follows, _)| follows).collect(),
        }
    }

    /// Returns the defect of a message, if it has one.
    pub fn defect(&self, message: u64) -> Option<Defect> {
        self.defects.get(&message).copied()
    }

    /// Returns the number of duplicates.
    pub fn duplicates(&self) -> u64 {
        self.duplicates.len() as u64
    }

    /// Returns what the record at a position holds.
    pub fn content(&self, record: u64) -> RecordContent {
        let before = self.duplicates.partition_point(|&(at, _)| at < record);
        match self.duplicates.get(before) {
            Some(&(at, message)) if at == record => RecordContent {
                message,
                duplicate: true,
            },
            _ => RecordContent {
                message: record - before as u64,
                duplicate: false,
            },
        }
    }

    /// Returns the position of the first record that holds a message.
    pub fn record_of(&self, message: u64) -> u64 {
        message + self.follows.partition_point(|&follows| follows < message) as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn spec_parses_every_part_and_names_what_it_cannot_parse() {
        let spec: FaultSpec =
            "broken=20, unknown_key=10,duplicates=3,api=0.1@busy+cut,empty=0.05,slow=7"
                .parse()
                .unwrap();
        assert_eq!(
            (spec.broken, spec.unknown_key, spec.duplicates),
            (20, 10, 3)
        );
        assert_eq!(spec.api_kinds, [ApiFault::Busy, ApiFault::Disconnect]);
        assert_eq!(spec.slow_ms, 7);
        for (text, part) in [
            ("broken", "name=value"),
            ("broken=x", "whole number"),
            ("api=2", "0 to 0.9"),
            ("api=0.1@quake", "quake"),
            ("borken=1", "borken"),
        ] {
            let error = text.parse::<FaultSpec>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn records_hold_every_message_and_every_duplicate_follows_its_original() {
        for (messages, duplicates) in [(1, 1), (50, 0), (50, 50), (3_000, 200)] {
            let spec = FaultSpec {
                duplicates,
                ..FaultSpec::default()
            };
            let table = FaultTable::new(&spec, messages, 9);
            let mut seen = vec![0; messages as usize];
            for record in 0..messages + duplicates {
                let content = table.content(record);
                let times = &mut seen[content.message as usize];
                assert_eq!(content.duplicate, *times > 0);
                if !content.duplicate {
                    assert_eq!(table.record_of(content.message), record);
                }
                *times += 1;
            }
            assert!(seen.iter().all(|&times| times >= 1));
            assert_eq!(seen.iter().sum::<u64>(), messages + duplicates);
        }
    }

    #[test]
    fn defects_are_as_many_as_requested_and_of_every_kind() {
        let spec: FaultSpec = "broken=20,unknown_key=10,envelope=2".parse().unwrap();
        let table = FaultTable::new(&spec, 1_000, 4);
        let count = |kind| {
            (0..1_000)
                .filter(|&m| table.defect(m) == Some(kind))
                .count()
        };
        assert_eq!(Defect::ALL.map(count), [3, 3, 3, 3, 3, 3, 2]);
        assert_eq!(
            (count(Defect::UnknownKey), count(Defect::Envelope)),
            (10, 2)
        );
    }
}
