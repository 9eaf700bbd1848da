//! Start, stop, durability of data, and access.

use std::process::Stdio;
use std::time::Instant;

use crate::support::{ANY_PORT, Answer, DEADLINE, Server, http, serve_command};

#[tokio::test]
async fn data_is_kept_across_restarts_and_crashes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.sql("CREATE DATABASE d").await;
    server
        .sql("CREATE TABLE d.t (a UInt64) ENGINE = MergeTree ORDER BY a")
        .await;
    server
        .sql("CREATE TABLE default.u (a UInt64) ENGINE = MergeTree ORDER BY a")
        .await;
    server
        .sql("CREATE VIEW d.v AS SELECT sum(a) AS s FROM d.t")
        .await;
    server
        .sql("INSERT INTO d.t SELECT number FROM numbers(1000)")
        .await;
    server.sql("INSERT INTO default.u VALUES (1)").await;
    server.stop();
    let server = Server::start(dir.path());
    assert_eq!(server.sql("SELECT s FROM d.v").await, "499500\n");
    server.sql("INSERT INTO d.t VALUES (500)").await;
    server.kill();
    let server = Server::start(dir.path());
    assert_eq!(server.sql("SELECT s FROM d.v").await, "500000\n");
    assert_eq!(server.sql("SELECT count() FROM default.u").await, "1\n");
    server.stop();
}

#[tokio::test]
async fn termination_during_a_statement_is_clean_and_quick() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let url = server.url.clone();
    let slow = tokio::spawn(async move {
        let sql = "SELECT count() FROM numbers(1e15) WHERE sipHash64(number) = 1";
        Answer::of(http().post(url).body(sql)).await
    });
    let running = "SELECT count() FROM system.processes";
    server.wait_for(running, |running| running == "2").await;
    let requested = Instant::now();
    server.terminate();
    // The client gets an exception instead of a lost connection.
    let answer = slow.await.unwrap();
    assert_eq!(answer.code(), 394, "{}", answer.text());
    assert!(server.wait().success());
    assert!(requested.elapsed() < DEADLINE);
}

#[tokio::test]
async fn termination_lets_running_inserts_finish() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server
        .sql("CREATE TABLE default.t (a UInt64) ENGINE = MergeTree ORDER BY a")
        .await;
    let url = server.url.clone();
    let insert = tokio::spawn(async move {
        let sql = "INSERT INTO default.t SELECT number FROM numbers(3) WHERE sleepEachRow(0.5) = 0";
        Answer::of(http().post(url).body(sql)).await
    });
    server
        .wait_for("SELECT count() FROM system.processes", |running| {
            running == "2"
        })
        .await;
    server.terminate();
    let answer = insert.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(server.wait().success());
    let server = Server::start(dir.path());
    assert_eq!(server.sql("SELECT count() FROM default.t").await, "3\n");
}

#[tokio::test]
async fn one_process_at_a_time_uses_a_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let second = serve_command(dir.path(), ANY_PORT)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(!second.status.success());
    let output = String::from_utf8_lossy(&second.stderr);
    assert!(output.contains("in use by another process"), "{output}");
    assert!(
        output.contains(&format!("process {}", server.id())),
        "{output}"
    );
    assert_eq!(server.sql("SELECT 1").await, "1\n");
    // A crash releases the lock.
    server.kill();
    Server::start(dir.path()).stop();
}

#[tokio::test]
async fn credentials_are_accepted_in_every_form_clients_send() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--user", "reader", "--password", "pa:ss"]);
    let url = &server.url;
    let sql = "SELECT currentUser() != ''";
    for request in [
        http().post(format!("{url}/?user=reader&password=pa%3Ass")),
        http().post(url).basic_auth("reader", Some("pa:ss")),
        http()
            .post(url)
            .header("X-ClickHouse-User", "reader")
            .header("X-ClickHouse-Key", "pa:ss"),
    ] {
        let answer = Answer::of(request.body(sql)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let none = server.post("", sql).await;
    assert_eq!((none.status, none.code()), (401, 194));
    assert!(none.header("www-authenticate").starts_with("Basic"));
    for wrong in [
        "user=reader&password=pass",
        "user=default&password=pa%3Ass",
        "user=reader",
    ] {
        let answer = server.post(wrong, sql).await;
        assert_eq!((answer.status, answer.code()), (403, 516), "{wrong}");
    }
    let client = server.client().with_user("reader").with_password("pa:ss");
    assert_eq!(client.query("SELECT 1").fetch_one::<u8>().await.unwrap(), 1);
    // A health check needs no credentials.
    assert_eq!(
        Answer::of(http().get(format!("{url}/ping"))).await.status,
        200
    );
}

#[tokio::test]
async fn web_pages_of_other_sites_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let status = |name: &'static str, value: &'static str| {
        let request = http()
            .post(&server.url)
            .header(name, value)
            .body("SELECT 1");
        async move { Answer::of(request).await.status }
    };
    assert_eq!(status("Origin", "https://example.org").await, 403);
    assert_eq!(status("Sec-Fetch-Site", "cross-site").await, 403);
    assert_eq!(status("Host", "example.org").await, 403);
    assert_eq!(status("Origin", "http://localhost:3000").await, 200);
    assert_eq!(status("Host", "localhost:8123").await, 200);
}

#[tokio::test]
async fn failed_start_reports_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let not_a_library = dir.path().join("text");
    std::fs::write(&not_a_library, "text").unwrap();
    let listener = std::net::TcpListener::bind(ANY_PORT).unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let library = |path: &std::path::Path| ["--lib".into(), path.as_os_str().to_owned()];
    for (listen, arguments, reason) in [
        ("0.0.0.0:0", None, "without credentials"),
        (
            ANY_PORT,
            Some(library("/nowhere/libchdb.so".as_ref())),
            "deploy/local/fetch-libchdb",
        ),
        (
            ANY_PORT,
            Some(library(&not_a_library)),
            "cannot load libchdb",
        ),
        (&taken, None, "cannot listen on"),
    ] {
        let output = serve_command(dir.path(), listen)
            .args(arguments.into_iter().flatten())
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.contains(reason),
            "{stderr}"
        );
    }
}

#[tokio::test]
async fn no_log_tables_are_created_and_memory_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--max-memory-bytes", "1073741824"]);
    server.sql("SELECT 1").await;
    let logs = "SELECT count() FROM system.tables WHERE database = 'system' AND name LIKE '%_log'";
    assert_eq!(server.sql(logs).await, "0\n");
    let greedy = "SELECT length(groupArray(randomString(1000))) FROM numbers(10000000)";
    let answer = server.post("", greedy).await;
    assert_eq!(
        (answer.status, answer.code()),
        (500, 241),
        "{}",
        answer.text()
    );
    assert_eq!(server.sql("SELECT 1").await, "1\n");
}

#[tokio::test]
async fn requests_beyond_limits_are_refused_and_the_server_continues() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let status = |head: String| {
        let answer = server.send_raw(head.as_bytes());
        let line = answer.split(|byte| *byte == b'\r').next().unwrap();
        String::from_utf8_lossy(line).into_owned()
    };
    let long = format!(
        "GET /?query={} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "x".repeat(66_000)
    );
    assert!(status(long).contains(" 414 "));
    let many = "X-Header: x\r\n".repeat(150);
    assert!(status(format!("GET / HTTP/1.1\r\n{many}\r\n")).contains(" 431 "));
    let promised = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999\r\n\r\n";
    let answer = server.send_raw(promised.as_bytes());
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("QUERY_IS_TOO_LARGE"), "{answer}");
    let text = vec![b'('; 20 << 20];
    let answer = server.post("", text).await;
    assert_eq!(answer.code(), 229, "{}", answer.text());
    assert_eq!(server.sql("SELECT 1").await, "1\n");
}
