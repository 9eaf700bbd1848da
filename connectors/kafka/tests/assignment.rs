//! What a member may do with a partition that has been revoked, tested with a real broker.
//!
//! A broker accepts a commit from any member of the current generation, whatever its assignment, and a
//! member that waits for a sink stays in the group across generations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chatledger_kafka::{
    Brokers, Error, Member, MemberEvent, Membership, OutgoingRecord, StartOffset, TopicSpec,
    WriterConfig, ensure_topics,
};
use chatledger_schemas::{Classified, FaultClass};

const TOPIC: &str = "assignment.messages";
const PARTITIONS: u32 = 4;
const RECORDS: u64 = 400;
const TICK: Duration = Duration::from_millis(100);
const BOUND: Duration = Duration::from_secs(60);

struct Broker {
    script: PathBuf,
    data: tempfile::TempDir,
    address: String,
}

impl Broker {
    fn start() -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/local/kafka");
        let data = tempfile::tempdir().unwrap();
        let output = Command::new(&script)
            .args(["start", "--port", "0", "--data-dir"])
            .arg(data.path())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success());
        let address = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        Self {
            script,
            data,
            address,
        }
    }

    fn membership(&self, instance: &str) -> Membership {
        Membership {
            brokers: Brokers {
                bootstrap: self.address.clone(),
                properties: BTreeMap::new(),
                secrets: BTreeMap::new(),
            },
            topic: TOPIC.to_owned(),
            group: Some("assignment.sink".to_owned()),
            instance: instance.to_owned(),
            start: StartOffset::BeforeCommitted(0),
            writer: None,
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let stopped = Command::new(&self.script)
            .args(["stop", "--data-dir"])
            .arg(self.data.path())
            .status();
        assert!(stopped.unwrap().success());
    }
}

/// Returns the partitions of the next assignment that is not empty.
async fn assigned(member: &Member) -> BTreeSet<i32> {
    let deadline = Instant::now() + BOUND;
    while Instant::now() < deadline {
        if let MemberEvent::Assigned(assigned) = member.next(TICK).await.unwrap()
            && !assigned.is_empty()
        {
            return assigned.iter().map(|assigned| assigned.partition).collect();
        }
    }
    panic!("no partition was assigned");
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_partition_is_neither_committed_nor_read_by_a_member_that_waited() {
    let broker = Broker::start();
    let first = broker.membership("assignment.first");
    let spec = TopicSpec {
        name: TOPIC.to_owned(),
        partitions: PARTITIONS,
        one_partition: false,
        replication: 1,
        settings: Vec::new(),
    };
    ensure_topics(&first.brokers, &[spec]).await.unwrap();
    let writer = Member::join(&Membership {
        group: None,
        writer: Some(WriterConfig {
            transactional_id: "assignment.writer".to_owned(),
            topics: vec![TOPIC.to_owned()],
        }),
        ..first.clone()
    })
    .unwrap();
    writer.begin().unwrap();
    let records: Vec<OutgoingRecord> = (0..RECORDS)
        .map(|number| OutgoingRecord {
            topic: TOPIC.to_owned(),
            key: number.to_string().into_bytes(),
            value: number.to_string().into(),
            headers: Vec::new(),
        })
        .collect();
    writer.transact(&records, &[]).unwrap();

    let one = Member::join(&first).unwrap();
    let all = assigned(&one).await;
    assert_eq!(all.len(), PARTITIONS as usize);
    for partition in &all {
        one.commit(*partition, 0, "a batch").unwrap();
    }

    // The first member waits for a sink; meanwhile a second one gets some of the partitions.
    let two = Member::join(&broker.membership("assignment.second")).unwrap();
    let deadline = Instant::now() + BOUND;
    let others = loop {
        assert!(
            Instant::now() < deadline,
            "the second member gets no partition"
        );
        tokio::select! {
            failed = one.keep_alive() => panic!("{failed}"),
            event = two.next(TICK) => match event.unwrap() {
                MemberEvent::Assigned(assigned) if !assigned.is_empty() => {
                    break assigned.iter().map(|assigned| assigned.partition).collect::<BTreeSet<i32>>();
                }
                _ => {}
            },
        }
    };
    assert!(!others.is_empty() && others.len() < all.len(), "{others:?}");

    // The first member's write has ended: it must not commit any position, not even of a partition that
    // has been assigned to it again.
    for partition in &all {
        let refused = one.commit(*partition, 7, "").unwrap_err();
        assert!(matches!(refused, Error::NotAssigned { .. }), "{refused:?}");
        assert_eq!(refused.class(), FaultClass::Refresh);
    }
    let mine = assigned(&one).await;
    assert_eq!(mine, all.difference(&others).copied().collect());
    for partition in &mine {
        one.commit(*partition, 0, "another batch").unwrap();
    }
    for partition in &others {
        assert!(one.commit(*partition, 7, "").is_err());
        two.commit(*partition, 0, "").unwrap();
    }

    // Records that were read ahead are dropped: every partition is read from its position, in order.
    let mut read: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
    let deadline = Instant::now() + BOUND;
    let mut ends = BTreeSet::new();
    while ends != all {
        assert!(Instant::now() < deadline, "not read to the end: {ends:?}");
        for member in [&one, &two] {
            match member.next(TICK).await.unwrap() {
                MemberEvent::Record(record) => {
                    read.entry(record.partition)
                        .or_default()
                        .push(record.offset);
                }
                MemberEvent::End(partition) => {
                    ends.insert(partition);
                }
                _ => {}
            }
        }
    }
    let total: usize = read.values().map(Vec::len).sum();
    assert_eq!(total as u64, RECORDS);
    for (partition, offsets) in read {
        // Before the first record are those that were rolled back when the writer began.
        let whole: Vec<u64> = (offsets[0]..).take(offsets.len()).collect();
        assert_eq!(offsets, whole, "partition {partition}");
    }
}
