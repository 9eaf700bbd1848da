//! Seals messages with the open cipher, well or badly.
//!
//! `encrypt_random_key` = base64(RSA-2048 PKCS#1 v1.5 of K), K = base64 of 32 bytes;
//! `encrypt_chat_msg` = base64(AES-256-CBC under those bytes, IV their first half, PKCS#7).
//! Guarantee: keys, K and RSA padding follow from the seed, so the same message is the same record,
//! byte for byte. That is why the RSA public operation is done here and not by a library, whose
//! padding is random; and its cost (a batch is a thousand of them) stays far below the private one.

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

use crate::faults::Broken;
use crate::random::{Purpose, generator};

const MODULUS_BYTES: usize = 256;

/// A key pair; the private part is written to the tenant's folder.
#[derive(Clone, Debug)]
pub struct KeyPair {
    private: RsaPrivateKey,
    modulus: FixedMontyParams<{ U2048::LIMBS }>,
}

/// Lets the RSA library draw from our generator.
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
            RsaPrivateKey::new(&mut draws, MODULUS_BYTES * 8).context("make an RSA key")?;
        let modulus = U2048::from_be_slice(&private.n().to_bytes_be());
        let modulus = Odd::new(modulus)
            .into_option()
            .context("an RSA modulus is odd")?;
        Ok(Self {
            private,
            modulus: FixedMontyParams::new_vartime(modulus),
        })
    }

    /// The private key as PEM: PKCS#1 or PKCS#8.
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

    /// RSA with PKCS#1 v1.5 padding, public exponent 65537.
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

    /// Whether the private key opens a block.
    fn opens(&self, block: &[u8]) -> bool {
        self.private.decrypt(Pkcs1v15Encrypt, block).is_ok()
    }
}

/// All keys of a tenant.
#[derive(Clone, Debug)]
pub struct Sealer {
    seed: u64,
    /// Version `n + 1` at place `n`.
    keys: Vec<KeyPair>,
    /// The version after the last one: in use, but missing from the configuration.
    withheld: KeyPair,
    /// Nobody's.
    stranger: KeyPair,
}

/// A record without its place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// `publickey_ver`.
    pub version: u32,
    /// `encrypt_random_key`.
    pub random_key: String,
    /// `encrypt_chat_msg`; `None` where the record lacks it.
    pub chat_msg: Option<String>,
}

impl Sealer {
    /// Makes the keys.
    ///
    /// # Errors
    /// The RSA library cannot.
    pub fn new(seed: u64, versions: u32) -> Result<Self> {
        let mut keys: Vec<KeyPair> = (0..u64::from(versions) + 2)
            .into_par_iter()
            .map(|number| KeyPair::new(seed, number))
            .collect::<Result<_>>()?;
        let stranger = keys.pop().context("one key more than versions")?;
        let withheld = keys.pop().context("two keys more than versions")?;
        Ok(Self {
            seed,
            keys,
            withheld,
            stranger,
        })
    }

    /// The keys the configuration names, version 1 first.
    pub fn keys(&self) -> &[KeyPair] {
        &self.keys
    }

    /// The key the configuration does not name.
    pub fn withheld(&self) -> &KeyPair {
        &self.withheld
    }

    /// The version of the withheld key.
    pub fn withheld_version(&self) -> u32 {
        self.keys.len() as u32 + 1
    }

    /// Seals a message's JSON with a key version.
    pub fn seal(
        &self,
        message: u64,
        payload: &[u8],
        version: u32,
        broken: Option<Broken>,
    ) -> Sealed {
        let mut rng = generator(self.seed, Purpose::Seal, message);
        let mut key = [0u8; 32];
        rng.fill_bytes(&mut key);
        let random_key = STANDARD.encode(key);
        let pair = match broken {
            Some(Broken::UnknownKey) => &self.withheld,
            _ => &self.keys[version as usize - 1],
        };
        let version = match broken {
            Some(Broken::UnknownKey) => self.withheld_version(),
            _ => version,
        };
        let block = if broken == Some(Broken::WrongKey) {
            loop {
                let block = self.stranger.encrypt(random_key.as_bytes(), &mut rng);
                // One foreign block in a hundred thousand would pass for our own.
                if !pair.opens(&block) {
                    break block;
                }
            }
        } else {
            pair.encrypt(random_key.as_bytes(), &mut rng)
        };
        let mut sealed = Sealed {
            version,
            random_key: STANDARD.encode(block),
            chat_msg: None,
        };
        if broken != Some(Broken::Envelope) {
            sealed.chat_msg = Some(ciphertext(&key, payload, broken, message));
        }
        if broken == Some(Broken::Base64) && message.is_multiple_of(2) {
            sealed.random_key.replace_range(7..8, "!");
        }
        sealed
    }
}

fn ciphertext(key: &[u8; 32], payload: &[u8], broken: Option<Broken>, message: u64) -> String {
    let mut iv = [0u8; 16];
    iv.copy_from_slice(&key[..16]);
    let cipher = || cbc::Encryptor::<Aes256>::new(&(*key).into(), &iv.into());
    let spoilt;
    let payload = match broken {
        Some(Broken::Utf8) => {
            let mut bytes = payload.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] = 0xff;
            spoilt = bytes;
            &spoilt
        }
        Some(Broken::Json) => {
            // Cut between characters, or it would be bad UTF-8 as well.
            let mut end = payload.len() / 2;
            while payload[end] & 0xc0 == 0x80 {
                end -= 1;
            }
            &payload[..end]
        }
        Some(Broken::Message) => match message % 4 {
            0 => br#"["send","text"]"#.as_slice(),
            1 => br#""text""#,
            2 => br#"{"errcode":0,"errmsg":"ok"}"#,
            _ => b"20260101",
        },
        _ => payload,
    };
    let bytes = if broken == Some(Broken::Padding) {
        let mut bytes = payload.to_vec();
        bytes.resize((bytes.len() / 16 + 1) * 16, b'}');
        // The last byte says how many bytes of padding there are: neither 0 nor 17 can be.
        if let Some(last) = bytes.last_mut() {
            *last = if message.is_multiple_of(2) { 0 } else { 17 };
        }
        cipher().encrypt_padded_vec::<NoPadding>(&bytes)
    } else {
        cipher().encrypt_padded_vec::<Pkcs7>(payload)
    };
    let cut = match broken {
        Some(Broken::Truncated) => bytes.len() - 1 - message as usize % 15,
        _ => bytes.len(),
    };
    let mut text = STANDARD.encode(&bytes[..cut]);
    if broken == Some(Broken::Base64) && message % 2 == 1 {
        text.replace_range(11..12, "*");
    }
    text
}
