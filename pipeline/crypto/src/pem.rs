//! Reads a private key as people paste and editors save it.
//!
//! The lines of a PEM file can be indented, joined, broken at another width, or written with `\n` as two characters; the
//! meaning of their base64 is the same. What is not an unencrypted private key is named, so that the error helps.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use rsa::RsaPrivateKey;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs8::DecodePrivateKey;
use zeroize::Zeroizing;

use crate::keyring::KeyError;

const BEGIN: &str = "-----BEGIN ";
const DASHES: &str = "-----";

/// Reads the first private key of a text.
///
/// # Errors
/// See [`KeyError`].
pub(crate) fn read(text: &str) -> Result<RsaPrivateKey, KeyError> {
    let mut rest = text;
    let mut other = None;
    while let Some(at) = rest.find(BEGIN) {
        let block = &rest[at + BEGIN.len()..];
        let (label, body) = block.split_once(DASHES).ok_or(KeyError::NotPem)?;
        let end = body.find(DASHES).ok_or(KeyError::NoEnd)?;
        let body = &body[..end];
        match label {
            "PRIVATE KEY" | "RSA PRIVATE KEY" if body.contains("ENCRYPTED") => {
                return Err(KeyError::Encrypted);
            }
            "PRIVATE KEY" | "RSA PRIVATE KEY" => return of_base64(body),
            "ENCRYPTED PRIVATE KEY" => return Err(KeyError::Encrypted),
            "PUBLIC KEY" | "RSA PUBLIC KEY" => other = Some("a public key"),
            "CERTIFICATE" => other = Some("a certificate"),
            "OPENSSH PRIVATE KEY" => other = Some("a key of OpenSSH"),
            "EC PRIVATE KEY" => other = Some("a key for elliptic curves"),
            _ => {}
        }
        rest = &block[label.len()..];
    }
    match other {
        Some(found) => Err(KeyError::OtherKind { found }),
        // The frame is missing, as when only the middle was copied.
        None => of_base64(text),
    }
}

fn of_base64(body: &str) -> Result<RsaPrivateKey, KeyError> {
    // `\n` as two characters: from a JSON document or an environment variable.
    let body = Zeroizing::new(body.replace("\\r", "").replace("\\n", ""));
    let plain: Zeroizing<String> = Zeroizing::new(
        body.chars()
            .filter(|character| !character.is_whitespace() && *character != '\u{feff}')
            .collect(),
    );
    let der = STANDARD
        .decode(plain.as_bytes())
        .or_else(|_| STANDARD_NO_PAD.decode(plain.trim_end_matches('=')))
        .map_err(|_| KeyError::NotPem)?;
    let der = Zeroizing::new(der);
    RsaPrivateKey::from_pkcs8_der(&der)
        .or_else(|_| RsaPrivateKey::from_pkcs1_der(&der))
        .map_err(|_| KeyError::NotPem)
}
