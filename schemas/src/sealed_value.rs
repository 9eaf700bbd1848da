//! A topic's value under a key of the deployment's own: what rests on the brokers instead of
//! plaintext.
//!
//! AES-256-GCM. The associated data is [`SEAL_CONTEXT`], the topic's name without the prefix, a zero
//! byte and the record's key, so a value opens nowhere but in the topic and under the key it was
//! sealed for. Not here: how it is opened (`pipeline/crypto`), which topics are sealed (`engine`).

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the associated data begins with: the form of the seal, so that another one can follow.
pub const SEAL_CONTEXT: &str = "chatledger seal 1\0";

/// The value of a record on `.messages` or `.violations` where the deployment has a seal key; what
/// it opens to is the value it would have without one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SealedValue<'a> {
    /// Which of the deployment's seal keys it is under (`kafka.seal_key.version`).
    pub key_version: u32,
    /// base64 of the 12 random bytes of the nonce.
    #[serde(borrow)]
    pub nonce: Cow<'a, str>,
    /// base64 of the ciphertext with its tag of 16 bytes at the end.
    #[serde(borrow)]
    pub ciphertext: Cow<'a, str>,
}
