//! The configuration file's shape, as written by an operator.
//!
//! This is the raw form: types and names only. The program turns it into a checked form, with every
//! error collected. A duration is a whole number with a unit: `500ms`, `2s`, `10m`, `1h`, `5d`.
//! Relative paths are relative to the file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How records travel between the stages.
    #[serde(default)]
    pub driver: Driver,
    /// The broker; needed by the kafka driver, checked and otherwise ignored by the direct one.
    #[serde(default)]
    pub kafka: Kafka,
    /// The corps whose conversations are archived.
    #[schemars(length(min = 1))]
    pub corp: Vec<Corp>,
    /// What is looked for in messages.
    #[serde(default)]
    pub rules: Rules,
    /// Where messages are kept.
    pub sink: Sinks,
    /// How the process is observed.
    #[serde(default)]
    pub metrics: Metrics,
    /// How files with secrets are treated.
    #[serde(default)]
    pub secrets: Secrets,
}

/// `[driver]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Driver {
    /// `direct`: one process, no broker. `kafka`: every stage a consumer group.
    pub mode: Mode,
    /// Folder for what the process must remember: positions, dead letters, directory.
    pub state_dir: String,
}

impl Default for Driver {
    fn default() -> Self {
        Self {
            mode: Mode::Direct,
            state_dir: "state".into(),
        }
    }
}

/// The two drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One process, no broker.
    Direct,
    /// Stages are consumer groups on Kafka topics.
    Kafka,
}

/// `[kafka]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Kafka {
    /// `host:port`, several separated by commas.
    #[schemars(length(min = 1))]
    pub brokers: String,
    /// Topics, consumer groups and transactional ids begin with it.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,100}$"))]
    pub topic_prefix: String,
    /// Partitions of topics that have to be created; existing topics are left as they are.
    #[schemars(range(min = 1, max = 1000))]
    pub partitions: u32,
    /// Replication factor of topics that have to be created.
    #[schemars(range(min = 1, max = 15))]
    pub replication: u16,
    /// Keys under which the values of `.messages` and `.violations` are sealed; without one they
    /// rest on the brokers as they are. The highest version seals, every one opens.
    pub seal_key: Vec<SealKey>,
    /// Whether values are read that are not sealed although there is a seal key: those that were
    /// written before there was one.
    pub accept_unsealed: bool,
    /// File holding the password of `sasl.username`, librdkafka's `sasl.password`.
    pub sasl_password_file: Option<String>,
    /// File holding the passphrase of the client's private key, librdkafka's `ssl.key.password`.
    pub ssl_key_password_file: Option<String>,
    /// Passed to librdkafka as they are.
    pub properties: BTreeMap<String, String>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".into(),
            topic_prefix: "chatledger".into(),
            partitions: 8,
            replication: 1,
            seal_key: Vec::new(),
            accept_unsealed: false,
            sasl_password_file: None,
            ssl_key_password_file: None,
            properties: BTreeMap::new(),
        }
    }
}

/// `[[kafka.seal_key]]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealKey {
    /// Which key it is; sealed values name it.
    pub version: u32,
    /// File with 32 random bytes, as they are or in base64.
    pub file: String,
}

/// `[[corp]]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Corp {
    /// WeCom's corpid.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$"))]
    pub id: String,
    /// IANA name of the time zone in which the corp's days begin.
    #[serde(default = "shanghai")]
    pub timezone: String,
    /// Where its sealed records come from.
    pub archive: Archive,
    /// Where its directory comes from; without it names stay empty.
    pub directory: Option<DirectorySource>,
}

fn shanghai() -> String {
    "Asia/Shanghai".into()
}

/// `[corp.archive]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// `http`: a gateway that speaks the archive API. `sdk`: the official library.
    #[serde(default = "http")]
    pub transport: Transport,
    /// Base address of the gateway.
    #[schemars(regex(pattern = r"^https?://.+"))]
    pub base_url: Option<String>,
    /// File holding the archive secret.
    pub secret_file: String,
    /// The official library, for `transport = "sdk"`.
    pub sdk_library: Option<String>,
    /// Records per call; the API takes at most 1000.
    #[serde(default = "thousand")]
    #[schemars(range(min = 1, max = 1000))]
    pub batch_limit: u32,
    /// Pause after a call that brought nothing.
    #[serde(default = "two_seconds")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub poll_interval: String,
    /// Longest time one call may take, its answer included.
    #[serde(default = "fifteen_seconds")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub timeout: String,
    /// The private keys, old ones too: what they sealed stays sealed without them.
    #[serde(default)]
    pub key: Vec<Key>,
}

fn http() -> Transport {
    Transport::Http
}
fn thousand() -> u32 {
    1000
}
fn fifteen_seconds() -> String {
    "15s".into()
}
fn two_seconds() -> String {
    "2s".into()
}

/// The two ways to the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// A gateway over HTTP, with the open cipher.
    Http,
    /// The official C library in a child process.
    Sdk,
}

/// `[[corp.archive.key]]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// `publickey_ver`.
    pub version: u32,
    /// PEM file with the RSA private key, PKCS#1 or PKCS#8.
    pub file: String,
}

/// `[corp.directory]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectorySource {
    /// Base address of the directory APIs.
    #[schemars(regex(pattern = r"^https?://.+"))]
    pub base_url: String,
    /// File holding the secret of the application that may read contacts.
    pub secret_file: String,
    /// Time between two syncs.
    #[serde(default = "ten_minutes")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub refresh_interval: String,
}

fn ten_minutes() -> String {
    "10m".into()
}

/// `[rules]`
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Folder of rule files (`*.toml`), watched; without it nothing is looked for.
    pub dir: Option<String>,
}

/// `[sink]`: at least one of the two.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sinks {
    /// Tables to query.
    pub clickhouse: Option<ClickHouse>,
    /// Files to keep.
    pub parquet: Option<Parquet>,
}

/// `[sink.clickhouse]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClickHouse {
    /// The server's HTTP interface.
    #[schemars(regex(pattern = r"^https?://.+"))]
    pub url: String,
    /// The database; created if it is not there.
    #[serde(default = "chatledger")]
    #[schemars(regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"))]
    pub database: String,
    /// User name, if the server wants one.
    pub user: Option<String>,
    /// File holding the user's password.
    pub password_file: Option<String>,
    /// PEM file with the certificates of the authorities that may vouch for the server, instead of
    /// the system's.
    pub ca_file: Option<String>,
    /// Rows after which a batch is written.
    #[serde(default = "fifty_thousand")]
    #[schemars(range(min = 1, max = 100_000))]
    pub batch_rows: u32,
    /// Time after which a batch is written though it is not full.
    #[serde(default = "one_second")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub batch_interval: String,
    /// Longest time one exchange may take.
    #[serde(default = "one_minute")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub timeout: String,
}

fn chatledger() -> String {
    "chatledger".into()
}
fn fifty_thousand() -> u32 {
    50_000
}
fn one_second() -> String {
    "1s".into()
}

/// `[sink.parquet]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parquet {
    /// `file:path`, or `s3://bucket/prefix` with the credentials in the usual environment.
    #[schemars(regex(pattern = r"^(file:|s3://).+"))]
    pub url: String,
    /// Rows after which the open files are finished.
    #[serde(default = "two_hundred_thousand")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub roll_rows: u32,
    /// Time after which the open files are finished though they are small.
    #[serde(default = "one_minute")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub roll_interval: String,
}

fn two_hundred_thousand() -> u32 {
    200_000
}
fn one_minute() -> String {
    "1m".into()
}

/// `[metrics]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Address on which `/metrics`, `/healthz` and `/readyz` answer.
    pub listen: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9790".into(),
        }
    }
}

/// `[secrets]`
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Secrets {
    /// Whether secrets and keys are taken from files that others than their owner can read.
    pub allow_open_files: bool,
}
