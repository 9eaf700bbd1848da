//! Reads files with secrets.
//!
//! Guarantees: a file that users other than its owner can read or change is refused unless the caller
//! allows it; the content is wiped from memory when it is dropped; no error contains a part of it.
//! Not here: what the secret is used for.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use chatledger_schemas::Secret;

use crate::text_encoding;

/// Largest file with a secret, in bytes. An RSA-2048 key in PEM form has about 1,700.
const MAX_BYTES: u64 = 64 << 10;

/// Why a secret cannot be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file does not exist, or this process may not read it.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Other users have access to it.
    #[error(
        "mode {mode:04o} lets users other than its owner read or change it; accepted: {accepted}"
    )]
    Exposed {
        /// Its permission bits.
        mode: u32,
        /// The accepted modes.
        accepted: &'static str,
    },
    /// It contains only white space.
    #[error("the file is empty")]
    Empty,
    /// It is larger than any secret.
    #[error("the file has more than {MAX_BYTES} bytes, which is too large for a secret")]
    TooLong,
    /// Its encoding is not certain.
    #[error("the file is not text; accepted: UTF-8, or UTF-16 with a byte order mark")]
    NotText,
    /// It has more than one line, or a control character.
    #[error("the file has a line break or a control character in the middle; accepted: one line")]
    NotOneLine,
}

const ACCEPTED_MODES: &str =
    "0600 (chmod 600), or 0640 if root owns the file and chatledger runs as another user";

/// Returns the bits of `mode` that are not accepted. A group may read a file that root owns: this is
/// how a service manager gives secrets to a service that runs as another user.
fn exposed(mode: u32, owner: u32, me: u32) -> u32 {
    let fine = if owner == 0 && me != 0 { 0o740 } else { 0o700 };
    mode & 0o777 & !fine
}

/// Reads the content of the file, byte for byte.
///
/// # Errors
/// See [`SecretFileError`].
pub fn bytes(path: &Path, allow_open: bool) -> Result<Secret<Vec<u8>>, SecretFileError> {
    let file = File::open(path)?;
    // The metadata of the open file, so that the file that is checked is the file that is read.
    let about = file.metadata()?;
    let me = rustix::process::geteuid().as_raw();
    if !allow_open && exposed(about.mode(), about.uid(), me) != 0 {
        return Err(SecretFileError::Exposed {
            mode: about.mode() & 0o777,
            accepted: ACCEPTED_MODES,
        });
    }
    // Reserved at once, because a growing buffer would leave copies in memory.
    let mut bytes = Vec::with_capacity(MAX_BYTES as usize + 1);
    let read = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    let bytes = Secret::new(bytes);
    if read? as u64 > MAX_BYTES {
        return Err(SecretFileError::TooLong);
    }
    if bytes.expose().iter().all(u8::is_ascii_whitespace) {
        return Err(SecretFileError::Empty);
    }
    Ok(bytes)
}

/// Reads the text of the file, without the line end that editors append.
///
/// # Errors
/// See [`SecretFileError`].
pub fn text(path: &Path, allow_open: bool) -> Result<Secret, SecretFileError> {
    let text = whole_text(path, allow_open)?;
    let line = text.expose().trim_end_matches(['\r', '\n']);
    let line = line.trim_start_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(SecretFileError::Empty);
    }
    if line.chars().any(char::is_control) {
        return Err(SecretFileError::NotOneLine);
    }
    Ok(Secret::new(line.to_owned()))
}

/// Reads the text of the file, with all its lines and without a byte order mark.
///
/// # Errors
/// See [`SecretFileError`].
pub fn whole_text(path: &Path, allow_open: bool) -> Result<Secret, SecretFileError> {
    let bytes = bytes(path, allow_open)?;
    let text = text_encoding::decode(bytes.expose()).ok_or(SecretFileError::NotText)?;
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_the_owner_and_the_group_of_a_file_of_root_have_access() {
        const ROOT: u32 = 0;
        const ME: u32 = 1000;
        for (mode, owner, me, fine) in [
            (0o600, ME, ME, true),
            (0o400, ME, ME, true),
            (0o700, ME, ME, true),
            (0o640, ME, ME, false),
            (0o604, ME, ME, false),
            (0o644, ME, ME, false),
            (0o660, ME, ME, false),
            (0o601, ME, ME, false),
            (0o600, ROOT, ROOT, true),
            (0o640, ROOT, ROOT, false),
            (0o640, ROOT, ME, true),
            (0o440, ROOT, ME, true),
            (0o660, ROOT, ME, false),
            (0o644, ROOT, ME, false),
            (0o444, ROOT, ME, false),
            (0o640, ME + 1, ME, false),
        ] {
            let bits = exposed(0o100_000 | mode, owner, me);
            assert_eq!(bits == 0, fine, "{mode:o} of {owner} for {me}: {bits:o}");
        }
    }

    #[test]
    fn text_is_read_without_its_line_end_and_bad_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let text_of = |bytes: &[u8], mode: u32, allow: bool| {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            text(&path, allow).map(|secret| secret.expose().to_owned())
        };
        assert_eq!(text_of(b" a b \r\n", 0o600, false).unwrap(), " a b ");
        assert_eq!(text_of(b"a", 0o644, true).unwrap(), "a");
        assert_eq!(
            text_of(b"\xef\xbb\xbfab\r\n\r\n", 0o600, false).unwrap(),
            "ab"
        );
        assert_eq!(
            text_of(b"\xff\xfea\0b\0\r\0\n\0", 0o600, false).unwrap(),
            "ab"
        );
        assert_eq!(
            text_of("pässwörd".as_bytes(), 0o600, false).unwrap(),
            "pässwörd"
        );
        let refused = text_of(b"a", 0o644, false).unwrap_err().to_string();
        assert!(
            refused.contains("0644") && refused.contains("chmod 600"),
            "{refused}"
        );
        for (bytes, error) in [
            (b"\n\n".to_vec(), "empty"),
            (vec![b'a'; 70_000], "more than"),
            (vec![0xff; 40], "is not text"),
            (b"a\nb\n".to_vec(), "line break"),
            (b"\xef\xbb\xbf\r\n".to_vec(), "empty"),
        ] {
            let refused = text_of(&bytes, 0o600, false).unwrap_err().to_string();
            assert!(refused.contains(error), "{refused}");
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(text(&path, false), Err(SecretFileError::Read(_))));
    }
}
