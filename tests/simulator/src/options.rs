//! The options from which a tenant is generated, as given on the command line.
//!
//! Two runs with equal [`TenantOptions`] generate the same tenant, byte for byte. Options that only
//! concern serving (address, rate, limits) are not part of them.

use std::path::PathBuf;

use anyhow::{Result, bail};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use clap::Args;

use crate::faults::FaultSpec;
use crate::random::{Purpose, number};

/// The options that determine the contents of the tenant.
#[derive(Args, Clone, Debug)]
pub struct TenantOptions {
    /// Distinct messages in the backlog, including those damaged by --faults. Duplicates are not
    /// counted.
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    pub messages: u64,

    /// Seed of the generator: the same seed and options give the same tenant.
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,

    /// Members of the corp.
    #[arg(long, default_value_t = 80, value_name = "N",
          value_parser = clap::value_parser!(u32).range(20..=20_000))]
    pub members: u32,

    /// Days over which the backlog is spread; most messages fall into office hours of Asia/Shanghai.
    #[arg(long, default_value_t = 4, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(1..=365))]
    pub days: u32,

    /// End of the backlog (RFC 3339) [default: the current hour]. Set it when two runs must be
    /// equal.
    #[arg(long, value_name = "TIME")]
    pub until: Option<DateTime<Utc>>,

    /// Folder with dialogue files (`*.jsonl.gz`, one `{"kind","turns":[{"role","text"}]}` per line).
    /// Three of four scenes are then taken from them. Without it, only the built-in texts are used.
    #[arg(long, value_name = "DIR")]
    pub corpus: Option<PathBuf>,

    /// Number of public key versions, used one after another over the backlog.
    #[arg(long, default_value_t = 2, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=20))]
    pub keys: u32,

    /// The corpid [default: derived from the seed].
    #[arg(long, value_name = "ID")]
    pub corp_id: Option<String>,

    /// Faults to inject, comma-separated. Records: `broken=N` (bad_base64, truncated_ciphertext,
    /// bad_padding, bad_utf8, bad_json, bad_message, wrong_key in turn), `unknown_key=N`,
    /// `envelope=N` (bad_envelope), `duplicates=N` (given again under a later seq). Archive calls:
    /// `api=SHARE` fail, in every way or in the listed ways, as in `api=0.1@busy+cut` (busy, rate,
    /// concurrency, expired, invalid, e500, e502, cut, truncated, error, slow); `empty=SHARE` return
    /// an empty page although more records follow; `slow=MS` is the minimum duration of each call.
    /// `jump=N` skips N values of `seq` in the middle of the backlog.
    #[arg(long, default_value = "", value_name = "SPEC")]
    pub faults: FaultSpec,
}

impl TenantOptions {
    /// Fills in the defaults that depend on the clock and checks that the options are consistent.
    ///
    /// # Errors
    /// `--faults` damages or duplicates more records than the tenant has.
    pub fn resolve(mut self) -> Result<Self> {
        if self.until.is_none() {
            self.until = Some(Utc::now().duration_trunc(TimeDelta::hours(1))?);
        }
        let damaged = self.faults.broken + self.faults.unknown_key + self.faults.envelope;
        if damaged > self.messages / 2 {
            bail!(
                "--faults damages {damaged} records; at most half of the {} messages can be damaged",
                self.messages
            );
        }
        if self.faults.duplicates > self.messages - damaged {
            bail!(
                "--faults duplicates {} messages, but only {} are valid",
                self.faults.duplicates,
                self.messages - damaged
            );
        }
        Ok(self)
    }

    /// Returns the corpid.
    pub fn corp_id(&self) -> String {
        self.corp_id
            .clone()
            .unwrap_or_else(|| format!("ww{:016x}", number(self.seed, Purpose::Organisation, 1)))
    }

    /// Returns the end of the backlog in milliseconds since the epoch.
    pub fn until_ms(&self) -> i64 {
        self.until.map_or(0, |time| time.timestamp_millis())
    }

    /// Returns the key that seals values on Kafka: base64 of 32 bytes.
    pub fn seal_key(&self) -> String {
        use base64::Engine;
        use rand::Rng;
        let mut rng = crate::random::generator(self.seed, Purpose::Organisation, 200);
        let mut bytes = [0u8; 32];
        rng.fill_bytes(&mut bytes);
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }

    /// Returns a secret in the form of the admin console: 43 characters.
    pub fn secret(&self, which: u64) -> String {
        use base64::Engine;
        use rand::Rng;
        let mut rng = crate::random::generator(self.seed, Purpose::Organisation, 100 + which);
        let mut bytes = [0u8; 32];
        rng.fill_bytes(&mut bytes);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    }
}
