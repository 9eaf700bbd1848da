//! The basis of the pipeline's exactly-once delivery: tokens, complete bodies, acknowledged rows.

use std::path::Path;

use crate::support::{Server, http};

/// A table with three partitions that remembers tokens.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS default.t (a UInt64, p UInt8, s String) \
    ENGINE = ReplacingMergeTree PARTITION BY p ORDER BY a \
    SETTINGS non_replicated_deduplication_window = 1000";

/// Counts without merging: a row inserted twice counts twice.
const COUNT: &str = "SELECT count(), uniqExact(a) FROM default.t";

/// RowBinary rows `from..from + count`, spread over three partitions.
fn rows(from: u64, count: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for a in from..from + count {
        bytes.extend_from_slice(&a.to_le_bytes());
        bytes.push((a % 3) as u8);
        bytes.push(10);
        bytes.extend_from_slice(b"0123456789");
    }
    bytes
}

async fn start(dir: &Path) -> Server {
    let server = Server::start(dir);
    server.sql(TABLE).await;
    server
}

/// Inserts in chunks of `piece` bytes. Returns false if the server died before it answered.
async fn insert(server: &Server, token: &str, body: Vec<u8>, piece: usize) -> bool {
    let pieces: Vec<_> = body
        .chunks(piece)
        .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
        .collect();
    let sent = http()
        .post(&server.url)
        .query(&[
            ("query", "INSERT INTO default.t FORMAT RowBinary"),
            ("insert_deduplication_token", token),
        ])
        .body(reqwest::Body::wrap_stream(futures::stream::iter(pieces)))
        .send()
        .await;
    match sent {
        Ok(response) => {
            assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
            true
        }
        Err(_) => false,
    }
}

#[tokio::test]
async fn repeated_insert_changes_nothing_across_partitions_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    assert!(insert(&server, "batch 1", rows(0, 3000), 10_000).await);
    assert!(insert(&server, "batch 1", rows(0, 3000), 777).await);
    assert_eq!(server.sql(COUNT).await, "3000\t3000\n");
    server.stop();
    let server = start(dir.path()).await;
    assert!(insert(&server, "batch 1", rows(0, 3000), 5_000).await);
    assert_eq!(server.sql(COUNT).await, "3000\t3000\n");
    server.kill();
    let server = start(dir.path()).await;
    assert!(insert(&server, "batch 1", rows(0, 3000), 5_000).await);
    assert_eq!(server.sql(COUNT).await, "3000\t3000\n");
    // The token decides, not the rows.
    assert!(insert(&server, "batch 2", rows(0, 3000), 5_000).await);
    assert_eq!(server.sql(COUNT).await, "6000\t3000\n");
    assert_eq!(
        server.sql("SELECT count() FROM default.t FINAL").await,
        "3000\n"
    );
}

#[tokio::test]
async fn big_insert_is_one_part_in_each_partition() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    server.sql("SYSTEM STOP MERGES default.t").await;
    let parts = "SELECT count(), uniqExact(partition) FROM system.parts \
        WHERE database = 'default' AND table = 't' AND active";
    // 22 bytes a row: the body is 4.4 MB and spans many reads, sends and spool pieces.
    assert!(insert(&server, "big", rows(0, 200_000), 1 << 20).await);
    assert_eq!(server.sql(parts).await, "3\t3\n");
    // Larger than the memory limit: through the spool file.
    assert!(insert(&server, "bigger", rows(200_000, 500_000), 3_333_333).await);
    assert_eq!(server.sql(parts).await, "6\t3\n");
    assert!(insert(&server, "bigger", rows(200_000, 500_000), 100_000).await);
    assert_eq!(server.sql(COUNT).await, "700000\t700000\n");
}

#[tokio::test]
async fn incomplete_body_inserts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    let path = "/?query=INSERT+INTO+default.t+FORMAT+RowBinary&insert_deduplication_token=x";
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n");
    let body = rows(0, 1000);
    let half = &body[..22 * 500];
    let mut with_length = format!("{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    with_length.extend_from_slice(half);
    // Complete chunks and rows, but no last chunk.
    let mut chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..2 {
        chunked.extend_from_slice(format!("{:x}\r\n", half.len()).as_bytes());
        chunked.extend_from_slice(half);
        chunked.extend_from_slice(b"\r\n");
    }
    for incomplete in [with_length, chunked] {
        let answer = server.send_raw(&incomplete);
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
        assert_eq!(server.sql(COUNT).await, "0\t0\n");
    }
    // An incomplete row is an error, and no other row is stored.
    let answer = server
        .post(
            "query=INSERT+INTO+default.t+FORMAT+RowBinary",
            body[..body.len() - 3].to_vec(),
        )
        .await;
    assert_eq!(
        (answer.status, answer.code()),
        (500, 33),
        "{}",
        answer.text()
    );
    assert_eq!(server.sql(COUNT).await, "0\t0\n");
    // The token has not been used.
    assert!(insert(&server, "x", body, 1000).await);
    assert_eq!(server.sql(COUNT).await, "1000\t1000\n");
}

#[tokio::test]
async fn acknowledged_rows_survive_a_kill_right_after() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = 0;
    for round in 0..5 {
        let server = start(dir.path()).await;
        assert_eq!(
            server.sql("SELECT count() FROM default.t").await,
            format!("{expected}\n")
        );
        for piece in 0..3 {
            let token = format!("{round}-{piece}");
            assert!(insert(&server, &token, rows(expected, 999), 10_000).await);
            expected += 999;
        }
        server.kill();
    }
}

#[tokio::test]
async fn token_recorded_without_its_rows_does_not_suppress_the_repeat() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path()).await;
    server.sql("SYSTEM STOP MERGES default.t").await;
    for batch in 0..3 {
        assert!(insert(&server, &batch.to_string(), rows(batch * 300, 300), 1000).await);
    }
    let part = server
        .sql(
            "SELECT path FROM system.parts WHERE table = 't' AND active AND partition = '1' \
             ORDER BY name LIMIT 1 OFFSET 1",
        )
        .await;
    server.kill();
    // As if the process had been killed after the record was written and before the part was renamed.
    std::fs::remove_dir_all(part.trim_end()).unwrap();
    let server = start(dir.path()).await;
    assert_eq!(server.sql(COUNT).await, "800\t800\n");
    for batch in 0..3 {
        assert!(insert(&server, &batch.to_string(), rows(batch * 300, 300), 1000).await);
    }
    assert_eq!(server.sql(COUNT).await, "900\t900\n");
}

#[tokio::test]
async fn kills_at_any_moment_lose_and_duplicate_no_row() {
    const BATCHES: u64 = 60;
    const ROWS: u64 = 300;
    let dir = tempfile::tempdir().unwrap();
    let mut server = start(dir.path()).await;
    let mut kills = 0;
    for batch in 0..BATCHES {
        // Every third insert is killed a little later than the one before.
        if batch % 3 == 0 {
            let id = server.id().to_string();
            // The delay determines when the process is killed; it does not wait for anything.
            let delay = std::time::Duration::from_micros(400 * batch);
            let killer = tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                tokio::process::Command::new("kill")
                    .args(["-KILL", &id])
                    .status()
                    .await
            });
            insert(
                &server,
                &format!("batch {batch}"),
                rows(batch * ROWS, ROWS),
                2000,
            )
            .await;
            killer.await.unwrap().unwrap();
            assert!(!server.wait().success());
            kills += 1;
            server = start(dir.path()).await;
        }
        assert!(
            insert(
                &server,
                &format!("batch {batch}"),
                rows(batch * ROWS, ROWS),
                2000
            )
            .await
        );
    }
    assert_eq!(kills, 20);
    let expected = BATCHES * ROWS;
    assert_eq!(server.sql(COUNT).await, format!("{expected}\t{expected}\n"));
}
