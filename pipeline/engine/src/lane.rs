//! Decides what a sink writes, what it records before writing, and what it writes again after a
//! crash.
//!
//! # The guarantee
//! A *lane* is one log (a corp's archive by `seq`, or a Kafka partition by offset) on its way into
//! one sink. Its *position* says: everything up to here is in the sink. Before a lane writes rows,
//! it records the exact range it is about to write, the *pending batch*. After the sink has
//! acknowledged the rows, the new position replaces the pending batch.
//!
//! | the process dies | the journal holds | what the next start does |
//! |---|---|---|
//! | before the pending batch is recorded | position | nothing was written; it gathers new batches |
//! | after that, before or during the write | position, pending batch | writes exactly that range again |
//! | after the write, before the new position | position, pending batch | writes exactly that range again |
//! | after the new position | position | continues after it |
//!
//! Writing a range again changes nothing, because it has the same name: a database knows it as the
//! token of an insert, an object store as the name of a file. The name contains a digest of
//! the records in the range. If the log no longer returns the same records, the name differs and
//! the rows are written: a duplicate can be removed later, a lost row cannot be recovered.

use serde::{Deserialize, Serialize};

use crate::batch::BatchRange;

/// What a journal holds for a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneCheckpoint {
    /// Everything up to here is in the sink; 0 if nothing is.
    pub position: u64,
    /// The batch that was about to be written. The name `cut` is part of the file format.
    #[serde(rename = "cut")]
    pub pending: Option<BatchRange>,
}

impl LaneCheckpoint {
    /// A checkpoint without a pending batch.
    pub fn at(position: u64) -> Self {
        Self {
            position,
            pending: None,
        }
    }
}

/// What to do with a batch offered to a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Skip it: it is in the sink already.
    Skip,
    /// Add it to the open batch.
    Take,
    /// Add it to the open batch, then write the open batch before the next offer.
    TakeAndClose,
    /// Write the open batch first, then offer this one again.
    CloseFirst,
}

/// A lane that ends its open batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// The range to write.
    pub range: BatchRange,
    /// Whether the range must be recorded as pending before it is written. False if it repeats a
    /// pending batch that the journal already holds.
    pub record_first: bool,
}

/// The state of one lane. Batches must be offered in ascending order and must not cross the
/// position or the end of a pending batch: see [`Lane::boundaries`].
#[derive(Debug)]
pub struct Lane {
    position: u64,
    repeat: Option<BatchRange>,
    open: Option<BatchRange>,
}

impl Lane {
    /// Resumes a lane from its journal.
    pub fn resume(checkpoint: LaneCheckpoint) -> Self {
        Self {
            position: checkpoint.position,
            repeat: checkpoint.pending,
            open: None,
        }
    }

    /// Everything up to here is in the sink.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Positions at which batches must end, so that a pending batch is repeated exactly.
    pub fn boundaries(&self) -> impl Iterator<Item = u64> {
        [Some(self.position), self.repeat.map(|range| range.last)]
            .into_iter()
            .flatten()
    }

    /// The pending batch of an earlier process, until it has been written again.
    pub fn repeating(&self) -> Option<BatchRange> {
        self.repeat
    }

    /// The range of the open batch.
    pub fn open(&self) -> Option<BatchRange> {
        self.open
    }

    /// Decides about a batch; on `Take` and `TakeAndClose` it becomes part of the open batch.
    pub fn offer(&mut self, batch: BatchRange) -> Offer {
        if batch.last <= self.position {
            return Offer::Skip;
        }
        if let Some(repeat) = self.repeat
            && batch.first > repeat.last
        {
            // The log no longer holds all records of the pending batch.
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

    /// Ends the open batch; `None` if there is none.
    pub fn close(&mut self) -> Option<Closed> {
        let open = self.open.take()?;
        let repeated = self.repeat.filter(|repeat| open.same_records(repeat));
        // The pending batch keeps the name under which it may have been written.
        let range = repeated.unwrap_or(open);
        let record_first = repeated.is_none();
        Some(Closed {
            range,
            record_first,
        })
    }

    /// Moves the position after the sink has acknowledged a range.
    pub fn delivered(&mut self, range: BatchRange) -> LaneCheckpoint {
        self.position = self.position.max(range.last);
        self.repeat = None;
        LaneCheckpoint::at(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records(range: std::ops::RangeInclusive<u64>) -> BatchRange {
        BatchRange::over(range.map(|n| (n, "m"))).unwrap()
    }

    fn resumed(position: u64, pending: Option<BatchRange>) -> Lane {
        Lane::resume(LaneCheckpoint { position, pending })
    }

    #[test]
    fn lane_without_a_pending_batch_skips_what_is_in_the_sink_and_takes_the_rest() {
        let mut lane = resumed(10, None);
        assert_eq!(lane.offer(records(1..=10)), Offer::Skip);
        assert_eq!(lane.offer(records(11..=20)), Offer::Take);
        assert_eq!(lane.offer(records(21..=25)), Offer::Take);
        let closed = lane.close().unwrap();
        assert_eq!(
            (closed.range, closed.record_first),
            (records(11..=25), true)
        );
        assert_eq!(lane.delivered(closed.range), LaneCheckpoint::at(25));
    }

    #[test]
    fn pending_batch_is_repeated_exactly() {
        let pending = records(11..=20);
        let mut lane = resumed(10, Some(pending));
        assert_eq!(lane.boundaries().collect::<Vec<_>>(), [10, 20]);
        assert_eq!(lane.offer(records(11..=15)), Offer::Take);
        assert_eq!(lane.offer(records(16..=20)), Offer::TakeAndClose);
        let closed = lane.close().unwrap();
        assert_eq!((closed.range, closed.record_first), (pending, false));
        lane.delivered(pending);
        assert_eq!(lane.offer(records(21..=30)), Offer::Take);
    }

    #[test]
    fn range_whose_records_changed_gets_another_name_and_is_recorded_again() {
        let pending = records(11..=20);
        let mut lane = resumed(10, Some(pending));
        assert_eq!(lane.offer(records(12..=20)), Offer::TakeAndClose);
        let closed = lane.close().unwrap();
        assert!(closed.record_first);
        assert_ne!(closed.range.name("x"), pending.name("x"));
    }

    #[test]
    fn same_positions_and_ids_in_another_log_get_another_name() {
        let with = |content| BatchRange {
            content,
            ..records(11..=20)
        };
        assert_ne!(with(Some(1)).name("x"), with(Some(2)).name("x"));
        let mut lane = resumed(10, Some(with(Some(1))));
        lane.offer(with(Some(2)));
        assert!(lane.close().unwrap().record_first);
        // Recorded by a version that did not know the content: repeated under the name of that time.
        let mut lane = resumed(10, Some(with(None)));
        lane.offer(with(Some(2)));
        let closed = lane.close().unwrap();
        assert_eq!((closed.range, closed.record_first), (with(None), false));
    }

    #[test]
    fn open_batch_is_closed_if_the_end_of_the_pending_batch_is_gone_from_the_log() {
        let mut lane = resumed(10, Some(records(11..=20)));
        assert_eq!(lane.offer(records(11..=15)), Offer::Take);
        assert_eq!(lane.offer(records(25..=30)), Offer::CloseFirst);
        let closed = lane.close().unwrap();
        assert!(closed.record_first);
        lane.delivered(closed.range);
        assert_eq!(lane.offer(records(25..=30)), Offer::Take);
    }

    /// A sink that knows names it has seen, as a database with insert tokens or an object store does.
    #[derive(Default)]
    struct NamedRows {
        names: std::collections::HashSet<String>,
        rows: Vec<u64>,
    }

    proptest! {
        /// Dies at any step, any number of times, with batches of any size: every record once.
        #[test]
        fn every_record_is_in_the_sink_once_wherever_the_process_dies(
            seeds in prop::collection::vec((1_u64..7, 0_u8..4, 1_usize..5), 1..60)
        ) {
            const END: u64 = 40;
            let mut journal = LaneCheckpoint::default();
            let mut sink = NamedRows::default();
            let mut seeds = seeds.into_iter().chain(std::iter::repeat((5, 9, 2)));
            while journal.position < END {
                let mut lane = Lane::resume(journal);
                let mut bounds: Vec<u64> = lane.boundaries().collect();
                bounds.push(END);
                let mut at = lane.position();
                'life: while at < END {
                    let (size, death, per_write) = seeds.next().unwrap();
                    let mut batches = 0;
                    while at < END {
                        let bound = bounds.iter().copied().filter(|b| *b > at).min().unwrap();
                        let end = (at + size).min(bound);
                        let offer = lane.offer(records(at + 1..=end));
                        prop_assert!(!matches!(offer, Offer::CloseFirst | Offer::Skip));
                        at = end;
                        batches += 1;
                        let full = batches >= per_write && lane.repeating().is_none();
                        if offer == Offer::TakeAndClose || full { break; }
                    }
                    let Some(Closed { range, record_first }) = lane.close() else { break };
                    if death == 0 { break 'life; }
                    if record_first { journal.pending = Some(range); }
                    if death == 1 { break 'life; }
                    if sink.names.insert(range.name("log")) {
                        sink.rows.extend(range.first..=range.last);
                    }
                    if death == 2 { break 'life; }
                    journal = lane.delivered(range);
                    if death == 3 { break 'life; }
                }
            }
            prop_assert_eq!(sink.rows, (1..=END).collect::<Vec<_>>());
        }
    }
}
