//! What is said about a failure: which operation, which class, and nothing of the rows.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fmt::Write;
use std::time::Duration;

use chatledger_clickhouse::code::CODES;
use chatledger_clickhouse::{ClickHouse, Error, Fault, Options};
use chatledger_schemas::{Classified, FaultClass};
use support::{Engine, database, messages, number, options, options_of};

/// The error and all its causes, as a log would have them.
fn told(error: &Error) -> String {
    let mut told = format!("{error} {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        write!(told, " {error}").unwrap();
        cause = error.source();
    }
    told
}

async fn failed_insert(clickhouse: &ClickHouse) -> Error {
    let error = clickhouse
        .insert_messages("token", &messages(3, 1))
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
    assert!(!told(&error).contains("微信"), "{}", told(&error));
    error
}

#[tokio::test]
async fn host_that_is_not_there_is_worth_another_try() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let nobody = ClickHouse::new(options(&format!("http://{address}"), "archive")).unwrap();
    let error = nobody.ping().await.unwrap_err();
    assert!(
        matches!(error, Error::Ping(Fault::Connection(_))),
        "{error:?}"
    );
    assert_eq!(error.class(), FaultClass::Retry);
    assert_eq!(failed_insert(&nobody).await.class(), FaultClass::Retry);
}

#[tokio::test]
async fn host_that_is_silent_is_given_up_after_the_timeout() {
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
    assert!(matches!(error, Error::Ping(Fault::TimedOut)), "{error:?}");
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
            Error::Ping(Fault::Exception {
                code: 516,
                name: "AUTHENTICATION_FAILED"
            })
        ),
        "{error:?}"
    );
    assert_eq!(error.class(), FaultClass::Stop);
    assert!(!told(&error).contains("hunter2"));
    assert_eq!(failed_insert(&wrong).await.class(), FaultClass::Stop);
}

#[tokio::test]
async fn table_that_is_gone_stops_and_serves_again_when_it_is_back() {
    let clickhouse = database().await;
    clickhouse
        .client()
        .query("RENAME TABLE messages TO away")
        .execute()
        .await
        .unwrap();
    let error = failed_insert(&clickhouse).await;
    assert!(told(&error).contains("UNKNOWN_TABLE"), "{}", told(&error));
    assert_eq!(error.class(), FaultClass::Stop);
    clickhouse
        .client()
        .query("RENAME TABLE away TO messages")
        .execute()
        .await
        .unwrap();
    clickhouse
        .insert_messages("token", &messages(3, 1))
        .await
        .unwrap();
}

#[tokio::test]
async fn column_of_another_type_stops_and_serves_again_when_it_is_put_right() {
    let clickhouse = database().await;
    clickhouse
        .insert_messages("first", &messages(3, 1))
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
        // Both with what the client has learnt about the table and afresh.
        clickhouse.client().query(change).execute().await.unwrap();
        for _ in 0..2 {
            let error = failed_insert(&clickhouse).await;
            assert_eq!(
                error.class(),
                FaultClass::Stop,
                "{change}: {}",
                told(&error)
            );
        }
        clickhouse.client().query(back).execute().await.unwrap();
        clickhouse
            .insert_messages("token", &messages(3, 1))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn column_that_somebody_added_is_left_to_its_default() {
    let clickhouse = database().await;
    clickhouse
        .client()
        .query("ALTER TABLE messages ADD COLUMN note String DEFAULT 'none' FIRST")
        .execute()
        .await
        .unwrap();
    clickhouse
        .insert_messages("token", &messages(3, 1))
        .await
        .unwrap();
    let noted = "SELECT count() FROM messages WHERE note = 'none' AND content = '加我微信'";
    assert_eq!(number(&clickhouse, noted).await, 3);
}

#[tokio::test]
async fn value_a_constraint_refuses_is_not_repeated_in_the_error() {
    let clickhouse = database().await;
    clickhouse
        .client()
        .query("ALTER TABLE messages ADD CONSTRAINT short CHECK length(content) < 3")
        .execute()
        .await
        .unwrap();
    let error = failed_insert(&clickhouse).await;
    assert!(
        told(&error).contains("VIOLATED_CONSTRAINT"),
        "{}",
        told(&error)
    );
    assert_eq!(error.class(), FaultClass::Stop);
}

#[tokio::test]
async fn listed_codes_have_the_engines_names() {
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
