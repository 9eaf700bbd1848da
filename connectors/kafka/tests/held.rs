//! What a member may do with a partition that the group has taken away from it, on the real broker.
//!
//! A broker takes a commit from any member of the present generation, whatever it holds; and a
//! member that waits for a sink is carried from one generation into the next.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chatledger_kafka::{
    Brokers, Error, Event, From, Member, Membership, Out, TopicSpec, Writes, ensure_topics,
};
use chatledger_schemas::{Classified, FaultClass};

const TOPIC: &str = "held.messages";
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
            group: Some("held.sink".to_owned()),
            instance: instance.to_owned(),
            from: From::BeforeCommitted(0),
            writes: None,
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

/// The partitions of the next assignment that holds any.
async fn assigned(member: &Member) -> BTreeSet<i32> {
    let deadline = Instant::now() + BOUND;
    while Instant::now() < deadline {
        if let Event::Assigned(taken) = member.next(TICK).await.unwrap()
            && !taken.is_empty()
        {
            return taken.iter().map(|taken| taken.partition).collect();
        }
    }
    panic!("no partition was assigned");
}

#[tokio::test(flavor = "multi_thread")]
async fn partition_taken_away_is_not_committed_nor_read_on_by_who_waited_beside() {
    let broker = Broker::start();
    let first = broker.membership("held.first");
    let spec = TopicSpec {
        name: TOPIC.to_owned(),
        partitions: PARTITIONS,
        replication: 1,
        settings: Vec::new(),
    };
    ensure_topics(&first.brokers, &[spec]).await.unwrap();
    let writer = Member::join(&Membership {
        group: None,
        writes: Some(Writes {
            transactional_id: "held.writer".to_owned(),
            topics: vec![TOPIC.to_owned()],
        }),
        ..first.clone()
    })
    .unwrap();
    writer.begin().unwrap();
    let records: Vec<Out> = (0..RECORDS)
        .map(|number| Out {
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
        one.commit(*partition, 0, "a cut").unwrap();
    }

    // The first waits for a sink; meanwhile a second takes a share.
    let two = Member::join(&broker.membership("held.second")).unwrap();
    let deadline = Instant::now() + BOUND;
    let others = loop {
        assert!(Instant::now() < deadline, "the second gets nothing");
        tokio::select! {
            failed = one.keep_alive() => panic!("{failed}"),
            event = two.next(TICK) => match event.unwrap() {
                Event::Assigned(taken) if !taken.is_empty() => {
                    break taken.iter().map(|taken| taken.partition).collect::<BTreeSet<i32>>();
                }
                _ => {}
            },
        }
    };
    assert!(!others.is_empty() && others.len() < all.len(), "{others:?}");

    // Its write has come to its end: it may not move any position, not even of a partition that it
    // has been given back.
    for partition in &all {
        let refused = one.commit(*partition, 7, "").unwrap_err();
        assert!(matches!(refused, Error::NotHeld { .. }), "{refused:?}");
        assert_eq!(refused.class(), FaultClass::Refresh);
    }
    let mine = assigned(&one).await;
    assert_eq!(mine, all.difference(&others).copied().collect());
    for partition in &mine {
        one.commit(*partition, 0, "another cut").unwrap();
    }
    for partition in &others {
        assert!(one.commit(*partition, 7, "").is_err());
        two.commit(*partition, 0, "").unwrap();
    }

    // What it had read ahead is forgotten: every partition is read from its position, in order.
    let mut read: BTreeMap<i32, Vec<u64>> = BTreeMap::new();
    let deadline = Instant::now() + BOUND;
    let mut ends = BTreeSet::new();
    while ends != all {
        assert!(Instant::now() < deadline, "not read to the end: {ends:?}");
        for member in [&one, &two] {
            match member.next(TICK).await.unwrap() {
                Event::Record(record) => {
                    read.entry(record.partition)
                        .or_default()
                        .push(record.offset);
                }
                Event::End(partition) => {
                    ends.insert(partition);
                }
                _ => {}
            }
        }
    }
    let total: usize = read.values().map(Vec::len).sum();
    assert_eq!(total as u64, RECORDS);
    for (partition, offsets) in read {
        // Before the first stands what was rolled back as the writer began.
        let whole: Vec<u64> = (offsets[0]..).take(offsets.len()).collect();
        assert_eq!(offsets, whole, "partition {partition}");
    }
}
