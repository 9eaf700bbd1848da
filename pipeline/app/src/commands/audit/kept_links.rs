//! Links of the hash chains that were kept from an earlier report, and the search for them.

use std::path::Path;

use chatledger_engine::audit::chain::{Alteration, Tampered};
use chatledger_schemas::CorpId;
use chatledger_schemas::ledger::ChainLink;
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// Points of a corp's two hash chains: every entry up to a number gives the link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Links {
    /// The stored chain over what was pulled; with the direct driver, over outcomes and digests of rows
    /// as well.
    pub(super) pulled: Option<Point>,
    /// The chain over outcomes and digests of rows, computed from the ledger.
    pub(super) settled: Option<Point>,
}

/// A point of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Point {
    /// Number of entries up to here.
    pub(super) number: u64,
    /// The link after the last of them, as hexadecimal digits.
    pub(super) link: String,
}

/// The part of an earlier report that is compared.
#[derive(Debug, Deserialize)]
pub(super) struct KeptReport {
    corps: Vec<KeptLinks>,
}

/// The links of one corp in an earlier report.
#[derive(Debug, Deserialize)]
pub(super) struct KeptLinks {
    corp_id: CorpId,
    pub(super) links: Links,
}

impl KeptReport {
    /// Reads a report.
    ///
    /// # Errors
    /// The file cannot be read or is no report.
    pub(super) fn read(file: &Path) -> Result<Self, Failure> {
        let found = std::fs::read(file).map_err(|error| error.to_string());
        let parsed = found.and_then(|text| {
            serde_json::from_slice(&text)
                .map_err(|error| format!("not the output of `verify --json`: {error}"))
        });
        parsed.map_err(|error| Failure::config(format!("--kept {}: {error}", file.display())))
    }

    /// The links of a corp.
    ///
    /// # Errors
    /// The report has none: nothing would be compared.
    pub(super) fn of(&self, corp: &CorpId) -> Result<&KeptLinks, Failure> {
        let mut kept = self.corps.iter();
        let found = kept.find(|kept| kept.corp_id == *corp && kept.links.pulled.is_some());
        found.ok_or_else(|| {
            Failure::config(format!(
                "--kept: the report has no links of corp {corp}; name a corp that it has with --corp"
            ))
        })
    }
}

/// Looks for a kept point while a chain is followed.
pub(super) struct Search {
    kept: Option<Point>,
    found: bool,
}

impl Search {
    /// Starts at the beginning of a chain.
    pub(super) fn new(kept: Option<&Point>) -> Self {
        Self {
            kept: kept.cloned(),
            // The beginning of a chain is in every chain.
            found: kept.is_none_or(|point| point.number == 0),
        }
    }

    /// Passes a point of the chain.
    pub(super) fn pass(&mut self, number: u64, link: &ChainLink) {
        if let Some(kept) = &self.kept
            && kept.number == number
        {
            self.found |= kept.link == link.hex();
        }
    }

    /// What is wrong if the kept point is not in the chain.
    pub(super) fn finish(self) -> Option<Alteration> {
        let kept = self.kept.filter(|_| !self.found)?;
        Some(Alteration {
            what: Tampered::Rewritten,
            place: "ledger".into(),
            number: kept.number,
            seq: 0,
        })
    }
}
