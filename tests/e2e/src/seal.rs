//! Opens what chatledger seals on its topics, from the form that `schemas/json` documents.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The seal key of a tenant.
pub struct SealKey(LessSafeKey);

impl SealKey {
    /// Reads it from its file.
    ///
    /// # Errors
    /// It is not there, or no key.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let bytes = STANDARD.decode(text.trim()).context("the seal key")?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| anyhow!("no seal key"))?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Opens the value that stands under `key` in `topic` (named without the prefix).
    ///
    /// # Errors
    /// It is not of the documented form, or does not open.
    pub fn open(&self, topic: &str, key: &[u8], value: &[u8]) -> Result<Vec<u8>> {
        let sealed: Value = serde_json::from_slice(value).context("the sealed value")?;
        ensure!(sealed["key_version"] == 1, "sealed with another key");
        let bytes = |field: &str| {
            let text = sealed[field].as_str().context("a field is missing")?;
            STANDARD.decode(text).context("a field is not base64")
        };
        let nonce = Nonce::try_assume_unique_for_key(&bytes("nonce")?);
        let nonce = nonce.map_err(|_| anyhow!("the nonce is not 12 bytes"))?;
        let place = [b"chatledger seal 1\0", topic.as_bytes(), b"\0", key].concat();
        let mut body = bytes("ciphertext")?;
        let opened = self.0.open_in_place(nonce, Aad::from(place), &mut body);
        let length = opened.map_err(|_| anyhow!("it does not open"))?.len();
        body.truncate(length);
        Ok(body)
    }
}
