//! The ledger after crashes, gaps and answers that differ.

use super::*;
use chatledger_schemas::ledger::{Outcome, digest_of};

fn record(seq: u64, at: i64) -> (ChainInput, ProcessedRecord) {
    let id = seq.to_string();
    let input = ChainInput {
        seq,
        at,
        msgid: digest_of(id.as_bytes()),
        sealed: digest_of(format!("{{{id}}}").as_bytes()),
    };
    let record = ProcessedRecord {
        seq,
        hash: u128::from_le_bytes(input.msgid),
        at,
        settlement: Settlement {
            row: [7; 16],
            ..Settlement::without_rows(Outcome::Message)
        },
    };
    (input, record)
}

fn append(ledger: &mut Ledger, records: &[(u64, i64)]) {
    let (inputs, outcomes): (Vec<_>, Vec<_>) =
        records.iter().map(|(seq, at)| record(*seq, *at)).unzip();
    ledger.append(&inputs, &outcomes).unwrap();
}

fn open(path: &Path, position: u64) -> (Ledger, RecoveredLedger) {
    Ledger::open(path, "ww1", position, 100).unwrap()
}

/// All lines; each must continue the chain of the one before.
fn lines(path: &Path) -> Vec<LedgerLine> {
    let mut reader = Reader::open(path).unwrap();
    let mut chain = Chain::genesis("ww1");
    let mut lines = Vec::new();
    while let NextLine::Line(line) = reader.next_line().unwrap() {
        assert!(line.follows(&chain.link), "{line:?}");
        assert_eq!(line.entry.number, chain.number + 1);
        chain = Chain::at(&line.entry);
        lines.push(line);
    }
    lines
}

fn seqs(path: &Path) -> Vec<u64> {
    lines(path).iter().map(|line| line.entry.seq).collect()
}

#[test]
fn ledger_recovers_the_window_up_to_the_position_and_the_times_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let (mut ledger, _) = open(&path, 0);
    let records: Vec<(u64, i64)> = (1..=10).map(|n| (n * 2, 1000 + n as i64)).collect();
    append(&mut ledger, &records);

    let hash = |seq| record(seq, 0).1.hash;
    let (mut ledger, found) = open(&path, 12);
    assert!(
        found.window.is_duplicate(hash(12), || 0) && !found.window.is_duplicate(hash(14), || 0)
    );
    assert_eq!(found.pulled_at.get(&14), Some(&1007));
    assert!(found.undelivered.contains(&hash(14)) && !found.undelivered.contains(&hash(12)));
    assert_eq!(
        (ledger.len(), found.pulled_at.len(), found.last_pulled_at),
        (10, 4, Some(1010))
    );

    // A record that is returned again keeps the time it was pulled first.
    append(&mut ledger, &[(14, 5000), (16, 5000)]);
    assert_eq!(ledger.last(), 16);
    append(&mut ledger, &[(18, 5000), (20, 5000), (22, 5000)]);
    let at: Vec<i64> = lines(&path).iter().map(|line| line.entry.at).collect();
    assert_eq!(at[6..], [1007, 1008, 1009, 1010, 5000]);
    assert_eq!(seqs(&path), (1..=11).map(|n| n * 2).collect::<Vec<_>>());
}

#[test]
fn torn_tail_is_truncated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let (mut ledger, _) = open(&path, 0);
    append(&mut ledger, &[(1, 5), (2, 5), (9, 5)]);
    let whole = std::fs::read(&path).unwrap();
    for (removed, left) in [
        (1, 2),
        (LedgerLine::BYTES - 1, 2),
        (LedgerLine::BYTES + 20, 1),
    ] {
        std::fs::write(&path, &whole[..whole.len() - removed]).unwrap();
        assert_eq!(open(&path, 1).1.pulled_at.len() + 1, left);
    }
    let mut torn = whole.clone();
    torn[16 + 2 * LedgerLine::BYTES..].fill(0);
    std::fs::write(&path, torn).unwrap();
    let (mut ledger, found) = open(&path, 1);
    assert_eq!(found.pulled_at, HashMap::from([(2, 5)]));
    append(&mut ledger, &[(2, 5), (9, 6)]);
    assert_eq!(seqs(&path), [1, 2, 9]);
}

#[test]
fn records_that_are_not_returned_again_stay_and_new_ones_are_inserted_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let (mut ledger, _) = open(&path, 0);
    append(&mut ledger, &[(1, 5), (3, 5), (5, 5), (7, 5), (9, 5)]);
    let before = lines(&path);

    let (mut ledger, _) = open(&path, 1);
    append(&mut ledger, &[(5, 6)]);
    assert_eq!(lines(&path), before, "there was nothing new to write");
    append(&mut ledger, &[(6, 6), (7, 6)]);
    assert_eq!(seqs(&path), [1, 3, 5, 6, 7, 9]);
    append(&mut ledger, &[(11, 6)]);
    assert_eq!(seqs(&path), [1, 3, 5, 6, 7, 9, 11]);

    // The same position with another content: the archive returned both.
    let (mut ledger, _) = open(&path, 9);
    let (mut input, record) = record(11, 7);
    input.sealed = [1; 16];
    ledger.append(&[input], &[record]).unwrap();
    assert_eq!(seqs(&path), [1, 3, 5, 6, 7, 9, 11, 11]);
}

#[test]
fn gap_follows_what_was_pulled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let (mut ledger, _) = open(&path, 0);
    append(&mut ledger, &[(1, 5), (3, 5)]);
    let (mut ledger, _) = open(&path, 1);
    ledger.append_gap(1, 5, 900).unwrap();
    append(&mut ledger, &[(40, 901)]);
    let found = lines(&path);
    assert_eq!(seqs(&path), [1, 3, 3, 40]);
    assert_eq!(
        (
            found[2].entry.silent_since(),
            found[2].entry.at,
            found[2].settlement
        ),
        (Some(5), 900, None)
    );
    // Record 3 was pulled and not delivered everywhere.
    assert_eq!(found[2].entry.maybe_lost(), Some((2, 3)));
    let (ledger, found) = open(&path, 40);
    assert_eq!((ledger.len(), found.last_pulled_at), (4, Some(901)));
}

#[test]
fn ledger_that_ends_before_the_lanes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let refused = |position| {
        let opened = Ledger::open(&path, "ww1", position, 10);
        matches!(opened, Err(StateError::Damaged { .. }))
    };
    assert!(refused(7));
    append(&mut open(&path, 0).0, &[(5, 1)]);
    assert!(refused(7) && refused(4) && !refused(5));
    std::fs::write(&path, b"something else entirely").unwrap();
    assert!(refused(0));
}

#[test]
fn record_that_is_settled_again_keeps_its_line_and_gets_another_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let (mut ledger, _) = open(&path, 0);
    append(&mut ledger, &[(1, 5), (2, 5), (3, 5)]);
    let before = lines(&path);

    // After a crash the rules have changed: record 2 has two violations now.
    let again = |ledger: &mut Ledger, seq, violations| {
        let (input, mut outcome) = record(seq, 5);
        outcome.settlement.violations = violations;
        ledger.append(&[input], &[outcome]).unwrap();
    };
    let (mut ledger, _) = open(&path, 1);
    again(&mut ledger, 2, 2);
    let after = lines(&path);
    assert_eq!(after[..3], before[..]);
    let further = |line: &LedgerLine| {
        let entry = line.entry;
        let violations = line.settlement.map(|settlement| settlement.violations);
        (entry.kind, entry.seq, entry.subject(), violations)
    };
    let expected = (EntryKind::Resettled, 3, Some(2), Some(2));
    assert_eq!(
        after.iter().skip(3).map(further).collect::<Vec<_>>(),
        [expected]
    );

    // The same result once more, after another crash, adds nothing; the archive goes on.
    let (mut ledger, found) = open(&path, 1);
    assert_eq!((found.pulled_at.len(), found.undelivered.len()), (2, 2));
    again(&mut ledger, 2, 2);
    assert_eq!(lines(&path), after);
    append(&mut ledger, &[(3, 5), (7, 6)]);
    assert_eq!(seqs(&path), [1, 2, 3, 3, 7]);

    // A dead letter that is replayed, while the pipeline is idle; a gap; a destruction.
    let (_, mut replayed) = record(1, 5);
    replayed.settlement.row = [9; 16];
    ledger.append_again(&[replayed]).unwrap();
    ledger.append_again(&[replayed]).unwrap();
    ledger.append_gap(7, 6, 900).unwrap();
    let destruction = Destruction {
        first_seq: 1,
        last_seq: 2,
        by: "li".into(),
        because: "retention".into(),
        at: 901,
    };
    ledger.append_destroyed(&destruction).unwrap();
    let all = lines(&path);
    let kinds: Vec<EntryKind> = all[5..].iter().map(|line| line.entry.kind).collect();
    let expected = [EntryKind::Resettled, EntryKind::Gap, EntryKind::Destroyed];
    assert_eq!(kinds, expected);
    assert_eq!(all[6].entry.maybe_lost(), None);
    assert_eq!(all[7].entry.destroyed(), Some((1, 2)));
    assert_eq!(all[7].entry.msgid, destruction.digest());
    let recorded = std::fs::read(folder.path().join("destructions.jsonl")).unwrap();
    assert_eq!(
        Destruction::parse(recorded.trim_ascii_end()),
        Some(destruction)
    );

    let (mut ledger, _) = open(&path, 7);
    append(&mut ledger, &[(8, 9)]);
    assert_eq!(seqs(&path), [1, 2, 3, 3, 7, 7, 7, 7, 8]);
}
