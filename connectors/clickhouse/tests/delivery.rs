//! The same token is the same rows, once: as a reader sees it before any merge.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use chatledger_clickhouse::{ClickHouse, LaneMark};
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
            .insert_messages("ww1-1-1000", &rows)
            .await
            .unwrap();
        clickhouse
            .insert_violations("ww1-1-1000", &violations)
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

    // The next cut has another token and is new, even where its rows look the same.
    clickhouse
        .insert_messages("ww1-1001-2000", &rows)
        .await
        .unwrap();
    assert_eq!(number(&clickhouse, COUNT).await, 2000);
    assert_eq!(
        number(&clickhouse, "SELECT count() FROM messages FINAL").await,
        1000
    );
}

#[tokio::test]
async fn repeat_of_an_insert_after_a_crash_and_after_a_restart_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rows = messages(600, 3);
    for round in 0..3 {
        let engine = Engine::start(dir.path());
        let clickhouse = engine.clickhouse("archive");
        clickhouse.migrate().await.unwrap();
        clickhouse
            .insert_messages("ww1-1-600", &rows)
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
async fn repeats_at_once_are_one_set_of_rows() {
    let clickhouse = database().await;
    let rows = messages(500, 2);
    let inserts = (0..6).map(|_| clickhouse.insert_messages("token", &rows));
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
    // 300 MiB: more than the 256 MiB after which a server closes a block by itself.
    let mut rows = messages(100_000, 1);
    for (row, byte) in rows.iter_mut().zip((b'a'..=b'z').cycle()) {
        row.payload = String::from_utf8(vec![byte; 3 << 10]).unwrap();
    }
    for _ in 0..2 {
        clickhouse.insert_messages("token", &rows).await.unwrap();
        assert_eq!(number(&clickhouse, COUNT).await, 100_000);
        assert_eq!(
            parts_of_one_partition_at_most(&clickhouse, "messages").await,
            1
        );
    }
}

#[tokio::test]
async fn insert_that_breaks_off_on_its_way_inserts_nothing_until_it_is_repeated() {
    let (clickhouse, proxy) = database_behind_proxy().await;
    let rows = large_messages();
    proxy.cut_request_after(3 << 20);
    let error = clickhouse
        .insert_messages("token", &rows)
        .await
        .unwrap_err();
    assert_eq!(error.class(), FaultClass::Retry, "{error:?}");
    proxy.mend();
    assert_eq!(number(&clickhouse, COUNT).await, 1);
    for _ in 0..2 {
        clickhouse.insert_messages("token", &rows).await.unwrap();
        assert_eq!(number(&clickhouse, COUNT).await, 1 + rows.len() as u64);
    }
}

#[tokio::test]
async fn insert_whose_answer_is_lost_is_not_doubled_by_its_repeat() {
    let (clickhouse, proxy) = database_behind_proxy().await;
    let rows = large_messages();
    proxy.cut_answers();
    let error = clickhouse
        .insert_messages("token", &rows)
        .await
        .unwrap_err();
    assert_eq!(error.class(), FaultClass::Retry, "{error:?}");
    proxy.mend();
    assert_eq!(number(&clickhouse, COUNT).await, 1 + rows.len() as u64);
    clickhouse.insert_messages("token", &rows).await.unwrap();
    assert_eq!(number(&clickhouse, COUNT).await, 1 + rows.len() as u64);
}

#[tokio::test]
async fn insert_that_reached_some_partitions_is_completed_by_its_repeat() {
    let clickhouse = database().await;
    let rows = messages(900, 3);
    // What a server leaves that died between the parts of two partitions.
    let of_one_month: Vec<_> = rows.iter().filter(|m| m.seq % 3 == 1).cloned().collect();
    clickhouse
        .insert_messages("token", &of_one_month)
        .await
        .unwrap();
    assert_eq!(number(&clickhouse, COUNT).await, 300);
    clickhouse.insert_messages("token", &rows).await.unwrap();
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

/// A database with one message, and a client that reaches it over a line that can be cut.
async fn database_behind_proxy() -> (ClickHouse, Proxy) {
    let direct = database().await;
    let proxy = Proxy::start(&shared().url).await;
    let name = direct.client().database().unwrap();
    let clickhouse = ClickHouse::new(support::options(&proxy.url, name)).unwrap();
    clickhouse
        .insert_messages("first", &[message(1_000_000, NOON)])
        .await
        .unwrap();
    (clickhouse, proxy)
}

#[tokio::test]
async fn no_rows_are_no_request() {
    let options = support::options("http://127.0.0.1:1", "archive");
    let nowhere = ClickHouse::new(options).unwrap();
    nowhere.insert_messages("token", &[]).await.unwrap();
    nowhere.insert_violations("token", &[]).await.unwrap();
    nowhere.insert_dead_letters("token", &[]).await.unwrap();
    let corp = "ww1".into();
    nowhere.insert_directory(&corp, NOON, &[]).await.unwrap();
    assert!(
        nowhere
            .insert_messages("token", &[message(1, NOON)])
            .await
            .is_err()
    );
    assert!(shared().clickhouse("archive").ping().await.is_ok());
}

/// The token stays in the table's memory and its rows are gone, as after a server's death between
/// the two.
async fn lose_rows(clickhouse: &ClickHouse, table: &str, condition: &str) {
    let sql = format!("ALTER TABLE {table} DELETE WHERE {condition} SETTINGS mutations_sync = 2");
    clickhouse.client().query(&sql).execute().await.unwrap();
}

#[tokio::test]
async fn rows_that_a_remembered_token_hides_are_found_missing_and_inserted_under_another() {
    let clickhouse = database().await;
    let rows = messages(2500, 3);
    let violations: Vec<_> = rows.iter().step_by(2).map(violation).collect();
    clickhouse.insert_messages("cut", &rows).await.unwrap();
    clickhouse
        .insert_violations("cut", &violations)
        .await
        .unwrap();
    let all: Vec<&Message> = rows.iter().collect();
    assert!(clickhouse.absent_messages(&all).await.unwrap().is_empty());
    let found: Vec<_> = violations.iter().collect();
    assert!(
        clickhouse
            .absent_violations(&found)
            .await
            .unwrap()
            .is_empty()
    );

    lose_rows(&clickhouse, "messages", "seq % 5 = 0").await;
    lose_rows(&clickhouse, "violations", "1").await;
    clickhouse.insert_messages("cut", &rows).await.unwrap();
    assert_eq!(
        number(&clickhouse, COUNT).await,
        2000,
        "the token alone brings nothing back"
    );
    let absent = clickhouse.absent_messages(&all).await.unwrap();
    let seqs: Vec<u64> = absent.iter().map(|row| row.seq).collect();
    assert_eq!(seqs, (1..=500).map(|n| n * 5).collect::<Vec<_>>());
    let lost = clickhouse.absent_violations(&found).await.unwrap();
    assert_eq!(lost.len(), violations.len());

    clickhouse
        .insert_messages("cut-again", absent)
        .await
        .unwrap();
    assert_eq!(number(&clickhouse, COUNT).await, 2500);
    assert_eq!(
        number(&clickhouse, "SELECT uniqExact(msgid) FROM messages").await,
        2500
    );
    assert!(clickhouse.absent_messages(&all).await.unwrap().is_empty());
}

#[tokio::test]
async fn rows_with_wild_times_and_ids_are_found_where_they_are() {
    let clickhouse = database().await;
    let mut rows: Vec<Message> = [NOON, i64::MIN, i64::MAX, -1, 4_102_444_800_000]
        .into_iter()
        .zip(1..)
        .map(|(time, seq)| message(seq, time))
        .collect();
    rows[0].msgid = "it's a ? \\ \n '); DROP TABLE messages; --".into();
    rows[1].msgid = "x".repeat(600_000);
    rows[2].corp_id = "ww2".into();
    let (there, not) = rows.split_at(3);
    clickhouse.insert_messages("cut", there).await.unwrap();
    let all: Vec<&Message> = rows.iter().collect();
    let absent = clickhouse.absent_messages(&all).await.unwrap();
    assert_eq!(absent, not.iter().collect::<Vec<_>>());
    // The same id of another corp is another message.
    let mut others = there[0].clone();
    others.corp_id = "ww3".into();
    assert_eq!(
        clickhouse.absent_messages(&[&others]).await.unwrap(),
        [&others]
    );
}

#[tokio::test]
async fn dead_letters_without_an_id_are_told_apart_by_their_position() {
    let clickhouse = database().await;
    let letter = |seq, msgid: &str| DeadLetter {
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
    let letters = [
        letter(7, ""),
        letter(7, "a"),
        letter(u64::MAX, ""),
        letter(8, ""),
    ];
    clickhouse
        .insert_dead_letters("cut", &letters[..3])
        .await
        .unwrap();
    let all: Vec<&DeadLetter> = letters.iter().collect();
    let absent = clickhouse.absent_dead_letters(&all).await.unwrap();
    assert_eq!(absent, [&letters[3]]);
}

#[tokio::test]
async fn mark_of_a_lane_is_the_last_one_kept() {
    let clickhouse = database().await;
    assert_eq!(clickhouse.lane_mark("messages-00000").await.unwrap(), None);
    let mark = |position, witness| LaneMark { position, witness };
    for kept in [mark(10, 1), mark(u64::MAX, u64::MAX), mark(5, 2)] {
        clickhouse
            .keep_lane_mark("messages-00000", kept)
            .await
            .unwrap();
        clickhouse
            .keep_lane_mark("messages-00001", mark(1, 1))
            .await
            .unwrap();
        let held = clickhouse.lane_mark("messages-00000").await.unwrap();
        assert_eq!(held, Some(kept));
    }
}

#[tokio::test]
async fn emptied_table_has_forgotten_its_tokens() {
    let clickhouse = database().await;
    let rows = messages(300, 3);
    for _ in 0..2 {
        clickhouse.insert_messages("cut", &rows).await.unwrap();
        assert_eq!(number(&clickhouse, COUNT).await, 300);
        let empty = clickhouse.client().query("TRUNCATE TABLE messages");
        empty.execute().await.unwrap();
        assert_eq!(number(&clickhouse, COUNT).await, 0);
    }
}
