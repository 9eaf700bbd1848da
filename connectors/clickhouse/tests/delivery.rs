//! Rows inserted with the same token are stored once, as a reader sees it before any merge.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use chatledger_clickhouse::tables::{DeadLetters, Messages, Violations};
use chatledger_clickhouse::{ClickHouse, SinkCheckpoint};
use chatledger_schemas::{Classified, DeadLetter, FaultClass, Message, Reason};
use support::{Engine, NOON, Proxy, database, message, messages, number, shared, violation};

const COUNT: &str = "SELECT count() FROM messages";

async fn parts_of_one_partition_at_most(clickhouse: &ClickHouse, table: &str) -> u64 {
    let sql = format!(
        "SELECT max(parts) FROM (SELECT count() AS parts FROM system.parts \
         WHERE database = currentDatabase() AND table = '{table}' AND active GROUP BY partition)"
    );
    number(clickhouse, &sql).await
}

#[tokio::test]
async fn same_token_twice_is_one_set_of_rows_in_every_partition() {
    let clickhouse = database().await;
    clickhouse
        .client()
        .query("SYSTEM STOP MERGES")
        .execute()
        .await
        .unwrap();
    let rows = messages(1000, 5);
    let violations: Vec<_> = rows.iter().step_by(3).map(violation).collect();
    for _ in 0..3 {
        clickhouse
            .insert(Messages, "ww1-1-1000", &rows)
            .await
            .unwrap();
        clickhouse
            .insert(Violations, "ww1-1-1000", &violations)
            .await
            .unwrap();
    }
    assert_eq!(number(&clickhouse, COUNT).await, 1000);
    assert_eq!(
        number(&clickhouse, "SELECT count() FROM violations").await,
        violations.len() as u64
    );
    assert_eq!(
        parts_of_one_partition_at_most(&clickhouse, "messages").await,
        1
    );

    // The next batch has another token and is new, even if its rows look the same.
    clickhouse
        .insert(Messages, "ww1-1001-2000", &rows)
        .await
        .unwrap();
    assert_eq!(number(&clickhouse, COUNT).await, 2000);
    assert_eq!(
        number(&clickhouse, "SELECT count() FROM messages FINAL").await,
        1000
    );
}

#[tokio::test]
async fn repeated_insert_after_a_crash_or_a_restart_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rows = messages(600, 3);
    for round in 0..3 {
        let engine = Engine::start(dir.path());
        let clickhouse = engine.clickhouse("archive");
        clickhouse.migrate().await.unwrap();
        clickhouse
            .insert(Messages, "ww1-1-600", &rows)
            .await
            .unwrap();
        assert_eq!(number(&clickhouse, COUNT).await, 600, "round {round}");
        if round == 0 {
            engine.kill();
        } else {
            engine.stop();
        }
    }
}

#[tokio::test]
async fn concurrent_repeats_are_one_set_of_rows() {
    let clickhouse = database().await;
    let rows = messages(500, 2);
    let inserts = (0..6).map(|_| clickhouse.insert(Messages, "token", &rows));
    for result in futures::future::join_all(inserts).await {
        result.unwrap();
    }
    assert_eq!(number(&clickhouse, COUNT).await, 500);
}

#[tokio::test]
async fn insert_larger_than_the_servers_blocks_is_one_block() {
    let clickhouse = database().await;
    clickhouse
        .client()
        .query("SYSTEM STOP MERGES")
        .execute()
        .await
        .unwrap();
    // 300 MiB: more than the 256 MiB after which a server closes a block by default.
    let mut rows = messages(100_000, 1);
    for (row, byte) in rows.iter_mut().zip((b'a'..=b'z').cycle()) {
        row.payload = String::from_utf8(vec![byte; 3 << 10]).unwrap();
    }
    for _ in 0..2 {
        clickhouse.insert(Messages, "token", &rows).await.unwrap();
        assert_eq!(number(&clickhouse, COUNT).await, 100_000);
        assert_eq!(
            parts_of_one_partition_at_most(&clickhouse, "messages").await,
            1
        );
    }
}

#[tokio::test]
async fn interrupted_insert_stores_nothing_until_it_is_repeated() {
    let (clickhouse, proxy) = database_behind_proxy().await;
    let rows = large_messages();
    proxy.close_request_after(3 << 20);
    let error = clickhouse
        .insert(Messages, "token", &rows)
        .await
        .unwrap_err();
    assert_eq!(error.class(), FaultClass::Retry, "{error:?}");
    proxy.restore();
    assert_eq!(number(&clickhouse, COUNT).await, 1);
    for _ in 0..2 {
        clickhouse.insert(Messages, "token", &rows).await.unwrap();
        assert_eq!(number(&clickhouse, COUNT).await, 1 + rows.len() as u64);
    }
}

#[tokio::test]
async fn insert_whose_answer_is_lost_is_not_stored_twice_when_repeated() {
    let (clickhouse, proxy) = database_behind_proxy().await;
    let rows = large_messages();
    proxy.close_before_answers();
    let error = clickhouse
        .insert(Messages, "token", &rows)
        .await
        .unwrap_err();
    assert_eq!(error.class(), FaultClass::Retry, "{error:?}");
    proxy.restore();
    assert_eq!(number(&clickhouse, COUNT).await, 1 + rows.len() as u64);
    clickhouse.insert(Messages, "token", &rows).await.unwrap();
    assert_eq!(number(&clickhouse, COUNT).await, 1 + rows.len() as u64);
}

#[tokio::test]
async fn insert_that_reached_some_partitions_is_completed_when_repeated() {
    let clickhouse = database().await;
    let rows = messages(900, 3);
    // The state after a server died between the parts of two partitions.
    let of_one_month: Vec<_> = rows.iter().filter(|m| m.seq % 3 == 1).cloned().collect();
    clickhouse
        .insert(Messages, "token", &of_one_month)
        .await
        .unwrap();
    assert_eq!(number(&clickhouse, COUNT).await, 300);
    clickhouse.insert(Messages, "token", &rows).await.unwrap();
    assert_eq!(number(&clickhouse, COUNT).await, 900);
}

/// 20 MB over two months.
fn large_messages() -> Vec<Message> {
    let mut rows = messages(20_000, 2);
    for row in &mut rows {
        row.payload = "x".repeat(1 << 10);
    }
    rows
}

/// A database with one message, and a client that reaches it through a proxy.
async fn database_behind_proxy() -> (ClickHouse, Proxy) {
    let direct = database().await;
    let proxy = Proxy::start(&shared().url).await;
    let name = direct.client().database().unwrap();
    let clickhouse = ClickHouse::new(support::options(&proxy.url, name)).unwrap();
    clickhouse
        .insert(Messages, "first", &[message(1_000_000, NOON)])
        .await
        .unwrap();
    (clickhouse, proxy)
}

#[tokio::test]
async fn insert_without_rows_sends_no_request() {
    let options = support::options("http://127.0.0.1:1", "archive");
    let nowhere = ClickHouse::new(options).unwrap();
    nowhere.insert(Messages, "token", &[]).await.unwrap();
    nowhere.insert(Violations, "token", &[]).await.unwrap();
    nowhere.insert(DeadLetters, "token", &[]).await.unwrap();
    let corp = "ww1".into();
    nowhere.insert_directory(&corp, NOON, &[]).await.unwrap();
    assert!(
        nowhere
            .insert(Messages, "token", &[message(1, NOON)])
            .await
            .is_err()
    );
    assert!(shared().clickhouse("archive").ping().await.is_ok());
}

/// Deletes rows while the table remembers their token, as after a server that died in between.
async fn lose_rows(clickhouse: &ClickHouse, table: &str, condition: &str) {
    let sql = format!("ALTER TABLE {table} DELETE WHERE {condition} SETTINGS mutations_sync = 2");
    clickhouse.client().query(&sql).execute().await.unwrap();
}

#[tokio::test]
async fn rows_lost_under_a_remembered_token_are_detected_and_inserted_with_another() {
    let clickhouse = database().await;
    let rows = messages(2500, 3);
    let violations: Vec<_> = rows.iter().step_by(2).map(violation).collect();
    clickhouse.insert(Messages, "batch", &rows).await.unwrap();
    clickhouse
        .insert(Violations, "batch", &violations)
        .await
        .unwrap();
    let all: Vec<&Message> = rows.iter().collect();
    assert!(clickhouse.absent(Messages, &all).await.unwrap().is_empty());
    let found: Vec<_> = violations.iter().collect();
    assert!(
        clickhouse
            .absent(Violations, &found)
            .await
            .unwrap()
            .is_empty()
    );

    lose_rows(&clickhouse, "messages", "seq % 5 = 0").await;
    lose_rows(&clickhouse, "violations", "1").await;
    clickhouse.insert(Messages, "batch", &rows).await.unwrap();
    assert_eq!(
        number(&clickhouse, COUNT).await,
        2000,
        "a repeat with the same token restores nothing"
    );
    let absent = clickhouse.absent(Messages, &all).await.unwrap();
    let seqs: Vec<u64> = absent.iter().map(|row| row.seq).collect();
    assert_eq!(seqs, (1..=500).map(|n| n * 5).collect::<Vec<_>>());
    let lost = clickhouse.absent(Violations, &found).await.unwrap();
    assert_eq!(lost.len(), violations.len());

    clickhouse
        .insert(Messages, "batch-again", absent)
        .await
        .unwrap();
    assert_eq!(number(&clickhouse, COUNT).await, 2500);
    assert_eq!(
        number(&clickhouse, "SELECT uniqExact(msgid) FROM messages").await,
        2500
    );
    assert!(clickhouse.absent(Messages, &all).await.unwrap().is_empty());
}

#[tokio::test]
async fn presence_of_rows_with_extreme_times_and_ids_is_detected() {
    let clickhouse = database().await;
    let mut rows: Vec<Message> = [NOON, i64::MIN, i64::MAX, -1, 4_102_444_800_000]
        .into_iter()
        .zip(1..)
        .map(|(time, seq)| message(seq, time))
        .collect();
    rows[0].msgid = "it's a ? \\ \n '); DROP TABLE messages; --".into();
    rows[1].msgid = "x".repeat(600_000);
    rows[2].corp_id = "ww2".into();
    let (present, missing) = rows.split_at(3);
    clickhouse.insert(Messages, "batch", present).await.unwrap();
    let all: Vec<&Message> = rows.iter().collect();
    let absent = clickhouse.absent(Messages, &all).await.unwrap();
    assert_eq!(absent, missing.iter().collect::<Vec<_>>());
    // The same msgid of another corp is another message.
    let mut other = present[0].clone();
    other.corp_id = "ww3".into();
    assert_eq!(
        clickhouse.absent(Messages, &[&other]).await.unwrap(),
        [&other]
    );
}

#[tokio::test]
async fn dead_letters_without_a_msgid_are_distinguished_by_position() {
    let clickhouse = database().await;
    let dead_letter = |seq, msgid: &str| DeadLetter {
        corp_id: "ww1".into(),
        seq,
        msgid: msgid.into(),
        reason: Reason::BadEnvelope,
        error: "no field msgid".into(),
        key_version: 0,
        sealed: "{}".into(),
        first_seen: NOON,
        attempts: 0,
    };
    let dead_letters = [
        dead_letter(7, ""),
        dead_letter(7, "a"),
        dead_letter(u64::MAX, ""),
        dead_letter(8, ""),
    ];
    clickhouse
        .insert(DeadLetters, "batch", &dead_letters[..3])
        .await
        .unwrap();
    let all: Vec<&DeadLetter> = dead_letters.iter().collect();
    let absent = clickhouse.absent(DeadLetters, &all).await.unwrap();
    assert_eq!(absent, [&dead_letters[3]]);
}

#[tokio::test]
async fn sink_checkpoint_of_a_lane_is_the_last_one_stored() {
    let clickhouse = database().await;
    let lane = "messages-00000";
    assert_eq!(clickhouse.sink_checkpoint(lane).await.unwrap(), None);
    let checkpoint = |position, fingerprint| SinkCheckpoint {
        position,
        fingerprint,
    };
    for stored in [
        checkpoint(10, 1),
        checkpoint(u64::MAX, u64::MAX),
        checkpoint(5, 2),
    ] {
        clickhouse
            .store_sink_checkpoint(lane, stored)
            .await
            .unwrap();
        clickhouse
            .store_sink_checkpoint("messages-00001", checkpoint(1, 1))
            .await
            .unwrap();
        let read = clickhouse.sink_checkpoint(lane).await.unwrap();
        assert_eq!(read, Some(stored));
    }
}

#[tokio::test]
async fn truncated_table_has_forgotten_its_tokens() {
    let clickhouse = database().await;
    let rows = messages(300, 3);
    for _ in 0..2 {
        clickhouse.insert(Messages, "batch", &rows).await.unwrap();
        assert_eq!(number(&clickhouse, COUNT).await, 300);
        let empty = clickhouse.client().query("TRUNCATE TABLE messages");
        empty.execute().await.unwrap();
        assert_eq!(number(&clickhouse, COUNT).await, 0);
    }
}
