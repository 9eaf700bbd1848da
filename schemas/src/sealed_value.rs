//! A topic value encrypted with a key of the deployment (seal key), so that the brokers store no
//! plaintext.
//!
//! The cipher is AES-256-GCM. The associated data is [`SEAL_CONTEXT`], the topic name without its
//! prefix, a zero byte and the record key, so a value can be opened only in the topic and under the
//! record key it was sealed for. `pipeline/crypto` opens values; `pipeline/engine` decides which
//! topics are sealed.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Start of the associated data. It identifies the version of the seal format.
pub const SEAL_CONTEXT: &str = "chatledger seal 1\0";

/// The value of a record on `.messages` or `.violations` if the deployment has a seal key. The
/// decrypted content is the value that the record would have without a seal key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedValue<'a> {
    /// Version of the seal key (`kafka.seal_key.version`).
    pub key_version: u32,
    /// Nonce: 12 random bytes in base64.
    #[serde(borrow)]
    pub nonce: Cow<'a, str>,
    /// Ciphertext followed by the 16-byte authentication tag, in base64.
    #[serde(borrow)]
    pub ciphertext: Cow<'a, str>,
}
