//! A real ClickHouse engine in a process of its own, and rows to insert.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses only a part"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chatledger_clickhouse::{ClickHouse, Options};
use chatledger_schemas::{
    ConversationKind, CorpId, Message, PartyKind, Secret, Severity, Violation,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// 2024-02-29T12:00:00Z.
pub const NOON: i64 = 1_709_208_000_000;

/// About a month, in milliseconds.
pub const MONTH: i64 = 31 * 86_400_000;

/// A running engine; killed when dropped.
pub struct Engine {
    child: Child,
    pub url: String,
}

impl Engine {
    pub fn start(data_dir: &Path) -> Self {
        Self::start_with(Some(data_dir), &[])
    }

    pub fn start_with(data_dir: Option<&Path>, environment: &[(&str, &str)]) -> Self {
        let test = std::env::current_exe().unwrap();
        let program = test
            .ancestors()
            .nth(2)
            .unwrap()
            .join("examples/test_engine");
        let mut child = Command::new(&program)
            .args(data_dir)
            .env_remove("CLICKHOUSE_USER")
            .env_remove("CLICKHOUSE_PASSWORD")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{}: {error}; run `cargo build --release -p chatledger-clickhouse --examples`",
                    program.display()
                )
            });
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        assert!(!url.is_empty(), "the engine did not start; see stderr");
        Self {
            child,
            url: url.trim().to_owned(),
        }
    }

    /// Kills the process, as a crash would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops the process and waits until it has shut down.
    pub fn stop(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    pub fn clickhouse(&self, database: &str) -> ClickHouse {
        ClickHouse::new(options(&self.url, database)).unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn options(url: &str, database: &str) -> Options {
    Options {
        url: url.to_owned(),
        database: database.to_owned(),
        user: None,
        password: None,
        roots: None,
        timeout: Duration::from_secs(120),
    }
}

pub fn options_of(url: &str, user: &str, password: &str) -> Options {
    Options {
        user: Some(user.to_owned()),
        password: Some(Secret::new(password.to_owned())),
        roots: None,
        ..options(url, "archive")
    }
}

/// The engine that the tests of a program share. It ends with the program, when its stdin closes.
pub fn shared() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::start_with(None, &[]))
}

/// A fresh, migrated database on the shared engine.
pub async fn database() -> ClickHouse {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let clickhouse = shared().clickhouse(&name);
    clickhouse.migrate().await.unwrap();
    clickhouse
}

pub async fn number(clickhouse: &ClickHouse, sql: &str) -> u64 {
    clickhouse
        .client()
        .query_raw(sql)
        .fetch_one::<u64>()
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub fn message(seq: u64, msgtime: i64) -> Message {
    Message {
        corp_id: CorpId::from("ww1"),
        seq,
        msgid: format!("msg-{seq}"),
        action: "send".into(),
        msgtype: "text".into(),
        msgtime,
        conversation_id: "lisi|zhangsan".into(),
        conversation_kind: ConversationKind::SingleInternal,
        room_id: String::new(),
        room_name: String::new(),
        from_id: "zhangsan".into(),
        from_kind: PartyKind::Member,
        from_name: "张三".into(),
        from_department_id: 12,
        from_department_path: "总公司/销售".into(),
        to_ids: vec!["lisi".into()],
        content: "加我微信".into(),
        payload: r#"{"text":{"content":"加我微信"}}"#.into(),
        key_version: 1,
    }
}

/// Messages spread over `months` months in turn.
pub fn messages(count: u64, months: i64) -> Vec<Message> {
    (1..=count)
        .map(|seq| message(seq, NOON + (seq as i64 % months) * MONTH))
        .collect()
}

pub fn violation(message: &Message) -> Violation {
    Violation {
        corp_id: message.corp_id.clone(),
        violation_id: format!("{}/r1", message.msgid),
        msgid: message.msgid.clone(),
        seq: message.seq,
        msgtime: message.msgtime,
        conversation_id: message.conversation_id.clone(),
        from_id: message.from_id.clone(),
        rule_id: "r1".into(),
        rule_name: "私下交易监控".into(),
        rule_version: "0123456789abcdef".into(),
        category: "sensitive_word".into(),
        severity: Severity::High,
        matched: vec!["加我微信".into(), "微信".into()],
        spans: vec![(0, 4), (2, 4)],
        detected_at: message.msgtime + 1,
    }
}

/// A proxy between client and engine that can close connections early. It lives as long as the test's runtime.
pub struct Proxy {
    pub url: String,
    faults: Arc<ProxyFaults>,
}

struct ProxyFaults {
    /// Bytes that are still forwarded to the engine.
    request_bytes: AtomicU64,
    /// Whether answers are forwarded.
    answers: AtomicBool,
}

impl Proxy {
    pub async fn start(url: &str) -> Self {
        let target = url.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let faults = Arc::new(ProxyFaults {
            request_bytes: AtomicU64::new(u64::MAX),
            answers: AtomicBool::new(true),
        });
        let shared_faults = Arc::clone(&faults);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let faults = Arc::clone(&shared_faults);
                let server = TcpStream::connect(&target).await.unwrap();
                tokio::spawn(forward(faults, client, server));
            }
        });
        Self { url, faults }
    }

    /// Closes connections after this many more bytes have been forwarded to the engine.
    pub fn close_request_after(&self, bytes: u64) {
        self.faults.request_bytes.store(bytes, Ordering::SeqCst);
    }

    /// Closes connections instead of forwarding an answer.
    pub fn close_before_answers(&self) {
        self.faults.answers.store(false, Ordering::SeqCst);
    }

    /// Forwards everything again.
    pub fn restore(&self) {
        self.faults.request_bytes.store(u64::MAX, Ordering::SeqCst);
        self.faults.answers.store(true, Ordering::SeqCst);
    }
}

/// Forwards bytes until one side closes or the proxy closes the connection; then closes both.
async fn forward(faults: Arc<ProxyFaults>, mut client: TcpStream, mut server: TcpStream) {
    let (mut from_client, mut from_server) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(count @ 1..) = read else { return };
                let left = faults.request_bytes.load(Ordering::SeqCst);
                let passed = (count as u64).min(left) as usize;
                if server.write_all(&from_client[..passed]).await.is_err() || passed < count {
                    return;
                }
                if left < u64::MAX {
                    faults.request_bytes.store(left - passed as u64, Ordering::SeqCst);
                }
            }
            read = server.read(&mut from_server) => {
                let Ok(count @ 1..) = read else { return };
                if !faults.answers.load(Ordering::SeqCst)
                    || client.write_all(&from_server[..count]).await.is_err()
                {
                    return;
                }
            }
        }
    }
}
