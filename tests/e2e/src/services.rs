//! The two services that chatledger writes to: the ClickHouse engine and Apache Kafka.
//!
//! One of each serves all tests of a binary, started when first asked for. Tests do not meet: each
//! has its own database and topic prefix. A test that needs a service of its own starts an
//! [`Engine`] or a [`Broker`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::OnceCell;

use crate::janitor::Janitor;
use crate::place;
use crate::process::Process;

/// How long the engine may take to answer; it loads a library of 600 MB.
const ENGINE: Duration = Duration::from_secs(60);

/// `chatledger embedded-clickhouse`.
#[derive(Debug)]
pub struct Engine {
    /// Its address.
    pub url: String,
    /// Its process.
    pub process: Process,
    data: PathBuf,
    lib: String,
    further: Vec<String>,
}

impl Engine {
    /// Starts it on a data directory and waits until it answers. Port 0 takes a free one.
    ///
    /// # Errors
    /// The library cannot be fetched, or the engine does not answer.
    pub async fn start(data: &Path, listen: &str) -> Result<Self> {
        Self::start_with(data, listen, &[]).await
    }

    /// The same with further arguments.
    ///
    /// # Errors
    /// The library cannot be fetched, or the engine does not answer.
    pub async fn start_with(data: &Path, listen: &str, further: &[String]) -> Result<Self> {
        let nothing: [&str; 0] = [];
        let lib = place::script("deploy/local/fetch-libchdb", &nothing)?;
        Self::launch(data.to_owned(), lib, listen, further.to_vec()).await
    }

    async fn launch(
        data: PathBuf,
        lib: String,
        listen: &str,
        further: Vec<String>,
    ) -> Result<Self> {
        let mut command = Command::new(place::program("chatledger")?);
        command.args([
            "embedded-clickhouse",
            "--max-memory-mib",
            "1536",
            "--listen",
            listen,
        ]);
        command.arg("--lib").arg(&lib).arg("--data-dir").arg(&data);
        command.args(&further);
        let log = data.with_extension("log");
        let mut process = Process::start("chatledger embedded-clickhouse", command, &log)?;
        let url = process.line(ENGINE).await?;
        Ok(Self {
            url,
            process,
            data,
            lib,
            further,
        })
    }

    /// Starts it again on the same data and port; what runs is killed first.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn restart(self) -> Result<Self> {
        let Self {
            url,
            mut process,
            data,
            lib,
            further,
        } = self;
        process.kill()?;
        let listen = url.trim_start_matches("http://").to_owned();
        Self::launch(data, lib, &listen, further).await
    }
}

/// The engine of this test binary.
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

/// Apache Kafka on a data directory of its own.
#[derive(Debug)]
pub struct Broker {
    /// Its address, `host:port`.
    pub address: String,
    data: PathBuf,
}

impl Broker {
    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start() -> Result<Self> {
        Self::start_with(Vec::new()).await
    }

    /// The same with TLS and a login, at whose address it is then found; the folder holds what
    /// `deploy/local/kafka start --sasl-ssl` wants.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start_secure(folder: &Path) -> Result<Self> {
        Self::start_with(vec!["--sasl-ssl".into(), folder.into()]).await
    }

    async fn start_with(further: Vec<OsString>) -> Result<Self> {
        let janitor = Janitor::get()?;
        let data = janitor.folder("kafka")?;
        janitor.broker(&data);
        let address = Self::launch(&data, "0", further).await?;
        Ok(Self { address, data })
    }

    async fn launch(data: &Path, port: &str, further: Vec<OsString>) -> Result<String> {
        let mut words: Vec<OsString> = vec!["start".into(), "--data-dir".into(), data.into()];
        words.extend(["--port".into(), port.into()]);
        words.extend(further);
        tokio::task::spawn_blocking(move || place::script("deploy/local/kafka", &words))
            .await
            .context("start Kafka")?
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self) -> Result<()> {
        let pid = std::fs::read_to_string(self.data.join("pid")).context("read Kafka's pid")?;
        let pid = pid.split_whitespace().next().unwrap_or_default();
        let pid = pid.parse().context("read Kafka's pid")?;
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("kill Kafka")
    }

    /// Starts it again on the same data and port, and waits until it serves.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn restart(&self) -> Result<()> {
        let port = self.address.rsplit(':').next().unwrap_or_default();
        Self::launch(&self.data, port, Vec::new()).await?;
        Ok(())
    }
}

/// The broker of this test binary, as `host:port`.
///
/// # Errors
/// It cannot be started.
pub async fn broker() -> Result<&'static str> {
    static BROKER: OnceCell<Broker> = OnceCell::const_new();
    let broker = BROKER.get_or_try_init(Broker::start).await?;
    Ok(broker.address.as_str())
}

/// Asks an engine as a user; gives its answer without the line end.
///
/// # Errors
/// It does not answer, or refuses.
pub async fn ask_as(url: &str, user: &str, password: &str, sql: &str) -> Result<String> {
    let request = reqwest::Client::new()
        .post(url)
        .basic_auth(user, Some(password));
    let answer = request.body(sql.to_owned()).send().await;
    let answer = answer.context("ask the engine")?.error_for_status();
    let text = answer.context("ask the engine")?.text().await;
    Ok(text.context("ask the engine")?.trim_end().to_owned())
}
