//! Follows the hash chain and names where it was tampered with.

use std::collections::{BTreeMap, HashMap};

use chatledger_schemas::ledger::{ChainAnchor, ChainLink, EntryKind, LedgerEntry, Settlement};
use serde::Serialize;

use crate::chain::Chain;

/// Most findings that are listed for a range of removed records; the others are counted. After a damaged number the range can
/// have up to 2^64 numbers.
const LISTED: u64 = 1000;

/// How something differs from what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tampered {
    /// Its content is another.
    Changed,
    /// It was taken out.
    Removed,
    /// It was put in.
    Inserted,
    /// It stands in another place.
    Moved,
    /// An anchor that was delivered with rows does not fit the chain.
    Unanchored,
    /// A record that was not a dead letter was settled a second time, with another row or outcome.
    Resettled,
    /// A link of an earlier report is not in the chain.
    Rewritten,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alteration {
    /// What was done.
    pub what: Tampered,
    /// Where: `ledger`, or a part of a sink, for example the path of a file.
    pub place: String,
    /// Number of the record in the chain; 0 if it has none.
    pub number: u64,
    /// Position of the record in the archive; for a removed one, that of the record before it.
    pub seq: u64,
}

/// Follows one corp's chain, entry by entry, in the ledger's order.
#[derive(Debug)]
pub struct Verifier {
    chain: Chain,
    /// The chain before the last entry.
    before: ChainLink,
    last: Option<(LedgerEntry, Option<Settlement>)>,
    entries: u64,
    gaps: u64,
    findings: Vec<Alteration>,
    /// Numbers that did not come where they were due: the first of a range, then its last and the position before it.
    absent: BTreeMap<u64, (u64, u64)>,
    /// The number that was due when the last entry came with a higher one.
    skipped_from: Option<u64>,
    anchors: HashMap<u64, Vec<(ChainAnchor, String, bool)>>,
}

impl Verifier {
    /// Begins at a corp's first entry. `anchors` were delivered with rows: each with the place in
    /// which it was found.
    pub fn new(corp: &str, anchors: impl IntoIterator<Item = (ChainAnchor, String)>) -> Self {
        let mut by_seq: HashMap<u64, Vec<_>> = HashMap::new();
        for (anchor, place) in anchors {
            by_seq
                .entry(anchor.seq)
                .or_default()
                .push((anchor, place, false));
        }
        Self {
            chain: Chain::genesis(corp),
            before: ChainLink::genesis(corp),
            last: None,
            entries: 0,
            gaps: 0,
            findings: Vec::new(),
            absent: BTreeMap::new(),
            skipped_from: None,
            anchors: by_seq,
        }
    }

    /// The next entry, with the settlement that is stored with it.
    pub fn entry(&mut self, entry: &LedgerEntry, settlement: Option<&Settlement>) {
        self.entries += 1;
        self.gaps += u64::from(entry.kind == EntryKind::Gap);
        if let Some(anchors) = self.anchors.get_mut(&entry.seq) {
            for (anchor, _, fits) in anchors {
                *fits |= anchor.link == entry.link;
            }
        }
        self.take_back_skip(entry.number);
        let due = self.chain.number.saturating_add(1);
        if entry.number == due {
            if !entry.follows(&self.chain.link, settlement) {
                self.find(Tampered::Changed, entry);
            }
            self.go_on(entry, settlement);
        } else if entry.number > due {
            // Reported at the end: it may come later.
            let seq = self.last_seq();
            self.absent.insert(due, (entry.number - 1, seq));
            self.go_on(entry, settlement);
            self.skipped_from = Some(due);
        } else if self.take_absent(entry.number) {
            self.find(Tampered::Moved, entry);
        } else if let Some(last) = self.last.filter(|(last, _)| {
            last.number == entry.number && entry.follows(&self.before, settlement)
        }) {
            // The one before it took its place.
            let this = (*entry, settlement.copied());
            if last == this {
                self.find(Tampered::Inserted, entry);
            } else {
                self.find(Tampered::Inserted, &last.0);
                self.chain = Chain::at(entry);
                self.last = Some(this);
            }
        } else {
            self.find(Tampered::Inserted, entry);
        }
    }

    /// A place of the ledger that cannot be read as an entry.
    pub fn unreadable(&mut self) {
        let number = self.chain.number.saturating_add(1);
        let seq = self.last_seq();
        self.take_absent(number);
        self.findings.push(Alteration {
            what: Tampered::Changed,
            place: "ledger".into(),
            number,
            seq,
        });
        self.chain.number = number;
    }

    /// If `number` is the successor of the number that was due at the last entry, then that entry was the one that was due,
    /// and only its number was changed: nothing is absent.
    fn take_back_skip(&mut self, number: u64) {
        let (Some(due), Some((last, settlement))) = (self.skipped_from.take(), self.last) else {
            return;
        };
        if number != due.saturating_add(1) || !self.absent.contains_key(&due) {
            return;
        }
        self.absent.remove(&due);
        let changed = LedgerEntry {
            number: due,
            ..last
        };
        self.find(Tampered::Changed, &changed);
        self.chain = Chain::at(&changed);
        self.last = Some((changed, settlement));
    }

    /// Takes a number out of those that are absent; false if it is not one of them.
    fn take_absent(&mut self, number: u64) -> bool {
        let range = self.absent.range(..=number).next_back();
        let Some((&first, &(last, seq))) = range.filter(|(_, (last, _))| *last >= number) else {
            return false;
        };
        self.absent.remove(&first);
        if first < number {
            self.absent.insert(first, (number - 1, seq));
        }
        if number < last {
            self.absent.insert(number + 1, (last, seq));
        }
        true
    }

    fn go_on(&mut self, entry: &LedgerEntry, settlement: Option<&Settlement>) {
        self.before = self.chain.link;
        self.chain = Chain::at(entry);
        self.last = Some((*entry, settlement.copied()));
    }

    fn last_seq(&self) -> u64 {
        self.last.map_or(0, |(last, _)| last.seq)
    }

    fn find(&mut self, what: Tampered, entry: &LedgerEntry) {
        self.findings.push(Alteration {
            what,
            place: "ledger".into(),
            number: entry.number,
            seq: entry.seq,
        });
    }

    /// The end of the ledger: what was followed, and what was found, in the chain's order.
    pub fn finish(mut self) -> Followed {
        let mut unlisted: u64 = 0;
        for (first, (last, seq)) in std::mem::take(&mut self.absent) {
            let listed = first..=last.min(first.saturating_add(LISTED - 1));
            unlisted = unlisted.saturating_add(last - listed.end());
            self.findings.extend(listed.map(|number| Alteration {
                what: Tampered::Removed,
                place: "ledger".into(),
                number,
                seq,
            }));
        }
        self.findings.sort_by_key(|finding| finding.number);
        let anchors = self
            .anchors
            .values()
            .map(|anchors| anchors.len() as u64)
            .sum();
        let mut loose: Vec<Alteration> = self
            .anchors
            .into_values()
            .flatten()
            .filter(|(_, _, fits)| !fits)
            .map(|(anchor, place, _)| Alteration {
                what: Tampered::Unanchored,
                place,
                number: 0,
                seq: anchor.seq,
            })
            .collect();
        loose.sort_by(|a, b| (a.seq, &a.place).cmp(&(b.seq, &b.place)));
        self.findings.extend(loose);
        Followed {
            entries: self.entries,
            gaps: self.gaps,
            anchors,
            end: self.chain,
            findings: self.findings,
            unlisted,
        }
    }
}

/// What following a chain has shown.
#[derive(Debug)]
pub struct Followed {
    /// Entries followed.
    pub entries: u64,
    /// Gaps among them.
    pub gaps: u64,
    /// Anchors compared.
    pub anchors: u64,
    /// The chain's end.
    pub end: Chain,
    /// What was found.
    pub findings: Vec<Alteration>,
    /// Number of removed records beside those in `findings`; `u64::MAX` if there are more.
    pub unlisted: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::ChainInput;
    use chatledger_schemas::ledger::digest_of;

    fn entries() -> Vec<LedgerEntry> {
        let mut chain = Chain::genesis("ww1");
        (1..=9_u64)
            .map(|seq| {
                let digest = digest_of(&seq.to_le_bytes());
                let input = ChainInput {
                    seq: seq * 10,
                    at: 1,
                    msgid: digest,
                    sealed: digest,
                };
                chain.record(&input, None)
            })
            .collect()
    }

    fn follow(entries: &[LedgerEntry], anchors: &[ChainAnchor]) -> Vec<(Tampered, u64, u64)> {
        let anchors = anchors
            .iter()
            .map(|anchor| (anchor.clone(), "file".to_owned()));
        let mut verifier = Verifier::new("ww1", anchors);
        for entry in entries {
            verifier.entry(entry, None);
        }
        let findings = verifier.finish().findings;
        let facts = |finding: &Alteration| (finding.what, finding.number, finding.seq);
        findings.iter().map(facts).collect()
    }

    #[test]
    fn each_alteration_is_named_with_its_record() {
        use Tampered as T;
        let good = entries();
        assert_eq!(follow(&good, &[]), []);

        for byte in 0..16 {
            let mut changed = good.clone();
            changed[4].sealed[byte] ^= 1;
            assert_eq!(follow(&changed, &[]), [(T::Changed, 5, 50)]);
        }
        let mut removed = good.clone();
        removed.remove(4);
        assert_eq!(follow(&removed, &[]), [(T::Removed, 5, 40)]);
        let mut swapped = good.clone();
        swapped.swap(4, 5);
        assert_eq!(follow(&swapped, &[]), [(T::Moved, 5, 50)]);

        // A copy, and one that was made with care.
        let mut copied = good.clone();
        copied.insert(5, good[4]);
        assert_eq!(follow(&copied, &[]), [(T::Inserted, 5, 50)]);
        let mut forged = good.clone();
        let digest = digest_of(b"forged");
        let input = ChainInput {
            seq: 45,
            at: 1,
            msgid: digest,
            sealed: digest,
        };
        let forgery = Chain::at(&good[3]).record(&input, None);
        forged.insert(4, forgery);
        assert_eq!(follow(&forged, &[]), [(T::Inserted, 5, 45)]);
    }

    #[test]
    fn damaged_number_is_one_finding_and_takes_no_memory() {
        let good = entries();
        for bit in 4..64 {
            let mut damaged = good.clone();
            damaged[4].number |= 1 << bit;
            assert_eq!(follow(&damaged, &[]), [(Tampered::Changed, 5, 50)]);
        }
        // Nothing follows that tells a damaged number from a removal.
        let mut damaged = good.clone();
        damaged[8].number = u64::MAX;
        let found = follow(&damaged, &[]);
        assert_eq!(found.len() as u64, LISTED);
        assert!(found.iter().all(|(what, ..)| *what == Tampered::Removed));
    }

    #[test]
    fn every_removed_record_is_counted() {
        let mut chain = Chain::genesis("ww1");
        let digest = digest_of(b"x");
        let mut verifier = Verifier::new("ww1", []);
        for seq in 1..=5000 {
            let input = ChainInput {
                seq,
                at: 1,
                msgid: digest,
                sealed: digest,
            };
            let entry = chain.record(&input, None);
            if !(1000..4500).contains(&seq) {
                verifier.entry(&entry, None);
            }
        }
        let followed = verifier.finish();
        assert_eq!(followed.findings.len() as u64 + followed.unlisted, 3500);
    }

    #[test]
    fn ledger_with_any_numbers_is_followed_within_bounds() {
        use proptest::prelude::*;
        proptest!(|(numbers in prop::collection::vec(any::<u64>(), 9))| {
            let mut damaged = entries();
            for (entry, number) in damaged.iter_mut().zip(numbers) {
                entry.number = number;
            }
            let found = follow(&damaged, &[]);
            prop_assert!(!found.is_empty() && found.len() as u64 <= 10 * LISTED + 9);
        });
    }

    #[test]
    fn rewritten_or_truncated_ledger_does_not_match_its_anchors() {
        let good = entries();
        let anchor = |entry: &LedgerEntry| ChainAnchor {
            corp_id: "ww1".into(),
            seq: entry.seq,
            link: entry.link,
        };
        let anchors: Vec<ChainAnchor> = good.iter().map(anchor).collect();
        assert_eq!(follow(&good, &anchors), []);
        assert_eq!(
            follow(&good[..8], &anchors),
            [(Tampered::Unanchored, 0, 90)],
            "the end was removed"
        );
        let mut chain = Chain::genesis("ww1");
        let anew: Vec<LedgerEntry> = good
            .iter()
            .filter(|entry| entry.seq != 50)
            .map(|entry| chain.again(entry, None))
            .collect();
        let found = follow(&anew, &anchors);
        assert_eq!(found[0], (Tampered::Unanchored, 0, 50));
        assert_eq!(found.len(), 5);
    }
}
