//! `FINAL` shows the open dead letters, whatever is inserted about them, how often and in which
//! order. The table of an older schema is migrated, also after an interruption.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use chatledger_clickhouse::ClickHouse;
use chatledger_clickhouse::tables::{DeadLetterEvents, DeadLetters, SettledDeadLetters};
use chatledger_schemas::dead_letter::Event;
use chatledger_schemas::migrations::{ALL, Statement};
use chatledger_schemas::{CorpId, DeadLetter, DeadLetterEvent, Reason};
use support::{number, shared};

fn dead_letter(seq: u64, attempts: u32) -> DeadLetter {
    DeadLetter {
        corp_id: CorpId::from("ww1"),
        seq,
        msgid: format!("m{seq}"),
        reason: Reason::UnknownKeyVersion,
        error: "no private key of version 3".into(),
        key_version: 3,
        sealed: r#"{"seq":1}"#.into(),
        first_seen: 1_709_222_400_000,
        attempts,
    }
}

fn event(seq: u64, attempt: u32, event: Event) -> DeadLetterEvent {
    DeadLetterEvent {
        event,
        corp_id: CorpId::from("ww1"),
        seq,
        msgid: format!("m{seq}"),
        attempt,
        at: 1_709_222_500_000,
        actor: "zhangsan".into(),
        because: "测试".into(),
        reason: Reason::UnknownKeyVersion,
        error: String::new(),
        key_version: 3,
        first_seen: 1_709_222_400_000,
    }
}

async fn open(clickhouse: &ClickHouse) -> Vec<(u64, u32)> {
    let query = "SELECT seq, attempts FROM dead_letters FINAL ORDER BY seq";
    let query = clickhouse.client().query(query);
    query.fetch_all().await.unwrap()
}

#[tokio::test]
async fn final_shows_open_dead_letters_with_their_last_attempt_and_settled_ones_stay_hidden() {
    let clickhouse = shared().clickhouse("open_dead_letters");
    clickhouse.migrate().await.unwrap();
    let insert = async |token: &str, dead_letters: &[DeadLetter], events: &[DeadLetterEvent]| {
        let done = clickhouse.insert(DeadLetters, token, dead_letters).await;
        done.unwrap();
        let settled = events.iter().filter(|event| event.event.settles());
        let settled: Vec<_> = settled.collect();
        let done = clickhouse.insert(SettledDeadLetters, token, settled.iter().copied());
        done.await.unwrap();
        assert_eq!(
            clickhouse
                .absent(SettledDeadLetters, &settled)
                .await
                .unwrap()
                .len(),
            0
        );
        let done = clickhouse.insert(DeadLetterEvents, token, events).await;
        done.unwrap();
    };
    let dead_letters: Vec<_> = (1..=4).map(|seq| dead_letter(seq, 0)).collect();
    insert("dead-lettered", &dead_letters, &[]).await;
    assert_eq!(open(&clickhouse).await, [(1, 0), (2, 0), (3, 0), (4, 0)]);

    let events = [
        event(1, 1, Event::Replayed),
        event(2, 1, Event::Duplicate),
        event(3, 0, Event::Dropped),
        event(4, 1, Event::Failed),
    ];
    insert("attempt", &[dead_letter(4, 1)], &events).await;
    assert_eq!(open(&clickhouse).await, [(4, 1)]);

    // Inserted again, late and with other tokens: nothing reopens, nothing is stored twice.
    insert("again", &dead_letters, &[]).await;
    insert("once more", &[dead_letter(1, 7)], &events).await;
    assert_eq!(open(&clickhouse).await, [(4, 1)]);
    let events = "SELECT count() FROM dead_letter_events FINAL";
    assert_eq!(number(&clickhouse, events).await, 4);
}

/// A database with the migrations before 4 and a dead letter in the old table.
async fn before_migration_4(name: &str) -> (ClickHouse, Vec<Statement>) {
    let server = shared().clickhouse("default");
    let create = format!("CREATE DATABASE {name}");
    server.client().query(&create).execute().await.unwrap();
    let clickhouse = shared().clickhouse(name);
    let run = async |sql: &str| clickhouse.client().query_raw(sql).execute().await.unwrap();
    run(chatledger_schemas::migrations::MIGRATIONS_DDL).await;
    for migration in &ALL[..3] {
        for statement in migration.statements() {
            run(&statement.sql).await;
        }
        let version = migration.version;
        run(&format!(
            "INSERT INTO schema_migrations (version, name) VALUES ({version}, '')"
        ))
        .await;
    }
    run(
        "INSERT INTO dead_letters (corp_id, seq, msgid, reason, error, key_version, sealed, \
         first_seen) VALUES ('ww1', 9, 'm9', 'bad_json', 'e', 1, '{}', 5)",
    )
    .await;
    (clickhouse, ALL[3].statements())
}

#[tokio::test]
async fn old_dead_letters_are_migrated_wherever_the_migration_was_interrupted() {
    let statements = ALL[3].statements().len();
    for done in 0..=statements {
        let (clickhouse, step) = before_migration_4(&format!("interrupted_{done}")).await;
        for statement in &step[..done] {
            let run = clickhouse.client().query_raw(&statement.sql).execute();
            run.await.unwrap();
        }
        clickhouse.migrate().await.unwrap();
        assert_eq!(open(&clickhouse).await, [(9, 0)], "{done} statements done");
        let replayed = [event(9, 1, Event::Replayed)];
        let insert = clickhouse.insert(SettledDeadLetters, "t", &replayed);
        insert.await.unwrap();
        assert_eq!(open(&clickhouse).await, [], "{done} statements done");
    }
}

#[tokio::test]
async fn dead_letters_settled_before_the_migration_is_repeated_stay_settled() {
    let (clickhouse, step) = before_migration_4("applied_twice").await;
    clickhouse.migrate().await.unwrap();
    let replayed = [event(9, 1, Event::Replayed)];
    let insert = clickhouse.insert(SettledDeadLetters, "t", &replayed);
    insert.await.unwrap();
    for statement in &step {
        let due = match &statement.when {
            Some(when) => number(&clickhouse, when).await > 0,
            None => true,
        };
        assert!(!due || statement.when.is_none(), "{}", statement.sql);
        if due {
            let run = clickhouse.client().query_raw(&statement.sql).execute();
            run.await.unwrap();
        }
    }
    assert_eq!(open(&clickhouse).await, []);
}

#[tokio::test]
async fn concurrent_migrations_keep_every_dead_letter() {
    let (first, _) = before_migration_4("concurrent").await;
    let clients: Vec<_> = (0..4).map(|_| shared().clickhouse("concurrent")).collect();
    let migrations = clients.iter().map(ClickHouse::migrate);
    for migrated in futures::future::join_all(migrations).await {
        migrated.unwrap();
    }
    assert_eq!(open(&first).await, [(9, 0)]);
}
