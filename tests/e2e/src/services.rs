//! The two services that chatledger writes to: the ClickHouse engine and Apache Kafka.
//!
//! One of each serves all tests of a binary, started when first asked for. Tests do not meet: each
//! has its own database and topic prefix. A test that needs a service of its own starts an
//! [`Engine`].

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
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
}

impl Engine {
    /// Starts it on a data directory and waits until it answers. Port 0 takes a free one.
    ///
    /// # Errors
    /// The library cannot be fetched, or the engine does not answer.
    pub async fn start(data: &Path, listen: &str) -> Result<Self> {
        let nothing: [&str; 0] = [];
        let lib = place::script("deploy/local/fetch-libchdb", &nothing)?;
        Self::launch(data.to_owned(), lib, listen).await
    }

    async fn launch(data: PathBuf, lib: String, listen: &str) -> Result<Self> {
        let mut command = Command::new(place::program("chatledger")?);
        command.args([
            "embedded-clickhouse",
            "--max-memory-mib",
            "1536",
            "--listen",
            listen,
        ]);
        command.arg("--lib").arg(&lib).arg("--data-dir").arg(&data);
        let log = data.with_extension("log");
        let mut process = Process::start("chatledger embedded-clickhouse", command, &log)?;
        let url = process.line(ENGINE).await?;
        Ok(Self {
            url,
            process,
            data,
            lib,
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
        } = self;
        process.kill()?;
        let listen = url.trim_start_matches("http://").to_owned();
        Self::launch(data, lib, &listen).await
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

/// The broker of this test binary, as `host:port`.
///
/// # Errors
/// It cannot be started.
pub async fn broker() -> Result<&'static str> {
    static BROKER: OnceCell<String> = OnceCell::const_new();
    let start = || async {
        let janitor = Janitor::get()?;
        let data = janitor.folder("kafka")?;
        janitor.broker(&data);
        let start = move || {
            let data = data
                .to_str()
                .context("the temporary folder's name is not UTF-8")?;
            place::script(
                "deploy/local/kafka",
                &["start", "--data-dir", data, "--port", "0"],
            )
        };
        tokio::task::spawn_blocking(start)
            .await
            .context("start Kafka")?
    };
    Ok(BROKER.get_or_try_init(start).await?.as_str())
}
