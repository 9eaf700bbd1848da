//! Sums over blocks of positions: what the ledger says and what each place holds.

use std::collections::BTreeMap;

use chatledger_schemas::ledger::{LedgerEntry, Outcome, RecordOutcome};
use serde::Serialize;

use super::{BLOCK, Finding, Key, Sum};

/// What the ledger says of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records pulled.
    pub pulled: Sum,
    /// Those that became messages.
    pub messages: Sum,
    /// Those that were parked.
    pub parked: Sum,
    /// Those whose message had been there before.
    pub duplicates: Sum,
    /// Gaps accepted in it.
    pub gaps: u64,
}

impl Tally {
    /// Records of which the ledger does not say yet what became of them.
    pub fn unsettled(&self) -> u64 {
        let settled = self.messages.rows + self.parked.rows + self.duplicates.rows;
        self.pulled.rows.saturating_sub(settled)
    }
}

/// What a place holds, by block. Absent: the place is not in use.
pub type Held = Option<BTreeMap<u64, Sum>>;

/// What the places hold.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The table `messages`.
    pub clickhouse: Held,
    /// The message files.
    pub parquet: Held,
    /// Letters that are open.
    pub open: Held,
    /// Letters that somebody dropped.
    pub dropped: Held,
}

/// The ledger's sums between two positions, both included.
#[derive(Debug)]
pub struct Ledger {
    first: u64,
    last: u64,
    blocks: BTreeMap<u64, Tally>,
}

impl Ledger {
    /// Takes up records between two positions, both included.
    pub fn between(first: u64, last: u64) -> Self {
        Self {
            first,
            last,
            blocks: BTreeMap::new(),
        }
    }

    /// Whether a position lies between the two.
    pub fn covers(&self, seq: u64) -> bool {
        (self.first..=self.last).contains(&seq)
    }

    /// A record was pulled, or a gap accepted.
    pub fn pulled(&mut self, entry: &LedgerEntry) {
        if self.covers(entry.seq) {
            let tally = self.blocks.entry(entry.seq / BLOCK).or_default();
            if entry.gap {
                tally.gaps += 1;
            } else {
                tally.pulled.add(&key(entry.seq, entry.msgid));
            }
        }
    }

    /// What became of a record.
    pub fn settled(&mut self, settled: &RecordOutcome) {
        if self.covers(settled.seq) {
            let tally = self.blocks.entry(settled.seq / BLOCK).or_default();
            let sum = match settled.outcome {
                Outcome::Message => &mut tally.messages,
                Outcome::DeadLetter => &mut tally.parked,
                Outcome::Duplicate => &mut tally.duplicates,
            };
            sum.add(&key(settled.seq, settled.msgid));
        }
    }

    /// Every block with a record in the ledger or a row in a place, and what they say.
    pub fn compare<'a>(&'a self, places: &'a Places) -> impl Iterator<Item = Block> + 'a {
        let held = [
            &places.clickhouse,
            &places.parquet,
            &places.open,
            &places.dropped,
        ];
        let mut numbers: Vec<u64> = self.blocks.keys().copied().collect();
        for held in held.into_iter().flatten() {
            numbers.extend(held.keys());
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(move |number| {
            let at = |held: &Held| {
                let held = held.as_ref()?;
                Some(held.get(&number).copied().unwrap_or_default())
            };
            Block {
                number,
                ledger: self.blocks.get(&number).copied().unwrap_or_default(),
                clickhouse: at(&places.clickhouse),
                parquet: at(&places.parquet),
                open: at(&places.open),
                dropped: at(&places.dropped),
            }
        })
    }
}

fn key(seq: u64, msgid: chatledger_schemas::ledger::Digest128) -> Key {
    Key { seq, msgid }
}

/// One block, and what everybody says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its number: its first position divided by [`BLOCK`].
    pub number: u64,
    /// What the ledger says.
    pub ledger: Tally,
    /// What the table holds.
    pub clickhouse: Option<Sum>,
    /// What the files hold.
    pub parquet: Option<Sum>,
    /// Open letters.
    pub open: Option<Sum>,
    /// Dropped letters.
    pub dropped: Option<Sum>,
}

impl Block {
    /// Whether the sums show that every record is in its place and nothing else is there. Letters
    /// that were replayed or dropped need a closer look.
    pub fn agrees(&self) -> bool {
        let is = |held: Option<Sum>, due: Sum| held.is_none_or(|held| held == due);
        self.ledger.unsettled() == 0
            && is(self.clickhouse, self.ledger.messages)
            && is(self.parquet, self.ledger.messages)
            && is(self.open, self.ledger.parked)
            && is(self.dropped, Sum::default())
    }

    /// What is told of it when the sums agree, or as far as the sums alone can tell.
    pub fn report(&self) -> BlockReport {
        let rows = |held: Option<Sum>| held.map_or(0, |held| held.rows);
        let short = |held: Option<Sum>| {
            held.map_or(0, |held| {
                self.ledger.messages.rows.saturating_sub(held.rows)
            })
        };
        let over = |held: Option<Sum>| {
            held.map_or(0, |held| {
                held.rows.saturating_sub(self.ledger.messages.rows)
            })
        };
        BlockReport {
            first_seq: self.number * BLOCK,
            last_seq: (self.number * BLOCK).saturating_add(BLOCK - 1),
            pulled: self.ledger.pulled,
            clickhouse: self.clickhouse,
            parquet: self.parquet,
            dead_letters: self.open.unwrap_or(self.ledger.parked),
            dropped: rows(self.dropped),
            duplicates: self.ledger.duplicates.rows,
            missing: short(self.clickhouse).max(short(self.parquet)),
            unexpected: over(self.clickhouse).max(over(self.parquet)),
            repeated: 0,
            in_flight: self.ledger.unsettled(),
            gaps: self.ledger.gaps,
            accounted: self.agrees(),
            findings: Vec::new(),
        }
    }
}

/// What a reconciliation says of one block of positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockReport {
    /// First position of the block.
    pub first_seq: u64,
    /// Last position of the block.
    pub last_seq: u64,
    /// Records pulled.
    pub pulled: Sum,
    /// Rows in ClickHouse, repeats included; `null` if it is not in use.
    pub clickhouse: Option<Sum>,
    /// Rows in Parquet, repeats included; `null` if it is not in use.
    pub parquet: Option<Sum>,
    /// Letters that are open.
    pub dead_letters: Sum,
    /// Letters that somebody dropped.
    pub dropped: u64,
    /// Records whose message had been there before.
    pub duplicates: u64,
    /// Records that are not in every place where they belong.
    pub missing: u64,
    /// Rows of no record of the ledger, or where they do not belong.
    pub unexpected: u64,
    /// Rows that stand more than once in one place.
    pub repeated: u64,
    /// Records that are still on their way.
    pub in_flight: u64,
    /// Gaps that were accepted: what the archive gave there is not known.
    pub gaps: u64,
    /// Whether every record is in exactly one place.
    pub accounted: bool,
    /// What is wrong, the first of it.
    pub findings: Vec<Finding>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Chain, Seen};
    use chatledger_schemas::ledger::digest_of;

    #[test]
    fn blocks_agree_only_when_every_place_holds_what_the_ledger_says() {
        let mut ledger = Ledger::between(1, 5000);
        let mut chain = Chain::genesis("ww1");
        let mut held = BTreeMap::<u64, Sum>::new();
        for seq in 990..=1010_u64 {
            let msgid = digest_of(&seq.to_le_bytes());
            let seen = Seen {
                seq,
                at: 0,
                msgid,
                sealed: msgid,
            };
            ledger.pulled(&chain.record(&seen));
            ledger.settled(&RecordOutcome {
                seq,
                msgid,
                outcome: Outcome::Message,
                row: [0; 16],
            });
            held.entry(seq / BLOCK)
                .or_default()
                .add(&Key { seq, msgid });
        }
        let places = |clickhouse| Places {
            clickhouse: Some(clickhouse),
            parquet: Some(held.clone()),
            ..Places::default()
        };
        let agree = |places: &Places| -> Vec<bool> {
            ledger.compare(places).map(|block| block.agrees()).collect()
        };
        assert_eq!(agree(&places(held.clone())), [true, true]);
        let mut other = held.clone();
        other.get_mut(&1).unwrap().hash += 1;
        assert_eq!(agree(&places(other)), [true, false]);
        let mut more = held.clone();
        more.insert(4, Sum { rows: 1, hash: 7 });
        assert_eq!(agree(&places(more)), [true, true, false]);
        assert_eq!(agree(&places(BTreeMap::new())), [false, false]);
    }
}
