//! Typed identifiers.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Id of a WeCom corp (`ww…`).
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(transparent)]
// `Arc`, because every record carries the id: a clone must not allocate.
pub struct CorpId(#[schemars(with = "String")] Arc<str>);

impl CorpId {
    /// Returns the id as WeCom writes it.
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
