//! A database is brought to the program's schema, once or twice or by several at a time, and left
//! alone when it is newer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use chatledger_clickhouse::{ClickHouse, Error, Migrated};
use chatledger_schemas::migrations::{self, LATEST};
use chatledger_schemas::{Classified, FaultClass};
use support::{message, number, shared};

const TABLES: &str = "SELECT count() FROM system.tables WHERE database = currentDatabase()";

#[tokio::test]
async fn migrating_twice_does_it_once() {
    let clickhouse = shared().clickhouse("twice");
    let first = clickhouse.migrate().await.unwrap();
    assert_eq!(
        first,
        Migrated {
            from: 0,
            to: LATEST
        }
    );
    let tables = number(&clickhouse, TABLES).await;
    clickhouse
        .insert_messages("token", &[message(1, 0)])
        .await
        .unwrap();
    let second = clickhouse.migrate().await.unwrap();
    assert_eq!(
        second,
        Migrated {
            from: LATEST,
            to: LATEST
        }
    );
    assert_eq!(number(&clickhouse, TABLES).await, tables);
    assert_eq!(number(&clickhouse, "SELECT count() FROM messages").await, 1);
    let noted = "SELECT count() FROM schema_migrations";
    assert_eq!(number(&clickhouse, noted).await, u64::from(LATEST));
}

#[tokio::test]
async fn migrating_several_at_once_ends_in_the_same_schema() {
    let clients: Vec<_> = (0..6).map(|_| shared().clickhouse("at_once")).collect();
    for result in futures::future::join_all(clients.iter().map(ClickHouse::migrate)).await {
        assert_eq!(result.unwrap().to, LATEST);
    }
    let noted = "SELECT count() FROM schema_migrations FINAL";
    assert_eq!(number(&clients[0], noted).await, u64::from(LATEST));
    clients[0]
        .insert_messages("token", &[message(1, 0)])
        .await
        .unwrap();
}

#[tokio::test]
async fn migration_that_was_cut_off_is_taken_up_again() {
    let clickhouse = shared().clickhouse("cut_off");
    let server = shared().clickhouse("default");
    server
        .client()
        .query("CREATE DATABASE cut_off")
        .execute()
        .await
        .unwrap();
    // Died after the first table of the first step, before the step was noted.
    let first = &migrations::ALL[0].statements()[0];
    clickhouse
        .client()
        .query_raw(&first.sql)
        .execute()
        .await
        .unwrap();
    let migrated = clickhouse.migrate().await.unwrap();
    assert_eq!(
        migrated,
        Migrated {
            from: 0,
            to: LATEST
        }
    );
}

#[tokio::test]
async fn newer_schema_is_refused_and_left_alone() {
    let clickhouse = shared().clickhouse("newer");
    clickhouse.migrate().await.unwrap();
    clickhouse
        .client()
        .query("INSERT INTO schema_migrations (version, name) VALUES (?, 'of tomorrow')")
        .bind(LATEST + 1)
        .execute()
        .await
        .unwrap();
    let tables = number(&clickhouse, TABLES).await;
    let error = clickhouse.migrate().await.unwrap_err();
    assert!(
        matches!(error, Error::SchemaTooNew { found, known } if found == LATEST + 1 && known == LATEST),
        "{error:?}"
    );
    assert_eq!(error.class(), FaultClass::Stop);
    assert_eq!(number(&clickhouse, TABLES).await, tables);
}

#[tokio::test]
async fn ping_needs_no_database() {
    shared().clickhouse("not_there").ping().await.unwrap();
}
