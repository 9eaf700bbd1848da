//! Private keys as people paste and editors save them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use chatledger_crypto::{KeyError, KeyRing};
use chatledger_schemas::Secret;
use rsa::RsaPrivateKey;
use rsa::pkcs1::{EncodeRsaPrivateKey, LineEnding};
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey};

fn insert(text: &str) -> Result<(), KeyError> {
    KeyRing::new().insert_pem(1, &Secret::new(text.to_owned()))
}

#[test]
fn key_is_read_however_its_lines_are_written() {
    let key = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
    let pkcs1 = key.to_pkcs1_pem(LineEnding::LF).unwrap().to_string();
    let pkcs8 = key.to_pkcs8_pem(LineEnding::CRLF).unwrap().to_string();
    for pem in [pkcs1, pkcs8] {
        let lines: Vec<&str> = pem.lines().collect();
        let middle = lines[1..lines.len() - 1].concat();
        let each = |before: &str, after: &str| {
            let joined = lines.join(&format!("{after}{before}"));
            format!("{before}{joined}{after}")
        };
        for (form, text) in [
            ("as written", pem.clone()),
            ("byte order mark", format!("\u{feff}{pem}")),
            ("indented", each("    ", "  \r\n")),
            ("no-break spaces", each("", "\u{a0}\n")),
            ("no last line end", pem.trim_end().to_owned()),
            (
                "one line",
                format!("{}{middle}{}", lines[0], lines[lines.len() - 1]),
            ),
            (
                "escaped line ends",
                pem.replace("\r\n", "\\n").replace('\n', "\\n"),
            ),
            (
                "text around it",
                format!("Bag Attributes\n  localKeyID: 01\n{pem}\ntrailing\n"),
            ),
            (
                "after the public key",
                format!(
                    "{}{pem}",
                    key.to_public_key()
                        .to_public_key_pem(LineEnding::LF)
                        .unwrap()
                ),
            ),
            ("only the middle", middle.clone()),
        ] {
            assert_eq!(insert(&text), Ok(()), "{form} of {}", lines[0]);
        }
        assert_eq!(
            insert(&lines[..lines.len() - 1].join("\n")),
            Err(KeyError::NoEnd)
        );
        let damaged = pem
            .replacen(&middle[100..110], "AAAAAAAAAA", 1)
            .replace(&middle[..8], "");
        assert_eq!(insert(&damaged), Err(KeyError::NotPem));
    }
    let public = key
        .to_public_key()
        .to_public_key_pem(LineEnding::LF)
        .unwrap();
    let found = "a public key";
    assert_eq!(insert(&public), Err(KeyError::OtherKind { found }));
}

#[test]
fn what_is_no_private_key_is_named_and_never_shown() {
    for (text, what) in [
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIC\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "passphrase",
        ),
        (
            "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIC\n-----END RSA PRIVATE KEY-----\n",
            "passphrase",
        ),
        (
            "-----BEGIN CERTIFICATE-----\nMIIC\n-----END CERTIFICATE-----\n",
            "certificate",
        ),
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nMIIC\n-----END OPENSSH PRIVATE KEY-----\n",
            "OpenSSH",
        ),
        ("secret-text", "PEM"),
        ("", "PEM"),
    ] {
        let error = insert(text).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
        assert!(
            !error.contains("MIIC") && !error.contains("secret-text"),
            "{error}"
        );
    }
}
