//! Validates what a schema cannot express: files are readable, versions differ, time zones exist,
//! addresses are complete.
//!
//! The [`Validator`] also accepts a configuration whose shape is wrong in places. It reports nothing
//! about an invalid key, and returns no settings then.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chatledger_crypto::{KeyRing, SealRing};
use chatledger_engine::sink::Sink;
use chatledger_schemas::config as raw;
use chatledger_schemas::config::Transport;
use chatledger_schemas::{CorpId, Secret};
use chrono_tz::Tz;
use tracing::warn;

use super::secret_file::{self, SecretFileError};
use super::shape::InvalidKeys;
pub use super::shape::redacted;
use super::{Problem, kafka};
use crate::sinks;

/// A valid configuration.
pub struct Settings {
    /// The file it was read from.
    pub file: PathBuf,
    /// How records travel between the stages.
    pub driver: Driver,
    /// Brokers and topics.
    pub kafka: Kafka,
    /// The corps, at least one.
    pub corps: Vec<Corp>,
    /// Folder of rule files.
    pub rules_dir: Option<PathBuf>,
    /// The sinks, at least one.
    pub sinks: Vec<Sink>,
    /// Address of the metrics endpoints.
    pub metrics_listen: SocketAddr,
}

/// `[driver]`
pub struct Driver {
    /// Direct or kafka.
    pub mode: raw::Mode,
    /// Folder for the state of the process.
    pub state_dir: PathBuf,
}

/// `[kafka]`
pub struct Kafka {
    /// Brokers and librdkafka's properties.
    pub brokers: chatledger_kafka::Brokers,
    /// Prefix of topics, consumer groups and transactional ids.
    pub prefix: String,
    /// Partitions of new topics.
    pub partitions: u32,
    /// Replication factor of new topics.
    pub replication: u16,
    /// Keys that seal messages and violations on the brokers.
    pub seal: Arc<SealRing>,
}

impl Kafka {
    /// Logs a warning if messages are stored on the brokers in plain text.
    pub fn warn_of_plain_text(&self) {
        if self.seal.versions().is_empty() {
            warn!(
                "messages and violations are stored on Kafka in plain text: no [[kafka.seal_key]] \
                 is configured"
            );
        }
    }
}

/// `[[corp]]`
pub struct Corp {
    /// WeCom's corpid.
    pub id: CorpId,
    /// Time zone of its calendar days.
    pub zone: Tz,
    /// Base address of its archive.
    pub base_url: String,
    /// The archive secret.
    pub secret: Secret,
    /// Records per call.
    pub batch_limit: u32,
    /// Pause after a call that returned no record.
    pub poll_interval: Duration,
    /// Time limit of a call of the archive.
    pub timeout: Duration,
    /// Its private keys, at least one.
    pub keys: Arc<KeyRing>,
    /// Its directory.
    pub directory: Option<DirectorySource>,
}

/// `[corp.directory]`
pub struct DirectorySource {
    /// Base address of the directory APIs.
    pub base_url: String,
    /// The secret of the application that may read contacts.
    pub secret: Secret,
    /// Time between two synchronizations.
    pub refresh_interval: Duration,
}

/// The private keys that a configuration names, and the folders of their files.
pub struct PrivateKeys {
    /// One ring for each corp.
    pub rings: BTreeMap<CorpId, KeyRing>,
    /// Folders to watch for new files.
    pub folders: BTreeSet<PathBuf>,
}

/// Collects the problems of one configuration.
pub struct Validator<'a> {
    file: &'a Path,
    folder: &'a Path,
    invalid: &'a InvalidKeys,
    /// Whether files with secrets may be readable by others.
    allow_open_files: bool,
    /// Whether a corp's secrets may be sent over plain HTTP to other machines.
    allow_plain_http: bool,
    problems: Vec<Problem>,
}

const SDK_NOT_SUPPORTED: &str =
    "found \"sdk\", which is not supported yet; accepted: \"http\", with a gateway";

impl<'a> Validator<'a> {
    /// `invalid` are the keys of `config` that were reported already.
    pub fn new(file: &'a Path, config: &raw::Config, invalid: &'a InvalidKeys) -> Self {
        let folder = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        Self {
            file,
            folder: folder.unwrap_or(Path::new(".")),
            invalid,
            // If it is unknown whether something is allowed, it is not reported.
            allow_open_files: config.secrets.allow_open_files
                || invalid.covers("secrets.allow_open_files"),
            allow_plain_http: config.secrets.allow_plain_http
                || invalid.covers("secrets.allow_plain_http"),
            problems: Vec::new(),
        }
    }

    /// Returns the problems found so far.
    pub fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// The folder of the configuration file; paths are relative to it.
    pub fn folder(&self) -> &Path {
        self.folder
    }

    /// Returns whether the key, a table that contains it, or a key inside it was reported already.
    pub fn touches(&self, at: &str) -> bool {
        self.invalid.touches(at)
    }

    /// Adds a problem, unless the key was reported already.
    pub fn problem(&mut self, at: impl Into<String>, what: impl Into<String>) {
        let at = at.into();
        if !self.invalid.covers(&at) {
            let what = what.into();
            self.problems.push(Problem { at, what });
        }
    }

    /// Returns whether the key's value is not the one of the file.
    pub fn is_invalid(&self, at: &str) -> bool {
        self.invalid.covers(at)
    }

    /// Validates everything. The result is `None` if something is missing because of a problem.
    pub fn settings(&mut self, config: raw::Config) -> Option<Settings> {
        let mut ids = HashSet::new();
        let mut corps = Vec::new();
        for (index, corp) in config.corp.into_iter().enumerate() {
            let at = format!("corp[{index}]");
            if !ids.insert(corp.id.clone()) {
                let what = format!("found \"{}\", as for another corp", corp.id);
                self.problem(
                    format!("{at}.id"),
                    format!("{what}; accepted: one [[corp]] per id"),
                );
            }
            corps.push(self.corp(&at, corp));
        }
        let kafka = kafka::settings(self, config.kafka);
        let corps: Option<Vec<Corp>> = corps.into_iter().collect();
        let sinks = sinks::configured(
            self,
            config.sink,
            corps.as_deref().unwrap_or_default(),
            &kafka.prefix,
        );
        let rules_dir = config.rules.dir.map(|dir| self.folder.join(dir));
        if let Some(dir) = &rules_dir
            && !dir.is_dir()
        {
            let found = dir.display();
            self.problem(
                "rules.dir",
                format!(
                    "found \"{found}\", which is not a folder; accepted: a folder of rule files"
                ),
            );
        }
        let listen = config.metrics.listen.parse();
        if listen.is_err() {
            let found = &config.metrics.listen;
            self.problem(
                "metrics.listen",
                format!("found \"{found}\"; accepted: IP:PORT"),
            );
        }
        Some(Settings {
            file: self.file.to_owned(),
            driver: Driver {
                mode: config.driver.mode,
                state_dir: self.folder.join(config.driver.state_dir),
            },
            kafka,
            corps: corps?,
            rules_dir,
            sinks: sinks?,
            metrics_listen: listen.ok()?,
        })
    }

    /// Validates only the private keys.
    pub fn private_keys(&mut self, config: &raw::Config) -> PrivateKeys {
        let mut keys = PrivateKeys {
            rings: BTreeMap::new(),
            folders: BTreeSet::new(),
        };
        for (index, corp) in config.corp.iter().enumerate() {
            let ring = self.keys(&format!("corp[{index}]"), &corp.archive.key);
            keys.rings.insert(CorpId::from(corp.id.as_str()), ring);
            let files = corp
                .archive
                .key
                .iter()
                .map(|key| self.folder.join(&key.file));
            keys.folders
                .extend(files.filter_map(|file| file.parent().map(Path::to_owned)));
        }
        keys
    }

    fn corp(&mut self, at: &str, corp: raw::CorpSection) -> Option<Corp> {
        let zone = corp.timezone.parse::<Tz>();
        if zone.is_err() {
            let accepted = "accepted: an IANA name such as \"Asia/Shanghai\"";
            let found = &corp.timezone;
            self.problem(
                format!("{at}.timezone"),
                format!("found \"{found}\"; {accepted}"),
            );
        }
        let archive = corp.archive;
        let base_url_at = format!("{at}.archive.base_url");
        match (&archive.base_url, archive.transport) {
            (_, Transport::Sdk) => {
                self.problem(format!("{at}.archive.transport"), SDK_NOT_SUPPORTED);
            }
            (None, Transport::Http) => {
                let what = "missing; accepted: the address of the gateway (http:// or https://)";
                self.problem(base_url_at, what);
            }
            (Some(url), Transport::Http) => self.secret_address(&base_url_at, url),
        }
        let secret = self.secret(&format!("{at}.archive.secret_file"), &archive.secret_file);
        let poll_interval = self.duration(
            &format!("{at}.archive.poll_interval"),
            &archive.poll_interval,
        );
        let timeout = self.duration(&format!("{at}.archive.timeout"), &archive.timeout);
        let keys = self.keys(at, &archive.key);
        let directory = corp
            .directory
            .map(|directory| self.directory(&format!("{at}.directory"), directory));
        Some(Corp {
            id: CorpId::from(corp.id.as_str()),
            zone: zone.ok()?,
            base_url: archive.base_url?,
            secret: secret?,
            batch_limit: archive.batch_limit,
            poll_interval: poll_interval?,
            timeout: timeout?,
            keys: Arc::new(keys),
            directory: match directory {
                Some(directory) => Some(directory?),
                None => None,
            },
        })
    }

    fn directory(&mut self, at: &str, directory: raw::DirectorySection) -> Option<DirectorySource> {
        self.secret_address(&format!("{at}.base_url"), &directory.base_url);
        let secret = self.secret(&format!("{at}.secret_file"), &directory.secret_file);
        let interval = self.duration(
            &format!("{at}.refresh_interval"),
            &directory.refresh_interval,
        );
        Some(DirectorySource {
            base_url: directory.base_url,
            secret: secret?,
            refresh_interval: interval?,
        })
    }

    fn keys(&mut self, at: &str, keys: &[raw::KeySetting]) -> KeyRing {
        let mut ring = KeyRing::new();
        let mut versions = HashSet::new();
        for (index, key) in keys.iter().enumerate() {
            let at = format!("{at}.archive.key[{index}]");
            let accepted = self.new_version(&at, key.version, &mut versions);
            let file_at = format!("{at}.file");
            let Some(pem) = self.secret_lines(&file_at, &key.file) else {
                continue;
            };
            // The file of a version that is not accepted is checked as well.
            let mut unused = KeyRing::new();
            let ring = if accepted { &mut ring } else { &mut unused };
            if let Err(error) = ring.insert_pem(key.version, &pem) {
                self.problem(file_at, format!("{}: {error}", key.file));
            }
        }
        ring
    }

    /// Returns whether the version of the key at `at` is valid and occurs for the first time.
    pub fn new_version(&mut self, at: &str, version: u32, seen: &mut HashSet<u32>) -> bool {
        let at = format!("{at}.version");
        if self.is_invalid(&at) {
            return false;
        }
        let new = seen.insert(version);
        if !new {
            let what =
                format!("found {version}, as for another key; accepted: one key per version");
            self.problem(at, what);
        }
        new
    }

    /// Checks that an address can be parsed and has a host; returns it if so.
    pub fn address(&mut self, at: &str, text: &str) -> Option<reqwest::Url> {
        let url = reqwest::Url::parse(text)
            .ok()
            .filter(|url| url.host_str().is_some_and(|host| !host.is_empty()));
        if url.is_none() {
            let found = redacted(text);
            self.problem(
                at,
                format!("found \"{found}\"; accepted: http://HOST:PORT or https://HOST:PORT"),
            );
        }
        url
    }

    /// As [`Self::address`], for an address to which a corp's secret is sent: WeCom's `gettoken` has
    /// `corpsecret` in its query, so everybody on the way could read it over plain HTTP.
    fn secret_address(&mut self, at: &str, text: &str) {
        let Some(url) = self.address(at, text) else {
            return;
        };
        if url.scheme() == "http" && !is_this_machine(&url) && !self.allow_plain_http {
            let found = redacted(text);
            self.problem(
                at,
                format!(
                    "found \"{found}\", to which the secret would be sent in plain text; accepted: \
                     https://, http:// to this machine (127.0.0.1, [::1], localhost), or \
                     `[secrets] allow_plain_http = true`"
                ),
            );
        }
    }

    /// Reads a secret, without the line end that editors append.
    pub fn secret(&mut self, at: &str, file: &str) -> Option<Secret> {
        self.read_secret(at, file, secret_file::text)
    }

    /// Reads a secret of several lines.
    pub fn secret_lines(&mut self, at: &str, file: &str) -> Option<Secret> {
        self.read_secret(at, file, secret_file::whole_text)
    }

    /// Reads a secret, byte for byte.
    pub fn secret_bytes(&mut self, at: &str, file: &str) -> Option<Secret<Vec<u8>>> {
        self.read_secret(at, file, secret_file::bytes)
    }

    fn read_secret<T>(
        &mut self,
        at: &str,
        file: &str,
        read: impl FnOnce(&Path, bool) -> Result<T, SecretFileError>,
    ) -> Option<T> {
        if self.is_invalid(at) {
            return None;
        }
        // Somebody has put the secret itself here; it must not be repeated.
        if file.contains('\n') {
            let what = "found a text of several lines; accepted: the path of a file";
            self.problem(at, what);
            return None;
        }
        read(&self.folder.join(file), self.allow_open_files)
            .map_err(|error| self.problem(at, format!("{file}: {error}")))
            .ok()
    }

    /// Parses a duration.
    pub fn duration(&mut self, at: &str, text: &str) -> Option<Duration> {
        let parsed = humantime::parse_duration(text)
            .ok()
            .filter(|duration| !duration.is_zero());
        if parsed.is_none() {
            self.problem(
                at,
                format!("found \"{text}\"; accepted: a duration greater than zero"),
            );
        }
        parsed
    }
}

/// Returns whether an address is on the loopback interface: `localhost` and names below it (RFC 6761),
/// 127.0.0.0/8 and `::1`.
fn is_this_machine(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    let name = bare.strip_suffix('.').unwrap_or(bare);
    name == "localhost" || name.ends_with(".localhost")
}
