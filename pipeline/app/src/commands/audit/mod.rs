//! What `reconcile` and `verify` share: the configuration, the sinks to read and the ledger.

mod kept_links;
mod ledger;
pub mod reconcile;
pub mod verify;

use std::path::Path;
use std::time::Duration;

use chatledger_engine::audit::AuditReader;
use chatledger_engine::sink::Sink;
use chatledger_schemas::config::Mode;

pub use self::ledger::{LedgerItem, LedgerReader};
use crate::config::{self, Corp, Settings};
use crate::exit::Failure;
use crate::wiring;

/// Added to the time a batch may stay open, for delivering it.
const DELIVERY: Duration = Duration::from_secs(30);

/// Everything an audit reads.
struct Audited {
    settings: Settings,
    ledger: LedgerReader,
    /// Those that can be read back.
    sinks: Vec<Sink>,
}

impl Audited {
    /// Loads the configuration and reaches the sinks. Changes nothing.
    async fn load(file: &Path) -> Result<Self, Failure> {
        let settings = config::load(file).map_err(Failure::config)?;
        let mut sinks = settings.sinks.clone();
        sinks.retain(|sink| sink.audit.is_some());
        wiring::reach_readable(&sinks).await?;
        let names = sinks.iter().map(|sink| sink.name).collect();
        let ledger = LedgerReader::of(&settings, names);
        Ok(Self {
            settings,
            ledger,
            sinks,
        })
    }

    /// The corps asked for: one by its id, or all.
    fn corps(&self, wanted: Option<&str>) -> Result<Vec<&Corp>, Failure> {
        let corps = &self.settings.corps;
        let Some(wanted) = wanted else {
            return Ok(corps.iter().collect());
        };
        let found = corps.iter().find(|corp| corp.id.as_str() == wanted);
        found.map(|corp| vec![corp]).ok_or_else(|| {
            let known: Vec<&str> = corps.iter().map(|corp| corp.id.as_str()).collect();
            let known = known.join(", ");
            Failure::config(format!(
                "--corp {wanted}: not in the configuration; it has {known}"
            ))
        })
    }

    /// The sinks and their audit readers.
    fn readers(&self) -> impl Iterator<Item = (&'static str, &dyn AuditReader)> {
        let sinks = self.sinks.iter();
        sinks.filter_map(|sink| Some((sink.name, &**sink.audit.as_ref()?)))
    }

    /// How long a pulled record may take to reach every sink. With Kafka the sinks keep offsets, so
    /// the `seq` they have reached is unknown.
    fn patience(&self) -> Duration {
        match self.settings.driver.mode {
            Mode::Direct => Duration::ZERO,
            Mode::Kafka => {
                let delays = self.sinks.iter().filter_map(|sink| {
                    let reader = sink.audit.as_ref()?;
                    Some(reader.delay(&sink.limits))
                });
                delays.max().unwrap_or_default() + DELIVERY
            }
        }
    }
}
