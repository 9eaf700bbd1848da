//! The open cipher: what is inside `encrypt_random_key` and `encrypt_chat_msg` with transport
//! `http`. AES-256-CBC under a key of 32 random bytes, IV = the first 16 of them, PKCS#7.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chatledger_schemas::Reason;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes of an RSA-2048 block.
pub(crate) const RSA_BYTES: usize = 256;
const AES_BLOCK: usize = 16;

pub(crate) type Refusal = (Reason, String);

/// The key of one message.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct MessageKey([u8; 32]);

impl std::fmt::Debug for MessageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MessageKey(***)")
    }
}

impl MessageKey {
    /// Reads the ASCII form (base64 of 32 bytes) that RSA carries.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut key = Self([0; 32]);
        let length = STANDARD.decode_slice(text.trim_ascii(), &mut key.0).ok()?;
        (length == key.0.len()).then_some(key)
    }

    /// Opens a ciphertext in place and cuts the padding off.
    ///
    /// # Errors
    /// What it opens to has no valid padding.
    pub fn open(&self, body: &mut Vec<u8>) -> Result<(), Refusal> {
        let (key, iv) = (&self.0, &self.0[..AES_BLOCK]);
        let decryptor = cbc::Decryptor::<aes::Aes256>::new_from_slices(key, iv).map_err(|_| {
            (
                Reason::WrongKey,
                "the message key has the wrong size".to_owned(),
            )
        })?;
        let length = decryptor
            .decrypt_padded::<Pkcs7>(body)
            .map_err(|_| {
                (
                    Reason::BadPadding,
                    "encrypt_chat_msg opens without valid padding".to_owned(),
                )
            })?
            .len();
        body.truncate(length);
        Ok(())
    }
}

pub(crate) fn decode(field: &str, text: &str) -> Result<Vec<u8>, Refusal> {
    STANDARD.decode(text.trim_ascii()).map_err(|_| {
        (
            Reason::BadBase64,
            format!("{field} is not base64 ({} characters)", text.len()),
        )
    })
}

pub(crate) fn check_whole_blocks(body: &[u8]) -> Result<(), Refusal> {
    if body.is_empty() || !body.len().is_multiple_of(AES_BLOCK) {
        return Err((
            Reason::TruncatedCiphertext,
            format!(
                "encrypt_chat_msg is {} bytes, no whole number of blocks",
                body.len()
            ),
        ));
    }
    Ok(())
}
