//! Decides what a sink writes, what it writes down before, and what it repeats after a crash.
//!
//! # The guarantee
//! A *lane* is one log (a corp's archive by `seq`, or a Kafka partition by offset) on its way into
//! one sink. Its *position* says: everything up to here is in the sink. Before a lane writes rows it
//! writes down the exact *cut* it is about to write; after the sink has answered, the new position
//! replaces the cut.
//!
//! | died | found at the next start | what happens |
//! |---|---|---|
//! | before the cut was written down | position | nothing had been written; rows are cut anew |
//! | after it, before or in the write | position and cut | exactly the cut is written again |
//! | after the write, before the position | position and cut | exactly the cut is written again |
//! | after the position | position | goes on behind it |
//!
//! Writing a cut again is a no-op, because its name is the same: ClickHouse knows the name as the
//! insert's deduplication token, the object store knows the file by it. The name holds a digest of
//! what stood in the cut; should the log not give the same records again, the name differs, and the
//! rows are written rather than taken for known: two of a row can be told apart later, a lost one
//! cannot be brought back.

use serde::{Deserialize, Serialize};

use crate::batch::Extent;

/// What a lane is about to write.
pub type Cut = Extent;

impl Cut {
    /// The name that makes a repeat a no-op. Names of one lane sort by position.
    pub fn name(&self, log: &str) -> String {
        format!(
            "{log}-{:020}-{:020}-{:016x}",
            self.first, self.last, self.digest
        )
    }
}

/// What a journal holds for a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Everything up to here is in the sink; 0 if nothing is.
    pub position: u64,
    /// What was about to be written.
    pub cut: Option<Cut>,
}

/// What to do with a batch offered to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// It is in the sink already.
    Skip,
    /// It belongs to the open cut.
    Take,
    /// It belongs to the open cut and ends it: close the cut before the next batch.
    TakeAndClose,
    /// Close the open cut first, then offer the batch again.
    CloseFirst,
}

/// The state of one lane. Batches must be offered in ascending order and must not lie across a
/// position or the end of a cut to be repeated: see [`Lane::boundaries`].
#[derive(Debug)]
pub struct Lane {
    position: u64,
    repeat: Option<Cut>,
    open: Option<Cut>,
}

impl Lane {
    /// Takes up a lane where its journal left it.
    pub fn resume(checkpoint: Checkpoint) -> Self {
        Self {
            position: checkpoint.position,
            repeat: checkpoint.cut,
            open: None,
        }
    }

    /// Everything up to here is in the sink.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Positions at which batches must end, so that what is repeated is exactly what was cut.
    pub fn boundaries(&self) -> impl Iterator<Item = u64> {
        [Some(self.position), self.repeat.map(|cut| cut.last)]
            .into_iter()
            .flatten()
    }

    /// The cut that has to be repeated, as long as it has not been.
    pub fn repeating(&self) -> Option<Cut> {
        self.repeat
    }

    /// The cut being gathered.
    pub fn open(&self) -> Option<Cut> {
        self.open
    }

    /// Decides about a batch; with `Take` and `TakeAndClose` it becomes part of the open cut.
    pub fn offer(&mut self, batch: Extent) -> Offer {
        if batch.last <= self.position {
            return Offer::Skip;
        }
        if let Some(repeat) = self.repeat
            && batch.first > repeat.last
        {
            // The log no longer holds all of what had been cut.
            if self.open.is_some() {
                return Offer::CloseFirst;
            }
            self.repeat = None;
        }
        match &mut self.open {
            Some(open) => open.extend(batch),
            None => self.open = Some(batch),
        }
        match self.repeat {
            Some(repeat) if batch.last >= repeat.last => Offer::TakeAndClose,
            _ => Offer::Take,
        }
    }

    /// Ends the open cut. The second value says whether it must be written down before it is
    /// written: not if it is the repeat of one that is written down already.
    pub fn close(&mut self) -> Option<(Cut, bool)> {
        let cut = self.open.take()?;
        Some((cut, self.repeat != Some(cut)))
    }

    /// The sink holds the cut.
    pub fn delivered(&mut self, cut: Cut) -> Checkpoint {
        self.position = self.position.max(cut.last);
        self.repeat = None;
        Checkpoint {
            position: self.position,
            cut: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent(range: std::ops::RangeInclusive<u64>) -> Extent {
        Extent::over(range.map(|n| (n, "m"))).unwrap()
    }

    #[test]
    fn lane_without_a_cut_skips_what_is_in_the_sink_and_takes_the_rest() {
        let mut lane = Lane::resume(Checkpoint {
            position: 10,
            cut: None,
        });
        assert_eq!(lane.offer(extent(1..=10)), Offer::Skip);
        assert_eq!(lane.offer(extent(11..=20)), Offer::Take);
        assert_eq!(lane.offer(extent(21..=25)), Offer::Take);
        let (cut, write_down) = lane.close().unwrap();
        assert_eq!((cut, write_down), (extent(11..=25), true));
        assert_eq!(
            lane.delivered(cut),
            Checkpoint {
                position: 25,
                cut: None
            }
        );
    }

    #[test]
    fn repeated_cut_is_exactly_the_one_written_down() {
        let cut = extent(11..=20);
        let mut lane = Lane::resume(Checkpoint {
            position: 10,
            cut: Some(cut),
        });
        assert_eq!(lane.boundaries().collect::<Vec<_>>(), [10, 20]);
        assert_eq!(lane.offer(extent(11..=15)), Offer::Take);
        assert_eq!(lane.offer(extent(16..=20)), Offer::TakeAndClose);
        assert_eq!(lane.close(), Some((cut, false)));
        lane.delivered(cut);
        assert_eq!(lane.offer(extent(21..=30)), Offer::Take);
    }

    #[test]
    fn cut_whose_records_changed_gets_another_name_and_is_written_down_again() {
        let cut = extent(11..=20);
        let mut lane = Lane::resume(Checkpoint {
            position: 10,
            cut: Some(cut),
        });
        assert_eq!(lane.offer(extent(12..=20)), Offer::TakeAndClose);
        let (changed, write_down) = lane.close().unwrap();
        assert!(write_down);
        assert_ne!(changed.name("x"), cut.name("x"));
    }

    #[test]
    fn cut_whose_end_is_gone_is_closed_before_what_follows() {
        let mut lane = Lane::resume(Checkpoint {
            position: 10,
            cut: Some(extent(11..=20)),
        });
        assert_eq!(lane.offer(extent(11..=15)), Offer::Take);
        assert_eq!(lane.offer(extent(25..=30)), Offer::CloseFirst);
        let (cut, write_down) = lane.close().unwrap();
        assert!(write_down);
        lane.delivered(cut);
        assert_eq!(lane.offer(extent(25..=30)), Offer::Take);
    }

    /// A sink that knows what it holds by name, as ClickHouse and an object store do.
    #[derive(Default)]
    struct Sink {
        names: std::collections::HashSet<String>,
        rows: Vec<u64>,
    }

    proptest! {
        /// Dies at any step, any number of times, with batches of any size: every record once.
        #[test]
        fn every_record_is_in_the_sink_once_whatever_dies_where(
            seeds in prop::collection::vec((1_u64..7, 0_u8..4, 1_usize..5), 1..60)
        ) {
            const END: u64 = 40;
            let mut journal = Checkpoint::default();
            let mut sink = Sink::default();
            let mut seeds = seeds.into_iter().chain(std::iter::repeat((5, 9, 2)));
            while journal.position < END {
                let mut lane = Lane::resume(journal);
                let mut bounds: Vec<u64> = lane.boundaries().collect();
                bounds.push(END);
                let mut at = lane.position();
                'life: while at < END {
                    let (size, death, per_cut) = seeds.next().unwrap();
                    let mut batches = 0;
                    while at < END {
                        let bound = bounds.iter().copied().filter(|b| *b > at).min().unwrap();
                        let end = (at + size).min(bound);
                        let offer = lane.offer(extent(at + 1..=end));
                        prop_assert!(!matches!(offer, Offer::CloseFirst | Offer::Skip));
                        at = end;
                        batches += 1;
                        let full = batches >= per_cut && lane.repeating().is_none();
                        if offer == Offer::TakeAndClose || full { break; }
                    }
                    let Some((cut, write_down)) = lane.close() else { break };
                    if death == 0 { break 'life; }
                    if write_down { journal.cut = Some(cut); }
                    if death == 1 { break 'life; }
                    if sink.names.insert(cut.name("log")) {
                        sink.rows.extend(cut.first..=cut.last);
                    }
                    if death == 2 { break 'life; }
                    journal = lane.delivered(cut);
                    if death == 3 { break 'life; }
                }
            }
            prop_assert_eq!(sink.rows, (1..=END).collect::<Vec<_>>());
        }
    }
}
