//! Typed identifiers.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Length of the ids that WeCom gives to external contacts and robots.
const GIVEN_ID_CHARS: usize = 32;

/// Whether an id has the form of an external contact: `wm` (a WeChat user) or `wo` (a WeCom user of another corp) and 30 more
/// characters of `A-Za-z0-9-_` (`connectors/wecom/WECOM.md` §5.1). A userid that begins alike is a member's:
/// corps choose userids themselves.
pub fn is_external_id(id: &str) -> bool {
    is_given_id(id, &["wm", "wo"])
}

/// Whether an id has the form of a robot: `wb` and 30 more of the same characters.
pub fn is_robot_id(id: &str) -> bool {
    is_given_id(id, &["wb"])
}

fn is_given_id(id: &str, prefixes: &[&str]) -> bool {
    id.len() == GIVEN_ID_CHARS
        && prefixes.iter().any(|prefix| id.starts_with(prefix))
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_wecom_gives_are_known_by_their_whole_form() {
        for id in [
            "wmAbCdEfGhIjKlMnOpQrStUvWxYz0001",
            "woAJ2GCAAAXtWyujaWJHDDGi0mAC-_12",
        ] {
            assert!(is_external_id(id) && !is_robot_id(id), "{id}");
        }
        assert!(is_robot_id("wbAbCdEfGhIjKlMnOpQrStUvWxYz0001"));
        for id in [
            "",
            "wm",
            "wmin",
            "wolf.li",
            "wbin",
            "WmAbCdEfGhIjKlMnOpQrStUvWxYz0001",
            "wolfgang.amadeus@mozart.example1",
            "wmAbCdEfGhIjKlMnOpQrStUvWxYz00012",
        ] {
            assert!(!is_external_id(id) && !is_robot_id(id), "{id}");
        }
    }
}
