//! Concurrent requests do not affect each other.

use std::time::Instant;

use crate::support::{Answer, DEADLINE, Server, http};

/// A statement that runs until it is ended.
const ENDLESS: &str = "SELECT count() FROM numbers(1e15) WHERE sipHash64(number) = 1";

const RUNNING: &str = "SELECT count() FROM system.processes WHERE query LIKE '%1e15%' \
    AND query NOT LIKE '%processes%'";

#[tokio::test]
async fn slow_statements_do_not_delay_quick_ones() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let slow = {
        let url = server.url.clone();
        tokio::spawn(async move { http().post(url).body(ENDLESS).send().await })
    };
    server.wait_for(RUNNING, |running| running == "1").await;
    let quick: Vec<_> = (0..8_u32)
        .map(|client| {
            let url = server.url.clone();
            tokio::spawn(async move {
                for round in 0..20 {
                    let sql = format!("SELECT {client} * 1000 + {round}");
                    let answer = Answer::of(http().post(&url).body(sql)).await;
                    assert_eq!(answer.text(), format!("{}\n", client * 1000 + round));
                }
            })
        })
        .collect();
    for client in quick {
        tokio::time::timeout(DEADLINE, client)
            .await
            .unwrap()
            .unwrap();
    }
    assert!(!slow.is_finished());
    slow.abort();
}

#[tokio::test]
async fn reading_statements_end_when_their_client_disconnects() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    for sql in [
        ENDLESS,
        "SELECT number FROM numbers(1e15) WHERE number % 10 = 1",
    ] {
        let url = server.url.clone();
        let client = tokio::spawn(async move { http().post(url).body(sql).send().await });
        server.wait_for(RUNNING, |running| running == "1").await;
        client.abort();
        drop(client.await);
        server.wait_for(RUNNING, |running| running == "0").await;
    }
}

#[tokio::test]
async fn settings_databases_and_temporary_tables_do_not_leak() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--connections", "2"]);
    server.sql("CREATE DATABASE d").await;
    let probe = "SELECT getSetting('max_block_size'), currentDatabase()";
    let before = server.sql(probe).await;
    let other = server.post("max_block_size=1234&database=d", probe).await;
    assert_eq!(other.text(), "1234\td\n");
    server.sql("SET max_block_size = 77").await;
    server.sql("USE d").await;
    server.sql("CREATE TEMPORARY TABLE mine (a UInt8)").await;
    let clients: Vec<_> = (0..8_u32)
        .map(|client| {
            let (url, before) = (server.url.clone(), before.clone());
            tokio::spawn(async move {
                for round in 0..20 {
                    let own = 1000 + client * 100 + round;
                    let request = http()
                        .post(format!("{url}/?max_block_size={own}&database=d"))
                        .body(probe);
                    assert_eq!(Answer::of(request).await.text(), format!("{own}\td\n"));
                    let plain = Answer::of(http().post(&url).body(probe)).await;
                    assert_eq!(plain.text(), before);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(server.post("", "SELECT * FROM mine").await.code(), 60);
}

#[tokio::test]
async fn sessions_keep_only_what_is_set_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.sql("CREATE DATABASE d").await;
    let request = async |query: &str, sql: &'static str| {
        let answer = server.post(&format!("session_id=s&{query}"), sql).await;
        assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
        answer.text()
    };
    let probe =
        "SELECT getSetting('max_block_size'), getSetting('max_threads') > 0, currentDatabase()";
    let plain = server.sql(probe).await;
    request("", "SET max_block_size = 77").await;
    request("", "CREATE TEMPORARY TABLE mine (a UInt8)").await;
    request("", "INSERT INTO mine VALUES (5)").await;
    assert_eq!(request("", "SELECT a FROM mine").await, "5\n");
    // Parameters of the URL apply to one request, also in a session.
    assert_eq!(
        request("max_block_size=88&max_threads=1&database=d", probe).await,
        "88\t1\td\n"
    );
    assert_eq!(request("", probe).await, "77\t1\tdefault\n");
    assert_eq!(server.sql(probe).await, plain);
    // A failed request does not change the session.
    assert_eq!(
        server
            .post("session_id=s&max_block_size=9&database=d", "SELECT x")
            .await
            .code(),
        47
    );
    assert_eq!(
        server
            .post("session_id=s&nonsense=9&database=d", "SELECT 1")
            .await
            .code(),
        115
    );
    assert_eq!(request("", probe).await, "77\t1\tdefault\n");
    request("close_session=1", "SELECT 1").await;
    assert_eq!(
        server
            .post("session_id=s&session_check=1", "SELECT 1")
            .await
            .code(),
        372
    );
}

#[tokio::test]
async fn session_serves_one_request_at_a_time_and_expires() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let slow = {
        let url = format!("{}/?session_id=s", server.url);
        tokio::spawn(async move { http().post(url).body(ENDLESS).send().await })
    };
    server.wait_for(RUNNING, |running| running == "1").await;
    assert_eq!(server.post("session_id=s", "SELECT 1").await.code(), 373);
    slow.abort();
    // When its client has disconnected, the session becomes free; then it expires at once.
    let end = Instant::now() + DEADLINE;
    let again = "session_id=s&session_check=1&session_timeout=0";
    while server.post(again, "SELECT 1").await.code() == 373 {
        assert!(Instant::now() < end, "the session stays locked");
    }
    assert_eq!(server.post(again, "SELECT 1").await.code(), 372);
}
