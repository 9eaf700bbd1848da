//! What a tenant is made of, as given on the command line.
//!
//! Two runs with equal [`TenantOptions`] make the same tenant, byte for byte; what only concerns
//! serving (address, rate, limits) is not part of it.

use std::path::PathBuf;

use anyhow::{Result, bail};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use clap::Args;

use crate::faults::FaultSpec;
use crate::random::{Purpose, number};

/// Everything that decides what the tenant contains.
#[derive(Args, Clone, Debug)]
pub struct TenantOptions {
    /// Distinct messages in the backlog. Records spoilt by --faults are among them, records that
    /// come twice are not counted.
    #[arg(long, default_value_t = 5_000, value_name = "N")]
    pub messages: u64,

    /// Everything follows from it: the same seed (and options) gives the same tenant.
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,

    /// Members of the corp.
    #[arg(long, default_value_t = 80, value_name = "N",
          value_parser = clap::value_parser!(u32).range(20..=20_000))]
    pub members: u32,

    /// Days over which the backlog is spread, office hours of Asia/Shanghai weighing most.
    #[arg(long, default_value_t = 4, value_name = "DAYS",
          value_parser = clap::value_parser!(u32).range(1..=365))]
    pub days: u32,

    /// When the backlog ends (RFC 3339); the current hour if not given. Give it where two runs
    /// must be equal.
    #[arg(long, value_name = "TIME")]
    pub until: Option<DateTime<Utc>>,

    /// Folder with dialogue files (`*.jsonl.gz`, one `{"kind","turns":[{"role","text"}]}` a line);
    /// three scenes in four are then played from them. Without it the built-in texts are used alone.
    #[arg(long, value_name = "DIR")]
    pub corpus: Option<PathBuf>,

    /// Versions of the archive's public key, used one after the other over the backlog.
    #[arg(long, default_value_t = 2, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=20))]
    pub keys: u32,

    /// The corpid; made from the seed if not given.
    #[arg(long, value_name = "ID")]
    pub corp_id: Option<String>,

    /// What goes wrong, comma-separated. Records: `broken=N` (bad_base64, truncated_ciphertext,
    /// bad_padding, bad_utf8, bad_json, bad_message, wrong_key in turn), `unknown_key=N`,
    /// `envelope=N` (bad_envelope), `duplicates=N` (again under a later seq). Archive calls:
    /// `api=SHARE` fail, in all ways or in some, as in `api=0.1@busy+cut` (busy, rate, concurrency,
    /// expired, invalid, e500, e502, cut, truncated, error, slow); `empty=SHARE` get an empty page
    /// though more follows; `slow=MS`, the least time each takes. `jump=N`: in the middle of the
    /// backlog `seq` goes on N further.
    #[arg(long, default_value = "", value_name = "SPEC")]
    pub faults: FaultSpec,
}

impl TenantOptions {
    /// Fills in what depends on the clock and checks what must fit together.
    ///
    /// # Errors
    /// More records are to be spoilt or repeated than there are messages.
    pub fn settle(mut self) -> Result<Self> {
        if self.until.is_none() {
            self.until = Some(Utc::now().duration_trunc(TimeDelta::hours(1))?);
        }
        let spoilt = self.faults.broken + self.faults.unknown_key + self.faults.envelope;
        if spoilt > self.messages / 2 {
            bail!(
                "--faults spoils {spoilt} records; at most half of the {} messages may be",
                self.messages
            );
        }
        if self.faults.duplicates > self.messages - spoilt {
            bail!(
                "--faults repeats {} messages, there are only {} good ones",
                self.faults.duplicates,
                self.messages - spoilt
            );
        }
        Ok(self)
    }

    /// The corpid.
    pub fn corp_id(&self) -> String {
        self.corp_id
            .clone()
            .unwrap_or_else(|| format!("ww{:016x}", number(self.seed, Purpose::Organisation, 1)))
    }

    /// End of the backlog, milliseconds since the epoch.
    pub fn until_ms(&self) -> i64 {
        self.until.map_or(0, |time| time.timestamp_millis())
    }

    /// A key for sealing what rests on Kafka: base64 of 32 bytes.
    pub fn seal_key(&self) -> String {
        use base64::Engine;
        use rand::Rng;
        let mut rng = crate::random::generator(self.seed, Purpose::Organisation, 200);
        let mut bytes = [0u8; 32];
        rng.fill_bytes(&mut bytes);
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }

    /// A secret as the admin console shows them: 43 characters.
    pub fn secret(&self, which: u64) -> String {
        use base64::Engine;
        use rand::Rng;
        let mut rng = crate::random::generator(self.seed, Purpose::Organisation, 100 + which);
        let mut bytes = [0u8; 32];
        rng.fill_bytes(&mut bytes);
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    }
}
