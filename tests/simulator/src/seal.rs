//! Seals messages with the open cipher, correctly or with a defect.
//!
//! `encrypt_random_key` = base64(RSA-2048 PKCS#1 v1.5 of K), K = base64 of 32 bytes;
//! `encrypt_chat_msg` = base64(AES-256-CBC under those bytes, IV their first half, PKCS#7).
//! Guarantee: keys, K and RSA padding are derived from the seed, so sealing a message always gives the
//! same bytes. Libraries use random padding, so this module implements the RSA public operation itself.
//! It is much cheaper than the private operation.

use aes::Aes256;
use aes::cipher::block_padding::{NoPadding, Pkcs7};
use aes::cipher::{BlockModeEncrypt, KeyIvInit};
use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U2048};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt};
use rayon::prelude::*;
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use rsa::traits::PublicKeyParts;
use rsa::{Pkcs1v15Encrypt, RsaPrivateKey};

use crate::faults::Defect;
use crate::random::{Purpose, generator};

const MODULUS_BYTES: usize = 256;

/// An RSA key pair; the private key is written to the tenant's folder.
#[derive(Clone, Debug)]
pub struct KeyPair {
    private: RsaPrivateKey,
    modulus: FixedMontyParams<{ U2048::LIMBS }>,
}

/// Lets the RSA library use a reproducible generator.
struct Draws(ChaCha8Rng);

impl rsa::rand_core::RngCore for Draws {
    fn next_u32(&mut self) -> u32 {
        self.0.next_u32()
    }
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.fill_bytes(dest);
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rsa::rand_core::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

impl rsa::rand_core::CryptoRng for Draws {}

impl KeyPair {
    fn new(seed: u64, number: u64) -> Result<Self> {
        let mut draws = Draws(generator(seed, Purpose::Key, number));
        let private =
            RsaPrivateKey::new(&mut draws, MODULUS_BYTES * 8).context("generate an RSA key")?;
        let modulus = U2048::from_be_slice(&private.n().to_bytes_be());
        let modulus = Odd::new(modulus)
            .into_option()
            .context("an RSA modulus is odd")?;
        Ok(Self {
            private,
            modulus: FixedMontyParams::new_vartime(modulus),
        })
    }

    /// Returns the private key as PEM: PKCS#1 or PKCS#8.
    ///
    /// # Errors
    /// The key cannot be encoded.
    pub fn pem(&self, pkcs8: bool) -> Result<String> {
        let pem = if pkcs8 {
            self.private
                .to_pkcs8_pem(LineEnding::LF)
                .context("encode a key as PKCS#8")?
        } else {
            self.private
                .to_pkcs1_pem(LineEnding::LF)
                .context("encode a key as PKCS#1")?
        };
        Ok(pem.to_string())
    }

    /// Encrypts with PKCS#1 v1.5 padding and the public exponent 65537.
    fn encrypt(&self, message: &[u8], rng: &mut ChaCha8Rng) -> [u8; MODULUS_BYTES] {
        let mut block = [0u8; MODULUS_BYTES];
        let start = MODULUS_BYTES - message.len();
        block[1] = 2;
        rng.fill_bytes(&mut block[2..start - 1]);
        for byte in &mut block[2..start - 1] {
            while *byte == 0 {
                *byte = rng.random();
            }
        }
        block[start..].copy_from_slice(message);
        let base = FixedMontyForm::new(&U2048::from_be_slice(&block), &self.modulus);
        let power = base.square_repeat_vartime(16).mul(&base);
        let mut out = [0u8; MODULUS_BYTES];
        out.copy_from_slice(power.retrieve().to_be_bytes().as_ref());
        out
    }

    /// Returns whether the private key decrypts a block.
    fn opens(&self, block: &[u8]) -> bool {
        self.private.decrypt(Pkcs1v15Encrypt, block).is_ok()
    }
}

/// The keys of a tenant.
#[derive(Clone, Debug)]
pub struct RecordSealer {
    seed: u64,
    /// Version `n + 1` at index `n`.
    keys: Vec<KeyPair>,
    /// The version after the last one: used for sealing, but missing from the configuration.
    withheld: KeyPair,
    /// A key that belongs to no version.
    foreign: KeyPair,
}

/// The sealed fields of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedMessage {
    /// `publickey_ver`.
    pub version: u32,
    /// `encrypt_random_key`.
    pub random_key: String,
    /// `encrypt_chat_msg`; `None` if the field is missing.
    pub chat_msg: Option<String>,
}

impl RecordSealer {
    /// Generates the keys.
    ///
    /// # Errors
    /// The RSA library fails.
    pub fn new(seed: u64, versions: u32) -> Result<Self> {
        let mut keys: Vec<KeyPair> = (0..u64::from(versions) + 2)
            .into_par_iter()
            .map(|number| KeyPair::new(seed, number))
            .collect::<Result<_>>()?;
        let foreign = keys.pop().context("one key more than versions")?;
        let withheld = keys.pop().context("two keys more than versions")?;
        Ok(Self {
            seed,
            keys,
            withheld,
            foreign,
        })
    }

    /// Returns the keys named by the configuration, version 1 first.
    pub fn keys(&self) -> &[KeyPair] {
        &self.keys
    }

    /// Returns the key that is missing from the configuration.
    pub fn withheld(&self) -> &KeyPair {
        &self.withheld
    }

    /// Returns the version of the withheld key.
    pub fn withheld_version(&self) -> u32 {
        self.keys.len() as u32 + 1
    }

    /// Seals a message's JSON with a key version and an optional defect.
    pub fn seal(
        &self,
        message: u64,
        payload: &[u8],
        version: u32,
        defect: Option<Defect>,
    ) -> SealedMessage {
        let mut rng = generator(self.seed, Purpose::Seal, message);
        let mut key = [0u8; 32];
        rng.fill_bytes(&mut key);
        let random_key = STANDARD.encode(key);
        let pair = match defect {
            Some(Defect::UnknownKey) => &self.withheld,
            _ => &self.keys[version as usize - 1],
        };
        let version = match defect {
            Some(Defect::UnknownKey) => self.withheld_version(),
            _ => version,
        };
        let block = if defect == Some(Defect::WrongKey) {
            loop {
                let block = self.foreign.encrypt(random_key.as_bytes(), &mut rng);
                // About one foreign block in 100,000 decrypts to valid padding.
                if !pair.opens(&block) {
                    break block;
                }
            }
        } else {
            pair.encrypt(random_key.as_bytes(), &mut rng)
        };
        let mut sealed = SealedMessage {
            version,
            random_key: STANDARD.encode(block),
            chat_msg: None,
        };
        if defect != Some(Defect::Envelope) {
            sealed.chat_msg = Some(ciphertext(&key, payload, defect, message));
        }
        if defect == Some(Defect::Base64) && message.is_multiple_of(2) {
            sealed.random_key.replace_range(7..8, "!");
        }
        sealed
    }
}

fn ciphertext(key: &[u8; 32], payload: &[u8], defect: Option<Defect>, message: u64) -> String {
    let mut iv = [0u8; 16];
    iv.copy_from_slice(&key[..16]);
    let cipher = || cbc::Encryptor::<Aes256>::new(&(*key).into(), &iv.into());
    let damaged;
    let payload = match defect {
        Some(Defect::Utf8) => {
            let mut bytes = payload.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] = 0xff;
            damaged = bytes;
            &damaged
        }
        Some(Defect::Json) => {
            // End at a character boundary, otherwise the UTF-8 would be invalid too.
            let mut end = payload.len() / 2;
            while payload[end] & 0xc0 == 0x80 {
                end -= 1;
            }
            &payload[..end]
        }
        Some(Defect::Message) => match message % 4 {
            0 => br#"["send","text"]"#.as_slice(),
            1 => br#""text""#,
            2 => br#"{"errcode":0,"errmsg":"ok"}"#,
            _ => b"20260101",
        },
        _ => payload,
    };
    let bytes = if defect == Some(Defect::Padding) {
        let mut bytes = payload.to_vec();
        bytes.resize((bytes.len() / 16 + 1) * 16, b'}');
        // The last byte is the length of the padding; 0 and 17 are invalid.
        if let Some(last) = bytes.last_mut() {
            *last = if message.is_multiple_of(2) { 0 } else { 17 };
        }
        cipher().encrypt_padded_vec::<NoPadding>(&bytes)
    } else {
        cipher().encrypt_padded_vec::<Pkcs7>(payload)
    };
    let length = match defect {
        Some(Defect::Truncated) => bytes.len() - 1 - message as usize % 15,
        _ => bytes.len(),
    };
    let mut text = STANDARD.encode(&bytes[..length]);
    if defect == Some(Defect::Base64) && message % 2 == 1 {
        text.replace_range(11..12, "*");
    }
    text
}
