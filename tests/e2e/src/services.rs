//! The services that chatledger writes to: the ClickHouse engine and Apache Kafka.
//!
//! All tests of a binary share one of each, which is started on first use. Tests are isolated: each
//! has its own database and topic prefix. A test that needs its own service starts an [`Engine`] or a
//! [`Broker`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::OnceCell;

use crate::janitor::Janitor;
use crate::paths;
use crate::process::Process;

/// Maximum startup time of the engine; it loads a library of 600 MB.
const ENGINE: Duration = Duration::from_secs(60);

/// `chatledger embedded-clickhouse`.
#[derive(Debug)]
pub struct Engine {
    /// Its URL.
    pub url: String,
    /// Its process.
    pub process: Process,
    data: PathBuf,
    lib: String,
    extra_args: Vec<String>,
}

impl Engine {
    /// Starts it on a data directory and waits until it responds. Port 0 selects a free port.
    ///
    /// # Errors
    /// The library cannot be fetched, or the engine does not respond.
    pub async fn start(data: &Path, listen: &str) -> Result<Self> {
        Self::start_with(data, listen, &[]).await
    }

    /// Like [`Engine::start`], with additional arguments.
    ///
    /// # Errors
    /// See [`Engine::start`].
    pub async fn start_with(data: &Path, listen: &str, extra_args: &[String]) -> Result<Self> {
        let nothing: [&str; 0] = [];
        let lib = paths::script("deploy/local/fetch-libchdb", &nothing)?;
        Self::launch(data.to_owned(), lib, listen, extra_args.to_vec()).await
    }

    async fn launch(
        data: PathBuf,
        lib: String,
        listen: &str,
        extra_args: Vec<String>,
    ) -> Result<Self> {
        let mut command = Command::new(paths::program("chatledger")?);
        command.args([
            "embedded-clickhouse",
            "--max-memory-mib",
            "1536",
            "--listen",
            listen,
        ]);
        command.arg("--lib").arg(&lib).arg("--data-dir").arg(&data);
        command.args(&extra_args);
        let log = data.with_extension("log");
        let mut process = Process::start("chatledger embedded-clickhouse", command, &log)?;
        let url = process.line(ENGINE).await?;
        Ok(Self {
            url,
            process,
            data,
            lib,
            extra_args,
        })
    }

    /// Kills it and starts it again on the same data directory and port.
    ///
    /// # Errors
    /// It does not respond.
    pub async fn restart(self) -> Result<Self> {
        let Self {
            url,
            mut process,
            data,
            lib,
            extra_args,
        } = self;
        process.kill()?;
        let listen = url.trim_start_matches("http://").to_owned();
        Self::launch(data, lib, &listen, extra_args).await
    }
}

/// Returns the URL of the engine of this test binary.
///
/// # Errors
/// It cannot be started.
pub async fn engine() -> Result<&'static str> {
    static ENGINE: OnceCell<Engine> = OnceCell::const_new();
    let start = || async {
        let data = Janitor::get()?.folder("engine")?;
        Engine::start(&data, "127.0.0.1:0").await
    };
    Ok(ENGINE.get_or_try_init(start).await?.url.as_str())
}

/// An Apache Kafka broker with its own data directory.
#[derive(Debug)]
pub struct Broker {
    /// Its address, `host:port`.
    pub address: String,
    data: PathBuf,
}

impl Broker {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start() -> Result<Self> {
        Self::start_with(Vec::new()).await
    }

    /// Starts it with TLS and SASL; its address is that of the secure listener. The folder must contain
    /// the files that `deploy/local/kafka start --sasl-ssl` requires.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start_secure(folder: &Path) -> Result<Self> {
        Self::start_with(vec!["--sasl-ssl".into(), folder.into()]).await
    }

    async fn start_with(extra_args: Vec<OsString>) -> Result<Self> {
        let janitor = Janitor::get()?;
        let data = janitor.folder("kafka")?;
        janitor.broker(&data);
        let address = Self::launch(&data, "0", extra_args).await?;
        Ok(Self { address, data })
    }

    async fn launch(data: &Path, port: &str, extra_args: Vec<OsString>) -> Result<String> {
        let mut words: Vec<OsString> = vec!["start".into(), "--data-dir".into(), data.into()];
        words.extend(["--port".into(), port.into()]);
        words.extend(extra_args);
        tokio::task::spawn_blocking(move || paths::script("deploy/local/kafka", &words))
            .await
            .context("start Kafka")?
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// It is not running.
    pub fn kill(&self) -> Result<()> {
        let pid = std::fs::read_to_string(self.data.join("pid")).context("read Kafka's pid")?;
        let pid = pid.split_whitespace().next().unwrap_or_default();
        let pid = pid.parse().context("read Kafka's pid")?;
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill Kafka")
    }

    /// Starts it again on the same data directory and port, and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn restart(&self) -> Result<()> {
        let port = self.address.rsplit(':').next().unwrap_or_default();
        Self::launch(&self.data, port, Vec::new()).await?;
        Ok(())
    }
}

/// Returns the broker of this test binary as `host:port`.
///
/// # Errors
/// It cannot be started.
pub async fn broker() -> Result<&'static str> {
    static BROKER: OnceCell<Broker> = OnceCell::const_new();
    let broker = BROKER.get_or_try_init(Broker::start).await?;
    Ok(broker.address.as_str())
}

/// Runs a statement as a user; returns the result without the final line break.
///
/// # Errors
/// The engine does not respond or returns an error.
pub async fn query_as(url: &str, user: &str, password: &str, sql: &str) -> Result<String> {
    let request = reqwest::Client::new()
        .post(url)
        .basic_auth(user, Some(password));
    let response = request.body(sql.to_owned()).send().await;
    let response = response
        .context("send a statement to the engine")?
        .error_for_status();
    let text = response
        .context("send a statement to the engine")?
        .text()
        .await;
    Ok(text
        .context("send a statement to the engine")?
        .trim_end()
        .to_owned())
}
