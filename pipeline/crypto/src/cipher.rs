//! The cipher of records that are read with transport `http`.
//!
//! `encrypt_random_key` contains a message key of 32 random bytes. `encrypt_chat_msg` is encrypted
//! with AES-256-CBC under this key, with its first 16 bytes as IV and PKCS#7 padding.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chatledger_schemas::Reason;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Size of an RSA-2048 block in bytes.
pub(crate) const RSA_BYTES: usize = 256;
const AES_BLOCK: usize = 16;

/// The dead-letter reason of a failure and its details.
pub(crate) type CipherError = (Reason, String);

/// The AES key of one message.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct MessageKey([u8; 32]);

impl std::fmt::Debug for MessageKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MessageKey(***)")
    }
}

impl MessageKey {
    /// Parses the content of an RSA block: 32 bytes in base64. Returns `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut key = Self([0; 32]);
        let length = STANDARD.decode_slice(text.trim_ascii(), &mut key.0).ok()?;
        (length == key.0.len()).then_some(key)
    }

    /// Decrypts a ciphertext in place and removes the padding.
    ///
    /// # Errors
    /// The decrypted content has no valid padding.
    pub fn open(&self, body: &mut Vec<u8>) -> Result<(), CipherError> {
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
                    "the decrypted encrypt_chat_msg has no valid padding".to_owned(),
                )
            })?
            .len();
        body.truncate(length);
        Ok(())
    }
}

pub(crate) fn decode(field: &str, text: &str) -> Result<Vec<u8>, CipherError> {
    STANDARD.decode(text.trim_ascii()).map_err(|_| {
        (
            Reason::BadBase64,
            format!("{field} is not valid base64 ({} bytes)", text.len()),
        )
    })
}

pub(crate) fn check_whole_blocks(body: &[u8]) -> Result<(), CipherError> {
    if body.is_empty() || !body.len().is_multiple_of(AES_BLOCK) {
        return Err((
            Reason::TruncatedCiphertext,
            format!(
                "encrypt_chat_msg has {} bytes, not a whole number of blocks",
                body.len()
            ),
        ));
    }
    Ok(())
}
