//! What clients cannot reach: files, other machines, programs, and the server of another user.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::support::{Answer, DEADLINE, Server, http};

/// Text of a file outside the data directory.
const MARKER: &str = "content-that-no-client-may-read";

/// What stands between two words of an attack. The engine takes each of these for a blank.
const BLANKS: &[&str] = &[
    " ",
    "\t",
    "\n",
    "\r\n",
    "\u{b}",
    "\u{c}",
    "\u{a0}",
    "\u{2003}",
    "\u{200b}",
    "\u{3000}",
    "\u{feff}",
    "/**/",
    " /* a /* b */ c */ ",
    " -- x\n",
    " # x\n",
];

/// Statements that read `{FILE}`, write `{OUT}`, or connect to `{PORT}`.
const ATTACKS: &[&str] = &[
    // Files, read by functions.
    "SELECT file('{FILE}')",
    "SELECT FILE ('{FILE}')",
    "SELECT `file`('{FILE}')",
    "SELECT \"file\"('{FILE}')",
    "SELECT $$x$$, file($${FILE}$$)",
    "SELECT file(concat('{FILE}', ''))",
    "SELECT arrayMap(file, ['{FILE}'])",
    "SELECT arrayMap(x -> file(x), ['{FILE}'])",
    "SELECT * APPLY(file) FROM (SELECT '{FILE}')",
    "SELECT * APPLY file FROM (SELECT '{FILE}')",
    "SELECT COLUMNS('.*') APPLY(x -> file(x)) FROM (SELECT '{FILE}')",
    "SELECT * REPLACE (file(a) AS a) FROM (SELECT '{FILE}' AS a)",
    "SELECT 1 WHERE file('{FILE}') != ''",
    "SELECT throwIf(1, file('{FILE}'))",
    "SELECT 1 ORDER BY file('{FILE}')",
    "SELECT (SELECT file('{FILE}'))",
    "WITH file('{FILE}') AS f SELECT f",
    "SELECT 1 UNION ALL SELECT length(file('{FILE}'))",
    "SELECT if(1, file('{FILE}'), '')",
    "SELECT dictGet('d', 'b', toUInt64(length(file('{FILE}'))))",
    "SELECT catboostEvaluate('{FILE}', 1)",
    "SELECT * FROM format(LineAsString, file('{FILE}'))",
    "EXPLAIN PLAN SELECT file('{FILE}')",
    "EXPLAIN SYNTAX run_query_tree_passes = 1 SELECT file('{FILE}')",
    "DESCRIBE (SELECT file('{FILE}'))",
    "CREATE VIEW v AS SELECT file('{FILE}')",
    "CREATE TABLE k (a String) ENGINE = Memory AS SELECT file('{FILE}')",
    "CREATE TABLE k (a String DEFAULT file('{FILE}')) ENGINE = Memory",
    "CREATE FUNCTION f AS x -> file(x)",
    "INSERT INTO t SELECT file('{FILE}')",
    "INSERT INTO t VALUES (file('{FILE}'))",
    "INSERT INTO t (a) VALUES (concat(file('{FILE}'), 'x'))",
    "ALTER TABLE t UPDATE a = file('{FILE}') WHERE 1",
    "ALTER TABLE t MODIFY COLUMN a String DEFAULT file('{FILE}')",
    "DELETE FROM t WHERE file('{FILE}') = a",
    "KILL QUERY WHERE file('{FILE}') = query_id",
    "SET param_f = 'file'",
    // Files, read by table functions, engines, databases and dictionaries.
    "SELECT * FROM file('{FILE}', LineAsString)",
    "SELECT * FROM `file`('{FILE}', LineAsString)",
    "SELECT * FROM fileCluster('default', '{FILE}', LineAsString)",
    "SELECT * FROM view(SELECT * FROM file('{FILE}', LineAsString))",
    "SELECT * FROM sqlite('{FILE}', 't')",
    "SELECT * FROM executable('cat', LineAsString, 'a String')",
    "SELECT * FROM filesystem('{FILE}')",
    "SELECT * FROM icebergLocal('{FILE}')",
    "SELECT * FROM deltaLakeLocal('{FILE}')",
    "SELECT * FROM paimonLocal('{FILE}')",
    "SELECT * FROM eval('SELECT file(''{FILE}'')')",
    "SELECT * FROM loop(file('{FILE}', LineAsString)) LIMIT 1",
    "CREATE TABLE k (a String) ENGINE = File(LineAsString, '{FILE}')",
    "CREATE TABLE k (a String) ENGINE = `File`(LineAsString, '{FILE}')",
    "CREATE TABLE k ENGINE = FileLog('{FILE}', 'LineAsString')",
    "CREATE TABLE k (a String) ENGINE = SQLite('{FILE}', 't')",
    "CREATE TABLE k (a String) ENGINE = Executable('cat {FILE}', LineAsString)",
    "CREATE TABLE k (a String) ENGINE = ExecutablePool('cat {FILE}', LineAsString)",
    "CREATE TABLE k ENGINE = IcebergLocal('{FILE}')",
    "CREATE TABLE k (a String) ENGINE = EmbeddedRocksDB(0, '{OUT}') PRIMARY KEY a",
    "CREATE DATABASE k ENGINE = Filesystem('/')",
    "CREATE DATABASE k ENGINE = SQLite('{FILE}')",
    "CREATE DATABASE k ENGINE = Backup('t', File('{FILE}'))",
    "CREATE DICTIONARY d (k UInt64, b String) PRIMARY KEY k SOURCE(FILE(PATH '{FILE}' FORMAT 'LineAsString')) LAYOUT(FLAT()) LIFETIME(0)",
    "CREATE DICTIONARY d (k UInt64, b String) PRIMARY KEY k SOURCE(EXECUTABLE(COMMAND 'cat {FILE}' FORMAT 'TSV')) LAYOUT(FLAT()) LIFETIME(0)",
    "CREATE DICTIONARY d (k UInt64, b String) PRIMARY KEY k SOURCE(CLICKHOUSE(QUERY 'SELECT 1, file(''{FILE}'')')) LAYOUT(FLAT()) LIFETIME(0)",
    "CREATE DICTIONARY d (k UInt64, b String) PRIMARY KEY k SOURCE(CLICKHOUSE(TABLE 't' WHERE 'file(''{FILE}'') = a')) LAYOUT(FLAT()) LIFETIME(0)",
    "ATTACH TABLE k FROM '{FILE}' (a String) ENGINE = Log",
    "CREATE TABLE k (a String) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = local, path = '{OUT}/')",
    "CREATE TABLE k AS file('{FILE}', LineAsString)",
    "CREATE TABLE k CLONE AS file('{FILE}', LineAsString)",
    // Files, through formats and settings.
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '{FILE}'",
    "SELECT 1 FORMAT Template SETTINGS format_template_resultset = '{FILE}'",
    "SELECT 1 SETTINGS format_schema = '{FILE}' FORMAT Protobuf",
    "SELECT 1 FORMAT CapnProto SETTINGS format_schema = '{FILE}:a'",
    "SELECT 1 SETTINGS additional_result_filter = 'file(''{FILE}'') = 1'",
    "SELECT * FROM t SETTINGS additional_table_filters = {'t': 'file(''{FILE}'') = a'}",
    "SELECT 1 SETTINGS dialect = 'kusto'",
    "SET allow_introspection_functions = 1",
    "INSERT INTO t FROM INFILE '{FILE}' FORMAT LineAsString",
    "INSERT INTO t FORMAT Template",
    // Files, written.
    "SELECT 1 INTO OUTFILE '{OUT}'",
    "SELECT 1 INTO OUTFILE '{OUT}' FORMAT CSV",
    "SELECT 1 INTO OUTFILE '{OUT}' APPEND FORMAT CSV",
    "(SELECT 1) INTO OUTFILE '{OUT}' TRUNCATE",
    "SELECT 1 UNION ALL SELECT 2 INTO OUTFILE '{OUT}' COMPRESSION 'none'",
    "SHOW TABLES INTO OUTFILE '{OUT}'",
    "EXPLAIN SELECT 1 INTO OUTFILE '{OUT}'",
    "INSERT INTO FUNCTION file('{OUT}', LineAsString) SELECT 'x'",
    "INSERT INTO TABLE FUNCTION file('{OUT}', LineAsString) VALUES ('x')",
    "BACKUP TABLE t TO File('{OUT}')",
    "BACKUP TABLE t TO Disk('default', '{OUT}')",
    "RESTORE TABLE k FROM File('{FILE}')",
    "ALTER TABLE t EXPORT PARTITION ALL TO TABLE FUNCTION file('{OUT}', CSV)",
    // Other machines.
    "SELECT * FROM url('http://127.0.0.1:{PORT}/', LineAsString)",
    "SELECT * FROM urlCluster('default', 'http://127.0.0.1:{PORT}/', LineAsString)",
    "SELECT * FROM s3('http://127.0.0.1:{PORT}/a/b', 'CSV', 'a String')",
    "SELECT * FROM gcs('http://127.0.0.1:{PORT}/a/b', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1:{PORT}', system.one)",
    "SELECT * FROM remoteSecure('127.0.0.1:{PORT}', system.one)",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM mysql('127.0.0.1:{PORT}', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:{PORT}', 'a', 'b', 'c', 'd')",
    "SELECT * FROM mongodb('127.0.0.1:{PORT}', 'a', 'b', 'c', 'd', 'e String')",
    "SELECT * FROM redis('127.0.0.1:{PORT}', 'a', 'a String')",
    "SELECT * FROM hdfs('hdfs://127.0.0.1:{PORT}/a', 'CSV', 'a String')",
    "SELECT * FROM azureBlobStorage('http://127.0.0.1:{PORT}', 'a', 'b')",
    "SELECT * FROM prometheusQuery('http://127.0.0.1:{PORT}', 'a', 'b')",
    "SELECT aiGenerate('http://127.0.0.1:{PORT}')",
    "SELECT hasColumnInTable('127.0.0.1:{PORT}', 'a', 'b', 'c', 'd', 'e')",
    "INSERT INTO FUNCTION url('http://127.0.0.1:{PORT}/', LineAsString) SELECT 'x'",
    "INSERT INTO t VALUES ((SELECT count() FROM url('http://127.0.0.1:{PORT}/', LineAsString)))",
    "CREATE TABLE k (a String) ENGINE = URL('http://127.0.0.1:{PORT}/', LineAsString)",
    "CREATE TABLE k (a String) ENGINE = S3('http://127.0.0.1:{PORT}/a/b', 'CSV')",
    "CREATE TABLE k (a String) ENGINE = MySQL('127.0.0.1:{PORT}', 'a', 'b', 'c', 'd')",
    "CREATE TABLE k (a String) ENGINE = Kafka('127.0.0.1:{PORT}', 'a', 'b', 'CSV')",
    "CREATE TABLE k (a String) ENGINE = Distributed('default', 'default', 't')",
    "CREATE TABLE k (a String) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = s3, endpoint = 'http://127.0.0.1:{PORT}/a/')",
    "ALTER TABLE t MODIFY SETTING disk = disk(type = web, endpoint = 'http://127.0.0.1:{PORT}/a/')",
    "CREATE DATABASE k ENGINE = MySQL('127.0.0.1:{PORT}', 'a', 'b', 'c')",
    "CREATE DATABASE k ENGINE = DataLakeCatalog('http://127.0.0.1:{PORT}')",
    "CREATE DICTIONARY d (k UInt64, b String) PRIMARY KEY k SOURCE(HTTP(URL 'http://127.0.0.1:{PORT}/' FORMAT 'TSV')) LAYOUT(FLAT()) LIFETIME(0)",
    "CREATE DICTIONARY d (k UInt64, b String) PRIMARY KEY k SOURCE(CLICKHOUSE(HOST '127.0.0.1' PORT {PORT} TABLE 't')) LAYOUT(FLAT()) LIFETIME(0)",
    "CREATE OR REPLACE DICTIONARY d (k UInt64, b String) PRIMARY KEY k SOURCE(REDIS(HOST '127.0.0.1' PORT {PORT})) LAYOUT(FLAT()) LIFETIME(0)",
    "BACKUP TABLE t TO S3('http://127.0.0.1:{PORT}/a', 'b', 'c')",
    "CREATE NAMED COLLECTION c AS url = 'http://127.0.0.1:{PORT}/'",
    // The server itself.
    "SYSTEM SHUTDOWN",
    "SYSTEM KILL",
    "SYSTEM RELOAD CONFIG",
    "GRANT ALL ON *.* TO default",
    "CREATE USER u",
    "ALTER USER default IDENTIFIED BY 'x'",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "SELECT 1 SETTINGS max_execution_time = 86400",
];

#[tokio::test]
async fn no_statement_reads_or_writes_a_file_or_connects() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let (file, out) = (
        outside.path().join("secret"),
        outside.path().join("written"),
    );
    std::fs::write(&file, MARKER).unwrap();
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let port = trap.local_addr().unwrap().port().to_string();
    let server = Server::start(dir.path());
    server
        .sql("CREATE TABLE t (a String) ENGINE = MergeTree ORDER BY a")
        .await;
    let mut wrong = Vec::new();
    let mut tried = 0;
    for attack in ATTACKS {
        let attack = attack
            .replace("{FILE}", file.to_str().unwrap())
            .replace("{OUT}", out.to_str().unwrap())
            .replace("{PORT}", &port);
        for blank in BLANKS {
            let text = attack.replace(' ', blank);
            let answer = server.post("", text.clone()).await;
            tried += 1;
            if answer.status == 200 || answer.text().contains(MARKER) {
                wrong.push(format!("{text:?}: {} {}", answer.status, answer.text()));
            }
        }
        assert!(!out.exists(), "{attack}: a file was written");
        assert!(trap.accept().is_err(), "{attack}: a connection was opened");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 1500, "{tried}");
    // Parameters of the URL.
    for (query, text) in [
        ("param_f=file", "SELECT arrayMap({f:Identifier}, ['x'])"),
        ("dialect=kusto", "SELECT 1"),
        ("default_format=Template", "SELECT 1"),
        ("max_execution_time=0", "SELECT 1"),
        ("additional_result_filter=file('x')%3D1", "SELECT 1"),
    ] {
        let answer = server.post(query, text).await;
        assert_ne!(answer.status, 200, "{query}");
    }
    assert_eq!(server.sql("SELECT count() FROM t").await, "0\n");
}

/// The kernel refuses what the list of statements cannot see.
#[tokio::test]
async fn process_is_confined_by_the_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("secret");
    std::fs::write(&file, MARKER).unwrap();
    let server = Server::start(dir.path());
    server
        .sql("CREATE TABLE t (a String) ENGINE = MergeTree ORDER BY a")
        .await;
    let insert = format!("INSERT INTO t VALUES (file('{}'))", file.display());
    let answer = server.post("", insert).await;
    assert!(
        answer.text().contains("Permission denied"),
        "{}",
        answer.text()
    );
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }
}

#[tokio::test]
async fn every_function_of_the_engine_is_allowed_or_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let names = server
        .sql(
            "SELECT name FROM system.functions WHERE NOT startsWith(name, '__') \
             UNION ALL SELECT name FROM system.data_type_families",
        )
        .await;
    let lists = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/policy");
    let known = std::fs::read_to_string(lists.join("functions.txt")).unwrap()
        + &std::fs::read_to_string(lists.join("lists.rs")).unwrap();
    let known: std::collections::HashSet<_> = known
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .collect();
    let unknown: Vec<_> = names
        .lines()
        .map(str::to_ascii_lowercase)
        .filter(|name| !known.contains(name.as_str()) && !name.contains(' '))
        .collect();
    assert!(
        unknown.is_empty(),
        "add to src/policy/functions.txt, or to REFUSED_FUNCTIONS if it reaches outside: {unknown:?}"
    );
}

#[tokio::test]
async fn long_queries_do_not_hold_up_inserts() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--connections", "2"]);
    server
        .sql("CREATE TABLE t (a String) ENGINE = MergeTree ORDER BY a")
        .await;
    let client = http();
    let queries: Vec<_> = (0..40)
        .map(|_| {
            let request = client
                .post(&server.url)
                .body("SELECT count() FROM numbers(1e15) WHERE sipHash64(number) = 1");
            tokio::spawn(async move { request.send().await })
        })
        .collect();
    let insert = |value: u32| {
        let request = client
            .post(format!("{}/?query=INSERT+INTO+t+FORMAT+CSV", server.url))
            .body(format!("{value}\n"));
        tokio::time::timeout(DEADLINE, Answer::of(request))
    };
    for value in 0..20 {
        let answer = insert(value)
            .await
            .expect("an insert does not wait for a query");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert!(queries.iter().all(|query| !query.is_finished()));
    for query in &queries {
        query.abort();
    }
    server
        .wait_for("SELECT count() FROM t", |count| count == "20")
        .await;
}

/// Needs the rights to become another user; otherwise there is nothing to try.
#[tokio::test]
async fn without_a_password_another_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path());
    let status = |user: Option<u32>| {
        let mut command = Command::new("python3");
        command.args([
            "-c",
            "import http.client, sys; c = http.client.HTTPConnection(sys.argv[1], timeout=60); \
             c.request('POST', '/', 'SELECT 1'); print(c.getresponse().status)",
            &server.address.to_string(),
        ]);
        if let Some(user) = user {
            command.uid(user);
        }
        command
            .output()
            .map(|output| String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(status(None).unwrap(), "200\n");
    match status(Some(65_534)) {
        Ok(other) => assert_eq!(other, "403\n"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
    assert_eq!(server.sql("SELECT 1").await, "1\n");
}
