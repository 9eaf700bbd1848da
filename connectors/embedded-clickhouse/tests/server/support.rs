//! A server for each test: the example `serve` in a process that can be killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use chatledger_embedded_clickhouse::find_library;

/// Deadline of every wait in a test. Long, because a loaded machine is slow.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Loopback, any free port.
pub(crate) const ANY_PORT: &str = "127.0.0.1:0";

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) url: String,
}

/// The built example, beside the test's own binary.
pub(crate) fn serve_binary() -> PathBuf {
    if let Err(error) = find_library(None) {
        panic!("{error}");
    }
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples/serve");
    assert!(
        path.is_file(),
        "{} is not built; run `cargo build --release -p chatledger-embedded-clickhouse --examples`",
        path.display()
    );
    path
}

/// The server's command for a data directory and an address.
pub(crate) fn serve_command(data_dir: &Path, listen: &str) -> Command {
    let mut command = Command::new(serve_binary());
    command
        .args(["--listen", listen, "--data-dir"])
        .arg(data_dir)
        .env_remove("CLICKHOUSE_USER")
        .env_remove("CLICKHOUSE_PASSWORD")
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command
}

impl Server {
    /// Starts on `data_dir` and waits until queries are answered.
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, &[])
    }

    /// Starts with further arguments.
    pub(crate) fn start_with(data_dir: &Path, arguments: &[&str]) -> Self {
        let mut child = serve_command(data_dir, ANY_PORT)
            .args(arguments)
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let (found, address) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("listening on http://") {
                    let _ = found.send(address.to_owned());
                }
            }
        });
        let address: SocketAddr = address
            .recv_timeout(DEADLINE)
            .expect("the server reports its address")
            .parse()
            .unwrap();
        Self {
            child,
            address,
            url: format!("http://{address}"),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process, as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM to the process.
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Waits until the process exits.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the server does not stop");
            thread::yield_now();
        }
    }

    /// Stops the process cleanly.
    pub(crate) fn stop(self) {
        self.terminate();
        assert!(self.wait().success());
    }

    pub(crate) fn client(&self) -> clickhouse::Client {
        clickhouse::Client::default().with_url(&self.url)
    }

    /// Sends `body` to `/?<query>` and returns the response.
    pub(crate) async fn post(&self, query: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = http().post(format!("{}/?{query}", self.url)).body(body);
        Answer::of(request).await
    }

    /// Runs `sql`, which must succeed, and returns its result.
    pub(crate) async fn sql(&self, sql: &str) -> String {
        let answer = self.post("", sql.to_owned()).await;
        assert_eq!(answer.status, 200, "{sql}: {}", answer.text());
        answer.text()
    }

    /// Runs `sql` until `wanted` accepts its result.
    pub(crate) async fn wait_for(&self, sql: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let text = self.sql(sql).await;
            if wanted(text.trim_end()) {
                return text;
            }
            assert!(Instant::now() < end, "{sql} still gives {text}");
        }
    }

    /// Sends `bytes` over a new connection, closes the sending side, and waits until the server has
    /// closed the connection.
    pub(crate) fn send_raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// A complete HTTP response.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self {
            status,
            headers,
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The exception's code, 0 without one.
    pub(crate) fn code(&self) -> i32 {
        self.header("x-clickhouse-exception-code")
            .parse()
            .unwrap_or(0)
    }
}
