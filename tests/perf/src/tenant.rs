//! The tenant of the measurement: reads its folder and its records from the simulator.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use chatledger_crypto::KeyRing;
use chatledger_directory::Directory;
use chatledger_schemas::config::Config;
use chatledger_schemas::{CorpId, SealedRecord, Secret};
use chatledger_wecom::{Archive, ArchiveOptions, DirectoryClient, DirectoryOptions};
use serde::Deserialize;

/// Timeout of requests to the simulator.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A tenant's folder.
pub struct Tenant {
    /// The folder.
    pub dir: PathBuf,
    /// The corp.
    pub corp_id: CorpId,
    /// The expected counts.
    pub truth: ExpectedCounts,
    /// The configuration the simulator wrote.
    config: Config,
}

/// The expected counts of a drain.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub struct ExpectedCounts {
    /// Valid messages.
    pub messages: u64,
    /// Violations.
    pub violations: u64,
    /// Records that cannot be opened or decoded.
    pub dead_letters: u64,
    /// All records.
    pub records: u64,
}

impl Tenant {
    /// Reads a tenant's folder.
    ///
    /// # Errors
    /// A file is missing or invalid.
    pub fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let config: Config =
            toml::from_str(&read("chatledger.toml")?).context("parse chatledger.toml")?;
        ensure!(
            config.corp.len() == 1,
            "the configuration must have exactly one corp"
        );
        let truth =
            serde_json::from_str(&read("truth/summary.json")?).context("parse the truth")?;
        let corp_id = CorpId::from(config.corp[0].id.as_str());
        Ok(Self {
            dir: dir.to_owned(),
            corp_id,
            truth,
            config,
        })
    }

    /// Returns the path of the configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.dir.join("chatledger.toml")
    }

    /// Returns the maximum rows of an insert into ClickHouse.
    pub fn batch_rows(&self) -> usize {
        self.config
            .sink
            .get("clickhouse")
            .and_then(|sink| sink["batch_rows"].as_u64())
            .map_or(50_000, |rows| rows as usize)
    }

    /// Reads the private keys.
    ///
    /// # Errors
    /// A key cannot be read.
    pub fn keys(&self) -> Result<KeyRing> {
        let mut ring = KeyRing::new();
        for key in &self.config.corp[0].archive.key {
            ring.insert_pem(key.version, &self.secret(&key.file)?)
                .with_context(|| format!("key {}", key.file))?;
        }
        Ok(ring)
    }

    /// Returns the records of the archive.
    ///
    /// # Errors
    /// The client cannot be created.
    pub fn archive(&self) -> Result<Pages> {
        let settings = &self.config.corp[0].archive;
        let archive = Archive::new(ArchiveOptions {
            corp_id: self.corp_id.clone(),
            base_url: settings
                .base_url
                .clone()
                .context("the archive has no base_url")?,
            secret: self.secret(&settings.secret_file)?,
            limit: settings.batch_limit,
            timeout: TIMEOUT,
            on_call: Arc::new(|_, _| {}),
        })?;
        Ok(Pages { archive, after: 0 })
    }

    /// Reads the directory.
    ///
    /// # Errors
    /// The directory does not respond.
    pub async fn directory(&self) -> Result<Directory> {
        let settings = &self.config.corp[0].directory;
        let settings = settings.as_ref().context("the corp has no directory")?;
        let client = DirectoryClient::new(DirectoryOptions {
            corp_id: self.corp_id.clone(),
            base_url: settings.base_url.clone(),
            secret: self.secret(&settings.secret_file)?,
            archive_secret: self.secret(&self.config.corp[0].archive.secret_file)?,
            timeout: TIMEOUT,
            on_call: Arc::new(|_, _| {}),
        })?;
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)?
            .as_millis();
        let snapshot = client
            .sync(&[], &[], now as i64)
            .await
            .context("read the directory")?;
        Ok(Directory::new(snapshot))
    }

    fn secret(&self, file: &str) -> Result<Secret> {
        let path = self.dir.join(file);
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(Secret::new(text.trim().to_owned()))
    }
}

/// All records of a tenant, a page at a time.
pub struct Pages {
    archive: Archive,
    after: u64,
}

impl Pages {
    /// Returns the next page; `None` after the last one.
    ///
    /// # Errors
    /// The archive does not respond.
    pub async fn next(&mut self) -> Result<Option<Vec<SealedRecord>>> {
        let page = self
            .archive
            .page(self.after)
            .await
            .context("read a page of the archive")?;
        Ok(page.records.last().map(|last| last.seq).map(|last| {
            self.after = last;
            page.records
        }))
    }
}
