//! The tenant's folder: configuration, secrets, keys and rules, arranged as an operator would.
//!
//! ```text
//! chatledger.toml  archive.secret  contact.secret  seal-1.key  key-1.pem …   rules/*.toml  rules/bribery-words.txt
//! withheld/key-N.pem    the key of `unknown_key` records, not in the configuration
//! truth/                see the module `truth`
//! ```
//! Guarantee: only the owner can read secrets and keys; files are replaced atomically.
//! Paths in the configuration are relative to it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::rules::{WORDS_FILE, words_file};
use crate::tenant::Tenant;

/// Name of the file with the key that seals values on Kafka.
const SEAL_KEY: &str = "seal-1.key";

/// The parts of the configuration that do not depend on the tenant.
#[derive(Args, Clone, Debug)]
pub struct ConfigOptions {
    /// URL of ClickHouse's HTTP interface, written to the configuration.
    #[arg(long, default_value = "http://127.0.0.1:8123", value_name = "URL")]
    pub clickhouse_url: String,

    /// Database in ClickHouse, written to the configuration.
    #[arg(long, default_value = "chatledger", value_name = "NAME")]
    pub clickhouse_database: String,

    /// Driver, written to the configuration.
    #[arg(long, value_enum, default_value_t = DriverMode::Direct)]
    pub driver: DriverMode,

    /// Kafka brokers, written to the configuration.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "LIST")]
    pub brokers: String,

    /// Prefix of topics and consumer groups, written to the configuration.
    #[arg(long, default_value = "chatledger", value_name = "TEXT")]
    pub topic_prefix: String,

    /// Address of the metrics endpoint, written to the configuration.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    pub metrics_listen: String,

    /// Pause after an empty page, written to the configuration.
    #[arg(long, default_value = "500ms", value_name = "TIME")]
    pub poll_interval: String,

    /// Maximum records per call, written to the configuration.
    #[arg(long, default_value_t = 1_000, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub batch_limit: u32,
}

/// The two drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriverMode {
    /// One process, no broker.
    Direct,
    /// Stages on Kafka topics.
    Kafka,
}

#[derive(Serialize)]
struct ConfigFile<'a> {
    driver: DriverSection,
    #[serde(skip_serializing_if = "Option::is_none")]
    kafka: Option<KafkaSection<'a>>,
    corp: [CorpSection<'a>; 1],
    rules: RulesSection,
    sink: SinkSection<'a>,
    metrics: MetricsSection<'a>,
}

#[derive(Serialize)]
struct DriverSection {
    mode: DriverMode,
    state_dir: &'static str,
}

#[derive(Serialize)]
struct KafkaSection<'a> {
    brokers: &'a str,
    topic_prefix: &'a str,
    seal_key: [KeyEntry; 1],
}

#[derive(Serialize)]
struct CorpSection<'a> {
    id: String,
    timezone: &'static str,
    archive: ArchiveSection<'a>,
    directory: DirectorySection<'a>,
}

#[derive(Serialize)]
struct ArchiveSection<'a> {
    transport: &'static str,
    base_url: &'a str,
    secret_file: &'static str,
    batch_limit: u32,
    poll_interval: &'a str,
    key: Vec<KeyEntry>,
}

#[derive(Serialize)]
struct KeyEntry {
    version: u32,
    file: String,
}

#[derive(Serialize)]
struct DirectorySection<'a> {
    base_url: &'a str,
    secret_file: &'static str,
    refresh_interval: &'static str,
}

#[derive(Serialize)]
struct RulesSection {
    dir: &'static str,
}

#[derive(Serialize)]
struct SinkSection<'a> {
    clickhouse: ClickHouseSection<'a>,
    parquet: ParquetSection,
}

#[derive(Serialize)]
struct ClickHouseSection<'a> {
    url: &'a str,
    database: &'a str,
}

#[derive(Serialize)]
struct ParquetSection {
    url: &'static str,
}

#[derive(Serialize)]
struct MetricsSection<'a> {
    listen: &'a str,
}

/// Writes a file atomically.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    write(path, text, 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let draft = path.with_extension("draft");
    let attempt = || -> std::io::Result<()> {
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&draft)?;
        file.write_all(text.as_bytes())?;
        drop(file);
        fs::rename(&draft, path)
    };
    attempt().with_context(|| format!("write {}", path.display()))
}

/// Writes the folder except for the truth.
///
/// # Errors
/// A file or folder cannot be written.
pub fn write_folder(
    dir: &Path,
    tenant: &Tenant,
    options: &ConfigOptions,
    base_url: &str,
) -> Result<()> {
    for folder in [dir.to_owned(), dir.join("rules"), dir.join("withheld")] {
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    }
    write(
        &dir.join("archive.secret"),
        &tenant.options.secret(1),
        0o600,
    )?;
    write(
        &dir.join("contact.secret"),
        &tenant.options.secret(2),
        0o600,
    )?;
    write(&dir.join(SEAL_KEY), &tenant.options.seal_key(), 0o600)?;
    let mut keys = Vec::new();
    for (version, pair) in (1u32..).zip(tenant.sealer.keys()) {
        let file = format!("key-{version}.pem");
        write(
            &dir.join(&file),
            &pair.pem(version.is_multiple_of(2))?,
            0o600,
        )?;
        keys.push(KeyEntry { version, file });
    }
    let withheld = format!("withheld/key-{}.pem", tenant.sealer.withheld_version());
    write(
        &dir.join(withheld),
        &tenant.sealer.withheld().pem(true)?,
        0o600,
    )?;
    for file in &tenant.rules {
        replace(
            &dir.join("rules").join(file.name()),
            &toml::to_string_pretty(file)?,
        )?;
    }
    replace(&dir.join("rules").join(WORDS_FILE), &words_file())?;
    let config = ConfigFile {
        driver: DriverSection {
            mode: options.driver,
            state_dir: "state",
        },
        kafka: (options.driver == DriverMode::Kafka).then_some(KafkaSection {
            brokers: &options.brokers,
            topic_prefix: &options.topic_prefix,
            seal_key: [KeyEntry {
                version: 1,
                file: SEAL_KEY.to_owned(),
            }],
        }),
        corp: [CorpSection {
            id: tenant.options.corp_id(),
            timezone: "Asia/Shanghai",
            archive: ArchiveSection {
                transport: "http",
                base_url,
                secret_file: "archive.secret",
                batch_limit: options.batch_limit,
                poll_interval: &options.poll_interval,
                key: keys,
            },
            directory: DirectorySection {
                base_url,
                secret_file: "contact.secret",
                refresh_interval: "10m",
            },
        }],
        rules: RulesSection { dir: "rules" },
        sink: SinkSection {
            clickhouse: ClickHouseSection {
                url: &options.clickhouse_url,
                database: &options.clickhouse_database,
            },
            parquet: ParquetSection {
                url: "file:parquet",
            },
        },
        metrics: MetricsSection {
            listen: &options.metrics_listen,
        },
    };
    replace(
        &dir.join("chatledger.toml"),
        &toml::to_string_pretty(&config)?,
    )
}
