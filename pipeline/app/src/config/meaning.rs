//! What a schema cannot say: files can be read, versions differ, zones exist, addresses are whole.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chatledger_crypto::{KeyRing, SealRing};
use chatledger_parquet::Target;
use chatledger_schemas::config as raw;
use chatledger_schemas::config::Transport;
use chatledger_schemas::{CorpId, Secret};
use chrono_tz::Tz;
use tracing::warn;

use super::secret_file::{self, SecretFileError};
use super::{Problem, kafka};
use crate::exit::chain;

/// A configuration that has been checked.
pub struct Settings {
    /// The file they come from.
    pub file: PathBuf,
    /// How records travel.
    pub driver: Driver,
    /// The broker.
    pub kafka: Kafka,
    /// The corps.
    pub corps: Vec<Corp>,
    /// Folder of rule files.
    pub rules_dir: Option<PathBuf>,
    /// The tables.
    pub clickhouse: Option<ClickHouse>,
    /// The files.
    pub parquet: Option<Parquet>,
    /// Where metrics are served.
    pub metrics_listen: SocketAddr,
}

/// `[driver]`
pub struct Driver {
    /// Which driver.
    pub mode: raw::Mode,
    /// Its state folder.
    pub state_dir: PathBuf,
}

/// `[kafka]`
pub struct Kafka {
    /// Brokers and librdkafka's properties.
    pub brokers: chatledger_kafka::Brokers,
    /// What every name begins with.
    pub prefix: String,
    /// Partitions of new topics.
    pub partitions: u32,
    /// Replication factor of new topics.
    pub replication: u16,
    /// What messages and violations are sealed with there.
    pub seal: Arc<SealRing>,
}

impl Kafka {
    /// Says so where what people wrote will rest on the brokers as they wrote it.
    pub fn warn_of_plain_text(&self) {
        if self.seal.versions().is_empty() {
            warn!(
                "messages and violations rest on Kafka in plain text: there is no [[kafka.seal_key]]"
            );
        }
    }
}

/// `[[corp]]`
pub struct Corp {
    /// Its id.
    pub id: CorpId,
    /// Where its days begin.
    pub zone: Tz,
    /// Base address of its archive.
    pub base_url: String,
    /// The archive secret.
    pub secret: Secret,
    /// Records per call.
    pub batch_limit: u32,
    /// Pause after an empty answer.
    pub poll_interval: Duration,
    /// Longest time a call of the archive may take.
    pub timeout: Duration,
    /// Its private keys.
    pub keys: Arc<KeyRing>,
    /// Its directory.
    pub directory: Option<DirectorySource>,
}

/// `[corp.directory]`
pub struct DirectorySource {
    /// Base address.
    pub base_url: String,
    /// The secret.
    pub secret: Secret,
    /// Time between two syncs.
    pub refresh_interval: Duration,
}

/// `[sink.clickhouse]`
pub struct ClickHouse {
    /// Address, database, user.
    pub options: chatledger_clickhouse::Options,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// Time of a batch.
    pub batch_interval: Duration,
}

/// `[sink.parquet]`
pub struct Parquet {
    /// The address, for people.
    pub url: String,
    /// The target.
    pub target: Target,
    /// Rows of a roll.
    pub roll_rows: usize,
    /// Time of a roll.
    pub roll_interval: Duration,
}

pub(super) struct Checker<'a> {
    folder: &'a Path,
    /// Whether a secret may lie open to others.
    allow_open: bool,
    problems: Vec<Problem>,
}

/// Said of the transport whose child process is still to come.
const SDK_IS_MISSING: &str = "transport \"sdk\" is not built yet; accepted: \"http\"";

/// Checks a configuration whose shape is right.
pub fn check(config: raw::Config, file: &Path, folder: &Path) -> Result<Settings, Vec<Problem>> {
    let mut checker = Checker {
        folder,
        allow_open: config.secrets.allow_open_files,
        problems: Vec::new(),
    };
    let settings = checker.settings(config, file);
    match settings {
        Some(settings) if checker.problems.is_empty() => Ok(settings),
        _ => Err(checker.problems),
    }
}

/// The private keys that a configuration names, and the folders their files are in.
pub struct Keys {
    /// A ring for each corp.
    pub rings: BTreeMap<CorpId, KeyRing>,
    /// Folders to watch for new files.
    pub folders: BTreeSet<PathBuf>,
}

/// Reads the private keys alone of a configuration whose shape is right.
pub fn keys(config: &raw::Config, folder: &Path) -> Result<Keys, Vec<Problem>> {
    let mut checker = Checker {
        folder,
        allow_open: config.secrets.allow_open_files,
        problems: Vec::new(),
    };
    let mut keys = Keys {
        rings: BTreeMap::new(),
        folders: BTreeSet::new(),
    };
    for (index, corp) in config.corp.iter().enumerate() {
        let ring = checker.keys(&format!("corp[{index}]"), &corp.archive.key);
        keys.rings.insert(CorpId::from(corp.id.as_str()), ring);
        let files = corp.archive.key.iter().map(|key| folder.join(&key.file));
        keys.folders
            .extend(files.filter_map(|file| file.parent().map(Path::to_owned)));
    }
    if checker.problems.is_empty() {
        Ok(keys)
    } else {
        Err(checker.problems)
    }
}

impl Checker<'_> {
    pub(super) fn problem(&mut self, at: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem {
            at: at.into(),
            what: what.into(),
        });
    }

    fn settings(&mut self, config: raw::Config, file: &Path) -> Option<Settings> {
        let mut ids = HashSet::new();
        let mut corps = Vec::new();
        for (index, corp) in config.corp.into_iter().enumerate() {
            let at = format!("corp[{index}]");
            if !ids.insert(corp.id.clone()) {
                self.problem(
                    format!("{at}.id"),
                    format!("corp {} is given twice", corp.id),
                );
            }
            corps.push(self.corp(&at, corp));
        }
        let clickhouse = config.sink.clickhouse.map(|sink| self.clickhouse(sink));
        let parquet = config.sink.parquet.map(|sink| self.parquet(sink));
        if clickhouse.is_none() && parquet.is_none() {
            self.problem(
                "sink",
                "neither [sink.clickhouse] nor [sink.parquet] is given",
            );
        }
        let kafka = kafka::settings(self, config.kafka);
        let rules_dir = config.rules.dir.map(|dir| self.folder.join(dir));
        if let Some(dir) = &rules_dir
            && !dir.is_dir()
        {
            self.problem(
                "rules.dir",
                format!("found \"{}\"; accepted: a folder", dir.display()),
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
            file: file.to_owned(),
            driver: Driver {
                mode: config.driver.mode,
                state_dir: self.folder.join(config.driver.state_dir),
            },
            kafka,
            corps: corps.into_iter().collect::<Option<_>>()?,
            rules_dir,
            clickhouse: match clickhouse {
                Some(sink) => Some(sink?),
                None => None,
            },
            parquet: match parquet {
                Some(sink) => Some(sink?),
                None => None,
            },
            metrics_listen: listen.ok()?,
        })
    }

    fn corp(&mut self, at: &str, corp: raw::Corp) -> Option<Corp> {
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
        if archive.transport == Transport::Sdk {
            self.problem(format!("{at}.archive.transport"), SDK_IS_MISSING);
        }
        if archive.base_url.is_none() {
            let what = "missing; accepted: the gateway's address (http:// or https://)";
            self.problem(format!("{at}.archive.base_url"), what);
        }
        let secret = self.secret(&format!("{at}.archive.secret_file"), &archive.secret_file);
        let poll_interval = self.duration(
            &format!("{at}.archive.poll_interval"),
            &archive.poll_interval,
        );
        let timeout = self.duration(&format!("{at}.archive.timeout"), &archive.timeout);
        let keys = self.keys(at, &archive.key);
        let directory = corp.directory.map(|directory| {
            let at = format!("{at}.directory");
            let secret = self.secret(&format!("{at}.secret_file"), &directory.secret_file);
            let every = self.duration(
                &format!("{at}.refresh_interval"),
                &directory.refresh_interval,
            );
            Some(DirectorySource {
                base_url: directory.base_url,
                secret: secret?,
                refresh_interval: every?,
            })
        });
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

    fn keys(&mut self, at: &str, keys: &[raw::Key]) -> KeyRing {
        let mut ring = KeyRing::new();
        for (index, key) in keys.iter().enumerate() {
            let at = format!("{at}.archive.key[{index}]");
            if ring.versions().contains(&key.version) {
                let what = format!("version {} is given twice", key.version);
                self.problem(format!("{at}.version"), what);
                continue;
            }
            let Some(pem) = self.secret(&format!("{at}.file"), &key.file) else {
                continue;
            };
            if let Err(error) = ring.insert_pem(key.version, &pem) {
                self.problem(format!("{at}.file"), format!("{}: {error}", key.file));
            }
        }
        ring
    }

    fn clickhouse(&mut self, sink: raw::ClickHouse) -> Option<ClickHouse> {
        let interval = self.duration("sink.clickhouse.batch_interval", &sink.batch_interval);
        let timeout = self.duration("sink.clickhouse.timeout", &sink.timeout);
        let password = match &sink.password_file {
            Some(file) => Some(self.secret("sink.clickhouse.password_file", file)?),
            None => None,
        };
        let roots = match &sink.ca_file {
            Some(file) => Some(self.roots("sink.clickhouse.ca_file", file)?),
            None => None,
        };
        Some(ClickHouse {
            options: chatledger_clickhouse::Options {
                url: sink.url,
                database: sink.database,
                user: sink.user,
                password,
                roots,
                timeout: timeout?,
            },
            batch_rows: sink.batch_rows as usize,
            batch_interval: interval?,
        })
    }

    fn parquet(&mut self, sink: raw::Parquet) -> Option<Parquet> {
        let interval = self.duration("sink.parquet.roll_interval", &sink.roll_interval);
        let target = Target::open(&sink.url, self.folder)
            .map_err(|error| self.problem("sink.parquet.url", chain(&error)))
            .ok();
        Some(Parquet {
            url: sink.url,
            target: target?,
            roll_rows: sink.roll_rows as usize,
            roll_interval: interval?,
        })
    }

    /// A secret from a file, without the line end that editors put there.
    pub(super) fn secret(&mut self, at: &str, file: &str) -> Option<Secret> {
        let read = secret_file::text(&self.folder.join(file), self.allow_open);
        self.taken(at, file, read)
    }

    /// A secret from a file, byte for byte.
    pub(super) fn secret_bytes(&mut self, at: &str, file: &str) -> Option<Secret<Vec<u8>>> {
        let read = secret_file::bytes(&self.folder.join(file), self.allow_open);
        self.taken(at, file, read)
    }

    fn taken<T>(&mut self, at: &str, file: &str, read: Result<T, SecretFileError>) -> Option<T> {
        read.map_err(|error| self.problem(at, format!("{file}: {error}")))
            .ok()
    }

    fn roots(&mut self, at: &str, file: &str) -> Option<chatledger_clickhouse::Roots> {
        let roots = std::fs::read(self.folder.join(file))
            .map_err(|error| format!("cannot be read: {error}"))
            .and_then(|pem| {
                chatledger_clickhouse::Roots::from_pem(&pem).map_err(|error| chain(&error))
            });
        roots
            .map_err(|what| self.problem(at, format!("{file}: {what}")))
            .ok()
    }

    fn duration(&mut self, at: &str, text: &str) -> Option<Duration> {
        let parsed = humantime::parse_duration(text)
            .ok()
            .filter(|duration| !duration.is_zero());
        if parsed.is_none() {
            self.problem(
                at,
                format!("found \"{text}\"; accepted: a duration above zero"),
            );
        }
        parsed
    }
}
