//! Opens sealed values of topics, following the format documented in `schemas/json`.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The seal key of a tenant.
pub struct SealKey(LessSafeKey);

impl SealKey {
    /// Reads a key from its file.
    ///
    /// # Errors
    /// The file is missing or contains no key.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let bytes = STANDARD.decode(text.trim()).context("the seal key")?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes)
            .map_err(|_| anyhow!("the file contains no seal key"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Opens a value with the key `key` of a topic (named without the prefix).
    ///
    /// # Errors
    /// The value does not have the documented format, or cannot be opened.
    pub fn open(&self, topic: &str, key: &[u8], value: &[u8]) -> Result<Vec<u8>> {
        let sealed: Value = serde_json::from_slice(value).context("the sealed value")?;
        ensure!(sealed["key_version"] == 1, "sealed with another key");
        let bytes = |field: &str| {
            let text = sealed[field].as_str().context("a field is missing")?;
            STANDARD.decode(text).context("a field is not base64")
        };
        let nonce = Nonce::try_assume_unique_for_key(&bytes("nonce")?);
        let nonce = nonce.map_err(|_| anyhow!("the nonce is not 12 bytes"))?;
        let associated = [b"chatledger seal 1\0", topic.as_bytes(), b"\0", key].concat();
        let mut body = bytes("ciphertext")?;
        let opened = self
            .0
            .open_in_place(nonce, Aad::from(associated), &mut body);
        let length = opened
            .map_err(|_| anyhow!("the value cannot be opened"))?
            .len();
        body.truncate(length);
        Ok(body)
    }
}
