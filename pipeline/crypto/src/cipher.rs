//! The cipher of records that are read with transport `http`.
//!
//! `encrypt_random_key` contains a message key of 32 random bytes. `encrypt_chat_msg` is encrypted
//! with AES-256-CBC under this key, with its first 16 bytes as IV and PKCS#7 padding.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, KeyIvInit};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
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

/// Decodes base64. Line breaks and other white space mean nothing in it, padding can be missing, and the alphabet can be that
/// for URLs: gateways and JSON libraries are known to write it so.
pub(crate) fn decode(field: &str, text: &str) -> Result<Vec<u8>, CipherError> {
    if let Ok(bytes) = STANDARD.decode(text) {
        return Ok(bytes);
    }
    let mut plain = Vec::with_capacity(text.len());
    let (mut standard, mut url, mut odd) = (false, false, 0_usize);
    for byte in text.bytes() {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'+' | b'/' => standard = true,
            b'-' | b'_' => url = true,
            b'=' => {}
            _ if byte.is_ascii_alphanumeric() => {}
            _ => odd += 1,
        }
        plain.push(match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        });
    }
    let reject = |what: String| {
        let error = format!("{field} is not valid base64 ({} bytes): {what}", text.len());
        Err((Reason::BadBase64, error))
    };
    if odd > 0 {
        return reject(format!("{odd} bytes belong to no base64 alphabet"));
    }
    if standard && url {
        return reject("it mixes the standard alphabet with that for URLs".to_owned());
    }
    let end = plain
        .iter()
        .rposition(|byte| *byte != b'=')
        .map_or(0, |last| last + 1);
    if plain[..end].contains(&b'=') {
        return reject("padding in the middle".to_owned());
    }
    match STANDARD_NO_PAD.decode(&plain[..end]) {
        Ok(bytes) => Ok(bytes),
        Err(_) => reject(format!(
            "{end} characters without padding are cut off or changed"
        )),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_as_gateways_write_it_and_an_error_says_what_is_odd() {
        let bytes: Vec<u8> = (0..=255).chain([0xfb, 0xff, 0xfe, 1]).collect();
        let text = STANDARD.encode(&bytes);
        let lines: Vec<&[u8]> = text.as_bytes().chunks(76).collect();
        let lines = lines.join(b"\r\n".as_slice());
        let lines = String::from_utf8(lines).unwrap();
        let forms = [
            text.clone(),
            lines.clone(),
            format!(" {lines}\n"),
            text.trim_end_matches('=').to_owned(),
            text.replace('+', "-").replace('/', "_"),
            lines
                .trim_end_matches('=')
                .replace('+', "-")
                .replace('/', "_"),
        ];
        for form in forms {
            assert_eq!(decode("x", &form).unwrap(), bytes, "{form}");
        }
        assert!(decode("x", "").unwrap().is_empty());
        for (odd, what) in [
            ("AA*=", "1 bytes belong to no base64 alphabet"),
            ("+A-A", "mixes"),
            ("AA==AA==", "padding in the middle"),
            ("AAAAA", "cut off"),
        ] {
            let (reason, error) = decode("encrypt_chat_msg", odd).unwrap_err();
            assert_eq!(reason, Reason::BadBase64);
            assert!(
                error.contains(what) && error.starts_with("encrypt_chat_msg"),
                "{error}"
            );
            assert!(!error.contains(odd), "{error}");
        }
    }
}
