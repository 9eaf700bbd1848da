//! What goes wrong in a tenant: which records are spoilt and how, which come twice, and the map
//! between the stream of records and the messages in it.
//!
//! Guarantee: the numbers asked for are met exactly, at places that follow from the seed.
//! Faults of API calls are specified here too and played in `server::mishaps`.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use rand::RngExt;

use crate::random::{Purpose, generator};

/// The value of `--faults`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultSpec {
    /// Records spoilt in one of the ways of [`Broken::ALL`], in turn.
    pub broken: u64,
    /// Records sealed with a key that the configuration does not name.
    pub unknown_key: u64,
    /// Records without the form of the envelope.
    pub envelope: u64,
    /// Messages that come again under a later `seq`.
    pub duplicates: u64,
    /// Share of archive calls that fail.
    pub api: f64,
    /// Kinds of failing calls, in turn; empty means all.
    pub api_kinds: Vec<ApiFault>,
    /// Share of archive calls answered with an empty page though more follows.
    pub empty: f64,
    /// Milliseconds every archive call takes at least.
    pub slow_ms: u64,
    /// How far `seq` jumps in the middle of the backlog.
    pub jump: u64,
}

impl FromStr for FaultSpec {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut spec = Self::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .with_context(|| format!("`{part}` is not of the form name=value"))?;
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
                    "`{key}` is none of broken, unknown_key, envelope, duplicates, api, empty, slow, jump"
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
    /// errcode 42001; the token is void from now on.
    Expired,
    /// errcode 40014; the token is void from now on.
    Invalid,
    /// HTTP 500.
    E500,
    /// HTTP 502.
    E502,
    /// The connection ends in the middle of the body.
    Cut,
    /// A whole answer whose JSON is not.
    Truncated,
    /// errcode 6000 with records in the same body, which do not count.
    Error,
    /// The right answer, two seconds late.
    Slow,
}

impl ApiFault {
    /// Every kind, in the order in which they are played.
    pub const ALL: [Self; 11] = [
        Self::Busy,
        Self::Cut,
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

    /// Its name in `--faults`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Rate => "rate",
            Self::Concurrency => "concurrency",
            Self::Expired => "expired",
            Self::Invalid => "invalid",
            Self::E500 => "e500",
            Self::E502 => "e502",
            Self::Cut => "cut",
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
                format!("`{text}` is no kind of failing call; there are {names}")
            })
    }
}

/// How a record is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// One of the two texts is no base64.
    Base64,
    /// The ciphertext ends in the middle of a block.
    Truncated,
    /// It opens to something without valid PKCS#7 padding.
    Padding,
    /// It opens to bytes that are no UTF-8.
    Utf8,
    /// It opens to text that is no JSON.
    Json,
    /// It opens to JSON that is no message.
    Message,
    /// It is sealed with another key than the one it names.
    WrongKey,
    /// It names a key version that the configuration does not have.
    UnknownKey,
    /// The record lacks a field of the envelope.
    Envelope,
}

impl Broken {
    /// The ways of `broken=N`, in turn.
    pub const ALL: [Self; 7] = [
        Self::Base64,
        Self::Truncated,
        Self::Padding,
        Self::Utf8,
        Self::Json,
        Self::Message,
        Self::WrongKey,
    ];

    /// The dead letter's reason.
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

/// A record of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which message it holds.
    pub message: u64,
    /// Whether that message has been in the stream before.
    pub repeated: bool,
}

/// Where the faults of the backlog lie.
#[derive(Clone, Debug, Default)]
pub struct FaultTable {
    broken: BTreeMap<u64, Broken>,
    /// (position in the stream of records, message that comes again), ascending.
    repeats: Vec<(u64, u64)>,
    /// For every repeat, the message it follows.
    follows: Vec<u64>,
}

impl FaultTable {
    /// Chooses the places.
    pub fn new(spec: &FaultSpec, messages: u64, seed: u64) -> Self {
        let mut rng = generator(seed, Purpose::Spoil, 0);
        let mut broken = BTreeMap::new();
        let kinds = (0..spec.broken)
            .map(|n| Broken::ALL[n as usize % Broken::ALL.len()])
            .chain((0..spec.unknown_key).map(|_| Broken::UnknownKey))
            .chain((0..spec.envelope).map(|_| Broken::Envelope));
        for kind in kinds {
            loop {
                let message = rng.random_range(0..messages);
                if let std::collections::btree_map::Entry::Vacant(free) = broken.entry(message) {
                    free.insert(kind);
                    break;
                }
            }
        }
        let mut sources = std::collections::BTreeSet::new();
        let mut after = Vec::new();
        while (sources.len() as u64) < spec.duplicates {
            let source = rng.random_range(0..messages);
            if broken.contains_key(&source) || !sources.insert(source) {
                continue;
            }
            // Half of them soon after, often in the same page; half of them anywhere later.
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
            broken,
            repeats: (0u64..)
                .zip(&after)
                .map(|(n, &(follows, source))| (follows + 1 + n, source))
                .collect(),
            follows: after.into_iter().map(|(follows, _)| follows).collect(),
        }
    }

    /// How a message is spoilt, if it is.
    pub fn broken(&self, message: u64) -> Option<Broken> {
        self.broken.get(&message).copied()
    }

    /// How many records come twice.
    pub fn repeats(&self) -> u64 {
        self.repeats.len() as u64
    }

    /// What the record at a position holds.
    pub fn place(&self, record: u64) -> Place {
        let before = self.repeats.partition_point(|&(at, _)| at < record);
        match self.repeats.get(before) {
            Some(&(at, message)) if at == record => Place {
                message,
                repeated: true,
            },
            _ => Place {
                message: record - before as u64,
                repeated: false,
            },
        }
    }

    /// The position at which a message first comes.
    pub fn record_of(&self, message: u64) -> u64 {
        message + self.follows.partition_point(|&follows| follows < message) as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn spec_reads_every_part_and_names_what_it_cannot_read() {
        let spec: FaultSpec =
            "broken=20, unknown_key=10,duplicates=3,api=0.1@busy+cut,empty=0.05,slow=7"
                .parse()
                .unwrap();
        assert_eq!(
            (spec.broken, spec.unknown_key, spec.duplicates),
            (20, 10, 3)
        );
        assert_eq!(spec.api_kinds, [ApiFault::Busy, ApiFault::Cut]);
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
    fn places_hold_every_message_once_and_every_repeat_after_its_message() {
        for (messages, duplicates) in [(1, 1), (50, 0), (50, 50), (3_000, 200)] {
            let spec = FaultSpec {
                duplicates,
                ..FaultSpec::default()
            };
            let table = FaultTable::new(&spec, messages, 9);
            let mut seen = vec![0; messages as usize];
            for record in 0..messages + duplicates {
                let place = table.place(record);
                let times = &mut seen[place.message as usize];
                assert_eq!(place.repeated, *times > 0);
                if !place.repeated {
                    assert_eq!(table.record_of(place.message), record);
                }
                *times += 1;
            }
            assert!(seen.iter().all(|&times| times >= 1));
            assert_eq!(seen.iter().sum::<u64>(), messages + duplicates);
        }
    }

    #[test]
    fn broken_records_are_as_many_as_asked_and_of_every_kind() {
        let spec: FaultSpec = "broken=20,unknown_key=10,envelope=2".parse().unwrap();
        let table = FaultTable::new(&spec, 1_000, 4);
        let count = |kind| {
            (0..1_000)
                .filter(|&m| table.broken(m) == Some(kind))
                .count()
        };
        assert_eq!(Broken::ALL.map(count), [3, 3, 3, 3, 3, 3, 2]);
        assert_eq!(
            (count(Broken::UnknownKey), count(Broken::Envelope)),
            (10, 2)
        );
    }
}
