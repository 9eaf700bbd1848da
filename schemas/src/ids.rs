//! Identifiers that must not be mixed up with other strings.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A WeCom corporation (`ww…`); cheap to clone, one allocation per corp and process.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
pub struct CorpId(#[schemars(with = "String")] Arc<str>);

impl CorpId {
    /// The id as WeCom writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for CorpId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for CorpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
