//! Sums over blocks of positions: what the ledger says and what each place holds.

use std::collections::BTreeMap;

use chatledger_schemas::ledger::{
    Digest128, EntryKind, LedgerEntry, Outcome, RecordKey, RecordOutcome,
};
use serde::Serialize;

use super::{BLOCK, Content, Finding, Place, Sum, block_of};

/// What the ledger says about a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerBlock {
    /// Records pulled.
    pub pulled: Sum,
    /// Records whose outcome is a message.
    pub messages: Sum,
    /// Records that were dead-lettered.
    pub dead_lettered: Sum,
    /// Records whose message was already archived.
    pub duplicates: Sum,
    /// Rows in `violations`.
    pub violations: Sum,
    /// Accepted gaps in it.
    pub gaps: u64,
    /// Whether records of it were destroyed deliberately, or may have been lost before an accepted gap.
    pub may_lack_rows: bool,
}

impl LedgerBlock {
    /// Records without an outcome yet.
    pub fn unsettled(&self) -> u64 {
        let settled = self.messages.rows + self.dead_lettered.rows + self.duplicates.rows;
        self.pulled.rows.saturating_sub(settled)
    }

    /// What a place must hold if no dead letter was replayed or discarded.
    fn expected(&self, content: Content) -> Sum {
        match content {
            Content::Messages => self.messages,
            Content::Violations => self.violations,
            Content::OpenDeadLetters => self.dead_lettered,
            Content::DiscardedDeadLetters => Sum::default(),
        }
    }
}

/// What the places in use hold, by block.
pub type Held = BTreeMap<Place, BTreeMap<u64, Sum>>;

/// The ledger's sums between two positions, both included.
#[derive(Debug)]
pub struct LedgerSums {
    first: u64,
    last: u64,
    blocks: BTreeMap<u64, LedgerBlock>,
    may_lack_rows: Vec<(u64, u64)>,
}

impl LedgerSums {
    /// Starts to sum records between two positions, both included.
    pub fn between(first: u64, last: u64) -> Self {
        Self {
            first,
            last,
            blocks: BTreeMap::new(),
            may_lack_rows: Vec::new(),
        }
    }

    fn covers(&self, seq: u64) -> bool {
        (self.first..=self.last).contains(&seq)
    }

    /// Adds a pulled record or an accepted gap.
    pub fn pulled(&mut self, entry: &LedgerEntry) {
        if self.covers(entry.seq) {
            let block = self.blocks.entry(block_of(entry.seq)).or_default();
            match entry.kind {
                EntryKind::Record => block.pulled.add(&key(entry.seq, entry.msgid)),
                EntryKind::Gap => block.gaps += 1,
                EntryKind::Resettled | EntryKind::Destroyed => {}
            }
        }
    }

    /// Adds a range of positions whose records were destroyed deliberately, or may have been lost before
    /// an accepted gap.
    pub fn may_lack_rows(&mut self, first: u64, last: u64) {
        self.may_lack_rows.push((first, last));
    }

    /// Adds the outcome of a record.
    pub fn settled(&mut self, settled: &RecordOutcome) {
        if self.covers(settled.seq) {
            let block = self.blocks.entry(block_of(settled.seq)).or_default();
            let key = key(settled.seq, settled.msgid);
            block
                .violations
                .add_rows(&key, u64::from(settled.settlement.violations));
            let sum = match settled.settlement.outcome {
                Outcome::Message => &mut block.messages,
                Outcome::DeadLetter => &mut block.dead_lettered,
                Outcome::Duplicate => &mut block.duplicates,
            };
            sum.add(&key);
        }
    }

    fn ledger_block(&self, number: u64) -> LedgerBlock {
        let (from, to) = (number * BLOCK, (number * BLOCK).saturating_add(BLOCK - 1));
        let mut ranges = self.may_lack_rows.iter();
        LedgerBlock {
            may_lack_rows: ranges.any(|(first, last)| *first <= to && *last >= from),
            ..self.blocks.get(&number).copied().unwrap_or_default()
        }
    }

    /// Returns every block with a record in the ledger or a row in a place.
    pub fn compare<'a>(&'a self, held: &'a Held) -> impl Iterator<Item = Block> + 'a {
        let mut numbers: Vec<u64> = self.blocks.keys().copied().collect();
        numbers.extend(held.values().flat_map(BTreeMap::keys));
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_iter().map(move |number| {
            let sum = |blocks: &BTreeMap<u64, Sum>| blocks.get(&number).copied();
            Block {
                number,
                ledger: self.ledger_block(number),
                places: held
                    .iter()
                    .map(|(place, blocks)| PlaceSum {
                        place: *place,
                        sum: sum(blocks).unwrap_or_default(),
                    })
                    .collect(),
            }
        })
    }
}

fn key(seq: u64, msgid: Digest128) -> RecordKey {
    RecordKey { seq, msgid }
}

/// What one place holds of a block, or of a whole corp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PlaceSum {
    /// The place.
    #[serde(flatten)]
    pub place: Place,
    /// Its rows.
    #[serde(flatten)]
    pub sum: Sum,
}

/// One block: what the ledger says about it and what each place holds of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Its number: its first position divided by [`BLOCK`].
    pub number: u64,
    /// What the ledger says.
    pub ledger: LedgerBlock,
    /// What the places hold; one entry for each place in use.
    pub places: Vec<PlaceSum>,
}

impl Block {
    /// Whether the sums show that every record is in its place and nothing else is there. Replayed
    /// and discarded dead letters, and destroyed and lost records, need a comparison record by record.
    pub fn agrees(&self) -> bool {
        let right = |held: &PlaceSum| held.sum == self.ledger.expected(held.place.content);
        !self.ledger.may_lack_rows && self.ledger.unsettled() == 0 && self.places.iter().all(right)
    }

    /// Rows of all places with this content together; `None` if no place has it.
    fn sum_of(&self, content: Content) -> Option<Sum> {
        let mut sums = self.places.iter();
        let held = sums.find(|held| held.place.content == content)?;
        Some(held.sum)
    }

    /// The report if the sums agree, or as far as sums alone can tell.
    pub fn report(&self) -> BlockReport {
        let messages = self.places.iter();
        let messages = messages.filter(|held| held.place.content == Content::Messages);
        let due = self.ledger.messages.rows;
        let missing = messages
            .clone()
            .map(|held| due.saturating_sub(held.sum.rows));
        let unexpected = messages.map(|held| held.sum.rows.saturating_sub(due));
        let discarded = self.sum_of(Content::DiscardedDeadLetters);
        BlockReport {
            first_seq: self.number * BLOCK,
            last_seq: (self.number * BLOCK).saturating_add(BLOCK - 1),
            pulled: self.ledger.pulled,
            places: self.places.clone(),
            dead_letters: self
                .sum_of(Content::OpenDeadLetters)
                .unwrap_or(self.ledger.dead_lettered),
            discarded: discarded.unwrap_or_default().rows,
            duplicates: self.ledger.duplicates.rows,
            missing: missing.max().unwrap_or_default(),
            unexpected: unexpected.max().unwrap_or_default(),
            repeated: 0,
            in_flight: self.ledger.unsettled(),
            violations: self.ledger.violations.rows,
            gaps: self.ledger.gaps,
            destroyed: 0,
            lost: 0,
            accounted: self.agrees(),
            findings: Vec::new(),
        }
    }
}

/// The result of a reconciliation for one block of positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockReport {
    /// First position of the block.
    pub first_seq: u64,
    /// Last position of the block.
    pub last_seq: u64,
    /// Records pulled.
    pub pulled: Sum,
    /// What each place holds; repeated rows count as often as they occur.
    pub places: Vec<PlaceSum>,
    /// Open dead letters.
    pub dead_letters: Sum,
    /// Discarded dead letters.
    #[serde(rename = "dropped")]
    pub discarded: u64,
    /// Records whose message was already archived.
    pub duplicates: u64,
    /// Records that are missing in a place.
    pub missing: u64,
    /// Rows that belong to no record of the ledger, or to another place.
    pub unexpected: u64,
    /// Rows that occur more than once in one place.
    pub repeated: u64,
    /// Records without an outcome yet.
    pub in_flight: u64,
    /// Rows in `violations` that every sink with violations must hold.
    pub violations: u64,
    /// Accepted gaps: it is unknown which records the archive had there.
    pub gaps: u64,
    /// Records that were destroyed deliberately.
    pub destroyed: u64,
    /// Records that were pulled and lost in an accepted gap: some sink has no row of them.
    pub lost: u64,
    /// Whether every record is in exactly one place.
    pub accounted: bool,
    /// The first things that are wrong.
    pub findings: Vec<Finding>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{Chain, ChainInput};
    use chatledger_schemas::ledger::{Settlement, digest_of};

    const TABLE: Place = Place {
        sink: "table",
        content: Content::Messages,
    };
    const FILES: Place = Place {
        sink: "files",
        content: Content::Messages,
    };

    #[test]
    fn blocks_agree_only_if_every_place_holds_what_the_ledger_says() {
        let mut ledger = LedgerSums::between(1, 5000);
        let mut chain = Chain::genesis("ww1");
        let mut sums = BTreeMap::<u64, Sum>::new();
        for seq in 990..=1010_u64 {
            let msgid = digest_of(&seq.to_le_bytes());
            let input = ChainInput {
                seq,
                at: 0,
                msgid,
                sealed: msgid,
            };
            ledger.pulled(&chain.record(&input, None));
            ledger.settled(&RecordOutcome {
                seq,
                msgid,
                settlement: Settlement {
                    violations: u32::from(seq == 1000),
                    ..Settlement::without_rows(Outcome::Message)
                },
            });
            sums.entry(block_of(seq))
                .or_default()
                .add(&RecordKey { seq, msgid });
        }
        let agree = |table: BTreeMap<u64, Sum>| -> Vec<bool> {
            let held = Held::from([(TABLE, table), (FILES, sums.clone())]);
            ledger.compare(&held).map(|block| block.agrees()).collect()
        };
        assert_eq!(agree(sums.clone()), [true, true]);
        let mut other = sums.clone();
        other.get_mut(&1).unwrap().hash += 1;
        assert_eq!(agree(other), [true, false]);
        let mut more = sums.clone();
        more.insert(4, Sum { rows: 1, hash: 7 });
        assert_eq!(agree(more), [true, true, false]);
        assert_eq!(agree(BTreeMap::new()), [false, false]);

        let violations = Place {
            content: Content::Violations,
            ..TABLE
        };
        let agree = |ledger: &LedgerSums, rows: &[u64]| -> Vec<bool> {
            let mut blocks = BTreeMap::<u64, Sum>::new();
            for seq in rows {
                let key = key(*seq, digest_of(&seq.to_le_bytes()));
                blocks.entry(block_of(*seq)).or_default().add(&key);
            }
            let held = Held::from([(violations, blocks)]);
            ledger.compare(&held).map(|block| block.agrees()).collect()
        };
        assert_eq!(agree(&ledger, &[1000]), [true, true]);
        assert_eq!(agree(&ledger, &[]), [true, false]);
        assert_eq!(agree(&ledger, &[999, 1000]), [false, true]);
        // What was destroyed is compared record by record.
        ledger.may_lack_rows(1, 999);
        assert_eq!(agree(&ledger, &[1000]), [false, true]);
    }
}
