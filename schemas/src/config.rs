//! The configuration file as an operator writes it.
//!
//! Defines names, types, bounds and defaults; the program validates the rest (files, addresses,
//! duplicates). Durations are a whole number and a unit: `500ms`, `2s`, `10m`, `1h`, `5d`. Relative
//! paths are relative to the file.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// The configuration of `chatledger`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How records travel between the stages.
    #[serde(default)]
    pub driver: DriverSection,
    /// Brokers and topics. Required by the kafka driver; the direct driver validates the section and
    /// does not use it.
    #[serde(default)]
    pub kafka: KafkaSection,
    /// The corps whose conversations are archived.
    #[schemars(length(min = 1))]
    pub corp: Vec<CorpSection>,
    /// Rules that messages are matched against.
    #[serde(default)]
    pub rules: RulesSection,
    /// Where messages are written: a table for each sink, at least one. The program's sinks define
    /// their own keys.
    pub sink: BTreeMap<String, Value>,
    /// Endpoints for monitoring.
    #[serde(default)]
    pub metrics: MetricsSection,
    /// Access to files with secrets.
    #[serde(default)]
    pub secrets: SecretsSection,
}

/// `[driver]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DriverSection {
    /// `direct`: one process, no broker. `kafka`: each stage is a consumer group.
    pub mode: Mode,
    /// Folder for the state of the process: ledger, sink positions, dead letters, directory.
    pub state_dir: String,
}

impl Default for DriverSection {
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
pub struct KafkaSection {
    /// Bootstrap brokers as `host:port`, separated by commas.
    #[schemars(length(min = 1))]
    pub brokers: String,
    /// Prefix of topics, consumer groups and transactional ids.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]{1,100}$"))]
    pub topic_prefix: String,
    /// Number of partitions of topics that chatledger creates. Existing topics are not changed.
    #[schemars(range(min = 1, max = 1000))]
    pub partitions: u32,
    /// Replication factor of topics that chatledger creates.
    #[schemars(range(min = 1, max = 15))]
    pub replication: u16,
    /// Keys that seal the values of `.messages` and `.violations` on the brokers. Without a key the
    /// values are plain text. The highest version seals; every version opens.
    pub seal_key: Vec<SealKeySetting>,
    /// Whether to accept unsealed values although a seal key is configured. Needed for values that
    /// were written before the first seal key.
    pub accept_unsealed: bool,
    /// File with the password of `sasl.username` (librdkafka's `sasl.password`).
    pub sasl_password_file: Option<String>,
    /// File with the passphrase of the client's private key (librdkafka's `ssl.key.password`).
    pub ssl_key_password_file: Option<String>,
    /// Properties that are passed to librdkafka unchanged.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaSection {
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
pub struct SealKeySetting {
    /// Version of the key; each sealed value names the version that sealed it.
    #[schemars(range(max = 4_294_967_295u32))]
    pub version: u32,
    /// File with 32 random bytes, raw or in base64.
    pub file: String,
}

/// `[[corp]]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CorpSection {
    /// WeCom's corpid.
    #[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$"))]
    pub id: String,
    /// IANA name of the corp's time zone; it determines where a calendar day begins.
    #[serde(default = "shanghai")]
    pub timezone: String,
    /// Source of the sealed records.
    pub archive: ArchiveSection,
    /// Source of the names of members, customers and rooms. Without it, names are empty.
    pub directory: Option<DirectorySection>,
}

fn shanghai() -> String {
    "Asia/Shanghai".into()
}

/// `[corp.archive]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArchiveSection {
    /// `http`: a gateway that offers the archive API over HTTP. `sdk`: the official library; not
    /// supported yet.
    #[serde(default = "http")]
    pub transport: Transport,
    /// Base address of the gateway. Required with `transport = "http"`.
    #[schemars(regex(pattern = r"^https?://.+"))]
    pub base_url: Option<String>,
    /// File with the archive secret.
    pub secret_file: String,
    /// Path of the official library, for `transport = "sdk"`.
    pub sdk_library: Option<String>,
    /// Records per call. The API returns at most 1000.
    #[serde(default = "thousand")]
    #[schemars(range(min = 1, max = 1000))]
    pub batch_limit: u32,
    /// Pause after a call that returned no record.
    #[serde(default = "two_seconds")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub poll_interval: String,
    /// Time limit of one call, including its answer.
    #[serde(default = "fifteen_seconds")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m|h|d)$"))]
    pub timeout: String,
    /// The private keys, at least one. Keep old keys: records sealed for a key can be opened only
    /// with that key.
    #[schemars(length(min = 1))]
    pub key: Vec<KeySetting>,
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

/// How the archive is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// A gateway over HTTP that uses the open cipher.
    Http,
    /// The official C library in a child process.
    Sdk,
}

/// `[[corp.archive.key]]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeySetting {
    /// The `publickey_ver` of the records that this key opens.
    #[schemars(range(max = 4_294_967_295u32))]
    pub version: u32,
    /// PEM file with the RSA private key (PKCS#1 or PKCS#8, no passphrase).
    pub file: String,
}

/// `[corp.directory]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectorySection {
    /// Base address of the directory APIs.
    #[schemars(regex(pattern = r"^https?://.+"))]
    pub base_url: String,
    /// File with the secret of the application that may read contacts and customers.
    pub secret_file: String,
    /// Time between two synchronizations.
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
pub struct RulesSection {
    /// Folder of rule files (`*.toml`). Changes take effect while the program runs. Without a folder
    /// there are no rules.
    pub dir: Option<String>,
}

/// `[metrics]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// `IP:PORT` of the endpoints `/metrics`, `/healthz` and `/readyz`.
    pub listen: String,
}

impl Default for MetricsSection {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9790".into(),
        }
    }
}

/// `[secrets]`
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsSection {
    /// Whether to accept secrets and keys from files that other users can read.
    pub allow_open_files: bool,
    /// Whether to send the secrets of a corp over plain HTTP to other machines.
    pub allow_plain_http: bool,
}
