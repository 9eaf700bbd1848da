//! Behaviour towards clients, as of a real server: types, formats, bound values, errors, compression,
//! both ways to select a database.

use crate::support::{Answer, Server, http};
use clickhouse::Row;
use serde::{Deserialize, Serialize};

#[derive(Row, Serialize, Deserialize, Debug, Clone, PartialEq)]
struct Message {
    corp: String,
    seq: u64,
    /// Milliseconds since 1970, DateTime64(3).
    at: i64,
    kind: String,
    to: Vec<String>,
    spans: Vec<(u32, u32)>,
    note: Option<String>,
    version: u32,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS d.m (corp LowCardinality(String), seq UInt64, \
    at DateTime64(3, 'UTC'), kind LowCardinality(String), to Array(String), \
    spans Array(Tuple(UInt32, UInt32)), note Nullable(String), version UInt32) \
    ENGINE = ReplacingMergeTree(version) PARTITION BY toYYYYMM(at) ORDER BY (corp, seq) \
    SETTINGS non_replicated_deduplication_window = 1000";

fn message(seq: u64) -> Message {
    Message {
        corp: "ww0123".to_owned(),
        seq,
        at: 1_704_164_645_678 + (seq as i64) * 1000,
        kind: ["text", "image", "voice"][seq as usize % 3].to_owned(),
        to: (0..seq % 4).map(|to| format!("收件人-{to}")).collect(),
        spans: (0..seq as u32 % 3).map(|at| (at, at + 2)).collect(),
        note: seq
            .is_multiple_of(2)
            .then(|| "it's \t\\ \u{1f600}".to_owned()),
        version: 1,
    }
}

async fn insert(client: &clickhouse::Client, rows: impl IntoIterator<Item = Message>) {
    let mut insert = client.insert::<Message>("m").await.unwrap();
    for row in rows {
        insert.write(&row).await.unwrap();
    }
    insert.end().await.unwrap();
}

#[tokio::test]
async fn clickhouse_crate_round_trip_keeps_every_type() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let client = server.client();
    client.query("CREATE DATABASE d").execute().await.unwrap();
    client.query(TABLE).execute().await.unwrap();
    let client = client.with_database("d");
    let rows: Vec<_> = (0..10_000).map(message).collect();
    insert(&client, rows.clone()).await;
    let read: Vec<Message> = client
        .query("SELECT ?fields FROM m ORDER BY seq")
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(read, rows);
    let none: Vec<Message> = client
        .query("SELECT ?fields FROM m WHERE seq > 20000")
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(none, []);
    server.stop();
}

#[tokio::test]
async fn replacing_table_read_with_final_gives_the_last_version() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server.sql("CREATE DATABASE d").await;
    server.sql(TABLE).await;
    let client = server.client().with_database("d");
    insert(&client, (0..100).map(message)).await;
    let newer = (50..60).map(|seq| Message {
        version: 2,
        note: Some("new".to_owned()),
        ..message(seq)
    });
    insert(&client, newer).await;
    assert_eq!(server.sql("SELECT count() FROM d.m").await, "110\n");
    assert_eq!(
        server
            .sql("SELECT count(), countIf(note = 'new') FROM d.m FINAL")
            .await,
        "100\t10\n"
    );
}

#[tokio::test]
async fn bound_values_reach_the_statement_from_url_form_and_crate() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let answer = server
        .post(
            "param_a=5&param_b=it%27s%20%7Bx%7D",
            "SELECT {a:UInt8} + 1, {b:String}",
        )
        .await;
    assert_eq!(answer.text(), "6\tit\\'s {x}\n");
    // The crate sends bound values as a form.
    let text: String = server
        .client()
        .query("SELECT {a:String}")
        .param("a", "中文 'x' \n\t")
        .fetch_one()
        .await
        .unwrap();
    assert_eq!(text, "中文 'x' \n\t");
    // They are not visible to the next request.
    assert_eq!(server.post("", "SELECT {a:UInt8}").await.code(), 456);
}

#[tokio::test]
async fn errors_carry_code_status_and_text() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server
        .sql("CREATE TABLE default.t (a UInt8) ENGINE = MergeTree ORDER BY a")
        .await;
    let mut wrong = Vec::new();
    for (query, body, status, code, name) in [
        ("", "SELECT * FROM nowhere", 404, 60, "UNKNOWN_TABLE"),
        ("database=nowhere", "SELECT 1", 404, 81, "UNKNOWN_DATABASE"),
        ("", "SELECT nowhere", 404, 47, "UNKNOWN_IDENTIFIER"),
        ("", "SELECT nowhere(1)", 404, 46, "UNKNOWN_FUNCTION"),
        ("nonsense=1", "SELECT 1", 404, 115, "UNKNOWN_SETTING"),
        (
            "default_format=Nowhere",
            "SELECT 1",
            404,
            73,
            "UNKNOWN_FORMAT",
        ),
        ("", "SELEKT 1", 400, 62, "SYNTAX_ERROR"),
        ("", "", 400, 62, "SYNTAX_ERROR"),
        ("", "SELECT 1; SELECT 2", 400, 62, "SYNTAX_ERROR"),
        ("", "SELECT 1 + 'a'", 500, 43, "ILLEGAL_TYPE_OF_ARGUMENT"),
        ("", "SELECT toUInt8('x')", 400, 6, "CANNOT_PARSE_TEXT"),
        (
            "query=INSERT+INTO+t+FORMAT+CSV",
            "300000x\n",
            400,
            117,
            "INCORRECT_DATA",
        ),
        (
            "query=INSERT+INTO+nowhere+FORMAT+CSV",
            "1\n",
            404,
            60,
            "UNKNOWN_TABLE",
        ),
        (
            "",
            "CREATE TABLE default.t (a UInt8) ENGINE = Memory",
            500,
            57,
            "TABLE_ALREADY_EXISTS",
        ),
        ("", "SELECT throwIf(1)", 500, 395, ""),
        (
            "max_execution_time=1",
            "SELECT count() FROM numbers(1e12) WHERE sipHash64(number) = 1",
            408,
            159,
            "TIMEOUT_EXCEEDED",
        ),
        (
            "",
            "SELECT * FROM file('/etc/hosts', LineAsString)",
            403,
            497,
            "ACCESS_DENIED",
        ),
        (
            "",
            "SELECT * FROM url('http://127.0.0.1:1', CSV, 'a Int8')",
            403,
            497,
            "ACCESS_DENIED",
        ),
        (
            "",
            "SELECT 1 INTO OUTFILE '/tmp/x'",
            500,
            358,
            "INTO_OUTFILE_NOT_ALLOWED",
        ),
        ("compress=1", "SELECT 1", 501, 48, "NOT_IMPLEMENTED"),
    ] {
        let answer = server.post(query, body).await;
        let text = answer.text();
        if (answer.status, answer.code()) != (status, code)
            || !text.starts_with(&format!("Code: {code}. DB::Exception: "))
            || !text.contains(name)
            || !text.ends_with(")\n")
        {
            wrong.push(format!("{query} {body}: {} {text}", answer.status));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // In the crate, the text is the error.
    let error = server
        .client()
        .query("SELECT * FROM nowhere")
        .execute()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("UNKNOWN_TABLE"), "{error}");
}

#[tokio::test]
async fn get_requests_read_and_do_not_write() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let get = |query: &'static str| {
        let url = format!("{}/?{query}", server.url);
        async move { Answer::of(http().get(url)).await }
    };
    assert_eq!(get("query=SELECT+1").await.text(), "1\n");
    assert_eq!(get("query=SHOW+DATABASES").await.status, 200);
    let refused = get("query=CREATE+DATABASE+x").await;
    assert_eq!(refused.code(), 164, "{}", refused.text());
    assert_eq!(get("query=DROP+DATABASE+default").await.code(), 164);
    assert_eq!(
        server.post("readonly=1", "CREATE DATABASE x").await.code(),
        164
    );
    for path in ["", "/ping", "/replicas_status"] {
        let answer = Answer::of(http().get(format!("{}{path}", server.url))).await;
        assert_eq!(answer.text(), "Ok.\n");
    }
    let lost = Answer::of(http().get(format!("{}/nowhere", server.url))).await;
    assert_eq!(lost.status, 404);
}

#[tokio::test]
async fn responses_contain_format_query_id_and_summary() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let answer = server
        .post(
            "query_id=mine&default_format=JSONEachRow",
            "SELECT number FROM numbers(5)",
        )
        .await;
    assert_eq!(answer.header("x-clickhouse-query-id"), "mine");
    assert_eq!(answer.header("x-clickhouse-format"), "JSONEachRow");
    assert_eq!(answer.header("x-clickhouse-timezone"), "UTC");
    let summary: serde_json::Value =
        serde_json::from_str(answer.header("x-clickhouse-summary")).unwrap();
    assert_eq!(summary["result_rows"], "5");
    assert_eq!(answer.text().lines().count(), 5);
    let named = server
        .post("default_format=JSON", "SELECT 1 FORMAT CSV")
        .await;
    assert_eq!(named.header("x-clickhouse-format"), "CSV");
    let zoned = server
        .post("session_timezone=Asia/Shanghai", "SELECT timezone()")
        .await;
    assert_eq!(zoned.text(), "Asia/Shanghai\n");
    assert_eq!(zoned.header("x-clickhouse-timezone"), "Asia/Shanghai");
}

#[tokio::test]
async fn long_results_are_the_same_bytes_in_chunks_and_complete() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let sql = "SELECT number, toString(number) AS s, [number] AS a FROM numbers(300000)";
    for format in [
        "RowBinaryWithNamesAndTypes",
        "RowBinary",
        "Native",
        "JSONEachRow",
        "TabSeparated",
        "CSV",
    ] {
        let pieces = server.post(&format!("default_format={format}"), sql).await;
        let whole = server
            .post(&format!("default_format={format}&wait_end_of_query=1"), sql)
            .await;
        assert!(pieces.headers.get("content-length").is_none(), "{format}");
        assert!(whole.headers.get("content-length").is_some(), "{format}");
        assert!(whole.body.len() > 2_000_000, "{format}");
        // Native consists of blocks, which may differ, and so may its length.
        if format != "Native" {
            assert_eq!(pieces.body, whole.body, "{format}");
        }
    }
    let json: serde_json::Value =
        serde_json::from_slice(&server.post("default_format=JSON", sql).await.body).unwrap();
    assert_eq!(json["rows"], 300_000);
}

#[tokio::test]
async fn errors_in_the_middle_of_a_response_are_reported_and_the_response_is_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let sql = "SELECT number, throwIf(number = 4000000, 'too far') FROM numbers(10000000)";
    let mut rows = server.client().query(sql).fetch::<(u64, u8)>().unwrap();
    let error = loop {
        match rows.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the response looks complete"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("too far"), "{error}");
}

#[tokio::test]
async fn native_for_newer_clients_carries_the_same_columns() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let sql = "SELECT number, toLowCardinality(toString(number % 7)) AS l, \
        [toLowCardinality(toNullable('a')), NULL] AS la, map('k', [number]) AS m, \
        ([(toUInt32(1), toUInt32(2))], 'x')::Tuple(a Array(Tuple(UInt32, UInt32)), `b c` String) AS t, \
        if(number % 2, NULL, number) AS n, toDecimal128(1.5, 4) AS d, generateUUIDv4() AS u, \
        now64(3, 'UTC') AS dt, CAST('a, b', 'Enum8(\\'a, b\\' = 1, \\'it\\\\\\'s\\' = 2)') AS e, \
        toFixedString('abc', 5) AS f, [[1, 2], []]::Array(Array(Int16)) AS aa, true AS b, \
        toIPv6('::1') AS ip, (1., 2.)::Point AS p, INTERVAL 3 DAY AS i, NULL AS nothing \
        FROM numbers(1000)";
    let columns = 17;
    let plain = server.post("default_format=Native", sql).await;
    let newer = server
        .post("default_format=Native&client_protocol_version=54460", sql)
        .await;
    let older = server
        .post("default_format=Native&client_protocol_version=54405", sql)
        .await;
    for answer in [&plain, &newer, &older] {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // One block: its info is 8 bytes, and each column has one flag.
    assert_eq!(older.body.len(), plain.body.len() + 8);
    assert_eq!(newer.body.len(), plain.body.len() + 8 + columns);
    let unknown = server
        .post(
            "default_format=Native&client_protocol_version=54460",
            "SELECT 1::Variant(UInt8)",
        )
        .await;
    assert_eq!(
        (unknown.status, unknown.code()),
        (501, 48),
        "{}",
        unknown.text()
    );
}

#[tokio::test]
async fn compressed_bodies_are_inserted_and_damaged_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server
        .sql("CREATE TABLE default.t (a UInt64) ENGINE = MergeTree ORDER BY a")
        .await;
    let plain: Vec<u8> = (0..1000_u64).flat_map(u64::to_le_bytes).collect();
    let packed = zstd::encode_all(plain.as_slice(), 1).unwrap();
    let send = |body: Vec<u8>| {
        let url = format!(
            "{}/?query=INSERT+INTO+default.t+FORMAT+RowBinary",
            server.url
        );
        Answer::of(
            http()
                .post(url)
                .header("Content-Encoding", "zstd")
                .body(body),
        )
    };
    let truncated = send(packed[..packed.len() / 2].to_vec()).await;
    assert_eq!(truncated.status, 400, "{}", truncated.text());
    assert_eq!(server.sql("SELECT count() FROM default.t").await, "0\n");
    let complete = send(packed).await;
    assert_eq!(complete.status, 200, "{}", complete.text());
    let summary: serde_json::Value =
        serde_json::from_str(complete.header("x-clickhouse-summary")).unwrap();
    assert_eq!(summary["written_rows"], "1000");
    assert_eq!(
        server.sql("SELECT count(), sum(a) FROM default.t").await,
        "1000\t499500\n"
    );
}

#[tokio::test]
async fn inserts_read_their_data_from_text_body_or_both() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    server
        .sql("CREATE TABLE default.t (a UInt64, s String) ENGINE = Memory")
        .await;
    for (query, body) in [
        ("", "INSERT INTO t VALUES (1, 'one'), (1 + 1, upper('two'))"),
        ("query=INSERT+INTO+t+VALUES", "(3, 'three')"),
        ("query=INSERT+INTO+t+VALUES+(4,'four')", ""),
        ("", "INSERT INTO t FORMAT CSV\n5,five\n"),
        (
            "query=INSERT+INTO+t(s,a)+FORMAT+JSONEachRow",
            "{\"s\":\"six\",\"a\":6}",
        ),
        ("", "INSERT INTO t SELECT 7, 'seven'"),
        (
            "query=INSERT+INTO+t+SETTINGS+max_insert_block_size=1+FORMAT+TSV",
            "8\teight\n",
        ),
    ] {
        let answer = server.post(query, body).await;
        assert_eq!(answer.status, 200, "{query} {body}: {}", answer.text());
    }
    assert_eq!(
        server
            .sql("SELECT groupArray(s) FROM (SELECT s FROM t ORDER BY a)")
            .await,
        "['one','TWO','three','four','five','six','seven','eight']\n"
    );
}
