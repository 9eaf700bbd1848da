//! Errors name the operation and have a class, and contain nothing of the rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fmt::Write;
use std::time::Duration;

use chatledger_clickhouse::code::CODES;
use chatledger_clickhouse::tables::Messages;
use chatledger_clickhouse::{ClickHouse, Error, Options, RequestError};
use chatledger_schemas::{Classified, FaultClass};
use support::{Engine, database, messages, number, options, options_of};

/// Formats the error and all its causes, as a log would.
fn chain(error: &Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        write!(text, " {error}").unwrap();
        cause = error.source();
    }
    text
}

async fn failed_insert(clickhouse: &ClickHouse) -> Error {
    let error = clickhouse
        .insert(Messages, "token", &messages(3, 1))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::Insert {
                table: "messages",
                ..
            }
        ),
        "{error:?}"
    );
    assert!(!chain(&error).contains("微信"), "{}", chain(&error));
    error
}

#[tokio::test]
async fn missing_host_is_retried() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let missing = ClickHouse::new(options(&format!("http://{address}"), "archive")).unwrap();
    let error = missing.ping().await.unwrap_err();
    assert!(
        matches!(error, Error::Ping(RequestError::Connection(_))),
        "{error:?}"
    );
    assert_eq!(error.class(), FaultClass::Retry);
    assert_eq!(failed_insert(&missing).await.class(), FaultClass::Retry);
}

#[tokio::test]
async fn silent_host_times_out() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = Options {
        timeout: Duration::from_millis(50),
        ..options(
            &format!("http://{}", listener.local_addr().unwrap()),
            "archive",
        )
    };
    let silent = ClickHouse::new(silent).unwrap();
    let error = silent.ping().await.unwrap_err();
    assert!(
        matches!(error, Error::Ping(RequestError::TimedOut)),
        "{error:?}"
    );
    assert_eq!(error.class(), FaultClass::Retry);
}

#[tokio::test]
async fn wrong_password_stops_and_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let credentials = [
        ("CLICKHOUSE_USER", "writer"),
        ("CLICKHOUSE_PASSWORD", "correct"),
    ];
    let engine = Engine::start_with(Some(dir.path()), &credentials);
    let right = ClickHouse::new(options_of(&engine.url, "writer", "correct")).unwrap();
    right.ping().await.unwrap();
    right.migrate().await.unwrap();
    let wrong = ClickHouse::new(options_of(&engine.url, "writer", "hunter2")).unwrap();
    let error = wrong.ping().await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Ping(RequestError::Exception {
                code: 516,
                name: "AUTHENTICATION_FAILED"
            })
        ),
        "{error:?}"
    );
    assert_eq!(error.class(), FaultClass::Stop);
    assert!(!chain(&error).contains("hunter2"));
    assert_eq!(failed_insert(&wrong).await.class(), FaultClass::Stop);
}

#[tokio::test]
async fn missing_table_stops_and_works_again_once_it_is_back() {
    let clickhouse = database().await;
    clickhouse
        .client()
        .query("RENAME TABLE messages TO away")
        .execute()
        .await
        .unwrap();
    let error = failed_insert(&clickhouse).await;
    assert!(chain(&error).contains("UNKNOWN_TABLE"), "{}", chain(&error));
    assert_eq!(error.class(), FaultClass::Stop);
    clickhouse
        .client()
        .query("RENAME TABLE away TO messages")
        .execute()
        .await
        .unwrap();
    clickhouse
        .insert(Messages, "token", &messages(3, 1))
        .await
        .unwrap();
}

#[tokio::test]
async fn changed_column_stops_and_works_again_once_it_is_repaired() {
    let clickhouse = database().await;
    clickhouse
        .insert(Messages, "first", &messages(3, 1))
        .await
        .unwrap();
    for (change, back) in [
        (
            "ALTER TABLE messages MODIFY COLUMN key_version UInt64",
            "ALTER TABLE messages MODIFY COLUMN key_version UInt32",
        ),
        (
            "ALTER TABLE messages RENAME COLUMN content TO texts",
            "ALTER TABLE messages RENAME COLUMN texts TO content",
        ),
    ] {
        // Once with the client's cached columns, once with fresh ones.
        clickhouse.client().query(change).execute().await.unwrap();
        for _ in 0..2 {
            let error = failed_insert(&clickhouse).await;
            assert_eq!(
                error.class(),
                FaultClass::Stop,
                "{change}: {}",
                chain(&error)
            );
        }
        clickhouse.client().query(back).execute().await.unwrap();
        clickhouse
            .insert(Messages, "token", &messages(3, 1))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn added_column_keeps_its_default() {
    let clickhouse = database().await;
    clickhouse
        .client()
        .query("ALTER TABLE messages ADD COLUMN note String DEFAULT 'none' FIRST")
        .execute()
        .await
        .unwrap();
    clickhouse
        .insert(Messages, "token", &messages(3, 1))
        .await
        .unwrap();
    let defaults = "SELECT count() FROM messages WHERE note = 'none' AND content = '加我微信'";
    assert_eq!(number(&clickhouse, defaults).await, 3);
}

#[tokio::test]
async fn value_refused_by_a_constraint_is_not_in_the_error() {
    let clickhouse = database().await;
    clickhouse
        .client()
        .query("ALTER TABLE messages ADD CONSTRAINT short CHECK length(content) < 3")
        .execute()
        .await
        .unwrap();
    let error = failed_insert(&clickhouse).await;
    assert!(
        chain(&error).contains("VIOLATED_CONSTRAINT"),
        "{}",
        chain(&error)
    );
    assert_eq!(error.class(), FaultClass::Stop);
}

#[tokio::test]
async fn listed_codes_have_the_names_of_the_engine() {
    let clickhouse = database().await;
    for (code, name, _) in CODES {
        let known: String = clickhouse
            .client()
            .query("SELECT toString(errorCodeToName(?))")
            .bind(code)
            .fetch_one()
            .await
            .unwrap();
        assert_eq!(known, *name, "{code}");
    }
}
