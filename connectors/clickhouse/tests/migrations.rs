//! A database is migrated to the program's schema, by one process or several, and is left alone if
//! it is newer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use chatledger_clickhouse::tables::Messages;
use chatledger_clickhouse::{ClickHouse, Error, Migrated, TABLES};
use chatledger_schemas::migrations::{self, LATEST};
use chatledger_schemas::{Classified, FaultClass};
use support::{database, message, number, shared};

const TABLES_OF_DATABASE: &str =
    "SELECT count() FROM system.tables WHERE database = currentDatabase()";

#[tokio::test]
async fn second_migration_changes_nothing() {
    let clickhouse = shared().clickhouse("twice");
    let first = clickhouse.migrate().await.unwrap();
    assert_eq!(
        first,
        Migrated {
            from: 0,
            to: LATEST
        }
    );
    let tables = number(&clickhouse, TABLES_OF_DATABASE).await;
    clickhouse
        .insert(Messages, "token", &[message(1, 0)])
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
    assert_eq!(number(&clickhouse, TABLES_OF_DATABASE).await, tables);
    assert_eq!(number(&clickhouse, "SELECT count() FROM messages").await, 1);
    let recorded = "SELECT count() FROM schema_migrations";
    assert_eq!(number(&clickhouse, recorded).await, u64::from(LATEST));
}

#[tokio::test]
async fn concurrent_migrations_end_in_the_same_schema() {
    let clients: Vec<_> = (0..6).map(|_| shared().clickhouse("at_once")).collect();
    for result in futures::future::join_all(clients.iter().map(ClickHouse::migrate)).await {
        assert_eq!(result.unwrap().to, LATEST);
    }
    let recorded = "SELECT count() FROM schema_migrations FINAL";
    assert_eq!(number(&clients[0], recorded).await, u64::from(LATEST));
    clients[0]
        .insert(Messages, "token", &[message(1, 0)])
        .await
        .unwrap();
}

#[tokio::test]
async fn interrupted_migration_is_completed() {
    let clickhouse = shared().clickhouse("interrupted");
    let server = shared().clickhouse("default");
    server
        .client()
        .query("CREATE DATABASE interrupted")
        .execute()
        .await
        .unwrap();
    // The process died after the first table of the first migration, before it was recorded.
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
async fn newer_schema_is_refused_and_not_changed() {
    let clickhouse = shared().clickhouse("newer");
    clickhouse.migrate().await.unwrap();
    clickhouse
        .client()
        .query("INSERT INTO schema_migrations (version, name) VALUES (?, 'future')")
        .bind(LATEST + 1)
        .execute()
        .await
        .unwrap();
    let tables = number(&clickhouse, TABLES_OF_DATABASE).await;
    let error = clickhouse.migrate().await.unwrap_err();
    assert!(
        matches!(error, Error::SchemaTooNew { found, known } if found == LATEST + 1 && known == LATEST),
        "{error:?}"
    );
    assert_eq!(error.class(), FaultClass::Stop);
    assert_eq!(number(&clickhouse, TABLES_OF_DATABASE).await, tables);
}

#[tokio::test]
async fn every_table_is_listed_with_the_columns_and_token_memory_it_has() {
    let clickhouse = database().await;
    for table in TABLES {
        let columns: Vec<String> = clickhouse
            .client()
            .query(
                "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = ?",
            )
            .bind(table.name)
            .fetch_all()
            .await
            .unwrap();
        for column in table.columns {
            let found = columns.iter().any(|name| name == column);
            assert!(found, "{}: {column}", table.name);
        }
        let remembers = format!(
            "{TABLES_OF_DATABASE} AND name = '{}' \
             AND engine_full LIKE '%non_replicated_deduplication_window%'",
            table.name
        );
        let remembers = number(&clickhouse, &remembers).await > 0;
        assert_eq!(remembers, table.remembers_tokens, "{}", table.name);
    }
    let others = format!(
        "{TABLES_OF_DATABASE} AND name != '{}'",
        migrations::MIGRATIONS_TABLE
    );
    assert_eq!(number(&clickhouse, &others).await, TABLES.len() as u64);
}

#[tokio::test]
async fn ping_needs_no_database() {
    shared().clickhouse("not_there").ping().await.unwrap();
}
