//! The bytes behind an `sdkfileid`, generated on each request.
//!
//! Guarantee: an id always stands for the same length and bytes; ids of other tenants are rejected.
//! `md5sum` is set for small files and empty for large ones, as in real archives, which keeps
//! rendering a message cheap.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use rand::Rng;

use crate::random::{Purpose, generator, mix};

/// Maximum bytes of one chunk that the API returns.
pub const CHUNK: usize = 512 * 1024;

/// Maximum bytes of a file whose messages carry its MD5.
const SMALL: u64 = 48 * 1024;

/// The kind of a media file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MediaKind {
    /// JPEG.
    Image = 1,
    /// AMR.
    Voice,
    /// MP4.
    Video,
    /// GIF.
    Gif,
    /// PNG.
    Png,
    /// Any file.
    File,
}

impl MediaKind {
    const ALL: [Self; 6] = [
        Self::Image,
        Self::Voice,
        Self::Video,
        Self::Gif,
        Self::Png,
        Self::File,
    ];

    fn magic(self) -> &'static [u8] {
        match self {
            Self::Image => b"\xff\xd8\xff\xe0\0\x10JFIF\0",
            Self::Voice => b"#!AMR\n",
            Self::Video => b"\0\0\0\x18ftypmp42",
            Self::Gif => b"GIF89a",
            Self::Png => b"\x89PNG\r\n\x1a\n",
            Self::File => b"%PDF-1.7\n",
        }
    }
}

/// A media file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media {
    /// Its kind.
    pub kind: MediaKind,
    /// Length in bytes.
    pub size: u64,
    /// Distinguishes it from other files of the same kind and size.
    pub nonce: u64,
}

impl Media {
    fn check(&self, seed: u64) -> u64 {
        mix(mix(seed ^ self.nonce) ^ self.size ^ ((self.kind as u64) << 56))
    }

    /// Returns its `sdkfileid`.
    pub fn sdkfileid(&self, seed: u64) -> String {
        let mut bytes = [0u8; 228];
        bytes[..4].copy_from_slice(&[0x0a, 0x9b, 0x01, self.kind as u8]);
        bytes[4..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.nonce.to_be_bytes());
        bytes[20..28].copy_from_slice(&self.check(seed).to_be_bytes());
        let mut filler = self.nonce;
        for chunk in bytes[28..].chunks_mut(8) {
            filler = mix(filler);
            chunk.copy_from_slice(&filler.to_be_bytes()[..chunk.len()]);
        }
        STANDARD.encode(bytes)
    }

    /// Returns the file that an `sdkfileid` stands for, if it belongs to this tenant.
    pub fn from_sdkfileid(seed: u64, id: &str) -> Option<Self> {
        let bytes = STANDARD.decode(id).ok()?;
        let number = |at: usize| -> Option<u64> {
            Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
        };
        let media = Self {
            kind: MediaKind::ALL
                .into_iter()
                .find(|&kind| Some(&(kind as u8)) == bytes.get(3))?,
            size: number(4)?,
            nonce: number(12)?,
        };
        (number(20)? == media.check(seed)).then_some(media)
    }

    /// Returns its bytes.
    pub fn bytes(&self, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.size as usize];
        generator(seed, Purpose::Media, self.nonce).fill_bytes(&mut bytes);
        let magic = self.kind.magic();
        let length = magic.len().min(bytes.len());
        bytes[..length].copy_from_slice(&magic[..length]);
        bytes
    }

    /// Returns its `md5sum`: 32 hex digits, or an empty string for large files.
    pub fn md5sum(&self, seed: u64) -> String {
        if self.size > SMALL {
            return String::new();
        }
        let mut text = String::with_capacity(32);
        for byte in Md5::digest(self.bytes(seed)) {
            let written = write!(text, "{byte:02x}");
            debug_assert!(written.is_ok(), "writing to a String never fails");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sdkfileid_is_valid_in_its_own_tenant_only() {
        let media = Media {
            kind: MediaKind::Video,
            size: 700_000,
            nonce: 5,
        };
        let id = media.sdkfileid(1);
        assert!(id.len() >= 300);
        assert_eq!(Media::from_sdkfileid(1, &id), Some(media));
        assert_eq!(Media::from_sdkfileid(2, &id), None);
        assert_eq!(Media::from_sdkfileid(1, "abc"), None);
        let bytes = media.bytes(1);
        assert_eq!(
            (bytes.len(), bytes.starts_with(b"\0\0\0\x18ftyp")),
            (700_000, true)
        );
    }
}
