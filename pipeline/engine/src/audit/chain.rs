//! Follows the hash chain and names where it was tampered with.

use std::collections::{BTreeMap, HashMap};

use chatledger_schemas::ledger::{ChainAnchor, ChainLink, LedgerEntry};
use serde::Serialize;

use crate::chain::Chain;

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
    last: Option<LedgerEntry>,
    entries: u64,
    gaps: u64,
    findings: Vec<Alteration>,
    /// Numbers that did not come where they were due, and the position before them.
    absent: BTreeMap<u64, u64>,
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
            anchors: by_seq,
        }
    }

    /// The next entry.
    pub fn entry(&mut self, entry: &LedgerEntry) {
        self.entries += 1;
        self.gaps += u64::from(entry.gap);
        if let Some(anchors) = self.anchors.get_mut(&entry.seq) {
            for (anchor, _, fits) in anchors {
                *fits |= anchor.link == entry.link;
            }
        }
        let due = self.chain.number + 1;
        if entry.number == due {
            if !entry.follows(&self.chain.link) {
                self.find(Tampered::Changed, entry);
            }
            self.go_on(entry);
        } else if entry.number > due {
            // Reported at the end: it may come later.
            let seq = self.last.map_or(0, |last| last.seq);
            for number in due..entry.number {
                self.absent.insert(number, seq);
            }
            self.go_on(entry);
        } else if self.absent.remove(&entry.number).is_some() {
            self.find(Tampered::Moved, entry);
        } else if let Some(last) = self
            .last
            .filter(|last| last.number == entry.number && entry.follows(&self.before))
        {
            // The one before it took its place.
            if last.link == entry.link && last == *entry {
                self.find(Tampered::Inserted, entry);
            } else {
                self.find(Tampered::Inserted, &last);
                self.chain = Chain::at(entry);
                self.last = Some(*entry);
            }
        } else {
            self.find(Tampered::Inserted, entry);
        }
    }

    /// A place of the ledger that cannot be read as an entry.
    pub fn unreadable(&mut self) {
        let number = self.chain.number + 1;
        let seq = self.last.map_or(0, |last| last.seq);
        self.absent.remove(&number);
        self.findings.push(Alteration {
            what: Tampered::Changed,
            place: "ledger".into(),
            number,
            seq,
        });
        self.chain.number = number;
    }

    fn go_on(&mut self, entry: &LedgerEntry) {
        self.before = self.chain.link;
        self.chain = Chain::at(entry);
        self.last = Some(*entry);
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
        for (number, seq) in std::mem::take(&mut self.absent) {
            self.findings.push(Alteration {
                what: Tampered::Removed,
                place: "ledger".into(),
                number,
                seq,
            });
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
                chain.record(&ChainInput {
                    seq: seq * 10,
                    at: 1,
                    msgid: digest,
                    sealed: digest,
                })
            })
            .collect()
    }

    fn follow(entries: &[LedgerEntry], anchors: &[ChainAnchor]) -> Vec<(Tampered, u64, u64)> {
        let anchors = anchors
            .iter()
            .map(|anchor| (anchor.clone(), "file".to_owned()));
        let mut verifier = Verifier::new("ww1", anchors);
        for entry in entries {
            verifier.entry(entry);
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
        let forgery = Chain::at(&good[3]).record(&ChainInput {
            seq: 45,
            at: 1,
            msgid: digest,
            sealed: digest,
        });
        forged.insert(4, forgery);
        assert_eq!(follow(&forged, &[]), [(T::Inserted, 5, 45)]);
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
            .map(|entry| chain.again(entry))
            .collect();
        let found = follow(&anew, &anchors);
        assert_eq!(found[0], (Tampered::Unanchored, 0, 50));
        assert_eq!(found.len(), 5);
    }
}
